"""Masks and reduces losses per variable in a fixed order. For a "mean" or "sum", each program sums its block, and a
second kernel adds these sums. For "batch", the second kernel adds the losses of each example."""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from bfn_kernels.formulas import BATCH, MEAN, NONE
from bfn_kernels.triton_ops.views import (
    BLOCK,
    Gradients,
    View,
    block_of,
    compute_type,
    constants,
    launch,
    load,
    programs,
    store,
    view,
    views,
)

_FINISH_BLOCK, _FINISH_WARPS = 4096, 8


class Memory(NamedTuple):
    """The memory that `write_losses` writes to. If `each` is True, `sums` gets a loss for each variable, else a sum for
    each program. `counts` gets the number of variables that each program counts, or is None if the reduction does not
    need it."""

    sums: Tensor
    counts: Tensor | None
    each: Any


class Losses:
    """Reduces the losses that a kernel writes to `memory`."""

    def __init__(self, x: Tensor, mask: Tensor | None, reduction: int, dtype: torch.dtype, block: int = BLOCK):
        self.x, self.reduction, self.dtype = x, reduction, dtype
        each = reduction in (NONE, BATCH)
        shape = x.shape if each else (programs(x.numel(), block),)
        values = torch.empty(shape, dtype=dtype if each else torch.float64, device=x.device)
        counted = reduction == MEAN and mask is not None
        counts = torch.empty(shape, dtype=torch.int32, device=x.device) if counted else None
        self.memory = Memory(values, counts, *constants(each))

    def finish(self) -> tuple[Tensor, Tensor]:
        """The reduced loss, and the factor by which its gradients must be multiplied."""
        values, counts, _ = self.memory
        if self.reduction == NONE:
            return values, self.x.new_ones((), dtype=self.dtype)
        batch = self.reduction == BATCH
        scale = torch.empty((), dtype=self.dtype, device=self.x.device)
        loss = torch.empty(self.x.shape[:1] if batch else (), dtype=self.dtype, device=self.x.device)
        if loss.numel() == 0:
            return loss, scale.fill_(1)
        divisor = max(self.x.numel(), 1) if self.reduction == MEAN else 1
        length = values.numel() // loss.numel()
        block = min(_FINISH_BLOCK, triton.next_power_of_2(max(length, 32)))
        warps = min(_FINISH_WARPS, max(1, block // 128))
        launch(_finish, loss.numel(), values, counts, length, divisor, loss, scale, warps=warps, BLOCK=block)
        return loss, scale


def grad_views(grad: Tensor, scale: Tensor | None, shape: torch.Size) -> tuple[View, ...]:
    """The views of the gradient of the reduced loss and of its scale, broadcast to variables of this shape. Only a
    reduction to a number has a scale other than 1."""
    each = grad.reshape(*grad.shape, *(1,) * (len(shape) - grad.dim()))
    return views(shape, each, scale if grad.dim() == 0 else None)


@triton.jit
def load_grad(grad, block, T: tl.constexpr):
    """The gradient of the loss times its scale, for a block of variables."""
    return load(grad[0], block, T) * load(grad[1], block, T, 1.0)


def scaled_gradient(saved: Tensor, grad: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The gradient of an input: the saved derivatives times the scaled gradient of the reduced loss."""
    gradients, count = Gradients((saved, True), dtype=dtype), saved.numel()
    arguments = view(saved, saved.shape), grad_views(grad, scale, saved.shape), *gradients.views, count
    launch(_scaled_gradient, programs(count), *arguments, T=compute_type(saved), BLOCK=BLOCK)
    return gradients.finish()[0]


@triton.jit
def _scaled_gradient(saved, grad, out, count, T: tl.constexpr, BLOCK: tl.constexpr):
    block = block_of(count, BLOCK)
    store(out, block, load(saved, block, T) * load_grad(grad, block, T))


@triton.jit
def write_losses(loss, keep, block, memory):
    """Writes the losses of a block, or their sum and count. Where `keep` is False, the loss counts as 0, even if it is
    NaN."""
    start, offsets, mask, _ = block
    keep = keep & mask
    loss = tl.where(keep, loss, 0.0)
    if memory.each:
        tl.store(memory.sums + start + offsets, loss, mask=mask)
    else:
        program = tl.program_id(0)
        tl.store(memory.sums + program, tl.sum(loss, 0).to(tl.float64))
        if memory.counts is not None:
            tl.store(memory.counts + program, tl.sum(keep.to(tl.int32), 0))


@triton.jit
def _finish(values, counts, length, divisor, loss, scale, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    offsets = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float64)
    count = tl.zeros((BLOCK,), tl.int64)
    for done in range(0, length, BLOCK):
        mask = offsets < length - done
        total += tl.load(values + row * length + done + offsets, mask=mask, other=0)
        if counts is not None:
            count += tl.load(counts + done + offsets, mask=mask, other=0)
    count_or_one = tl.zeros((), tl.float64) + divisor
    if counts is not None:
        count_or_one = tl.maximum(tl.sum(count, 0), 1).to(tl.float64)
    T = loss.dtype.element_ty
    tl.store(loss + row, (tl.sum(total, 0) / count_or_one).to(T))
    tl.store(scale, (1.0 / count_or_one).to(T), mask=row == 0)  # all rows have the same scale
