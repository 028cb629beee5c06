"""Masks and reductions of losses as the reference does them."""

import torch
from torch import Tensor

NONE, BATCH, SUM, MEAN = range(4)  # the places of checks.REDUCTIONS, and csrc/ops/loss.h's Reduction


def hide(mask: Tensor | None, *tensors: Tensor | None) -> list[Tensor | None]:
    """The tensors with zeros where the mask is False, so that no value there, not even NaN, reaches a gradient."""
    return [t if t is None or mask is None else torch.where(mask, t, torch.zeros_like(t)) for t in tensors]


def reduce(loss: Tensor, mask: Tensor | None, reduction: int) -> Tensor:
    """`loss` per variable `[B, ...]`: NONE keeps it, BATCH sums it to `[B]`, SUM and MEAN make a scalar of it.

    Where the mask is False the loss is 0; MEAN divides by the number of variables left, or by 1 if there are none.
    """
    (loss,) = hide(mask, loss)
    if reduction == NONE:
        return loss
    if reduction == BATCH:
        return loss.flatten(1).sum(1) if loss.dim() > 1 else loss
    if reduction == SUM:
        return loss.sum()
    count = loss.numel() if mask is None else mask.expand(loss.shape).sum()
    return loss.sum() / torch.as_tensor(count, device=loss.device).clamp(min=1)
