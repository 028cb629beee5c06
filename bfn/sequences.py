"""Sequences of several lengths that start with a property: padding is known to the network, and so may the property
be. Guidance without a classifier (Ho and Salimans, arXiv 2207.12598) steers samples towards it."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from bfn.configs import ConfigError, SampleConfig
from bfn.molecules import LOGP
from bfn_kernels import nn
from bfn_kernels.nn import part

UNKNOWN = 0.5  # the share of training examples whose property is hidden
GOLDEN = (5**0.5 - 1) / 2


class Padded(nn.Discrete):
    """Rows of classes [B, 1 + L]: a property, then tokens, then padding of class 0, which also is an unknown property.

    Only tokens are sent by messages, and only they cost bits. The network sees the other classes as they are, except
    that evaluation hides the property of every row, and training that of half the rows. Samples have lengths that are
    spread as those of `lengths`, sorted lengths of training examples.
    """

    lengths: Tensor
    guide: tuple[int, float] | None = None  # the class of a property, and the strength of guidance

    def forward(self, x: Tensor, t: Tensor | None = None, *, reduction: str = "mean", **how: Any) -> Tensor:
        """As nn.BFN has it, where the mean is over all places: what padding costs is 0."""
        loss = super().forward(x, t, mask=sent(x), reduction="sum" if reduction == "mean" else reduction, **how)
        return loss / x.numel() if reduction == "mean" else loss

    def reconstruction(self, x: Tensor, *, reduction: str = "mean", **how: Any) -> Tensor:
        loss = super().reconstruction(x, mask=sent(x), reduction="sum" if reduction == "mean" else reduction, **how)
        return loss / x.numel() if reduction == "mean" else loss

    def flow(self, x: Tensor, t: Tensor, seed: int, mask: Tensor | None = None) -> Tensor:
        theta = super().flow(x, t, seed, mask)
        shown = x.clone()
        hidden = torch.rand(len(x), generator=torch.Generator().manual_seed(part(seed, 1))) < UNKNOWN
        shown[:, 0] *= ~hidden.to(x.device) if self.training else 0
        return self.known(theta, shown, sent(x) if mask is None else mask)

    def known(self, theta: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        """theta, but where no messages are sent the class of x itself."""
        classes = torch.arange(self.num_classes, device=x.device)
        return torch.where(mask[..., None], theta, (x[..., None] == classes).to(theta))

    def theta(self, state: nn.State) -> Tensor:
        theta = super().theta(state)
        mask = self.chosen(theta)
        return self.known(theta, torch.zeros_like(mask, dtype=torch.int64), mask)

    def chosen(self, theta: Tensor) -> Tensor:
        """Where the tokens of samples are, [B, 1 + L]. The quantiles of their lengths fill [0, 1) evenly."""
        count, places = theta.shape[:2]
        shares = ((torch.arange(count, device=theta.device, dtype=torch.float64) + 0.5) * GOLDEN) % 1
        lengths = self.lengths[(shares * len(self.lengths)).long()]
        place = torch.arange(places, device=theta.device)
        return (place > 0) & (place <= lengths[:, None])

    def output(self, theta: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        if self.guide is None:
            return super().output(theta, t, cond)
        told, (property_class, strength) = theta.clone(), self.guide
        told[:, 0] = 0
        told[:, 0, property_class] = 1
        free, guided = super().output(torch.cat([theta, told]), torch.cat([t, t]), cond).chunk(2)
        return free + strength * (guided - free)

    def mode(self, output: Tensor, theta: Tensor, t: Tensor) -> Tensor:
        return super().mode(output, theta, t) * self.chosen(theta)

    @contextmanager
    def guided_to(self, property_class: int, strength: float) -> Iterator[None]:
        """In a `with`, samples are guided: strength 0 ignores the property, 1 takes the network that knows it."""
        self.guide = (property_class, strength)
        try:
            yield
        finally:
            self.guide = None


def sent(x: Tensor) -> Tensor:
    """Where a row has a token."""
    mask = x > 0
    mask[:, 0] = False
    return mask


def class_of(value: Tensor | float, num_classes: int) -> Tensor:
    """The class that stands for a logP: 1 to num_classes - 1, spread evenly over the range LOGP."""
    share = (torch.as_tensor(value) - LOGP[0]) / (LOGP[1] - LOGP[0])
    return 1 + (share * (num_classes - 2)).round().clamp(0, num_classes - 2).long()


@contextmanager
def guided(model: nn.BFN, options: SampleConfig) -> Iterator[None]:
    """In a `with`, samples of the model are guided as sample.guide and sample.guidance say."""
    if options.guide is None:
        yield
        return
    name, _, value = options.guide.partition("=")
    try:
        wanted = float(value)
    except ValueError:
        wanted = math.nan
    if not isinstance(model, Padded) or name != "logp" or not math.isfinite(wanted):
        raise ConfigError(f"sample.guide={options.guide} must be logp=NUMBER, of a model of molecules")
    with model.guided_to(int(class_of(wanted, model.num_classes)), options.guidance):
        yield
