"""Losses per variable, masked and reduced in a fixed order: block sums first, which one program adds."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from bfn_kernels.reduction import BATCH, MEAN, NONE
from bfn_kernels.triton_ops.views import BLOCK, launch, programs

_FINISH_BLOCK, _FINISH_WARPS = 4096, 8


class Losses:
    """Where a loss's kernel writes: one number per variable, or, where all are summed, a sum and a count per program.

    `arguments` and `each` are what the kernel hands to `write_losses`.
    """

    def __init__(self, x: Tensor, mask: Tensor | None, reduction: int, dtype: torch.dtype, block: int = BLOCK):
        self.x, self.reduction, self.dtype = x, reduction, dtype
        self.each = reduction in (NONE, BATCH)
        shape = x.shape if self.each else (programs(x.numel(), block),)
        self.values = torch.empty(shape, dtype=dtype if self.each else torch.float64, device=x.device)
        counted = reduction == MEAN and mask is not None
        self.counts = torch.empty(shape, dtype=torch.int32, device=x.device) if counted else None
        self.arguments = self.values, self.counts

    def finish(self) -> tuple[Tensor, Tensor]:
        """The reduced loss, and what gradients of it are to be multiplied by."""
        if self.reduction == NONE:
            return self.values, self.x.new_ones((), dtype=self.dtype)
        batch = self.reduction == BATCH
        scale = torch.empty((), dtype=self.dtype, device=self.x.device)
        loss = torch.empty(self.x.shape[:1] if batch else (), dtype=self.dtype, device=self.x.device)
        if loss.numel() == 0:
            return loss, scale.fill_(1)
        divisor = max(self.x.numel(), 1) if self.reduction == MEAN else 1
        length = self.values.numel() // loss.numel()
        block = min(_FINISH_BLOCK, triton.next_power_of_2(max(length, 32)))
        launch(
            _finish, loss.numel(), self.values, self.counts, length, divisor, loss, scale,
            warps=min(_FINISH_WARPS, max(1, block // 128)), BLOCK=block,
        )  # fmt: skip
        return loss, scale


def scaled(grad: Tensor, scale: Tensor | None, dims: int) -> Tensor:
    """The gradient of the result times its scale, in a shape that broadcasts to variables of `dims` dimensions."""
    if grad.dim() == 0:
        return grad if scale is None else grad * scale
    return grad.reshape(*grad.shape, *(1,) * (dims - grad.dim()))  # only a mean has a scale that is not 1


def scaled_gradient(saved: Tensor, grad: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    return (saved * scaled(grad, scale, saved.dim())).to(dtype)


@triton.jit
def write_losses(loss, keep, block, values, counts, EACH: tl.constexpr):
    """0 where a variable is not kept, whatever its loss."""
    start, place, there, _ = block
    keep = keep & there
    loss = tl.where(keep, loss, 0.0)
    if EACH:
        tl.store(values + start + place, loss, mask=there)
    else:
        program = tl.program_id(0)
        tl.store(values + program, tl.sum(loss, 0).to(tl.float64))
        if counts is not None:
            tl.store(counts + program, tl.sum(keep.to(tl.int32), 0))


@triton.jit
def _finish(values, counts, length, divisor, loss, scale, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float64)
    count = tl.zeros((BLOCK,), tl.int64)
    for done in range(0, length, BLOCK):
        there = place < length - done
        total += tl.load(values + row * length + done + place, mask=there, other=0).to(tl.float64)
        if counts is not None:
            count += tl.load(counts + done + place, mask=there, other=0)
    by = tl.zeros((), tl.float64) + divisor
    if counts is not None:
        by = tl.maximum(tl.sum(count, 0), 1).to(tl.float64)
    T = loss.dtype.element_ty
    tl.store(loss + row, (tl.sum(total, 0) / by).to(T))
    tl.store(scale, (1.0 / by).to(T))
