"""Masks and reduces losses in the reference."""

from collections.abc import Sequence

import torch
from torch import Tensor

# Operators take an index into checks.REDUCTIONS; the enum Reduction of csrc/ops/loss.h has the same indices.
NONE, BATCH, SUM, MEAN = range(4)


def hide(mask: Tensor | None, *tensors: Tensor | None) -> Sequence[Tensor | None]:
    """Sets the tensors to 0 where the mask is False, so that the values there, even NaN, do not reach a gradient."""
    if mask is None:
        return tensors
    return [t if t is None else torch.where(mask, t, torch.zeros_like(t)) for t in tensors]


def reduce(loss: Tensor, mask: Tensor | None, reduction: int) -> Tensor:
    """Reduces a loss per variable `[B, ...]`: NONE returns it, BATCH sums it to `[B]`, SUM and MEAN give a scalar.

    Where the mask is False the loss is 0. MEAN divides by the number of variables where the mask is True, or by 1 if
    there is none.
    """
    (loss,) = hide(mask, loss)
    if reduction == NONE:
        return loss
    if reduction == BATCH:
        return loss.flatten(1).sum(1) if loss.dim() > 1 else loss
    if reduction == SUM:
        return loss.sum()
    return loss.sum() / (max(loss.numel(), 1) if mask is None else mask.expand(loss.shape).sum().clamp(min=1))
