"""Kernels for tiles of large vocabularies in Triton, the counterpart of csrc/cpu/vocabulary.cpp. A tile has a number
for each of some tokens and each of some classes. The kernels compute what lies between two matrix products, and make
noise.

csrc/ops/vocabulary.h explains the arguments of an operator. `draws_tile` and `draw_slopes_tile` have no struct there. A
program has some tokens, and goes through their rows of the tile a part at a time. Noise comes in groups of four
classes. So in kernels that make noise, parts start at classes that are multiples of 4, and the first part may start
before the tile. Noise that is needed twice and does not fit in the registers is made twice, which takes less time than
to write it and read it again.
"""

import triton
import triton.language as tl
from torch import Tensor

from bfn_kernels.triton_ops.classes import is_class, message, sum_where, tile_of
from bfn_kernels.triton_ops.elementary import exp, exp_difference, expm1, reciprocal
from bfn_kernels.triton_ops.noise import MONTE_CARLO, SENDER, normals
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


@triton.jit
def _part(tile, rows, place, count, TILE: tl.constexpr):
    """Returns pointers to TILE numbers of each row, from the column `place` of a tile on, and whether each number
    exists. The tile has `count` columns. `place` may be negative."""
    k = (place + tl.arange(0, TILE))[None, :]
    return tile + (rows[0] * count + (rows[1][:, None] * count + k)), rows[2][:, None] & (k >= 0) & (k < count)


@triton.jit
def _load_part(part, T: tl.constexpr, OTHER: tl.constexpr):
    z = tl.load(part[0], mask=part[1], other=0).to(T)
    return tl.where(part[1], z, OTHER)


@triton.jit
def of_rows(values, rows):
    """The number that each row has."""
    return tl.load(values + rows[0] + rows[1], mask=rows[2], other=0)


@triton.jit
def _of_records(values, rows, WIDTH: tl.constexpr, PLACE: tl.constexpr):
    """The number at PLACE of the WIDTH numbers that each row has, shaped [ROWS, 1]."""
    return tl.load(values + (rows[0] + rows[1]) * WIDTH + PLACE, mask=rows[2], other=0)[:, None]


@triton.jit
def sent_to(sent, rows):
    """Loads the argument `sent` of `messages` for some tokens: the class x, the row whose noise the token gets, and the
    scalars β and √(Kβ)."""
    return of_rows(sent[0], rows), of_rows(sent[1], rows), of_rows(sent[2], rows), of_rows(sent[3], rows)


@triton.jit
def place_of(x, first):
    """x − first, the column of class x. It has 32 bits, since comparisons of 64-bit numbers take twice as long."""
    return (x - first).to(tl.int32)


