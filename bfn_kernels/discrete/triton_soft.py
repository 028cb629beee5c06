"""The losses of discrete data in Triton for soft data x: L∞ = w‖x − p‖², and the reconstruction loss −Σ x_k ln p_k.

In both, 1 − p_m is needed of the class m with p_m > ½, if there is one. It is computed as the sum of the other p, since
the difference would cancel. For each row, the forward pass saves four numbers, as csrc/math/discrete.h explains.
"""

import triton
import triton.language as tl

from bfn_kernels.triton_ops.class_tiles import load_quarters, row_total, store_classes
from bfn_kernels.triton_ops.elementary import exp_difference, log, log1p, reciprocal, square
from bfn_kernels.triton_ops.philox import interleave
from bfn_kernels.triton_ops.reduction import load_grad, write_losses
from bfn_kernels.triton_ops.views import block_of, load


@triton.jit
def store_stats(stats, rows, a, b, c, d, S):
    """Writes four numbers for each row, next to each other."""
    place = tl.arange(0, 4 * S.ROWS)
    tl.store(stats + 4 * rows[0] + place, interleave(a, b, c, d), mask=place < 4 * rows[3])


@triton.jit
def load_stats(stats, rows, S):
    """The four numbers of each row that `store_stats` wrote."""
    place = tl.arange(0, 4 * S.ROWS)
    numbers = tl.reshape(tl.load(stats + 4 * rows[0] + place, mask=place < 4 * rows[3]), (S.ROWS, 2, 2))
    even, odd = tl.split(numbers)
    a, c = tl.split(even)
    b, d = tl.split(odd)
    return a, b, c, d


@triton.jit
def soft_loss(x, logits, weight, mask, stats, losses, count, S: tl.constexpr):
    """Writes the losses and, for the backward pass: the largest logit; `rest`, which is Σ exp(z − max) over the classes
    but m; and two sums of the gradient."""
    rows = block_of(count, S.ROWS)
    top, total = row_total(logits, rows, S)
    inverse = reciprocal(total)
    zero = tl.zeros(top.shape, S.T)
    rest, x_m, own, others, loss = zero, zero, zero, zero, zero
    for first in range(0, S.K, S.TILE):
        z = load_quarters(logits, rows, first, S)
        x_k = load_quarters(x, rows, first, S, 0.0)
        e = exp_difference(z, top[:, None])
        p = e * inverse[:, None]
        is_m = p > 0.5
        rest += tl.sum(tl.where(is_m, 0.0, e), 1)
        x_m += tl.sum(tl.where(is_m, x_k, 0.0), 1)
        if weight[0] is not None:
            distance = tl.where(is_m, 0.0, x_k - p)
            loss += tl.sum(distance * distance, 1)
            others += tl.sum(tl.where(is_m, 0.0, p * distance), 1)
        else:
            loss += tl.sum(tl.where(x_k == 0.0, 0.0, x_k * (top[:, None] - z)), 1)
            others += tl.sum(x_k, 1)
    has_m = rest < 1.5
    if weight[0] is not None:
        distance_of_m = tl.where(has_m, (x_m - 1.0) + rest * inverse, 0.0)
        own = inverse * distance_of_m
        loss = load(weight, rows, S.T) * (loss + square(distance_of_m))
    else:
        loss += others * tl.where(has_m, log1p(tl.where(has_m, rest, 0.0)), log(total))
    if stats is not None:
        store_stats(stats, rows, top, own, rest, others, S)
    write_losses(loss, load(mask, rows, tl.int1, True), rows, losses)


@triton.jit
def soft_loss_backward(grad, weight, mask, x, logits, stats, grad_logits, count, S: tl.constexpr):
    rows = block_of(count, S.ROWS)
    top, own, rest, others = load_stats(stats, rows, S)
    top, own, rest, others = top[:, None], own[:, None], rest[:, None], others[:, None]
    inverse = reciprocal(tl.where(rest < 1.5, 1.0 + rest, rest))
    q = rest * inverse
    factor = load_grad(grad, rows, S.T)
    if weight[0] is not None:
        factor *= 2.0 * load(weight, rows, S.T)
    keep = load(mask, rows, tl.int1, True)[:, None]
    for first in range(0, S.K, S.TILE):
        x_k = load_quarters(x, rows, first, S, 0.0)
        p = exp_difference(load_quarters(logits, rows, first, S), top) * inverse
        is_m = p > 0.6  # not 0.5, since rounding may put a p of ½ on either side of it
        if weight[0] is not None:
            distance = tl.where(is_m, (x_k - 1.0) + q, x_k - p)
            by = p * tl.where(is_m, others - q * distance, (others + own) - distance)
        else:
            by = tl.where(is_m, (others - x_k) - others * q, others * p - x_k)
        store_classes(grad_logits, rows, first, tl.where(keep, factor[:, None] * by, 0.0), S)
