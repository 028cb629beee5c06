"""Padded sequences that start with a property. The network knows where the padding is, and it may know the property.
Classifier-free guidance (Ho and Salimans, arXiv 2207.12598) steers samples towards a property."""

import math
from typing import Any

import torch
from torch import Tensor

from bfn.configs import ConfigError, SampleConfig
from bfn.molecules import LOGP
from bfn_kernels import nn, noise
from bfn_kernels.nn import part

UNKNOWN = 0.5  # the share of training examples whose property is hidden
GOLDEN = 2654435769  # 2³² times the golden ratio's fraction: its multiples, modulo 2³², are spread evenly


class Padded(nn.Discrete):
    """Rows of classes [B, 1 + L]: a property, then tokens, then padding. Class 0 is padding, or an unknown property.

    Only tokens are sent by messages, and only they cost bits. The network sees all padding. In training, it sees the
    property of half the rows; in evaluation, of no row. The lengths of samples have the same distribution as `lengths`,
    the sorted lengths of training examples.
    """

    lengths: Tensor

    def forward(self, x: Tensor, t: Tensor | None = None, *, reduction: str = "mean", **more: Any) -> Tensor:
        """As nn.BFN.forward. The mean is over all places, and the loss of padding is 0."""
        loss = super().forward(x, t, mask=sent(x), reduction="sum" if reduction == "mean" else reduction, **more)
        return loss / x.numel() if reduction == "mean" else loss

    def reconstruction(self, x: Tensor, *, reduction: str = "mean", **more: Any) -> Tensor:
        loss = super().reconstruction(x, mask=sent(x), reduction="sum" if reduction == "mean" else reduction, **more)
        return loss / x.numel() if reduction == "mean" else loss

    def flow(self, x: Tensor, t: Tensor, seed: int, mask: Tensor | None = None) -> Tensor:
        theta = super().flow(x, t, seed, mask)
        shown = x.clone()
        hidden = noise.class_uniform(x.shape[:1], noise.as_seed(part(seed, 1), theta)) < UNKNOWN
        shown[:, 0] *= ~hidden if self.training else 0
        return self.known(theta, shown, sent(x) if mask is None else mask)

    def known(self, theta: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        """theta where `mask` is True. Elsewhere no messages are sent, and the class of x has the probability 1."""
        classes = torch.arange(self.num_classes, device=x.device)
        return torch.where(mask[..., None], theta, x[..., None] == classes)

    def theta(self, state: nn.State) -> Tensor:
        theta = super().theta(state)
        mask = self.token_places(theta)
        return self.known(theta, torch.zeros_like(mask, dtype=torch.int64), mask)

    def token_places(self, theta: Tensor) -> Tensor:
        """Where samples have tokens, [B, 1 + L]. Their lengths are evenly spread quantiles of `lengths`."""
        count, places = theta.shape[:2]
        # integers on the device, since a CUDA graph cannot record copies from the CPU, and some devices lack float64
        shares = (2 * torch.arange(count, device=theta.device) + 1) * GOLDEN // 2 % 2**32
        lengths = self.lengths[shares * len(self.lengths) // 2**32]
        place = torch.arange(places, device=theta.device)
        return (place > 0) & (place <= lengths[:, None])

    def output(self, theta: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """As nn.BFN.output. cond: the class of the property, which replaces the class in theta. None: theta's class."""
        if cond is not None:
            theta = theta.clone()
            theta[:, 0] = 0
            theta[:, 0, cond] = 1
        return super().output(theta, t)

    def mode(self, output: Tensor, theta: Tensor, t: Tensor) -> Tensor:
        return super().mode(output, theta, t) * self.token_places(theta)


def sent(x: Tensor) -> Tensor:
    """Where rows have tokens, which are the classes that messages send."""
    mask = x > 0
    mask[:, 0] = False
    return mask


def class_of(value: Tensor | float, num_classes: int) -> Tensor:
    """The class that stands for a logP: 1 to num_classes - 1, spread evenly over the range LOGP."""
    share = (torch.as_tensor(value) - LOGP[0]) / (LOGP[1] - LOGP[0])
    return 1 + (share * (num_classes - 2)).round().clamp(0, num_classes - 2).long()


def guiding(model: nn.BFN, options: SampleConfig) -> dict[str, Any]:
    """The arguments of a sampler that guide its samples by sample.guide and sample.guidance."""
    if options.guide is None:
        return {}
    name, _, value = options.guide.partition("=")
    try:
        wanted = float(value)
    except ValueError:
        wanted = math.nan
    if not isinstance(model, Padded) or name != "logp" or not LOGP[0] <= wanted <= LOGP[1]:
        numbers = f"a NUMBER from {LOGP[0]:g} to {LOGP[1]:g}"
        raise ConfigError(f"sample.guide={options.guide} must be logp=NUMBER, with {numbers}, of a model of molecules")
    # With guidance 0, a sampler uses the network's output given the property. With sample.guidance=1, `bfn` does so.
    return {"cond": int(class_of(wanted, model.num_classes)), "guidance": options.guidance - 1}
