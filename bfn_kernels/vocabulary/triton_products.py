"""Products of large vocabularies on tensor cores, for vectors of 16 bits.

- `flow_products` is an attention whose scores are noise: a program makes y of some tokens by some classes from the
  counters, in registers, and adds exp(y − top)·W to what it has, by the online softmax. Its backward makes the same y
  again, and adds θᵀ·grad for some classes.
- `head_sums` makes logits by the product over d, and of these the sums that a loss needs.
- `product` is for what is stored between two of them.

Copies of the next blocks to shared memory overlap with the work on these (`num_stages`). Noise and products take turns
in a program, so that they overlap only where a multiprocessor has several programs. docs/gpu.md counts what bounds each
kernel. Sums are float32; numbers between 0 and 1 are rounded to the vectors' type; and what programs made of different
classes is joined in the order of these.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from bfn_kernels.triton_ops.classes import is_class, sum_where
from bfn_kernels.triton_ops.elementary import exp_difference
from bfn_kernels.triton_ops.noise import SENDER
from bfn_kernels.triton_ops.views import launch, numbered_block, programs
from bfn_kernels.vocabulary.sums import Sums
from bfn_kernels.vocabulary.tiles import FUSED_WIDTH
from bfn_kernels.vocabulary.triton_tiles import (
    LEAST,
    joined,
    messages,
    of_rows,
    place_of,
    sent_to,
    store_sums,
    sums_of_others,
)

MANY = 264  # programs, two for each multiprocessor of an H100: where tokens make fewer, classes are split among more
FLOW = {"ROWS": 64, "TILE": 64}  # tokens by classes of which a program makes noise at a time
HEAD = {"ROWS": 128, "TILE": 64, "DEPTH": 64}  # with more classes the sums take more registers than there are
PRODUCT = {"ROWS": 128, "TILE": 128, "DEPTH": 64}
LIFT, LIFTED = tl.constexpr(9.704060527839234), tl.constexpr(2.0**14)  # lets float16 have small probabilities too


def _columns(width: int) -> int:
    """The columns of a block that has all of a vector."""
    if width > FUSED_WIDTH:
        raise ValueError(f"vectors of {FUSED_WIDTH} numbers at most fit in registers, got {width}")
    return max(16, triton.next_power_of_2(width))


def _splits(count: int, tile: int, blocks: int) -> tuple[int, int]:
    """Among how many programs the classes of a block of tokens are split, and how many classes each of them takes. One
    program writes the sums of no classes."""
    tiles = max(1, programs(count, tile))
    each = tile * programs(tiles, max(1, min(tiles, MANY // max(blocks, 1))))
    return max(1, programs(count, each)), each


def flow_products(
    x: Tensor, rows: Tensor, beta: Tensor, spread: Tensor, seed: Tensor, first: int, num_classes: int, weight: Tensor,
    top: Tensor, total: Tensor, sums: Tensor,
) -> None:  # fmt: skip
    """Writes of each token the largest y, the sum of exp(y − largest), and that of the vectors times it."""
    (tokens, width), skip = sums.shape, first % 4
    blocks = programs(tokens, FLOW["ROWS"])
    splits, each = _splits(len(weight) + skip, FLOW["TILE"], blocks)
    found, stats = sums.new_empty(splits, tokens, width), top.new_empty(splits, tokens, 2)
    launch(
        _flow_products, blocks * splits, (x, rows, beta, spread), seed, num_classes, (weight, *weight.stride()), found,
        stats, first, len(weight), tokens, width, each, blocks,
        **FLOW, COLUMNS=_columns(width), T=tl.float32, warps=8, num_stages=2,
    )  # fmt: skip
    tops, totals = stats.unbind(-1)
    torch.amax(tops, 0, out=top)
    by = (tops - top).exp_()
    total.zero_(), sums.zero_()
    for split in range(splits):
        total.addcmul_(by[split], totals[split])
        sums.addcmul_(by[split].unsqueeze(-1), found[split])


@triton.jit
def _block(matrix, rows, there_down, columns, there_along):
    """A block of a matrix, which is a pointer and two strides; 0 where it has no numbers."""
    at = matrix[0] + rows.to(tl.int64)[:, None] * matrix[1] + columns.to(tl.int64)[None, :] * matrix[2]
    return tl.load(at, mask=there_down[:, None] & there_along[None, :], other=0)


@triton.jit
def _flow_products(
    sent, seed, num_classes, weight, found, stats, first, count, tokens, width, each, blocks,
    ROWS: tl.constexpr, TILE: tl.constexpr, COLUMNS: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    split, columns = tl.program_id(0) // blocks, tl.arange(0, COLUMNS)
    rows, seed = numbered_block(tl.program_id(0) % blocks, tokens, ROWS), tl.load(seed)
    sent = sent_to(sent, rows)
    begin = split * each - first % 4
    end = tl.minimum(begin + each, count)
    top, total, sums = tl.full((ROWS,), LEAST, T), tl.zeros((ROWS,), T), tl.zeros((ROWS, COLUMNS), T)
    for place in range(begin, end, TILE):
        k = place + tl.arange(0, TILE)
        there = (k >= 0) & (k < end)
        vectors = _block(weight, k, there, columns, columns < width)
        y = messages(sent, seed, first + place, num_classes, SENDER, 0, TILE, T)
        y = tl.where(there[None, :], y, float("-inf"))
        new = tl.maximum(top, tl.max(y, 1))
        kept = exp_difference(top, new)
        e = tl.exp(y - new[:, None] + LIFT)  # the hardware's serves, as e is rounded to 16 bits
        total = total * kept + tl.sum(e, 1)
        sums = tl.dot(e.to(vectors.dtype), vectors, sums * kept[:, None])
        top = new
    row = split * tokens + rows[0] + rows[1]
    tl.store(stats + 2 * row, top, mask=rows[2])
    tl.store(stats + 2 * row + 1, total / LIFTED, mask=rows[2])
    to, there = found + row[:, None] * width + columns[None, :], rows[2][:, None] & (columns < width)[None, :]
    tl.store(to, sums / LIFTED, mask=there)


def flow_products_backward(
    x: Tensor, rows: Tensor, beta: Tensor, spread: Tensor, seed: Tensor, first: int, num_classes: int, grad: Tensor,
    top: Tensor, total: Tensor, by_weight: Tensor,
) -> None:  # fmt: skip
    (tokens, width), count = grad.shape, len(by_weight)
    launch(
        _flow_products_backward, programs(count + first % 4, FLOW["TILE"]), (x, rows, beta, spread), seed, num_classes,
        (grad, *grad.stride()), top, total, by_weight, first, count, tokens, width,
        **FLOW, COLUMNS=_columns(width), T=tl.float32, warps=8, num_stages=2,
    )  # fmt: skip


@triton.jit
def _flow_products_backward(
    sent, seed, num_classes, grad, tops, totals, by_weight, first, count, tokens, width,
    ROWS: tl.constexpr, TILE: tl.constexpr, COLUMNS: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    place, seed, columns = tl.program_id(0) * TILE - first % 4, tl.load(seed), tl.arange(0, COLUMNS)
    k = place + tl.arange(0, TILE)
    there = (k >= 0) & (k < count)
    sums = tl.zeros((TILE, COLUMNS), T)
    for block in range(0, (tokens + ROWS - 1) // ROWS):
        rows = numbered_block(block, tokens, ROWS)
        vectors = _block(grad, rows[0] + rows[1], rows[2], columns, columns < width)
        y = messages(sent_to(sent, rows), seed, first + place, num_classes, SENDER, 0, TILE, T)
        by = LIFTED / of_rows(totals, rows)
        theta = tl.exp(y - of_rows(tops, rows)[:, None]) * by[:, None]
        theta = tl.where(rows[2][:, None] & there[None, :], theta, 0.0)
        sums = tl.dot(tl.trans(theta.to(vectors.dtype)), vectors, sums)
    to = by_weight + k.to(tl.int64)[:, None] * width + columns[None, :]
    sums = (sums / LIFTED).to(by_weight.dtype.element_ty)
    tl.store(to, sums, mask=there[:, None] & (columns < width)[None, :])


@triton.jit
def _product_block(
    a, b, rows, there_down, columns, there_along, depth, ROWS: tl.constexpr, TILE: tl.constexpr, DEPTH: tl.constexpr
):
    """A block of the product of two matrices, of which the first is rounded to the type of the second."""
    sums = tl.zeros((ROWS, TILE), tl.float32)
    for start in range(0, depth, DEPTH):
        along = start + tl.arange(0, DEPTH)
        one = _block(a, rows, there_down, along, along < depth)
        other = _block(b, along, along < depth, columns, there_along)
        sums = tl.dot(one.to(other.dtype), other, sums)
    return sums


def product(a: Tensor, b: Tensor, add: bool, sums: Tensor) -> None:
    """Writes a·b, or adds it to what is there."""
    (tokens, count), blocks = sums.shape, programs(len(sums), PRODUCT["ROWS"])
    launch(
        _product, blocks * programs(count, PRODUCT["TILE"]), *((t, *t.stride()) for t in (a, b, sums)),
        tokens, count, a.shape[1], blocks, ADD=add, **PRODUCT, warps=8, num_stages=3,
    )  # fmt: skip


@triton.jit
def _product(
    a, b, sums, tokens, count, depth, blocks,
    ADD: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    rows = (tl.program_id(0) % blocks) * ROWS + tl.arange(0, ROWS)
    columns = (tl.program_id(0) // blocks) * TILE + tl.arange(0, TILE)
    found = _product_block(a, b, rows, rows < tokens, columns, columns < count, depth, ROWS, TILE, DEPTH)
    if ADD:
        found += _block(sums, rows, rows < tokens, columns, columns < count)
    to = sums[0] + rows.to(tl.int64)[:, None] * sums[1] + columns.to(tl.int64)[None, :] * sums[2]
    tl.store(to, found, mask=(rows < tokens)[:, None] & (columns < count)[None, :])


def head_sums(hidden: Tensor, weight: Tensor, bias: Tensor | None, x: Tensor, first: int, sums: Tensor) -> None:
    """Adds logits to the sums of each token, as `sums_tile` does."""
    (tokens, width), count, blocks = hidden.shape, len(weight), programs(len(hidden), HEAD["ROWS"])
    splits, each = _splits(count, HEAD["TILE"], blocks)
    found = Sums.of_none(sums, splits, tokens)
    launch(
        _head_sums, blocks * splits, (hidden, *hidden.stride()), (weight, *weight.stride()[::-1]),
        (bias, 0 if bias is None else bias.stride(0)), x, found, first, count, tokens, width, each, blocks,
        **HEAD, warps=8, num_stages=3,
    )  # fmt: skip
    for part in found:
        Sums(*part.unbind(-1)).add_to(sums)


@triton.jit
def _head_sums(
    hidden, weight, bias, x, sums, first, count, tokens, width, each, blocks,
    ROWS: tl.constexpr, TILE: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    split, rows = tl.program_id(0) // blocks, numbered_block(tl.program_id(0) % blocks, tokens, ROWS)
    x, token = place_of(of_rows(x, rows), first), rows[0] + rows[1]
    found = tl.full((ROWS,), LEAST, tl.float64), tl.zeros((ROWS,), tl.float64), tl.zeros((ROWS,), tl.float64)
    z_x = tl.zeros((ROWS,), tl.float32)
    for place in range(split * each, tl.minimum((split + 1) * each, count), TILE):
        k = place + tl.arange(0, TILE)
        z = _product_block(hidden, weight, token, rows[2], k, k < count, width, ROWS, TILE, DEPTH)
        if bias[0] is not None:
            z += tl.load(bias[0] + k.to(tl.int64) * bias[1], mask=k < count, other=0).to(tl.float32)[None, :]
        is_x = is_class(x, place, TILE)
        z_x += sum_where(is_x & (k < count)[None, :], z)
        others = tl.where(is_x | (k >= count)[None, :], float("-inf"), z)
        found = joined(found, sums_of_others(others, tl.float32), tl.float32)
    store_sums(sums + (split * tokens + token) * 4, z_x, found, rows[2])
