"""Tiles of numbers per class. A row is the K numbers of one variable. A tile is some whole rows or, if K is large, a
part of one row.

S is the `Sizes` of a tile, which are constants of a compiled kernel. The view of a tensor `[B, ..., K]` is the view of
its first class `[B, ...]`, followed by the stride between classes. The view of a contiguous tensor has the kind DENSE
instead: the numbers of a row follow one another, and so do the rows. The kind is SCALAR if all rows have the same
numbers, such as those of a class mask `[K]`. A tile may have more columns than there are classes; the columns beyond K
hold −∞ or 0. `rows` is the block of the tile's rows, which `block_of` returns, and `first` is the tile's first class.
Numbers in parentheses are equations of Graves et al. 2023.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from bfn_kernels.records import NO_GUIDANCE, ClassLogits, Guidance
from bfn_kernels.triton_ops.elementary import exp_difference, reciprocal
from bfn_kernels.triton_ops.philox import interleave, normals, start_of_draw
from bfn_kernels.triton_ops.solver import guided
from bfn_kernels.triton_ops.views import (
    DENSE,
    GRID,
    SCALAR,
    View,
    grid_offset,
    joined,
    launch,
    load,
    programs,
    static,
    view,
    views,
)

# For each tile: the largest K for which it is used, the numbers in it, and its warps. A thread has about 16 numbers.
# If rows are short, it has 32, so that such a tile has at least as many rows as threads. With fewer rows, Triton would
# let every thread of a row load the row's scalars and compute their addresses, although one thread is enough.
_TILES = ((32, 2048, 2), (2048, 2048, 4), (4096, 4096, 8), (8192, 8192, 16))
_LARGE = 4096, 8  # the numbers and warps of a tile of longer rows, which take several tiles
# The tiles of kernels that need many registers for each number. So a thread has fewer numbers.
_SMALL_TILES = ((512, 512, 4), (1024, 1024, 4), (2048, 2048, 8))


class Tile(NamedTuple):
    rows: int
    classes: int  # a power of two, at least 4
    warps: int


class Sizes(NamedTuple):
    """K, the rows and the classes of a tile, and the type of the arithmetic."""

    K: Any
    ROWS: Any
    TILE: Any
    T: Any


def tile_of(num_classes: int, small: bool = False) -> Tile:
    for most, numbers, warps in _SMALL_TILES if small else _TILES:
        if num_classes <= most:
            classes = max(4, triton.next_power_of_2(num_classes))
            return Tile(numbers // classes, classes, warps)
    return Tile(1, *(_SMALL_TILES[-1][1:] if small else _LARGE))


def launch_rows(kernel, *arguments, shape: torch.Size, T, small: bool = False, **options) -> None:
    """Runs a kernel on all rows of tensors of this shape, `[..., K]`. The last arguments of the kernel are the number
    of rows and S. T: the type of the arithmetic. small: whether to use _SMALL_TILES."""
    tile, count = tile_of(shape[-1], small), shape[:-1].numel()
    S = static(Sizes(shape[-1], tile.rows, tile.classes, T))
    launch(kernel, programs(count, tile.rows), *arguments, count, S=S, warps=tile.warps, **options)


def class_view(x: Tensor | None, shape: torch.Size) -> View:
    """The view of a tensor broadcast to `shape`, `[..., K]`."""
    if x is None:
        return *view(None, shape), 1
    x = x if x.shape == shape else x.expand(shape)
    if x.is_contiguous():
        return x, DENSE, 0, 0, 0, 1
    if len(joined(x[..., 0], shape[:-1])) > 2:
        return class_view(x.contiguous(), shape)
    _, kind, inner, outer_stride, inner_stride = view(x[..., 0], shape[:-1])
    return x, SCALAR if kind == SCALAR else GRID, inner, outer_stride, inner_stride, x.stride(-1)


def data_view(x: Tensor | None, shape: torch.Size) -> View:
    """The view of classes, or the class view of soft data of this shape, `[..., K]`."""
    return class_view(x, shape) if x is not None and x.is_floating_point() else view(x, shape[:-1])


def logits_view(output: ClassLogits, guidance: Guidance = NO_GUIDANCE) -> View:
    """The view of a network's logits. It is followed by the views of the guidance and of the class mask, unless there
    is neither."""
    shape = output.logits.shape
    logits = class_view(output.logits, shape)
    if output.class_mask is guidance.logit_scale is guidance.unconditional is None:
        return logits
    scale, other_scale = views(shape[:-1], guidance.logit_scale, guidance.unconditional_scale)
    return *logits, scale, class_view(guidance.unconditional, shape), other_scale, class_view(output.class_mask, shape)


@triton.jit
def _pointers(view, rows, k, S):
    start, offsets, _, _ = rows
    if view[1] == DENSE:
        return view[0] + start * S.K + (offsets * S.K + k)
    else:
        return view[0] + (grid_offset(view, start, offsets) + k.to(tl.int64) * view[5])


@triton.jit
def class_mask(first, S):
    """True for the columns of a tile that are classes, False for the columns beyond K."""
    return (first + tl.arange(0, S.TILE) < S.K)[None, :]


@triton.jit
def column(rows):
    """The block of rows as a column of a tile."""
    return rows[0], rows[1][:, None], rows[2][:, None], rows[3]


@triton.jit
def _load(view, rows, k, S):
    if view[1] == SCALAR:
        same = tl.load(view[0] + k.to(tl.int64) * view[5], mask=k < S.K, other=0)
        return tl.broadcast_to(same.to(S.T), (rows[1] + k).shape)
    else:
        return tl.load(_pointers(view, rows, k, S), mask=rows[2] & (k < S.K), other=0).to(S.T)


@triton.jit
def _load_logits(view, rows, k, S):
    """Loads the classes k of numbers or logits. If a `logits_view` has more views, logits are guided and masked."""
    z = _load(view, rows, k, S)
    if len(view) > 6:
        if (view[6][0] is not None) | (view[7][0] is not None):
            other = tl.zeros(z.shape, S.T)
            if view[7][0] is not None:
                other = _load(view[7], rows, k, S)
            z = guided(z, load(view[6], rows, S.T, 1.0), other, load(view[8], rows, S.T))
        if view[9][0] is not None:
            z = tl.where(_load(view[9], rows, k, S) != 0, z, float("-inf"))
    return z


@triton.jit
def load_classes(view, rows, first, S, OTHER: tl.constexpr = float("-inf")):
    """Loads the numbers of a tile, or logits by their `logits_view`; OTHER in columns beyond K."""
    z = _load_logits(view, column(rows), first + tl.arange(0, S.TILE)[None, :], S)
    return tl.where(class_mask(first, S), z, OTHER)


@triton.jit
def load_groups(view, rows, first, S):
    """The numbers that `load_classes` loads, for kernels that add noise to them or compute cumulative sums. If K is not
    a multiple of four, each thread has groups of four classes, as in `class_noise`. `load_classes` would give the
    threads other numbers, and each operation with noise or with a sum over the row would move numbers between
    threads."""
    if S.K % 4 == 0 or S.K > S.TILE:
        return load_classes(view, rows, first, S)
    else:
        group = 4 * tl.arange(0, S.TILE // 4)[None, :]
        return interleave(
            _load_each(view, rows, group, S),
            _load_each(view, rows, group + 1, S),
            _load_each(view, rows, group + 2, S),
            _load_each(view, rows, group + 3, S),
        )


@triton.jit
def _load_each(view, rows, k, S, OTHER: tl.constexpr = float("-inf")):
    return tl.where(k < S.K, _load_logits(view, column(rows), k, S), OTHER)


@triton.jit
def load_quarters(view, rows, first, S, OTHER: tl.constexpr = float("-inf")):
    """The numbers that `load_classes` loads, for kernels that sum over rows or take many row scalars. A thread loads
    from each quarter of the tile. So it has numbers of fewer rows, and sums more of them before any number moves
    between threads."""
    if S.TILE < 32:
        return load_classes(view, rows, first, S, OTHER)
    else:
        k = first + tl.arange(0, S.TILE // 4)[None, :]
        a, b = _load_each(view, rows, k, S, OTHER), _load_each(view, rows, k + S.TILE // 4, S, OTHER)
        k += S.TILE // 2
        c, d = _load_each(view, rows, k, S, OTHER), _load_each(view, rows, k + S.TILE // 4, S, OTHER)
        joined = tl.join(tl.join(a, c), tl.join(b, d))
        return tl.reshape(tl.permute(joined, (0, 2, 3, 1)), (S.ROWS, S.TILE))


@triton.jit
def load_logit(view, rows, x, S):
    """The logit of the class x of each row."""
    return _load_logits(view, rows, x, S)


@triton.jit
def store_classes(view, rows, first, value, S):
    k, rows = first + tl.arange(0, S.TILE)[None, :], column(rows)
    tl.store(_pointers(view, rows, k, S), value.to(view[0].dtype.element_ty), mask=rows[2] & (k < S.K))


@triton.jit
def class_noise(noise, rows, first, stream: tl.constexpr, draw, count, S):
    """The normals of a tile in one draw: explicit normals, or normals from the seed, for which each row starts a new
    group. count: the number of rows of a draw."""
    start, offsets, mask, size = rows
    if noise.noise[0] is not None:
        return load_classes(noise.noise, (start_of_draw(start, draw, count), offsets, mask, size), first, S, 0.0)
    else:
        row_group = (start + offsets) * ((S.K + 3) // 4)
        group = row_group[:, None] + (first // 4 + tl.arange(0, S.TILE // 4))[None, :]
        return normals(tl.load(noise.seed), group, stream, draw, S.T)


@triton.jit
def is_class(x, first, TILE: tl.constexpr):
    """The one-hot vector e_x of each row, if x is in range. It compares 32 bits, since 64 bits take twice as long."""
    return x.to(tl.int32)[:, None] == (first + tl.arange(0, TILE))[None, :]


@triton.jit
def message(p, beta, spread, eps, K):
    """y = β(Kp − 1) + √(Kβ)·ε, where p is e_x in (185)."""
    # Without fma, the compiler would choose which of the two products it rounds, and the result would depend on the
    # kernel. The first product is not rounded, since it is the larger one for the class that is sent.
    return tl.fma(beta[:, None], tl.fma(p, K, -1.0), spread[:, None] * eps)


@triton.jit
def distributed(x, rows):
    """Returns x, which has a number for each row, with each number in one thread if there are enough rows. After a sum
    over a row, all threads of the row have the sum, and each of them would repeat the operations that follow."""
    return tl.gather(x, rows[1], 0)


@triton.jit
def exp_of_rows(z):
    """exp(z − max) and max of whole rows."""
    top = tl.max(z, 1)
    return exp_difference(z, top[:, None]), top


@triton.jit
def softmax(z):
    e, _ = exp_of_rows(z)
    return e * reciprocal(tl.sum(e, 1))[:, None]


@triton.jit
def sum_where(condition, z):
    return tl.sum(tl.where(condition, z, 0.0), 1)


@triton.jit
def finite(top):
    """The largest number of a row, or 0 if it is −∞, since a row minus −∞ would be NaN."""
    return tl.where(top == float("-inf"), 0.0, top)


@triton.jit
def row_total(view, rows, S):
    """The largest number of each row and the sum of exp(z − max), over all tiles of the row."""
    top, total = no_tile(rows, S)
    for first in range(0, S.K, S.TILE):
        top, total = with_tile(load_quarters(view, rows, first, S), top, total, S)
    return top, total


@triton.jit
def no_tile(rows, S):
    """The largest number of each row and the sum of exp(z − max) before the first tile: −∞ and 0."""
    return tl.full(rows[1].shape, float("-inf"), S.T), tl.zeros(rows[1].shape, S.T)


@triton.jit
def with_tile(z, top, total, S):
    """Updates the largest number of each row and the sum of exp(z − max) by the tile z."""
    new = tl.maximum(top, tl.max(z, 1))
    return new, total * rescaling(top, new, S) + tl.sum(exp_difference(z, finite(new)[:, None]), 1)


@triton.jit
def rescaling(top, new, S):
    """exp(top − new), the factor of sums of earlier tiles when `new` replaces `top`. A row of one tile has no earlier
    sums."""
    if S.K <= S.TILE:
        return tl.full(top.shape, 1.0, S.T)
    else:
        return tl.where(top == new, 1.0, exp_difference(top, new))


@triton.jit
def first_largest(logits, rows, S):
    """The first class with the largest logit. −1 if the probabilities are NaN: a logit is NaN or +∞, or all logits are
    −∞."""
    best = tl.full(rows[1].shape, float("-inf"), S.T)
    mode = tl.full(rows[1].shape, S.K, tl.int32)
    has_nan = tl.zeros(rows[1].shape, tl.int32)
    for first in range(0, S.K, S.TILE):
        z = load_classes(logits, rows, first, S)
        k = (first + tl.arange(0, S.TILE))[None, :]
        top = tl.max(z, 1)
        at = tl.min(tl.where(z == top[:, None], k, S.K), 1)
        mode = tl.where((top > best) | (mode == S.K), at, mode)
        best = tl.maximum(best, top)
        has_nan = tl.maximum(has_nan, tl.max((z != z).to(tl.int32), 1))
    return tl.where((has_nan == 0) & (best - best == 0.0), mode, -1)


@triton.jit
def _first_beyond(e, before, threshold, first, S):
    """Returns, for a tile: the first class k with e_k > 0 at which the cumulative sum of e exceeds the threshold, or K;
    the last class with e_k > 0, or −1; and the sum of e up to the end of the tile. before: the sum of e before the
    tile."""
    k = (first + tl.arange(0, S.TILE))[None, :]
    cumulative = before[:, None] + tl.cumsum(e, 1)
    beyond = tl.min(tl.where((cumulative > threshold[:, None]) & (e > 0.0), k, S.K), 1)
    return beyond, tl.max(tl.where(e > 0.0, k, -1), 1), before + tl.sum(e, 1)


@triton.jit
def drawn_class(logits, uniform, rows, S):
    """Draws the first class whose cumulative probability exceeds u or, if none does, the last class with p > 0. −1 if p
    is NaN."""
    if S.K <= S.TILE:
        e, top = exp_of_rows(load_groups(logits, rows, 0, S))
        total = tl.sum(e, 1)
        drawn, last, _ = _first_beyond(e, tl.zeros(rows[1].shape, S.T), uniform * total, 0, S)
    else:
        top, total = row_total(logits, rows, S)
        drawn = tl.full(rows[1].shape, S.K, tl.int32)
        last = tl.full(rows[1].shape, -1, tl.int32)
        done = tl.zeros(rows[1].shape, S.T)
        for first in range(0, S.K, S.TILE):
            e = exp_difference(load_classes(logits, rows, first, S), top[:, None])
            beyond, positive, done = _first_beyond(e, done, uniform * total, first, S)
            drawn = tl.minimum(drawn, beyond)
            last = tl.maximum(last, positive)
    return tl.where(total - total == 0.0, tl.where(drawn < S.K, drawn, last), -1)
