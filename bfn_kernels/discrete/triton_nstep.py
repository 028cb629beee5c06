"""The n-step loss of discrete data in Triton, with its gradient: n·E[ln p_S(y) − ln p_R(y)] (189, 190).

If K fits in a tile, one kernel works on whole rows and computes their noise once. `triton_nstep_large` has the kernels
for longer rows.
"""

from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from bfn_kernels.checks import compute_dtype
from bfn_kernels.discrete import triton_nstep_large
from bfn_kernels.discrete.triton_receivers import (
    binary_node,
    factorised_draw,
    far_draw,
    far_gradient,
    far_shares,
    is_far,
    joint,
    log_others,
    valid_class,
)
from bfn_kernels.records import JOINT, ClassLogits, Draws, LossTarget
from bfn_kernels.triton_ops.class_tiles import (
    class_noise,
    class_view,
    is_class,
    launch_rows,
    load_groups,
    logits_view,
    softmax,
    store_classes,
    sum_where,
    tile_of,
)
from bfn_kernels.triton_ops.elementary import log, reciprocal
from bfn_kernels.triton_ops.philox import MONTE_CARLO
from bfn_kernels.triton_ops.reduction import Losses, write_losses
from bfn_kernels.triton_ops.views import KERNEL_TYPES, block_of, draws_with_tables, load, views


def discrete_time_loss(
    x: Tensor,
    output: ClassLogits,
    alpha: Tensor,
    n_steps: int,
    receiver: int,
    draws: Draws,
    target: LossTarget,
    need_logits: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the loss, the factor by which its gradient is multiplied, and the gradient `[B, ..., K]`, empty if it is
    not needed."""
    shape, dtype = output.logits.shape, compute_dtype(output.logits)
    tile = tile_of(shape[-1], small=True)
    losses = Losses(x, *target, dtype, tile.rows)
    grad_logits = torch.empty(shape if need_logits else (0,), dtype=dtype, device=x.device)
    drawn = draws_with_tables(draws, output.logits, class_view)
    x_view, alpha_view, mask_view = views(x.shape, x, alpha, target.mask)
    inputs = x_view, logits_view(output), alpha_view, drawn, n_steps, mask_view
    gradient = class_view(grad_logits if need_logits else None, shape)
    run = partial(launch_rows, shape=shape, T=KERNEL_TYPES[dtype], small=True, registers=255)
    if shape[-1] <= tile.classes:
        run(_nstep, *inputs, losses.memory, gradient, JOINT=receiver == JOINT)
    elif receiver == JOINT:
        sums = torch.empty((x.numel(), drawn.n_samples, 4), dtype=dtype, device=x.device)
        run(triton_nstep_large.joint_sums, *inputs, losses.memory, sums)
        if need_logits:
            run(triton_nstep_large.joint_gradient, *inputs, sums, gradient)
    else:
        run(triton_nstep_large.factorised, *inputs, losses.memory, gradient)
    return *losses.finish(), grad_logits


@triton.jit
def _nstep(x, logits, alpha, draws, n_steps, mask, losses, grad_logits, count, S: tl.constexpr, JOINT: tl.constexpr):
    rows = block_of(count, S.ROWS)
    x, alpha = load(x, rows, tl.int64), load(alpha, rows, S.T)
    keep = load(mask, rows, tl.int1, True)
    z = load_groups(logits, rows, 0, S)
    k = tl.arange(0, S.TILE)[None, :]
    is_x, inside = is_class(x, 0, S.TILE), k < S.K
    p, valid = softmax(z), valid_class(x, S.K)
    if JOINT:
        z -= tl.max(z, 1)[:, None]  # the sum of a message and a large logit would lose the message's digits
    else:
        top = tl.max(p, 1)
        is_likeliest = k == tl.min(tl.where(p == top[:, None], k, S.TILE), 1)[:, None]
        # 1 − p of the likeliest class is the sum of the other p, since a difference would cancel
        rest = tl.where(is_likeliest, sum_where(~is_likeliest, p)[:, None], 1.0 - p)
        r = tl.sqrt(S.K * alpha)
        far_x = valid & is_far(log(sum_where(is_x, p)))
        far_rest, any_far = far_x, tl.sum(far_x.to(tl.int32)) > 0
        by_log_p, by_log_rest = tl.zeros((S.ROWS,), S.T), tl.zeros((S.ROWS,), S.T)
        log_p, log_rest = by_log_p, by_log_rest
        if any_far:
            log_p, log_rest, _ = far_shares(z, is_x, is_likeliest)
            far_rest = far_x & is_far(log_rest)
        near = inside & ~(is_x & far_x[:, None]) & ~(is_likeliest & far_rest[:, None])
    loss = tl.zeros((S.ROWS,), S.T)
    gradient = tl.zeros((S.ROWS, S.TILE), S.T)
    if JOINT and draws.nodes is None:
        loss, gradient = joint(z, p, is_x, inside, alpha, draws, rows, count, S)
    elif JOINT:
        before = log_others(z, is_x, inside) - sum_where(is_x, z)
        for draw in range(draws.n_samples):
            weight, node = tl.load(draws.node_weights + draw), tl.load(draws.nodes + draw)
            value, draw_gradient = binary_node(p, before, is_x, inside, alpha, node)
            loss += weight * value
            gradient += weight * draw_gradient
    else:
        for draw in range(draws.n_samples):
            if draws.nodes is None:
                weight = reciprocal(tl.zeros((), S.T) + draws.n_samples)
                eps = class_noise(draws, rows, 0, MONTE_CARLO, draw, count, S)
                eps_x, eps_likeliest = sum_where(is_x, eps), sum_where(is_likeliest, eps)
                value, draw_gradient = factorised_draw(p, rest, is_x, near, r[:, None], eps)
            else:
                weight, node = tl.load(draws.node_weights + draw), tl.load(draws.nodes + draw)
                eps_x = tl.zeros((S.ROWS,), S.T) + node
                eps_likeliest = eps_x
                value, draw_gradient = factorised_draw(p, rest, is_x, near, r[:, None], node)
            if any_far:
                far_value, by_p, by_rest = far_draw(far_x, far_rest, log_p, log_rest, r, eps_x, eps_likeliest)
                value += far_value
                by_log_p += weight * by_p
                by_log_rest += weight * by_rest
            loss += weight * value
            gradient += weight * draw_gradient
    write_losses(tl.where(valid, n_steps * loss, float("nan")), keep, rows, losses)
    if grad_logits[0] is not None:
        if not JOINT:
            # The gradient is p_k·(g_k − Σ p·g). For the likeliest class this would cancel, so that it is a sum of
            # differences.
            mean = tl.sum(tl.where(inside, p * gradient, 0.0), 1)[:, None]
            largest = sum_where(is_likeliest, gradient)[:, None]
            away = sum_where(~is_likeliest & inside, p * (largest - gradient))[:, None]
            gradient = p * tl.where(is_likeliest, away, gradient - mean)
            if any_far:
                _, _, shares = far_shares(z, is_x, is_likeliest)
                gradient += far_gradient(by_log_p, by_log_rest, p, shares, is_x, is_likeliest)
        gradient = tl.where(valid[:, None], n_steps * gradient, float("nan"))
        store_classes(grad_logits, rows, 0, tl.where(keep[:, None], gradient, 0.0), S)
