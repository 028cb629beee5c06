"""The operators of discrete data in Triton, the counterpart of csrc/cpu/discrete.cpp.

An operator takes the arguments of the function of the same name in `reference.py`, whose docstring says their shapes.
Rows that fit in a tile are read once. Longer ones are read several times, and their noise is computed again each time.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from bfn_kernels import records
from bfn_kernels.call.checks import compute_dtype
from bfn_kernels.discrete.operators import ROW_STATS
from bfn_kernels.discrete.triton_nstep import discrete_time_loss
from bfn_kernels.records import Guidance, LossTarget, Noise, Sent, Solver
from bfn_kernels.triton_ops.classes import (
    class_noise,
    class_view,
    exp_of_rows,
    finite,
    first_largest,
    is_class,
    load_classes,
    message,
    row_total,
    softmax,
    store_classes,
    sum_where,
    tile_of,
    with_tile,
)
from bfn_kernels.triton_ops.elementary import exp_difference, log, log1p, reciprocal, square
from bfn_kernels.triton_ops.noise import CLASS, SENDER, uniforms
from bfn_kernels.triton_ops.reduction import Losses, scaled, write_losses
from bfn_kernels.triton_ops.solver import extrapolation_of, wait_to_write_over
from bfn_kernels.triton_ops.views import KERNEL_TYPES, block_of, compute_type, launch, load, programs, view, views
from bfn_kernels.vocabulary.triton import draw_slopes_tile, draws_tile, flow_tile, slopes_tile, sums_tile
from bfn_kernels.vocabulary.triton_products import flow_products, flow_products_backward, head_sums, product

__all__ = [
    "discrete_time_loss",
    "draw_slopes_tile",
    "draws_tile",
    "flow_products",
    "flow_products_backward",
    "flow_tile",
    "head_sums",
    "loss",
    "loss_backward",
    "product",
    "sender_sample",
    "slopes_tile",
    "step",
    "sums_tile",
    "theta",
]

SAMPLE, MODE, MEAN = map(tl.constexpr, (records.SAMPLE, records.MODE, records.MEAN))


@triton.jit
def _in_range(x, K: tl.constexpr):
    return (x >= 0) & (x < K)


def theta(logits: Tensor) -> Tensor:
    shape, tile = logits.shape, tile_of(logits.shape[-1])
    out = torch.empty_like(logits)
    to = class_view(out, shape)  # of a copy, where the strides are beyond it
    launch(
        _theta, programs(shape[:-1].numel(), tile.rows), class_view(logits, shape), to, shape[:-1].numel(),
        K=shape[-1], ROWS=tile.rows, TILE=tile.classes, T=compute_type(logits), warps=tile.warps,
    )  # fmt: skip
    return out if to[0].data_ptr() == out.data_ptr() else out.copy_(to[0])


@triton.jit
def _theta(
    logits, out, count, K: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr, T: tl.constexpr
):  # fmt: skip
    rows = block_of(count, ROWS)
    if K <= TILE:
        store_classes(out, rows, 0, softmax(load_classes(logits, rows, 0, K, TILE, T, float("-inf"))), K, TILE)
    else:
        top, total = row_total(logits, rows, K, TILE, T)
        inverse = reciprocal(total)
        for first in range(0, K, TILE):
            e = exp_difference(load_classes(logits, rows, first, K, TILE, T, float("-inf")), top[:, None])
            store_classes(out, rows, first, e * inverse[:, None], K, TILE)


def sender_sample(x: Tensor, alpha, spread, num_classes: int, probs: bool, noise: Noise, dtype) -> Tensor:
    shape = torch.Size((*x.shape, num_classes))
    out = torch.empty(shape, dtype=dtype, device=x.device)
    tile = tile_of(num_classes)
    launch(
        _sender, programs(x.numel(), tile.rows), *views(x.shape, x, alpha, spread),
        class_view(noise.noise, shape), noise.seed, class_view(out, shape), x.numel(),
        PROBS=probs, K=num_classes, ROWS=tile.rows, TILE=tile.classes, T=compute_type(out), warps=tile.warps,
    )  # fmt: skip
    return out


@triton.jit
def _flow(x, beta, spread, noise, seed, rows, first, K: tl.constexpr, TILE: tl.constexpr, T: tl.constexpr):
    eps = class_noise(noise, seed, rows, first, SENDER, 0, 0, K, TILE, T)
    y = message(is_class(x, first, TILE).to(T), beta, spread, eps, K)
    y = tl.where(_in_range(x, K)[:, None], y, float("nan"))
    return tl.where((first + tl.arange(0, TILE) < K)[None, :], y, float("-inf"))


@triton.jit
def _sender(
    x, beta, spread, noise, seed, out, count,
    PROBS: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    rows = block_of(count, ROWS)
    x, beta, spread = load(x, rows, tl.int64), load(beta, rows, T), load(spread, rows, T)
    if PROBS and K > TILE:
        top = tl.full((ROWS,), float("-inf"), T)
        total = tl.zeros((ROWS,), T)
        for first in range(0, K, TILE):
            top, total = with_tile(_flow(x, beta, spread, noise, seed, rows, first, K, TILE, T), top, total)
        inverse = reciprocal(total)
        for first in range(0, K, TILE):
            y = _flow(x, beta, spread, noise, seed, rows, first, K, TILE, T)
            store_classes(out, rows, first, exp_difference(y, top[:, None]) * inverse[:, None], K, TILE)
    else:
        for first in range(0, K, TILE):
            y = _flow(x, beta, spread, noise, seed, rows, first, K, TILE, T)
            if PROBS:
                y = softmax(y)
            store_classes(out, rows, first, y, K, TILE)


def step(
    output_logits: Tensor, state: Tensor, solver: Solver, guidance: Guidance, sent: Sent, noise: Noise, *outputs
) -> None:
    shape, num_classes = state.shape, state.shape[-1]
    lead, tile = shape[:-1], tile_of(num_classes)
    # of a copy, if no view describes the strides
    written = [(t, class_view(t, shape)) for t in outputs]
    new, theta, predicted = (to for _, to in written)
    network = class_view(output_logits, shape)
    if not guidance.logit_scale is guidance.unconditional is None:
        scale, other_scale = views(lead, guidance.logit_scale, guidance.unconditional_scale)
        network = *network, scale, class_view(guidance.unconditional, shape), other_scale
    ahead = class_view(solver.previous, shape), view(solver.extrapolation, lead), predicted
    dtype = compute_dtype(output_logits, state, solver.previous, guidance.unconditional)
    launch(
        _update, programs(lead.numel(), tile.rows), network, class_view(state, shape),
        *views(lead, solver.keep, solver.take, solver.std, sent.known, sent.known_mask),
        class_view(noise.noise, shape), view(sent.draw_noise, lead), noise.seed, ahead, new, theta, lead.numel(),
        CHOICE=sent.choice, K=num_classes, ROWS=tile.rows, TILE=tile.classes, T=KERNEL_TYPES[dtype], warps=tile.warps,
    )  # fmt: skip
    for given, to in written:
        if given is not None and to[0].data_ptr() != given.data_ptr():
            given.copy_(to[0])


@triton.jit
def _first_beyond(e, before, threshold, first, K: tl.constexpr, TILE: tl.constexpr):
    """In a tile: the first class with e > 0 up to which the sum of e exceeds the threshold, or K; the last class with
    e > 0, or −1; and the sum with this tile."""
    k = (first + tl.arange(0, TILE))[None, :]
    cumulative = before[:, None] + tl.cumsum(e, 1)
    beyond = tl.min(tl.where((cumulative > threshold[:, None]) & (e > 0.0), k, K), 1)
    return beyond, tl.max(tl.where(e > 0.0, k, -1), 1), before + tl.sum(e, 1)


@triton.jit
def _draw(logits, uniform, rows, K: tl.constexpr, TILE: tl.constexpr, T: tl.constexpr):
    """The first class whose cumulative probability exceeds u; if none does, the last one with p > 0; −1 if p is NaN."""
    if K <= TILE:
        e, top = exp_of_rows(load_classes(logits, rows, 0, K, TILE, T, float("-inf")))
        total = tl.sum(e, 1)
        drawn, last, _ = _first_beyond(e, tl.zeros(rows[1].shape, T), uniform * total, 0, K, TILE)
    else:
        top, total = row_total(logits, rows, K, TILE, T)
        drawn = tl.full(rows[1].shape, K, tl.int32)
        last = tl.full(rows[1].shape, -1, tl.int32)
        done = tl.zeros(rows[1].shape, T)
        for first in range(0, K, TILE):
            z = load_classes(logits, rows, first, K, TILE, T, float("-inf"))
            beyond, positive, done = _first_beyond(
                exp_difference(z, top[:, None]), done, uniform * total, first, K, TILE
            )
            drawn = tl.minimum(drawn, beyond)
            last = tl.maximum(last, positive)
    return tl.where(total - total == 0.0, tl.where(drawn < K, drawn, last), -1)


@triton.jit
def _update(
    logits, state, state_scale, beta, spread, known, known_mask, noise, draw_noise, seed, solver, out, theta, count,
    CHOICE: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    rows = block_of(count, ROWS)
    by = load(solver[1], rows, T)  # views stay in their tuple: Triton 3.6 takes no other tuple of them into a loop
    noisy: tl.constexpr = spread[0] is not None
    beta, spread = load(beta, rows, T), load(spread, rows, T)
    sent = tl.full((ROWS,), -1, tl.int64)
    if CHOICE == SAMPLE:
        sent = _draw(logits, uniforms(draw_noise, seed, rows, CLASS, T), rows, K, TILE, T).to(tl.int64)
    elif CHOICE == MODE:
        sent = first_largest(logits, rows, K, TILE, T).to(tl.int64)
    else:
        top, total = row_total(logits, rows, K, TILE, T)
        inverse = reciprocal(total)
    given = load(known_mask, rows, tl.int1, False)
    if known[0] is not None:
        sent = tl.where(given, load(known, rows, tl.int64), sent)
    poison = tl.where(_in_range(sent, K), 0.0, float("nan"))
    new_top = tl.full((ROWS,), float("-inf"), T)
    new_total = tl.zeros((ROWS,), T)
    for first in range(0, K, TILE):
        share = is_class(sent, first, TILE).to(T) + poison[:, None]
        if CHOICE == MEAN:
            e = exp_difference(load_classes(logits, rows, first, K, TILE, T, float("-inf")), top[:, None])
            share = tl.where(given[:, None], share, e * inverse[:, None])
        taken = share
        if solver[0][0] is not None:
            before = load_classes(solver[0], rows, first, K, TILE, T, 0.0)
            taken = extrapolation_of(share, before, by[:, None])
        wait_to_write_over(solver[0], solver[2])
        if solver[2][0] is not None:
            store_classes(solver[2], rows, first, share, K, TILE)
        eps = tl.zeros((ROWS, TILE), T)
        if noisy:
            eps = class_noise(noise, seed, rows, first, SENDER, 0, 0, K, TILE, T)
        y = message(taken, beta, spread, eps, K)
        z = load_classes(state, rows, first, K, TILE, T, 0.0)
        z = z + y if state_scale[0] is None else tl.fma(z, load(state_scale, rows, T)[:, None], y)
        store_classes(out, rows, first, z, K, TILE)
        if theta[0] is not None:
            z = tl.where((first + tl.arange(0, TILE) < K)[None, :], z.to(out[0].dtype.element_ty).to(T), float("-inf"))
            if K <= TILE:
                store_classes(theta, rows, 0, softmax(z), K, TILE)
            else:
                new_top, new_total = with_tile(z, new_top, new_total)
    if theta[0] is not None and K > TILE:
        tl.debug_barrier()  # the new state is read again, maybe by other threads than those that wrote it
        new_inverse = reciprocal(new_total)
        for first in range(0, K, TILE):
            e = exp_difference(load_classes(out, rows, first, K, TILE, T, float("-inf")), new_top[:, None])
            store_classes(theta, rows, first, e * new_inverse[:, None], K, TILE)


@triton.jit
def _stats(view, x, rows, K: tl.constexpr, TILE: tl.constexpr, T: tl.constexpr):
    """With e = exp(z − max): e_x, the sums of e, e² and e(1 − e) over the other classes, max and z_x."""
    top = tl.full(rows[1].shape, float("-inf"), T)
    rest = tl.zeros(rows[1].shape, T)
    rest_square = tl.zeros(rows[1].shape, T)
    below_top = tl.zeros(rows[1].shape, T)
    z_x = tl.zeros(rows[1].shape, T)
    for first in range(0, K, TILE):
        z = load_classes(view, rows, first, K, TILE, T, float("-inf"))
        is_x = is_class(x, first, TILE)
        new = tl.maximum(top, tl.max(z, 1))
        e = tl.where(is_x, 0.0, exp_difference(z, finite(new)[:, None]))
        kept = tl.where(top == new, 1.0, exp_difference(top, new))
        rest = rest * kept + tl.sum(e, 1)
        below_top = kept * (below_top + (1.0 - kept) * rest_square) + tl.sum(e * (1.0 - e), 1)
        rest_square = rest_square * kept * kept + tl.sum(e * e, 1)
        z_x += sum_where(is_x, z)
        top = new
    return exp_difference(z_x, top), rest, rest_square, below_top, top, z_x


@triton.jit
def _wrong(e_x, total):
    """Whether a wrong class has a probability above ½."""
    return (e_x < 1.0) & (total < 2.0)


def loss(x: Tensor, logits: Tensor, weight: Tensor | None, to: LossTarget, in_forward: bool, need_logits: bool):
    dtype, tile, num_classes = compute_dtype(logits), tile_of(logits.shape[-1]), logits.shape[-1]
    losses = Losses(x, *to, dtype, tile.rows)
    stats = x.new_empty((*x.shape, ROW_STATS) if need_logits else (0,), dtype=dtype)
    launch(
        _loss, programs(x.numel(), tile.rows), view(x, x.shape), class_view(logits, logits.shape),
        *views(x.shape, weight, to.mask), stats if need_logits else None, *losses.arguments, x.numel(),
        EACH=losses.each, K=num_classes, ROWS=tile.rows, TILE=tile.classes, T=compute_type(logits), warps=tile.warps,
    )  # fmt: skip
    return *losses.finish(), stats


@triton.jit
def _loss(
    x, logits, weight, mask, stats, values, counts, count,
    EACH: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """L∞ = weight·(q² + s) (205), or −ln p_x if there is no weight; s is Σ p_k² over the other classes."""
    rows = block_of(count, ROWS)
    x = load(x, rows, tl.int64)
    e_x, rest, rest_square, below_top, top, z_x = _stats(logits, x, rows, K, TILE, T)
    total = e_x + rest
    if stats is not None:
        to = stats + 4 * (rows[0] + rows[1])
        tl.store(to, top, mask=rows[2])
        tl.store(to + 1, e_x, mask=rows[2])
        tl.store(to + 2, rest, mask=rows[2])
        # if a wrong class is likely, Σe² is computed as Σe − Σe(1 − e), which does not cancel
        tl.store(to + 3, tl.where(_wrong(e_x, total), below_top, rest_square), mask=rows[2])
    if weight[0] is not None:
        inverse = reciprocal(total)
        loss = load(weight, rows, T) * (square(rest * inverse) + rest_square * square(inverse))
    else:
        # z_x still says how small e_x is if e_x underflows
        loss = tl.where(e_x > 0.5, log1p(rest / tl.where(e_x > 0.5, e_x, 1.0)), log(total) + top - z_x)
    loss = tl.where(_in_range(x, K), loss, float("nan"))
    write_losses(loss, load(mask, rows, tl.int1, True), rows, values, counts, EACH)


def loss_backward(grad: Tensor, scale: Tensor, x: Tensor, logits: Tensor, weight, mask, stats: Tensor) -> Tensor:
    shape, tile = logits.shape, tile_of(logits.shape[-1])
    grad_logits = torch.empty_like(logits)
    to = class_view(grad_logits, shape)
    launch(
        _loss_backward, programs(x.numel(), tile.rows), view(scaled(grad, scale, x.dim()), x.shape), view(x, x.shape),
        class_view(logits, shape), view(weight, x.shape), view(mask, x.shape), stats, to, x.numel(),
        K=shape[-1], ROWS=tile.rows, TILE=tile.classes, T=compute_type(logits), warps=tile.warps,
    )  # fmt: skip
    return grad_logits if to[0].data_ptr() == grad_logits.data_ptr() else grad_logits.copy_(to[0])


@triton.jit
def _loss_backward(
    grad, x, logits, weight, mask, stats, grad_logits, count,
    K: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    rows = block_of(count, ROWS)
    x = load(x, rows, tl.int64)
    row = stats + 4 * (rows[0] + rows[1])
    top, e_x = tl.load(row, mask=rows[2]), tl.load(row + 1, mask=rows[2])
    rest, fourth = tl.load(row + 2, mask=rows[2]), tl.load(row + 3, mask=rows[2])
    total = e_x + rest
    rest_square = tl.where(_wrong(e_x, total), rest - fourth, fourth)
    inverse = reciprocal(total)
    p_x, q, s = (e_x * inverse)[:, None], (rest * inverse)[:, None], (rest_square * square(inverse))[:, None]
    top_less_s = ((e_x + fourth) * square(inverse))[:, None]  # p − s of the likeliest class, if it is not x
    factor = tl.where(_in_range(x, K), load(grad, rows, T), float("nan"))
    if weight[0] is not None:
        factor *= 2.0 * load(weight, rows, T)
    keep = load(mask, rows, tl.int1, True)[:, None]
    for first in range(0, K, TILE):
        z = load_classes(logits, rows, first, K, TILE, T, float("-inf"))
        p = exp_difference(z, top[:, None]) * inverse[:, None]
        is_x = is_class(x, first, TILE)
        if weight[0] is not None:
            p_less_s = tl.where(p > 0.5, top_less_s, p - s)  # p − s would cancel as p goes to 1
            by = tl.where(is_x, -p_x * (q * q + s), p * (p_less_s + p_x * q))
        else:
            by = tl.where(is_x, -q, p)
        store_classes(grad_logits, rows, first, tl.where(keep, factor[:, None] * by, 0.0), K, TILE)
