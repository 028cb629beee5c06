"""Intervals of integers in Triton, the counterpart of csrc/math/coding.h. The functions have the arguments of the
functions of the same name in `bfn_kernels/coding.py`."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from bfn_kernels import coding
from bfn_kernels.triton_ops.views import block_of, launch, load, programs, store, view, views

ONE, SHIFT = tl.constexpr(1 << coding.ONE), tl.constexpr(coding.SHIFT)
MASK, END = tl.constexpr((1 << coding.SHIFT) - 1), tl.constexpr(coding.END)
ONE_BITS, ALL = tl.constexpr(coding.ONE), tl.constexpr(1 << coding.PRECISION)
_BLOCK, _ROWS, _CLASSES = 128, 4, 256


def lattice_intervals(
    given: Tensor, find: bool, offset: Tensor, step: Tensor, cells: int, components: int, shift: int,
    weight: Tensor | None, edge: Tensor | None, width: Tensor | None, table: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    out = _outputs(given)
    tensors = views(given.shape, given, offset, step, weight, edge, width)
    sizes = cells, components, shift, (cells - 1).bit_length(), given.numel()
    arguments = *tensors, table, views(given.shape, *out), *sizes
    launch(_lattice, programs(given.numel(), _BLOCK), *arguments, FIND=find, BLOCK=_BLOCK)
    return out


def class_intervals(given: Tensor, find: bool, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    out = _outputs(given)
    arguments = view(given, given.shape), weights, views(given.shape, *out), weights.shape[-1], given.numel()
    launch(_classes, programs(given.numel(), _ROWS), *arguments, FIND=find, BLOCK=_ROWS, CLASSES=_CLASSES)
    return out


def _outputs(given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    cell, start, frequency = torch.empty((3, *given.shape), dtype=torch.int64, device=given.device)
    return cell, start, frequency


@triton.jit
def _normal_cdf(table, z):
    """2³⁰·Φ, by linear interpolation of the table, so that it never falls."""
    place = tl.minimum(tl.maximum(z, -END), END - 1) + END
    index = place >> SHIFT
    low, high = tl.load(table + index), tl.load(table + index + 1)
    return low + ((high - low) * (place & MASK) >> SHIFT)


@triton.jit
def _below(table, k, components, weight, edge, width, PAIR: tl.constexpr):
    """2³⁰ times the probability of the first k normals."""
    inside = ONE - weight if PAIR else _normal_cdf(table, edge + k * width)
    return tl.where(k >= components, ONE, inside)


@triton.jit
def _edge(cell, cells, cdf):
    """F(cell)."""
    inside = cell + (tl.minimum(cdf, ONE) * (ALL - cells) >> ONE_BITS)
    return tl.where(cell <= 0, 0, tl.where(cell >= cells, ALL, inside))


@triton.jit
def _lattice_edge(table, cell, offset, step, weight, edge, width, cells, components, shift, PAIR: tl.constexpr):
    z = offset + cell * step
    apart = tl.maximum(shift, 1)
    # the normals that are far below z count in full, and the normals far above z do not count
    first = tl.minimum(tl.maximum(z - END, 0) // apart, components)
    end = tl.minimum(tl.maximum(z + END, 0) // apart + 1, components)
    passed = tl.where(first > 0, _below(table, first, components, weight, edge, width, PAIR), 0)
    total = passed << ONE_BITS
    count = tl.max(end - first)
    for i in range(count):
        k = first + i
        below = _below(table, k + 1, components, weight, edge, width, PAIR)
        total += (below - passed) * _normal_cdf(table, z - k * shift)
        passed = below
    return _edge(cell, cells, total >> ONE_BITS)


@triton.jit
def _lattice(
    given, offset, step, weight, edge, width, table, out, cells, components, shift, bisections, count,
    FIND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    block = block_of(count, BLOCK)
    PAIR: tl.constexpr = weight[0] is not None
    given, offset, step = load(given, block, tl.int64), load(offset, block, tl.int64), load(step, block, tl.int64)
    weight, edge, width = load(weight, block, tl.int64), load(edge, block, tl.int64), load(width, block, tl.int64)
    if FIND:
        cell, start = tl.zeros_like(given), tl.zeros_like(given)
        high, end = cell + cells, start + ALL
        for _ in range(bisections):
            middle = (cell + high) >> 1
            at = _lattice_edge(table, middle, offset, step, weight, edge, width, cells, components, shift, PAIR)
            below = at <= given
            cell, start = tl.where(below, middle, cell), tl.where(below, at, start)
            high, end = tl.where(below, high, middle), tl.where(below, end, at)
    else:
        cell = given
        start = _lattice_edge(table, cell, offset, step, weight, edge, width, cells, components, shift, PAIR)
        end = _lattice_edge(table, cell + 1, offset, step, weight, edge, width, cells, components, shift, PAIR)
        exists = (cell >= 0) & (cell < cells)
        start, end = tl.where(exists, start, 0), tl.where(exists, end, 0)
    store(out[0], block, cell)
    store(out[1], block, start)
    store(out[2], block, end - start)


@triton.jit
def _classes(given, weights, out, classes, count, FIND: tl.constexpr, BLOCK: tl.constexpr, CLASSES: tl.constexpr):
    """Class k is the wanted one if F(k) ≤ slot < F(k + 1). Its F(k) and F(k + 1) are added up over tiles of classes, in
    all of which but one they are 0."""
    block = block_of(count, BLOCK)
    first, offsets, exists, _ = block
    given = load(given, block, tl.int64)
    cell, start, end = tl.zeros_like(given), tl.zeros_like(given), tl.zeros_like(given)
    passed = tl.zeros_like(given)
    rows = weights + (first + offsets)[:, None] * classes
    tile = tl.zeros((), tl.int64)
    while tile < classes:
        k = tile + tl.arange(0, CLASSES)[None, :]
        weight = tl.load(rows + k, mask=exists[:, None] & (k < classes), other=0)
        below = passed[:, None] + tl.cumsum(weight, 1)
        low, high = _edge(k, classes, below - weight), _edge(k + 1, classes, below)
        is_wanted = (low <= given[:, None]) & (given[:, None] < high) if FIND else k == given[:, None]
        is_wanted = is_wanted & (k < classes)
        cell += tl.sum(tl.where(is_wanted, k, 0), 1)
        start += tl.sum(tl.where(is_wanted, low, 0), 1)
        end += tl.sum(tl.where(is_wanted, high, 0), 1)
        passed += tl.sum(weight, 1)
        tile += CLASSES
    store(out[0], block, cell if FIND else given)
    store(out[1], block, start)
    store(out[2], block, end - start)
