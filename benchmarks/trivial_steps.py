"""A training step with a trivial network: a flow sample, the network, and the loss of its output.

The network only adds a tensor to its input, so that no implementation can leave out the flow. With a large vocabulary,
the step also has the first and the last linear layer, and the tensor is added between these layers. Numbers in
parentheses are equations of Graves et al. 2023.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.closed_forms import column

FLOWS = {"binary": "binary", "discrete": "discrete", "discretised": "continuous"}  # the family that has the flow


def of_logits(flow: Callable, loss: Callable) -> Callable:
    def step(x: Tensor, logits: Tensor, t: Tensor, **noise: Tensor) -> Tensor:
        theta = flow(x=x, t=t, **noise)
        if logits.shape == x.shape:  # for two classes the network sees 2θ₁ − 1; the published flow returns θ₀ and θ₁
            theta = 2 * (theta if theta.shape == x.shape else theta[..., 1]) - 1
        return loss(x=x, logits=logits + theta, t=t)

    return step


def of_noise(flow: Callable, loss: Callable) -> Callable:
    """For a loss that takes the network's prediction of the noise."""

    def step(x: Tensor, pred_mean: Tensor, pred_log_std: Tensor, t: Tensor, **noise: Tensor) -> Tensor:
        mean = flow(x=x, t=t, **noise)
        output = {"pred_mean": pred_mean + mean, "pred_log_std": pred_log_std, "mean": mean}
        return loss(x=x, t=t, **output, parametrisation="noise")

    return step


def of_data(flow: Callable, loss: Any) -> Callable:
    """For a loss that takes a prediction of the data. The step first computes it from the prediction of the noise (105,
    106)."""

    def step(x: Tensor, pred_mean: Tensor, pred_log_std: Tensor, t: Tensor, **noise: Tensor) -> Tensor:
        mean = flow(x=x, t=t, **noise)
        log_variance = 2 * math.log(loss.keywords["sigma_1"]) * (t if t.shape == x.shape else column(t))
        gamma = -log_variance.expm1()
        scale = (log_variance.exp() / gamma).sqrt()
        output = {"pred_mean": mean / gamma - scale * (pred_mean + mean), "pred_log_std": pred_log_std + scale.log()}
        return loss(x=x, t=t, **output)

    return step


OURS = {"binary": of_logits, "discrete": of_logits, "discretised": of_noise}
THEIRS = OURS | {"discretised": of_data}


def of_vectors(embedding: Callable, loss: Callable) -> Callable:
    """For ops of a large vocabulary, which include the linear layers."""

    def step(
        x: Tensor, t: Tensor, weight: Tensor, head: Tensor, bias: Tensor, hidden: Tensor, **noise: Tensor
    ) -> Tensor:  # fmt: skip
        return loss(x=x, hidden=hidden + embedding(x=x, t=t, weight=weight, **noise), weight=head, bias=bias, t=t)

    return step


def of_layers(flow: Callable, loss: Callable) -> Callable:
    """The step of `of_vectors`, for ops that take and return a number for each class."""

    def step(
        x: Tensor, t: Tensor, weight: Tensor, head: Tensor, bias: Tensor, hidden: Tensor, **noise: Tensor
    ) -> Tensor:  # fmt: skip
        return loss(x=x, logits=(hidden + flow(x=x, t=t, **noise) @ weight) @ head.t() + bias, t=t)

    return step


class _Products(torch.autograd.Function):
    """Only the five matrix products of a step with a large vocabulary. Their factors and results of size `[T, K]` are
    in memory that is allocated before."""

    @staticmethod
    def forward(ctx, weight: Tensor, head: Tensor, bias: Tensor, hidden: Tensor) -> Tensor:
        ctx.save_for_backward(head, hidden)
        theta, logits = _of_classes(hidden.shape[:-1].numel(), len(weight), weight.dtype, weight.device)
        vectors = theta @ weight
        torch.mm(hidden.flatten(0, -2), head.t(), out=logits)
        return vectors.view_as(hidden)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, ...]:
        head, hidden = ctx.saved_tensors
        theta, logits = _of_classes(hidden.shape[:-1].numel(), len(head), head.dtype, head.device)
        rows = hidden.flatten(0, -2)
        by_weight, by_head = theta.t() @ grads[0].reshape(rows.shape), logits.t() @ rows
        return by_weight, by_head, logits.new_zeros(len(head)), (logits @ head).view_as(hidden)


@functools.lru_cache(1)
def _of_classes(tokens: int, num_classes: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    like = torch.empty((), dtype=dtype, device=device)
    return like.new_full((tokens, num_classes), 1 / num_classes), like.new_zeros(tokens, num_classes)


def products(
    x: Tensor, t: Tensor, weight: Tensor, head: Tensor, bias: Tensor, hidden: Tensor, noise: Tensor | None = None
) -> Tensor:  # fmt: skip
    return _Products.apply(weight, head, bias, hidden).sum(-1)
