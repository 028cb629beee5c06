"""Triton kernels for products of large vocabularies on tensor cores, for vectors of 16 bits.

- `flow_products` computes θ·W. W has a vector for each class, y are the logits of a flow's sample, and θ is softmax(y).
  The kernel works as attention does, with y as the scores. A program computes y of some tokens for a block of
  classes from the seed, in registers. It adds exp(y − top)·W to its sums, as in an online softmax. The backward kernel
  computes the same y again, and sums θᵀ·grad for some classes.
- `head_sums` computes logits as products of vectors of length d, and from the logits the sums that a loss needs.
- `product` multiplies two stored matrices.

Copies of the next blocks to shared memory overlap with the work on the current blocks (`num_stages`). A program
computes noise and products in turn, so these two overlap only if a multiprocessor runs several programs. docs/gpu.md
says what bounds each kernel. The sums of a product are float32. Its first factor, exp(y − top) or θ for example, is
rounded to the type of the vectors. If several programs share the classes, their sums are joined in the order of the
classes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from bfn_kernels.records import TileMessages
from bfn_kernels.triton_ops.class_tiles import is_class, sum_where
from bfn_kernels.triton_ops.elementary import exp_difference
from bfn_kernels.triton_ops.philox import SENDER
from bfn_kernels.triton_ops.views import launch, numbered_block, programs
from bfn_kernels.vocabulary.sums import Sums
from bfn_kernels.vocabulary.tiles import FUSED_WIDTH
from bfn_kernels.vocabulary.triton_tiles import (
    LEAST,
    column_of,
    join_sums,
    load_messages,
    load_rows,
    messages,
    store_sums,
    sums_of_others,
)

MANY = 264  # two programs for each multiprocessor of an H100; if blocks of tokens are fewer, programs share the classes
FLOW = {"ROWS": 64, "TILE": 64}  # the tokens and classes of a block of noise
HEAD = {"ROWS": 128, "TILE": 64, "DEPTH": 64}  # with more classes the sums take more registers than there are
PRODUCT = {"ROWS": 128, "TILE": 128, "DEPTH": 64}
# Probabilities are multiplied by exp(LIFT) = LIFTED before they are rounded, so that small ones do not underflow.
LIFT, LIFTED = tl.constexpr(9.704060527839234), tl.constexpr(2.0**14)


def _columns(width: int) -> int:
    """The columns of a block of whole vectors."""
    if width > FUSED_WIDTH:
        raise ValueError(f"vectors of {FUSED_WIDTH} numbers at most fit in registers, got {width}")
    return max(16, triton.next_power_of_2(width))


def _splits(count: int, tile: int, blocks: int) -> tuple[int, int]:
    """How many programs share the classes of a block of tokens, at least 1, and how many classes each program has."""
    tiles = max(1, programs(count, tile))
    each = tile * programs(tiles, max(1, min(tiles, MANY // max(blocks, 1))))
    return max(1, programs(count, each)), each


def flow_products(sent: TileMessages, weight: Tensor, top: Tensor, total: Tensor, sums: Tensor) -> None:
    """Writes for each token the largest y, the sum of exp(y − largest), and the sum of exp(y − largest) times the
    vectors."""
    (tokens, width), skip = sums.shape, sent.first % 4
    blocks = programs(tokens, FLOW["ROWS"])
    splits, each = _splits(len(weight) + skip, FLOW["TILE"], blocks)
    split_sums, stats = sums.new_empty(splits, tokens, width), top.new_empty(splits, tokens, 2)
    launch(
        _flow_products, blocks * splits, sent[:4], sent.seed, sent.num_classes, (weight, *weight.stride()),
        split_sums, stats, sent.first, len(weight), tokens, width, each, blocks,
        **FLOW, COLUMNS=_columns(width), T=tl.float32, warps=8, num_stages=2,
    )  # fmt: skip
    tops, totals = stats.unbind(-1)
    torch.amax(tops, 0, out=top)
    by = (tops - top).exp_()
    total.zero_(), sums.zero_()
    for split in range(splits):
        total.addcmul_(by[split], totals[split])
        sums.addcmul_(by[split].unsqueeze(-1), split_sums[split])


@triton.jit
def _pointers(matrix, rows, columns):
    """Pointers to a block of a matrix, which is a pointer and two strides."""
    return matrix[0] + rows.to(tl.int64)[:, None] * matrix[1] + columns.to(tl.int64)[None, :] * matrix[2]


@triton.jit
def _load(matrix, rows, row_mask, columns, column_mask):
    """Loads a block of a matrix; 0 where a mask is False."""
    return tl.load(_pointers(matrix, rows, columns), mask=row_mask[:, None] & column_mask[None, :], other=0)


@triton.jit
def _flow_products(
    pointers, seed, num_classes, weight, split_sums, stats, first, count, tokens, width, each, blocks,
    ROWS: tl.constexpr, TILE: tl.constexpr, COLUMNS: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    split, columns = tl.program_id(0) // blocks, tl.arange(0, COLUMNS)
    rows, seed = numbered_block(tl.program_id(0) % blocks, tokens, ROWS), tl.load(seed)
    of_tokens = load_messages(pointers, rows)
    begin = split * each - first % 4
    end = tl.minimum(begin + each, count)
    top, total, sums = tl.full((ROWS,), LEAST, T), tl.zeros((ROWS,), T), tl.zeros((ROWS, COLUMNS), T)
    for start in range(begin, end, TILE):
        k = start + tl.arange(0, TILE)
        mask = (k >= 0) & (k < end)
        vectors = _load(weight, k, mask, columns, columns < width)
        y = messages(of_tokens, seed, first + start, num_classes, SENDER, 0, TILE, T)
        y = tl.where(mask[None, :], y, float("-inf"))
        new_top = tl.maximum(top, tl.max(y, 1))
        kept = exp_difference(top, new_top)
        e = tl.exp(y - new_top[:, None] + LIFT)  # this fast exponential is exact enough, since e is rounded to 16 bits
        total = total * kept + tl.sum(e, 1)
        sums = tl.dot(e.to(vectors.dtype), vectors, sums * kept[:, None])
        top = new_top
    row = split * tokens + rows[0] + rows[1]
    tl.store(stats + 2 * row, top, mask=rows[2])
    tl.store(stats + 2 * row + 1, total / LIFTED, mask=rows[2])
    pointer, mask = split_sums + row[:, None] * width + columns[None, :], rows[2][:, None] & (columns < width)[None, :]
    tl.store(pointer, sums / LIFTED, mask=mask)


def flow_products_backward(sent: TileMessages, grad: Tensor, top: Tensor, total: Tensor, by_weight: Tensor) -> None:
    (tokens, width), count = grad.shape, len(by_weight)
    launch(
        _flow_products_backward, programs(count + sent.first % 4, FLOW["TILE"]), sent[:4], sent.seed, sent.num_classes,
        (grad, *grad.stride()), top, total, by_weight, sent.first, count, tokens, width,
        **FLOW, COLUMNS=_columns(width), T=tl.float32, warps=8, num_stages=2,
    )  # fmt: skip


@triton.jit
def _flow_products_backward(
    pointers, seed, num_classes, grad, tops, totals, by_weight, first, count, tokens, width,
    ROWS: tl.constexpr, TILE: tl.constexpr, COLUMNS: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    start, seed, columns = tl.program_id(0) * TILE - first % 4, tl.load(seed), tl.arange(0, COLUMNS)
    k = start + tl.arange(0, TILE)
    mask = (k >= 0) & (k < count)
    sums = tl.zeros((TILE, COLUMNS), T)
    for block in range(0, (tokens + ROWS - 1) // ROWS):
        rows = numbered_block(block, tokens, ROWS)
        vectors = _load(grad, rows[0] + rows[1], rows[2], columns, columns < width)
        y = messages(load_messages(pointers, rows), seed, first + start, num_classes, SENDER, 0, TILE, T)
        scale = LIFTED / load_rows(totals, rows)
        theta = tl.exp(y - load_rows(tops, rows)[:, None]) * scale[:, None]
        theta = tl.where(rows[2][:, None] & mask[None, :], theta, 0.0)
        sums = tl.dot(tl.trans(theta.to(vectors.dtype)), vectors, sums)
    pointer = by_weight + k.to(tl.int64)[:, None] * width + columns[None, :]
    sums = (sums / LIFTED).to(by_weight.dtype.element_ty)
    tl.store(pointer, sums, mask=mask[:, None] & (columns < width)[None, :])


@triton.jit
def _product_block(
    a, b, rows, row_mask, columns, column_mask, depth, ROWS: tl.constexpr, TILE: tl.constexpr, DEPTH: tl.constexpr
):
    """A block of the product of two matrices. The first matrix is rounded to the type of the second one."""
    sums = tl.zeros((ROWS, TILE), tl.float32)
    for start in range(0, depth, DEPTH):
        inner = start + tl.arange(0, DEPTH)
        a_block = _load(a, rows, row_mask, inner, inner < depth)
        b_block = _load(b, inner, inner < depth, columns, column_mask)
        sums = tl.dot(a_block.to(b_block.dtype), b_block, sums)
    return sums


def product(a: Tensor, b: Tensor, add: bool, sums: Tensor) -> None:
    """Overwrites the sums by a·b or, if `add`, adds a·b to them."""
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
    block = _product_block(a, b, rows, rows < tokens, columns, columns < count, depth, ROWS, TILE, DEPTH)
    if ADD:
        block += _load(sums, rows, rows < tokens, columns, columns < count)
    tl.store(_pointers(sums, rows, columns), block, mask=(rows < tokens)[:, None] & (columns < count)[None, :])


def head_sums(hidden: Tensor, weight: Tensor, bias: Tensor | None, x: Tensor, first: int, sums: Tensor) -> None:
    """Computes logits and adds them to the sums of each token, as `sums_tile` does."""
    (tokens, width), count, blocks = hidden.shape, len(weight), programs(len(hidden), HEAD["ROWS"])
    splits, each = _splits(count, HEAD["TILE"], blocks)
    split_sums = Sums.of_none(sums, splits, tokens)
    launch(
        _head_sums, blocks * splits, (hidden, *hidden.stride()), (weight, *weight.stride()[::-1]),
        (bias, 0 if bias is None else bias.stride(0)), x, split_sums, first, count, tokens, width, each, blocks,
        **HEAD, warps=8, num_stages=3,
    )  # fmt: skip
    for stats in split_sums:
        Sums.stored(stats).add_to(sums)


@triton.jit
def _head_sums(
    hidden, weight, bias, x, split_sums, first, count, tokens, width, each, blocks,
    ROWS: tl.constexpr, TILE: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    split, rows = tl.program_id(0) // blocks, numbered_block(tl.program_id(0) % blocks, tokens, ROWS)
    x, token = column_of(load_rows(x, rows), first), rows[0] + rows[1]
    joined = tl.full((ROWS,), LEAST, tl.float64), tl.zeros((ROWS,), tl.float64), tl.zeros((ROWS,), tl.float64)
    z_x = tl.zeros((ROWS,), tl.float32)
    for start in range(split * each, tl.minimum((split + 1) * each, count), TILE):
        k = start + tl.arange(0, TILE)
        z = _product_block(hidden, weight, token, rows[2], k, k < count, width, ROWS, TILE, DEPTH)
        if bias[0] is not None:
            z += tl.load(bias[0] + k.to(tl.int64) * bias[1], mask=k < count, other=0).to(tl.float32)[None, :]
        is_x = is_class(x, start, TILE)
        z_x += sum_where(is_x & (k < count)[None, :], z)
        others = tl.where(is_x | (k >= count)[None, :], float("-inf"), z)
        joined = join_sums(joined, sums_of_others(others, tl.float32), tl.float32)
    store_sums(split_sums + (split * tokens + token) * 4, z_x, joined, rows[2])
