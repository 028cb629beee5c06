"""Triton kernels for tiles of large vocabularies, the counterpart of csrc/cpu/vocabulary.cpp. A tile is a matrix with
numbers for some tokens (rows) and some classes (columns). The kernels make noise, and compute what is needed between
two matrix products.

csrc/ops/vocabulary.h explains the arguments of the functions. `flow_tile` is `step_tile` without a state; `draws_tile`
and `draw_slopes_tile` have no struct there. In a kernel, `rows` is the block of tokens of the program (see `block_of`).
A program goes through its rows of the tile in blocks of TILE classes. Numbers in parentheses are equations of Graves et
al. 2023.

Noise is made for groups of four classes. So in kernels with noise, blocks start at classes that are multiples of 4, and
the first block may start before the tile. Noise that is needed twice and does not fit in the registers is computed
twice, which takes less time than writing and reading it.
"""

import triton
import triton.language as tl
from torch import Tensor

from bfn_kernels.records import TileMessages
from bfn_kernels.triton_ops.class_tiles import is_class, message, sum_where, tile_of
from bfn_kernels.triton_ops.elementary import exp, exp_difference, expm1, reciprocal
from bfn_kernels.triton_ops.philox import MONTE_CARLO, SENDER, normals
from bfn_kernels.triton_ops.views import block_of, compute_type, launch, programs
from bfn_kernels.vocabulary import sums

LEAST = tl.constexpr(sums.LEAST)


def _launch(kernel, tile: Tensor, *arguments, first: int, **constants) -> None:
    """Runs a kernel on the rows of a tile."""
    tokens, count = tile.shape
    shape = tile_of(count)
    launch(
        kernel, programs(tokens, shape.rows), *arguments, tile, first, count, tokens,
        ROWS=shape.rows, TILE=shape.classes, T=compute_type(tile), warps=shape.warps, **constants,
    )  # fmt: skip


def _launch_with_messages(kernel, tile: Tensor, sent: TileMessages, *arguments, **constants) -> None:
    """Runs a kernel on the rows of a tile. The kernel first takes what `load_messages` loads, the seed and K."""
    _launch(kernel, tile, sent[:4], sent.seed, sent.num_classes, *arguments, first=sent.first, **constants)


@triton.jit
def _block(tile, rows, start, count, TILE: tl.constexpr):
    """Returns pointers to TILE numbers of each row, from the column `start` of a tile on, and a mask of the numbers
    that exist. The tile has `count` columns. `start` may be negative."""
    k = (start + tl.arange(0, TILE))[None, :]
    return tile + (rows[0] * count + (rows[1][:, None] * count + k)), rows[2][:, None] & (k >= 0) & (k < count)


@triton.jit
def _load_block(block, T: tl.constexpr, OTHER: tl.constexpr):
    z = tl.load(block[0], mask=block[1], other=0).to(T)
    return tl.where(block[1], z, OTHER)


@triton.jit
def load_rows(values, rows):
    """Loads one number for each row."""
    return tl.load(values + rows[0] + rows[1], mask=rows[2], other=0)


@triton.jit
def _load_field(values, rows, WIDTH: tl.constexpr, FIELD: tl.constexpr):
    """Loads field FIELD of the WIDTH numbers of each row, shaped [ROWS, 1]."""
    return tl.load(values + (rows[0] + rows[1]) * WIDTH + FIELD, mask=rows[2], other=0)[:, None]


@triton.jit
def load_messages(pointers, rows):
    """Loads what `messages` takes for some tokens: the class x, the index of the row that determines the noise, β and
    √(Kβ)."""
    return (
        load_rows(pointers[0], rows),
        load_rows(pointers[1], rows),
        load_rows(pointers[2], rows),
        load_rows(pointers[3], rows),
    )


@triton.jit
def column_of(x, first):
    """x − first, the column of class x. It has 32 bits, since comparisons of 64-bit numbers take twice as long."""
    return (x - first).to(tl.int32)