@triton.jit
def messages(sent, seed, first, num_classes, STREAM: tl.constexpr, draw, TILE: tl.constexpr, T: tl.constexpr):
    """The messages y (185) of some tokens, for the TILE classes from `first` on. `first` must be a multiple of 4."""
    x, row, beta, spread = sent
    group = row[:, None] * ((num_classes + 3) // 4) + (first // 4 + tl.arange(0, TILE // 4))[None, :]
    eps = normals(seed, group, STREAM, draw, T)
    return message(is_class(place_of(x, first), 0, TILE).to(T), beta, spread, eps, num_classes)


@triton.jit
def sums_of_others(others, T: tl.constexpr):
    """t and the two sums of `Sums` (vocabulary/sums.py) for a part. The sums leave out x, whose logit in `others` must
    be −∞, and one class with the logit t."""
    top = tl.maximum(tl.max(others, 1), LEAST)
    e = exp_difference(others, top[:, None])
    below = tl.where(e == 1.0, 0.0, e)
    more = tl.maximum(tl.sum((e == 1.0).to(tl.int32), 1) - 1, 0).to(T)
    rest, square = tl.sum(below, 1) + more, tl.sum(below * below, 1) + more
    return top.to(tl.float64), rest.to(tl.float64), square.to(tl.float64)


@triton.jit
def joined(one, other, T: tl.constexpr):
    """Joins the `Sums` of two parts. In float32 the difference of the two t is rounded before the exponential. The
    error is largest where the difference is large, and there the exponential is small."""
    top = tl.maximum(one[0], other[0])
    by_one, by_other = exp((one[0] - top).to(T)), exp((other[0] - top).to(T))
    less = tl.minimum(by_one, by_other).to(tl.float64)  # what the smaller t adds
    by_one, by_other = by_one.to(tl.float64), by_other.to(tl.float64)
    rest = by_one * one[1] + by_other * other[1] + less
    return top, rest, by_one * by_one * one[2] + by_other * by_other * other[2] + less * less


@triton.jit
def load_sums(at, there):
    return tl.load(at + 1, mask=there), tl.load(at + 2, mask=there), tl.load(at + 3, mask=there)


@triton.jit
def store_sums(at, z_x, sums, there):
    """Adds z_x to the stored z_x, and overwrites the stored sums, which `sums` already includes. z_x is 0 if x is not
    in the tile."""
    tl.store(at, tl.load(at, mask=there) + z_x.to(tl.float64), mask=there)
    tl.store(at + 1, sums[0], mask=there)
    tl.store(at + 2, sums[1], mask=there)
    tl.store(at + 3, sums[2], mask=there)


def flow_tile(
    x: Tensor, rows: Tensor, beta: Tensor, spread: Tensor, seed: Tensor, first: int, num_classes: int, again: bool,
    out: Tensor, top: Tensor | None, total: Tensor | None, kept: Tensor | None,
) -> None:  # fmt: skip
    once = first % 4 == 0 and out.shape[1] <= tile_of(out.shape[1]).classes
    sent = x, rows, beta, spread
    _launch(_flow_tile, out, sent, seed, num_classes, top, total, kept, first=first, AGAIN=again, ONCE=once)


@triton.jit
def _flow_part(sent, seed, there, first, num_classes, TILE: tl.constexpr, T: tl.constexpr):
    return tl.where(there, messages(sent, seed, first, num_classes, SENDER, 0, TILE, T), float("-inf"))


@triton.jit
def _flow_tile(
    sent, seed, num_classes, tops, totals, kepts, out, first, count, tokens,
    AGAIN: tl.constexpr, ONCE: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """Writes y or, with tops, exponentials of it. ONCE: whether a row is one part, whose y stay in registers."""
    rows, seed = block_of(tokens, ROWS), tl.load(seed)
    sent = sent_to(sent, rows)
    y = tl.zeros((ROWS, TILE), T)
    if tops is not None:
        top, total = of_rows(tops, rows), of_rows(totals, rows)
        most, found, by = top, tl.zeros((ROWS,), T), tl.full((ROWS,), 1.0, T)
        if AGAIN:
            by = reciprocal(total)
        else:
            for place in range(-(first % 4), count, TILE):
                y = _flow_part(sent, seed, _part(out, rows, place, count, TILE)[1], first + place, num_classes, TILE, T)
                most = tl.maximum(most, tl.max(y, 1))
    for place in range(-(first % 4), count, TILE):
        at, there = _part(out, rows, place, count, TILE)
        if tops is None:
            value = messages(sent, seed, first + place, num_classes, SENDER, 0, TILE, T)
        else:
            if AGAIN or not ONCE:
                y = _flow_part(sent, seed, there, first + place, num_classes, TILE, T)
            e = exp_difference(y, most[:, None])
            found += tl.sum(e, 1)
            value = e * by[:, None]
        tl.store(at, value.to(out.dtype.element_ty), mask=there)
    if tops is not None and not AGAIN:
        kept, each = exp_difference(top, most), rows[0] + rows[1]
        tl.store(kepts + each, kept, mask=rows[2])
        tl.store(totals + each, total * kept + found, mask=rows[2])
        tl.store(tops + each, most, mask=rows[2])


def sums_tile(logits: Tensor, x: Tensor, first: int, sums: Tensor) -> None:
    _launch(_sums_tile, logits, x, sums, first=first)


@triton.jit
def _sums_tile(
    x, sums, logits, first, count, tokens, ROWS: tl.constexpr, TILE: tl.constexpr, T: tl.constexpr
):  # fmt: skip
    rows = block_of(tokens, ROWS)
    x, at = place_of(of_rows(x, rows), first), sums + (rows[0] + rows[1]) * 4
    found, z_x = load_sums(at, rows[2]), tl.zeros((ROWS,), T)
    for place in range(0, count, TILE):
        is_x = is_class(x, place, TILE)
        z = _load_part(_part(logits, rows, place, count, TILE), T, float("-inf"))
        found = joined(found, sums_of_others(tl.where(is_x, float("-inf"), z), T), T)
        z_x += sum_where(is_x & (place + tl.arange(0, TILE) < count)[None, :], z)
    store_sums(at, z_x, found, rows[2])


def slopes_tile(x: Tensor, slopes: Tensor, first: int, logits: Tensor) -> None:
    _launch(_slopes_tile, logits, x, slopes, first=first)


@triton.jit
def _slopes_tile(
    x, slopes, logits, first, count, tokens, ROWS: tl.constexpr, TILE: tl.constexpr, T: tl.constexpr
):  # fmt: skip
    rows = block_of(tokens, ROWS)
    x = place_of(of_rows(x, rows), first)
    by_x, most, slope = (
        _of_records(slopes, rows, 5, 0),
        _of_records(slopes, rows, 5, 1),
        _of_records(slopes, rows, 5, 2),
    )
    level, origin = _of_records(slopes, rows, 5, 3), _of_records(slopes, rows, 5, 4)
    for place in range(0, count, TILE):
        part = _part(logits, rows, place, count, TILE)
        e = exp_difference(_load_part(part, T, 0.0), most)
        tl.store(part[0], tl.where(is_class(x, place, TILE), by_x, e * (slope * (e - origin) + level)), mask=part[1])


def draws_tile(
    x: Tensor, rows: Tensor, alpha: Tensor, spread: Tensor, seed: Tensor, first: int, num_classes: int, sums: Tensor,
    logits: Tensor,
) -> None:  # fmt: skip
    sent = x, rows, alpha, spread
    _launch(_draws_tile, logits, sent, seed, num_classes, sums, sums.stride(0), len(sums), first=first)


@triton.jit
def _draws_tile(
    sent, seed, num_classes, sums, to_next_draw, draws, logits, first, count, tokens,
    ROWS: tl.constexpr, TILE: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """For each draw, adds z + y of the classes to the sums of the draw, with y_x in the place of z_x. The largest z is
    subtracted from z before y is added, so that a small y keeps its digits."""
    rows, seed = block_of(tokens, ROWS), tl.load(seed)
    sent = sent_to(sent, rows)
    x = place_of(sent[0], first)
    for draw in range(draws):
        at = sums + (tl.zeros((), tl.int64) + draw) * to_next_draw + (rows[0] + rows[1]) * 4
        found, y_x = load_sums(at, rows[2]), tl.zeros((ROWS,), T)
        for place in range(-(first % 4), count, TILE):
            part, is_x = _part(logits, rows, place, count, TILE), is_class(x, place, TILE)
            others = tl.where(is_x, float("-inf"), _load_part(part, T, float("-inf")))
            top = tl.maximum(tl.max(others, 1), LEAST)
            y = messages(sent, seed, first + place, num_classes, MONTE_CARLO, draw, TILE, T)
            y_x += sum_where(is_x & part[1], y)
            top_of_sums, rest, square = sums_of_others(y + (others - top[:, None]), T)
            found = joined(found, (top_of_sums + top.to(tl.float64), rest, square), T)
        store_sums(at, y_x, found, rows[2])


def draw_slopes_tile(
    x: Tensor, rows: Tensor, alpha: Tensor, spread: Tensor, seed: Tensor, first: int, num_classes: int, slopes: Tensor,
    shift: Tensor, logits: Tensor,
) -> None:  # fmt: skip
    """slopes: of each token the gradient by the logit of x, the largest logit, the logarithm of the total and the
    factor of the sum over draws. shift: a number for each draw and token."""
    sent = x, rows, alpha, spread
    more = slopes, shift, shift.stride(0), len(shift)
    _launch(_draw_slopes_tile, logits, sent, seed, num_classes, *more, first=first)


@triton.jit
def _less(log_p, growth):
    """p − p·exp(growth), without cancellation if growth is near 0, and without overflow if it is large."""
    p, grows = exp(log_p), growth > 1.0
    beyond = p - exp(tl.where(grows, log_p + growth, 0.0))
    return tl.where(grows, beyond, -p * expm1(tl.where(grows, 0.0, growth)))


@triton.jit
def _draw_slopes_tile(
    sent, seed, num_classes, slopes, shift, to_next_draw, draws, logits, first, count, tokens,
    ROWS: tl.constexpr, TILE: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    rows, seed = block_of(tokens, ROWS), tl.load(seed)
    sent = sent_to(sent, rows)
    x, by_x, most = place_of(sent[0], first), _of_records(slopes, rows, 4, 0), _of_records(slopes, rows, 4, 1)
    log_total, factor = _of_records(slopes, rows, 4, 2), _of_records(slopes, rows, 4, 3)
    for place in range(-(first % 4), count, TILE):
        part = _part(logits, rows, place, count, TILE)
        log_p = _load_part(part, T, 0.0) - most - log_total
        found = tl.zeros((ROWS, TILE), T)
        for draw in range(draws):
            of_draw = shift + (tl.zeros((), tl.int64) + draw) * to_next_draw
            y = messages(sent, seed, first + place, num_classes, MONTE_CARLO, draw, TILE, T)
            found += _less(log_p, y - of_rows(of_draw, rows)[:, None])
        tl.store(part[0], tl.where(is_class(x, place, TILE), by_x, found * factor), mask=part[1])
