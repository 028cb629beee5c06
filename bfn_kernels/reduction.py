"""Masks and reductions of losses as the reference does them, and the numbers by which operators know them."""

import torch
from torch import Tensor

from bfn_kernels.backends import NAMESPACES
from bfn_kernels.checks import REDUCTIONS
from bfn_kernels.operators import Namespace, register

CODES = {name: code for code, name in enumerate(REDUCTIONS)}


def hide(mask: Tensor | None, *tensors: Tensor | None) -> list[Tensor | None]:
    """The tensors with zeros where the mask is False, so that no value there, not even NaN, reaches a gradient."""
    return [t if t is None or mask is None else torch.where(mask, t, torch.zeros_like(t)) for t in tensors]


def reduce(loss: Tensor, mask: Tensor | None, reduction: str) -> Tensor:
    """`loss` per variable `[B, ...]`: "none" keeps it, "batch" sums it to `[B]`, "sum" and "mean" make a scalar of it.

    Where the mask is False the loss is 0; "mean" divides by the number of variables left, or by 1 if there are none.
    """
    (loss,) = hide(mask, loss)
    if reduction == "none":
        return loss
    if reduction == "batch":
        return loss.flatten(1).sum(1) if loss.dim() > 1 else loss
    if reduction == "sum":
        return loss.sum()
    count = loss.numel() if mask is None else mask.expand(loss.shape).sum()
    return loss.sum() / torch.as_tensor(count, device=loss.device).clamp(min=1)


def _register(ops: Namespace) -> None:
    register(ops, "scaled_gradient", lambda saved, grad, scale, dtype: torch.empty_like(saved, dtype=dtype))


for _ops in NAMESPACES.values():
    _register(_ops)