@triton.jit
def messages(tokens, seed, first, num_classes, STREAM: tl.constexpr, draw, TILE: tl.constexpr, T: tl.constexpr):
    """The messages y (185) of some tokens, for the TILE classes from `first` on. `first` must be a multiple of 4."""
    x, row, beta, spread = tokens
    group = row[:, None] * ((num_classes + 3) // 4) + (first // 4 + tl.arange(0, TILE // 4))[None, :]
    eps = normals(seed, group, STREAM, draw, T)
    return message(is_class(column_of(x, first), 0, TILE).to(T), beta, spread, eps, num_classes)


@triton.jit
def sums_of_others(others, T: tl.constexpr):
    """Returns t and the two sums of `Sums` (vocabulary/sums.py) for a block. The sums leave out x, whose logit in
    `others` must be −∞, and one class with the logit t."""
    top = tl.maximum(tl.max(others, 1), LEAST)
    e = exp_difference(others, top[:, None])
    below = tl.where(e == 1.0, 0.0, e)
    ties = tl.maximum(tl.sum((e == 1.0).to(tl.int32), 1) - 1, 0).to(T)
    rest, square = tl.sum(below, 1) + ties, tl.sum(below * below, 1) + ties
    return top.to(tl.float64), rest.to(tl.float64), square.to(tl.float64)


@triton.jit
def join_sums(a, b, T: tl.constexpr):
    """Joins the `Sums` of two blocks. In float32 the difference of the two t is rounded before the exponential. The
    rounding error is large only if the difference is large, and then the exponential is small."""
    top = tl.maximum(a[0], b[0])
    by_a, by_b = exp((a[0] - top).to(T)), exp((b[0] - top).to(T))
    less = tl.minimum(by_a, by_b).to(tl.float64)  # the term of the left-out class that has the smaller t
    by_a, by_b = by_a.to(tl.float64), by_b.to(tl.float64)
    rest = by_a * a[1] + by_b * b[1] + less
    return top, rest, by_a * by_a * a[2] + by_b * by_b * b[2] + less * less


@triton.jit
def _load_sums(pointer, mask):
    return tl.load(pointer + 1, mask=mask), tl.load(pointer + 2, mask=mask), tl.load(pointer + 3, mask=mask)


@triton.jit
def store_sums(pointer, z_x, sums, mask):
    """Adds z_x to the stored z_x, and overwrites the stored sums, which `sums` already includes. z_x is 0 if x is not
    in the tile."""
    tl.store(pointer, tl.load(pointer, mask=mask) + z_x.to(tl.float64), mask=mask)
    tl.store(pointer + 1, sums[0], mask=mask)
    tl.store(pointer + 2, sums[1], mask=mask)
    tl.store(pointer + 3, sums[2], mask=mask)


def flow_tile(sent: TileMessages, again: bool, out: Tensor, *softmax: Tensor | None) -> None:
    once = sent.first % 4 == 0 and out.shape[1] <= tile_of(out.shape[1]).classes
    _launch_with_messages(_flow_tile, out, sent, *softmax, AGAIN=again, ONCE=once)


@triton.jit
def _flow_block(tokens, seed, mask, first, num_classes, TILE: tl.constexpr, T: tl.constexpr):
    return tl.where(mask, messages(tokens, seed, first, num_classes, SENDER, 0, TILE, T), float("-inf"))


@triton.jit
def _flow_tile(
    pointers, seed, num_classes, top_pointer, total_pointer, kept_pointer, out, first, count, tokens,
    AGAIN: tl.constexpr, ONCE: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """Writes y or, if there is a pointer to the largest y, exponentials of y. ONCE: whether a row is a single block, so
    that its y stay in registers."""
    rows, seed = block_of(tokens, ROWS), tl.load(seed)
    of_tokens = load_messages(pointers, rows)
    y = tl.zeros((ROWS, TILE), T)
    if top_pointer is not None:
        top, total = load_rows(top_pointer, rows), load_rows(total_pointer, rows)
        new_top, tile_total, scale = top, tl.zeros((ROWS,), T), tl.full((ROWS,), 1.0, T)
        if AGAIN:
            scale = reciprocal(total)
        else:
            for start in range(-(first % 4), count, TILE):
                mask = _block(out, rows, start, count, TILE)[1]
                y = _flow_block(of_tokens, seed, mask, first + start, num_classes, TILE, T)
                new_top = tl.maximum(new_top, tl.max(y, 1))
    for start in range(-(first % 4), count, TILE):
        pointer, mask = _block(out, rows, start, count, TILE)
        if top_pointer is None:
            value = messages(of_tokens, seed, first + start, num_classes, SENDER, 0, TILE, T)
        else:
            if AGAIN or not ONCE:
                y = _flow_block(of_tokens, seed, mask, first + start, num_classes, TILE, T)
            e = exp_difference(y, new_top[:, None])
            tile_total += tl.sum(e, 1)
            value = e * scale[:, None]
        tl.store(pointer, value.to(out.dtype.element_ty), mask=mask)
    if top_pointer is not None and not AGAIN:
        kept, row = exp_difference(top, new_top), rows[0] + rows[1]
        tl.store(kept_pointer + row, kept, mask=rows[2])
        tl.store(total_pointer + row, total * kept + tile_total, mask=rows[2])
        tl.store(top_pointer + row, new_top, mask=rows[2])


def sums_tile(logits: Tensor, x: Tensor, first: int, sums: Tensor) -> None:
    _launch(_sums_tile, logits, x, sums, first=first)


@triton.jit
def _sums_tile(x, sums, logits, first, count, tokens, ROWS: tl.constexpr, TILE: tl.constexpr, T: tl.constexpr):
    rows = block_of(tokens, ROWS)
    x, pointer = column_of(load_rows(x, rows), first), sums + (rows[0] + rows[1]) * 4
    joined, z_x = _load_sums(pointer, rows[2]), tl.zeros((ROWS,), T)
    for start in range(0, count, TILE):
        is_x = is_class(x, start, TILE)
        z = _load_block(_block(logits, rows, start, count, TILE), T, float("-inf"))
        joined = join_sums(joined, sums_of_others(tl.where(is_x, float("-inf"), z), T), T)
        z_x += sum_where(is_x & (start + tl.arange(0, TILE) < count)[None, :], z)
    store_sums(pointer, z_x, joined, rows[2])


def slopes_tile(x: Tensor, slopes: Tensor, first: int, logits: Tensor) -> None:
    _launch(_slopes_tile, logits, x, slopes, first=first)


@triton.jit
def _slopes_tile(x, slopes, logits, first, count, tokens, ROWS: tl.constexpr, TILE: tl.constexpr, T: tl.constexpr):
    rows = block_of(tokens, ROWS)
    x = column_of(load_rows(x, rows), first)
    by_x, top = _load_field(slopes, rows, 5, 0), _load_field(slopes, rows, 5, 1)
    slope, level = _load_field(slopes, rows, 5, 2), _load_field(slopes, rows, 5, 3)
    origin = _load_field(slopes, rows, 5, 4)
    for start in range(0, count, TILE):
        block = _block(logits, rows, start, count, TILE)
        e = exp_difference(_load_block(block, T, 0.0), top)
        tl.store(block[0], tl.where(is_class(x, start, TILE), by_x, e * (slope * (e - origin) + level)), mask=block[1])


def draws_tile(sent: TileMessages, sums: Tensor, logits: Tensor) -> None:
    _launch_with_messages(_draws_tile, logits, sent, sums, sums.stride(0), len(sums))


@triton.jit
def _draws_tile(
    pointers, seed, num_classes, sums, draw_stride, draws, logits, first, count, tokens,
    ROWS: tl.constexpr, TILE: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """For each draw, adds z + y of the tile's classes to the sums of the draw, which have y_x instead of z_x. The
    largest z is subtracted before y is added, so that a small y keeps its digits."""
    rows, seed = block_of(tokens, ROWS), tl.load(seed)
    of_tokens = load_messages(pointers, rows)
    x = column_of(of_tokens[0], first)
    for draw in range(draws):
        pointer = sums + (tl.zeros((), tl.int64) + draw) * draw_stride + (rows[0] + rows[1]) * 4
        joined, y_x = _load_sums(pointer, rows[2]), tl.zeros((ROWS,), T)
        for start in range(-(first % 4), count, TILE):
            block, is_x = _block(logits, rows, start, count, TILE), is_class(x, start, TILE)
            others = tl.where(is_x, float("-inf"), _load_block(block, T, float("-inf")))
            top = tl.maximum(tl.max(others, 1), LEAST)
            y = messages(of_tokens, seed, first + start, num_classes, MONTE_CARLO, draw, TILE, T)
            y_x += sum_where(is_x & block[1], y)
            top_of_sums, rest, square = sums_of_others(y + (others - top[:, None]), T)
            joined = join_sums(joined, (top_of_sums + top.to(tl.float64), rest, square), T)
        store_sums(pointer, y_x, joined, rows[2])


def draw_slopes_tile(sent: TileMessages, slopes: Tensor, shift: Tensor, logits: Tensor) -> None:
    """slopes: four numbers of each token: the gradient by the logit of x, the largest logit, the logarithm of the
    total, and the factor of the sum over draws. shift: a number for each draw and token."""
    _launch_with_messages(_draw_slopes_tile, logits, sent, slopes, shift, shift.stride(0), len(shift))


@triton.jit
def _p_minus_grown(log_p, growth):
    """p − p·exp(growth), without cancellation if growth is near 0, and without overflow if it is large."""
    p, grows = exp(log_p), growth > 1.0
    beyond = p - exp(tl.where(grows, log_p + growth, 0.0))
    return tl.where(grows, beyond, -p * expm1(tl.where(grows, 0.0, growth)))


@triton.jit
def _draw_slopes_tile(
    pointers, seed, num_classes, slopes, shift, draw_stride, draws, logits, first, count, tokens,
    ROWS: tl.constexpr, TILE: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    rows, seed = block_of(tokens, ROWS), tl.load(seed)
    of_tokens = load_messages(pointers, rows)
    x, by_x, top = column_of(of_tokens[0], first), _load_field(slopes, rows, 4, 0), _load_field(slopes, rows, 4, 1)
    log_total, factor = _load_field(slopes, rows, 4, 2), _load_field(slopes, rows, 4, 3)
    for start in range(-(first % 4), count, TILE):
        block = _block(logits, rows, start, count, TILE)
        log_p = _load_block(block, T, 0.0) - top - log_total
        sums = tl.zeros((ROWS, TILE), T)
        for draw in range(draws):
            shift_of_draw = shift + (tl.zeros((), tl.int64) + draw) * draw_stride
            y = messages(of_tokens, seed, first + start, num_classes, MONTE_CARLO, draw, TILE, T)
            sums += _p_minus_grown(log_p, y - load_rows(shift_of_draw, rows)[:, None])
        tl.store(block[0], tl.where(is_class(x, start, TILE), by_x, sums * factor), mask=block[1])
