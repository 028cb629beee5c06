"""The operators of discrete data in Triton, the counterpart of csrc/cpu/discrete.cpp.

A function takes the arguments of the function of the same name in `reference.py`, whose docstring has their shapes.
Its kernel takes views of the inputs and of the results, and the arguments that `launch_rows` adds. A row is the K
numbers of one variable. A tile has some whole rows, or a part of a row that is too long (see `triton_ops.class_tiles`).
A kernel may read such a row several times, and computes its noise again each time. Numbers in parentheses are equations
of Graves et al. 2023.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from bfn_kernels import records
from bfn_kernels.checks import compute_dtype, variables
from bfn_kernels.discrete.operators import ROW_STATS
from bfn_kernels.discrete.triton_nstep import discrete_time_loss as discrete_time_loss
from bfn_kernels.discrete.triton_receivers import valid_class
from bfn_kernels.discrete.triton_soft import load_stats, soft_loss, soft_loss_backward, store_stats
from bfn_kernels.records import ClassLogits, Guidance, LossTarget, Noise, Score, Sent, Solver
from bfn_kernels.triton_ops.class_tiles import (
    class_mask,
    class_noise,
    class_view,
    data_view,
    distributed,
    drawn_class,
    finite,
    first_largest,
    is_class,
    launch_rows,
    load_classes,
    load_logit,
    load_quarters,
    logits_view,
    message,
    no_tile,
    rescaling,
    row_total,
    softmax,
    store_classes,
    tile_of,
    with_tile,
)
from bfn_kernels.triton_ops.elementary import clamp, exp_difference, log, log1p, reciprocal, square
from bfn_kernels.triton_ops.philox import CLASS, SENDER, uniforms
from bfn_kernels.triton_ops.reduction import Losses, grad_views, load_grad, write_losses
from bfn_kernels.triton_ops.solver import Outputs, extrapolation_of, wait_to_write_over
from bfn_kernels.triton_ops.views import KERNEL_TYPES, block_of, compute_type, constants, load, noise_views, views

SAMPLE, MODE, MEAN = map(tl.constexpr, (records.SAMPLE, records.MODE, records.MEAN))


def theta(logits: Tensor) -> Tensor:
    shape, out = logits.shape, torch.empty_like(logits)
    written = class_view(out, shape)  # if no view describes the strides of out, the view of a copy
    launch_rows(_theta, class_view(logits, shape), written, shape=shape, T=compute_type(logits))
    return out if written[0].data_ptr() == out.data_ptr() else out.copy_(written[0])


@triton.jit
def _theta(logits, out, count, S: tl.constexpr):
    rows = block_of(count, S.ROWS)
    if S.K <= S.TILE:
        store_classes(out, rows, 0, softmax(load_quarters(logits, rows, 0, S)), S)
    else:
        top, total = row_total(logits, rows, S)
        inverse = reciprocal(total)
        for first in range(0, S.K, S.TILE):
            e = exp_difference(load_classes(logits, rows, first, S), top[:, None])
            store_classes(out, rows, first, e * inverse[:, None], S)


def sender_sample(x: Tensor, alpha, spread, num_classes: int, probs: bool, noise: Noise, dtype) -> Tensor:
    shape = torch.Size((*variables(x), num_classes))
    out = torch.empty(shape, dtype=dtype, device=x.device)
    inputs = data_view(x, shape), *views(shape[:-1], alpha, spread), noise_views(noise, shape, class_view)
    options = {"PROBS": probs, "SOFT": x.is_floating_point()}
    launch_rows(_sender, *inputs, class_view(out, shape), shape=shape, T=compute_type(out), **options)
    return out


@triton.jit
def _flow(x, beta, spread, noise, rows, first, S, SOFT: tl.constexpr):
    eps = class_noise(noise, rows, first, SENDER, 0, 0, S)
    if SOFT:
        y = message(load_classes(x, rows, first, S, 0.0), beta, spread, eps, S.K)
    else:
        y = message(is_class(x, first, S.TILE).to(S.T), beta, spread, eps, S.K)
    return tl.where(class_mask(first, S), y, float("-inf"))


@triton.jit
def _sender(x, beta, spread, noise, out, count, S: tl.constexpr, PROBS: tl.constexpr, SOFT: tl.constexpr):
    rows = block_of(count, S.ROWS)
    beta, spread = load(beta, rows, S.T), load(spread, rows, S.T)
    if not SOFT:
        x = load(x, rows, tl.int64)
        beta = tl.where(valid_class(x, S.K), beta, float("nan"))
    if PROBS and S.K > S.TILE:
        top, total = no_tile(rows, S)
        for first in range(0, S.K, S.TILE):
            top, total = with_tile(_flow(x, beta, spread, noise, rows, first, S, SOFT), top, total, S)
        inverse = reciprocal(total)
        for first in range(0, S.K, S.TILE):
            y = _flow(x, beta, spread, noise, rows, first, S, SOFT)
            store_classes(out, rows, first, exp_difference(y, top[:, None]) * inverse[:, None], S)
    else:
        for first in range(0, S.K, S.TILE):
            y = _flow(x, beta, spread, noise, rows, first, S, SOFT)
            if PROBS:
                y = softmax(y)
            store_classes(out, rows, first, y, S)


def step(
    output: ClassLogits,
    state: Tensor,
    solver: Solver,
    guidance: Guidance,
    score: Score,
    sent: Sent,
    noise: Noise,
    *outputs,
) -> None:
    shape, lead = state.shape, state.shape[:-1]
    written = Outputs(*(class_view(t, shape) for t in outputs))  # views of copies, if no view describes the strides
    keep, take, std, by = views(lead, solver.keep, solver.take, solver.std, solver.extrapolation)
    solver_views = Solver(keep, take, std, class_view(solver.previous, shape), by)
    added = Score(class_view(score.score, shape), *views(lead, score.score_clip))
    inputs = logits_view(output, guidance), class_view(state, shape), solver_views, added
    known = data_view(sent.known, shape), *views(lead, sent.known_mask, sent.draw_noise)
    message = Sent(*constants(sent.choice), *known), noise_views(noise, shape, class_view)
    T = compute_type(output.logits, state, solver.previous, guidance.unconditional, score.score)
    soft = sent.known is not None and sent.known.is_floating_point()
    launch_rows(_update, *inputs, *message, written, shape=shape, T=T, SOFT=soft)
    for to, result in zip(outputs, written, strict=True):
        if to is not None and result[0].data_ptr() != to.data_ptr():
            to.copy_(result[0])


@triton.jit
def _update(logits, state, solver, score, sent, noise, results, count, S: tl.constexpr, SOFT: tl.constexpr):
    rows = block_of(count, S.ROWS)
    by, beta, spread = load(solver.extrapolation, rows, S.T), load(solver.take, rows, S.T), load(solver.std, rows, S.T)
    x = tl.full((S.ROWS,), -1, tl.int64)
    if sent.choice == SAMPLE:
        x = drawn_class(logits, uniforms(Noise(noise.seed, sent.draw_noise), rows, CLASS, S.T), rows, S).to(tl.int64)
    elif sent.choice == MODE:
        x = first_largest(logits, rows, S).to(tl.int64)
    else:
        top, total = row_total(logits, rows, S)
        inverse = reciprocal(total)
    is_known = load(sent.known_mask, rows, tl.int1, False)
    if sent.known[0] is not None and not SOFT:
        x = tl.where(is_known, load(sent.known, rows, tl.int64), x)
    poison = tl.where(valid_class(x, S.K), 0.0, float("nan"))
    new_top, new_total = no_tile(rows, S)
    for first in range(0, S.K, S.TILE):
        p = is_class(x, first, S.TILE).to(S.T) + poison[:, None]
        if sent.choice == MEAN:
            e = exp_difference(load_quarters(logits, rows, first, S), top[:, None])
            p = tl.where(is_known[:, None], p, e * inverse[:, None])
        if SOFT:
            p = tl.where(is_known[:, None], load_classes(sent.known, rows, first, S, 0.0), p)
        if score.score[0] is not None:
            limit = load(score.score_clip, rows, S.T, float("inf"))[:, None]
            s = clamp(load_classes(score.score, rows, first, S, 0.0), -limit, limit)
            p += tl.where(is_known[:, None], 0.0, tl.where(limit == limit, s, limit))
        prediction = p
        if solver.previous[0] is not None:
            prediction = extrapolation_of(p, load_classes(solver.previous, rows, first, S, 0.0), by[:, None])
        # The views stay in their records: in a loop, Triton would lose the constants of views in other tuples.
        wait_to_write_over(solver.previous, results.predicted)
        if results.predicted[0] is not None:
            store_classes(results.predicted, rows, first, p, S)
        eps = tl.zeros((S.ROWS, S.TILE), S.T)
        if solver.std[0] is not None:
            eps = class_noise(noise, rows, first, SENDER, 0, 0, S)
        y = message(prediction, beta, spread, eps, S.K)
        z = load_classes(state, rows, first, S, 0.0)
        z = z + y if solver.keep[0] is None else tl.fma(z, load(solver.keep, rows, S.T)[:, None], y)
        store_classes(results.state, rows, first, z, S)
        if results.theta[0] is not None:
            z = tl.where(class_mask(first, S), z.to(results.state[0].dtype.element_ty).to(S.T), float("-inf"))
            if S.K <= S.TILE:
                store_classes(results.theta, rows, 0, softmax(z), S)
            else:
                new_top, new_total = with_tile(z, new_top, new_total, S)
    if results.theta[0] is not None and S.K > S.TILE:
        tl.debug_barrier()  # the thread that reads an element may not be the thread that wrote it
        new_inverse = reciprocal(new_total)
        for first in range(0, S.K, S.TILE):
            e = exp_difference(load_classes(results.state, rows, first, S), new_top[:, None])
            store_classes(results.theta, rows, first, e * new_inverse[:, None], S)


@triton.jit
def _stats(view, x, z_x, rows, S):
    """Returns max and, with e = exp(z − max), the sums of e, e² and e(1 − e) over the classes but x. The last sum is
    right only if z_x is below max. It is computed without the difference of the other two, which would cancel."""
    top, rest = no_tile(rows, S)
    shift, quadratic = rest, rest  # `quadratic` is the sum of e(e − shift)
    for first in range(0, S.K, S.TILE):
        z = load_quarters(view, rows, first, S)
        new = tl.maximum(top, tl.max(z, 1))
        rescale = rescaling(top, new, S)
        next_shift = tl.where(z_x < new, 1.0, 0.0)
        e = tl.where(is_class(x, first, S.TILE), 0.0, exp_difference(z, finite(new)[:, None]))
        quadratic = rescale * (rescale * quadratic + (rescale * shift - next_shift) * rest)
        quadratic += tl.sum(e * (e - next_shift[:, None]), 1)
        rest = rest * rescale + tl.sum(e, 1)
        top, shift = new, next_shift
    return top, rest, quadratic + shift * rest, -quadratic


@triton.jit
def _wrong(e_x, total):
    """Whether a class other than x has a probability above ½."""
    return (e_x < 1.0) & (total < 2.0)


def loss(x: Tensor, output: ClassLogits, weight: Tensor | None, target: LossTarget, in_forward: bool, need_logits):
    dtype, shape = compute_dtype(output.logits), output.logits.shape
    soft, lead = x.is_floating_point(), shape[:-1]
    losses = Losses(x.select(-1, 0) if soft else x, *target, dtype, tile_of(shape[-1]).rows)
    stats = x.new_empty((*lead, ROW_STATS) if need_logits else (0,), dtype=dtype)
    inputs = data_view(x, shape), logits_view(output), *views(lead, weight, target.mask)
    outputs = stats if need_logits else None, losses.memory
    launch_rows(soft_loss if soft else _loss, *inputs, *outputs, shape=shape, T=KERNEL_TYPES[dtype])
    return *losses.finish(), stats


@triton.jit
def _loss(x, logits, weight, mask, stats, losses, count, S: tl.constexpr):
    """Writes L∞ = weight·(q² + s) (205), where s is Σ p_k² over the classes but x, or, without a weight, −ln p_x."""
    rows = block_of(count, S.ROWS)
    x = load(x, rows, tl.int64)
    valid = valid_class(x, S.K)
    z_x = load_logit(logits, rows, tl.where(valid, x, 0), S)
    top, rest, rest_square, below_top = _stats(logits, x, z_x, rows, S)
    top, rest = distributed(top, rows), distributed(rest, rows)
    rest_square, below_top = distributed(rest_square, rows), distributed(below_top, rows)
    e_x = exp_difference(z_x, top)
    total = e_x + rest
    if stats is not None:
        # if a wrong class is likely, the backward pass computes Σe² as Σe − Σe(1 − e), and needs Σe(1 − e) itself, too
        store_stats(stats, rows, top, e_x, rest, tl.where(_wrong(e_x, total), below_top, rest_square), S)
    if weight[0] is not None:
        inverse = reciprocal(total)
        loss = load(weight, rows, S.T) * (square(rest * inverse) + rest_square * square(inverse))
    else:
        # if e_x underflows, z_x is still accurate
        loss = tl.where(e_x > 0.5, log1p(rest / tl.where(e_x > 0.5, e_x, 1.0)), log(total) + top - z_x)
    loss = tl.where(valid, loss, float("nan"))
    write_losses(loss, load(mask, rows, tl.int1, True), rows, losses)


def loss_backward(grad: Tensor, scale: Tensor, x: Tensor, logits: Tensor, class_mask, weight, mask, stats) -> Tensor:
    shape, lead, grad_logits = logits.shape, logits.shape[:-1], torch.empty_like(logits)
    written = class_view(grad_logits, shape)
    rows = grad_views(grad, scale, lead), *views(lead, weight, mask)
    inputs = *rows, data_view(x, shape), logits_view(ClassLogits(logits, class_mask)), stats
    kernel = soft_loss_backward if x.is_floating_point() else _loss_backward
    launch_rows(kernel, *inputs, written, shape=shape, T=compute_type(logits))
    return grad_logits if written[0].data_ptr() == grad_logits.data_ptr() else grad_logits.copy_(written[0])


@triton.jit
def _loss_backward(grad, weight, mask, x, logits, stats, grad_logits, count, S: tl.constexpr):
    rows = block_of(count, S.ROWS)
    x = load(x, rows, tl.int64)
    top, e_x, rest, fourth = load_stats(stats, rows, S)
    total = e_x + rest
    rest_square = tl.where(_wrong(e_x, total), rest - fourth, fourth)
    inverse = reciprocal(total)
    # s is Σ p_k² over the classes but x.
    p_x, q, s = (e_x * inverse)[:, None], (rest * inverse)[:, None], (rest_square * square(inverse))[:, None]
    top_less_s = ((e_x + fourth) * square(inverse))[:, None]  # p − s of the likeliest class, if it is not x
    factor = tl.where(valid_class(x, S.K), load_grad(grad, rows, S.T), float("nan"))
    if weight[0] is not None:
        factor *= 2.0 * load(weight, rows, S.T)
    keep = load(mask, rows, tl.int1, True)[:, None]
    for first in range(0, S.K, S.TILE):
        p = exp_difference(load_quarters(logits, rows, first, S), top[:, None]) * inverse[:, None]
        is_x = is_class(x, first, S.TILE)
        if weight[0] is not None:
            p_less_s = tl.where(p > 0.5, top_less_s, p - s)  # p − s would cancel as p goes to 1
            by = tl.where(is_x, -p_x * (q * q + s), p * (p_less_s + p_x * q))
        else:
            by = tl.where(is_x, -q, p)
        store_classes(grad_logits, rows, first, tl.where(keep, factor[:, None] * by, 0.0), S)


def entropy(logits: Tensor, target: LossTarget, need_logits: bool) -> tuple[Tensor, ...]:
    dtype, shape = compute_dtype(logits), logits.shape
    losses = Losses(logits.select(-1, 0), *target, dtype, tile_of(shape[-1]).rows)
    grad_logits = torch.empty_like(logits if need_logits else logits.new_empty(0), dtype=dtype)
    written = class_view(grad_logits if need_logits else None, shape)
    inputs = class_view(logits, shape), *views(shape[:-1], target.mask)
    launch_rows(_entropy, *inputs, written, losses.memory, shape=shape, T=KERNEL_TYPES[dtype])
    if need_logits and written[0].data_ptr() != grad_logits.data_ptr():
        grad_logits.copy_(written[0])
    return *losses.finish(), grad_logits


@triton.jit
def _entropy(logits, mask, grad_logits, losses, count, S: tl.constexpr):
    """Writes H = ln Σe_k + D, where e_k = exp(−d_k), d_k = max − z_k, and D = Σ p_k·d_k; and the gradient p_k(d_k −
    D)."""
    rows = block_of(count, S.ROWS)
    top, total = row_total(logits, rows, S)
    inverse = reciprocal(total)
    small, mean = tl.zeros(top.shape, S.T), tl.zeros(top.shape, S.T)
    for first in range(0, S.K, S.TILE):
        z = load_quarters(logits, rows, first, S)
        e = exp_difference(z, top[:, None])
        small += tl.sum(tl.where(e < 0.75, e, 0.0), 1)
        mean += tl.sum(tl.where(e == 0.0, 0.0, e * (top[:, None] - z)), 1)
    mean *= inverse
    keep = load(mask, rows, tl.int1, True)
    if grad_logits[0] is not None:
        for first in range(0, S.K, S.TILE):
            z = load_quarters(logits, rows, first, S)
            p = exp_difference(z, top[:, None]) * inverse[:, None]
            slope = tl.where(p == 0.0, 0.0, p * ((top[:, None] - z) - mean[:, None]))
            store_classes(grad_logits, rows, first, tl.where(keep[:, None], slope, 0.0), S)
    # Below 1.5, Σe_k is 1 plus the sum of the e_k below 0.75. Its logarithm would lose digits as this sum goes to 0.
    has_likeliest = total < 1.5
    log_total = tl.where(has_likeliest, log1p(tl.where(has_likeliest, small, 0.0)), log(total))
    write_losses(log_total + mean, keep, rows, losses)
