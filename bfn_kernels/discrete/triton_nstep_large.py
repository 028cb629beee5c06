"""The n-step loss of discrete data in Triton for rows that do not fit in a tile.

A program works on one row, tile by tile. It computes the noise again each time that it goes through the row.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from bfn_kernels.discrete.triton_receivers import (
    MAX_SHIFT,
    factorised_draw,
    far_draw,
    far_gradient,
    is_far,
    low_divergence,
    low_gradient,
    serves,
    valid_class,
)
from bfn_kernels.triton_ops.class_tiles import (
    class_mask,
    class_noise,
    finite,
    first_largest,
    is_class,
    load_classes,
    no_tile,
    row_total,
    store_classes,
    sum_where,
    with_tile,
)
from bfn_kernels.triton_ops.elementary import clamp, exp, exp_difference, expm1, log, log1p
from bfn_kernels.triton_ops.philox import MONTE_CARLO, normals, start_of_draw
from bfn_kernels.triton_ops.reduction import write_losses
from bfn_kernels.triton_ops.views import block_of, load


@triton.jit
def _noise_of(draws, rows, x, draw, count, S):
    """The normal of class x of each row."""
    start, offsets, mask, _ = rows
    if draws.noise[0] is not None:
        at = draws.noise[0] + (start_of_draw(start, draw, count) + offsets) * S.K + x
        return tl.load(at, mask=mask, other=0).to(S.T)
    else:
        group = (start + offsets) * ((S.K + 3) // 4) + x // 4
        four = normals(tl.load(draws.seed), group[:, None], MONTE_CARLO, draw, S.T)
        return sum_where(tl.arange(0, 4)[None, :] == (x % 4)[:, None], four)


@triton.jit
def _shifted(logits, rows, x, first, top, message, eps, S):
    """The logits after a message, up to a constant for each row. `top`, the largest logit before the message, is
    subtracted first: the sum of the message and large logits would lose the message's digits."""
    z = load_classes(logits, rows, first, S) - top[:, None]
    return z + message[0] * eps + tl.where(is_class(x, first, S.TILE), message[1], 0.0)


@triton.jit
def _probs(logits, rows, first, top, total, S):
    """The probabilities of a tile. top and total: the largest logit of each row and the sum of exp(z − max)."""
    return exp_difference(load_classes(logits, rows, first, S), top[:, None]) / total[:, None]


@triton.jit
def _log_rest(logits, rows, x, row_top, S):
    """ln Σ exp(z_k) over the classes k other than x, and z_x, both less the largest logit of the row."""
    top, total = no_tile(rows, S)
    z_x = tl.zeros(rows[1].shape, S.T)
    for first in range(0, S.K, S.TILE):
        z, is_x = load_classes(logits, rows, first, S), is_class(x, first, S.TILE)
        top, total = with_tile(tl.where(is_x, float("-inf"), z), top, total, S)
        z_x += sum_where(is_x, z)
    return log(total) + (top - row_top), z_x - row_top


@triton.jit
def _difference(x, first, message, eps, eps_x, S):
    """y_k − y_x, which is 0 for k = x, clamped to the range where its exponential is finite."""
    difference = clamp(message[0] * (eps - eps_x[:, None]) - message[1], -MAX_SHIFT, MAX_SHIFT)
    return tl.where(is_class(x, first, S.TILE), 0.0, difference)


@triton.jit
def _message(alpha, S):
    """√(Kα), the factor of the noise of a message, and Kα, the term of the class x."""
    towards_x = S.K * alpha[:, None]
    return tl.sqrt(towards_x), towards_x


@triton.jit
def joint_sums(x, logits, alpha, draws, n_steps, mask, losses, sums, count, S: tl.constexpr):
    """Writes the loss and four numbers for each draw. The first is s, the mean of exp(y_k − y_x) − 1 under p. The other
    three are computed only if ln(1 + s) is not accurate: `mixture`, the mean of exp(y_k − y_x); `y_top`, the largest
    logit after the message; and `y_total`, the sum of exp(logit − y_top)."""
    rows = block_of(count, S.ROWS)
    x, message = load(x, rows, tl.int64), _message(load(alpha, rows, S.T), S)
    valid = valid_class(x, S.K)
    x = tl.where(valid, x, 0)
    top, total = row_total(logits, rows, S)
    rest, z_x = _log_rest(logits, rows, x, top, S)
    loss = tl.zeros((1,), S.T)
    for draw in range(draws.n_samples):
        eps_x = _noise_of(draws, rows, x, draw, count, S)
        s = tl.zeros((1,), S.T)
        for first in range(0, S.K, S.TILE):
            eps = class_noise(draws, rows, first, MONTE_CARLO, draw, count, S)
            growth = expm1(_difference(x, first, message, eps, eps_x, S))
            s += tl.sum(_probs(logits, rows, first, top, total, S) * growth, 1)
        served = serves(s)
        value = -log1p(tl.where(served, s, 0.0))
        y_top, y_total = no_tile(rows, S)
        mixture = tl.zeros((1,), S.T)
        if tl.sum((~served).to(tl.int32)) > 0:
            others_top, others_total = no_tile(rows, S)
            for first in range(0, S.K, S.TILE):
                eps = class_noise(draws, rows, first, MONTE_CARLO, draw, count, S)
                y = _shifted(logits, rows, x, first, top, message, eps, S)
                is_x = is_class(x, first, S.TILE)
                y_top, y_total = with_tile(y, y_top, y_total, S)
                others_top, others_total = with_tile(tl.where(is_x, float("-inf"), y), others_top, others_total, S)
                ratio = exp(_difference(x, first, message, eps, eps_x, S))
                mixture += tl.sum(_probs(logits, rows, first, top, total, S) * ratio, 1)
            y_x = tl.sum(message[0] * eps_x[:, None] + message[1], 1)
            moved = log(others_total) + others_top - y_x
            low = low_divergence(mixture, rest - z_x, moved - z_x, moved - rest)
            value = tl.where(served, value, low)
        at = sums + ((rows[0] + rows[1]) * draws.n_samples + draw) * 4
        tl.store(at, s, mask=rows[2])
        tl.store(at + 1, mixture, mask=rows[2])
        tl.store(at + 2, y_top, mask=rows[2])
        tl.store(at + 3, y_total, mask=rows[2])
        loss += value / draws.n_samples
    loss = tl.where(valid, n_steps * loss, float("nan"))
    write_losses(loss, load(mask, rows, tl.int1, True), rows, losses)


@triton.jit
def joint_gradient(x, logits, alpha, draws, n_steps, mask, sums, grad_logits, count, S: tl.constexpr):
    rows = block_of(count, S.ROWS)
    x, message = load(x, rows, tl.int64), _message(load(alpha, rows, S.T), S)
    valid, keep = valid_class(x, S.K)[:, None], load(mask, rows, tl.int1, True)[:, None]
    x = tl.where(valid_class(x, S.K), x, 0)
    top, total = row_total(logits, rows, S)
    for first in range(0, S.K, S.TILE):
        p = _probs(logits, rows, first, top, total, S)
        gradient = tl.zeros((1, S.TILE), S.T)
        for draw in range(draws.n_samples):
            at = sums + ((rows[0] + rows[1]) * draws.n_samples + draw) * 4
            s, mixture = tl.load(at)[:, None], tl.load(at + 1)[:, None]
            y_top, y_total = tl.load(at + 2)[:, None], tl.load(at + 3)[:, None]
            eps_x = _noise_of(draws, rows, x, draw, count, S)
            eps = class_noise(draws, rows, first, MONTE_CARLO, draw, count, S)
            growth = expm1(_difference(x, first, message, eps, eps_x, S))
            draw_gradient = p * (s - growth) / (1.0 + s)
            if tl.sum((~serves(s)).to(tl.int32)) > 0:
                y = _shifted(logits, rows, x, first, top, message, eps, S)
                ratio = exp(_difference(x, first, message, eps, eps_x, S))
                low = low_gradient(p, ratio, mixture, exp_difference(y, y_top) / y_total)
                draw_gradient = tl.where(serves(s), draw_gradient, low)
            gradient += draw_gradient / draws.n_samples
        gradient = tl.where(valid, n_steps * gradient, float("nan"))
        store_classes(grad_logits, rows, first, tl.where(keep, gradient, 0.0), S)


class _Row(NamedTuple):
    """The numbers of a row that `factorised` needs: x, r = √(Kα), the largest logit and the sum of exp(z − max), the
    likeliest class, and `rest`, which is 1 − its probability. far_x is x if p_x is far, as `is_far` defines it, and −1
    otherwise. far_likeliest is the likeliest class if p_x and `rest` are far, and −1 otherwise."""

    x: Any
    r: Any
    top: Any
    total: Any
    likeliest: Any
    rest: Any
    far_x: Any
    far_likeliest: Any


@triton.jit
def _factorised_tile(logits, rows, row, first, draws, count, S):
    """A tile's part of the loss, its p, the derivatives by p, and the mask of the likeliest class. Far classes are left
    out."""
    p = _probs(logits, rows, first, row.top, row.total, S)
    is_likeliest = is_class(row.likeliest, first, S.TILE)
    rest = tl.where(is_likeliest, row.rest[:, None], 1.0 - p)
    is_x, near = is_class(row.x, first, S.TILE), class_mask(first, S)
    near = near & ~is_class(row.far_x, first, S.TILE) & ~is_class(row.far_likeliest, first, S.TILE)
    loss = tl.zeros((1,), S.T)
    slope = tl.zeros((1, S.TILE), S.T)
    for draw in range(draws.n_samples):
        if draws.nodes is None:
            weight = (tl.zeros((), S.T) + 1.0) / draws.n_samples
            eps = class_noise(draws, rows, first, MONTE_CARLO, draw, count, S)
        else:
            weight = tl.load(draws.node_weights + draw)
            eps = tl.zeros((1, S.TILE), S.T) + tl.load(draws.nodes + draw)
        value, draw_slope = factorised_draw(p, rest, is_x, near, row.r[:, None], eps)
        loss += weight * value
        slope += weight * draw_slope
    return loss, p, slope, is_likeliest


@triton.jit
def _far_draws(rows, row, log_p, log_rest, draws, count, S):
    """The far classes' part of the loss, and its derivatives by ln p_x and ln(1 − p of the likeliest class)."""
    loss, by_log_p, by_log_rest = tl.zeros((1,), S.T), tl.zeros((1,), S.T), tl.zeros((1,), S.T)
    far_x, far_rest = row.far_x >= 0, row.far_likeliest >= 0
    for draw in range(draws.n_samples):
        if draws.nodes is None:
            weight = (tl.zeros((), S.T) + 1.0) / draws.n_samples
            eps_x = _noise_of(draws, rows, row.x, draw, count, S)
            eps = _noise_of(draws, rows, row.likeliest, draw, count, S)
        else:
            weight = tl.load(draws.node_weights + draw)
            eps_x = tl.zeros((1,), S.T) + tl.load(draws.nodes + draw)
            eps = eps_x
        value, by_p, by_rest = far_draw(far_x, far_rest, log_p, log_rest, row.r, eps_x, eps)
        loss += weight * value
        by_log_p += weight * by_p
        by_log_rest += weight * by_rest
    return loss, by_log_p, by_log_rest


@triton.jit
def factorised(x, logits, alpha, draws, n_steps, mask, losses, grad_logits, count, S: tl.constexpr):
    rows = block_of(count, S.ROWS)
    x, alpha = load(x, rows, tl.int64), load(alpha, rows, S.T)
    valid, keep = valid_class(x, S.K), load(mask, rows, tl.int1, True)
    top, total = row_total(logits, rows, S)
    likeliest = first_largest(logits, rows, S)
    top_other, others = no_tile(rows, S)  # the sum without the likeliest class, since 1 − its p would cancel
    z_x = tl.zeros((1,), S.T)
    for first in range(0, S.K, S.TILE):
        z = load_classes(logits, rows, first, S)
        other = tl.where(is_class(likeliest, first, S.TILE), float("-inf"), z)
        top_other, others = with_tile(other, top_other, others, S)
        z_x += sum_where(is_class(x, first, S.TILE), z)
    rest = exp_difference(top_other, top) * others / total
    log_p, log_rest = z_x - top - log(total), top_other - top + log(others) - log(total)
    far_x = valid & is_far(log_p)
    far_likeliest = tl.where(far_x & is_far(log_rest), likeliest, -1)
    row = _Row(x, tl.sqrt(S.K * alpha), top, total, likeliest, rest, tl.where(far_x, x, -1), far_likeliest)
    loss, by_log_p, by_log_rest = tl.zeros((1,), S.T), tl.zeros((1,), S.T), tl.zeros((1,), S.T)
    if tl.sum(far_x.to(tl.int32)) > 0:
        loss, by_log_p, by_log_rest = _far_draws(rows, row, log_p, log_rest, draws, count, S)
    mean_of_others, of_likeliest = tl.zeros((1,), S.T), tl.zeros((1,), S.T)
    for first in range(0, S.K, S.TILE):
        value, p, slope, is_likeliest = _factorised_tile(logits, rows, row, first, draws, count, S)
        loss += value
        mean_of_others += sum_where(~is_likeliest, p * slope)
        of_likeliest += sum_where(is_likeliest, slope)
    write_losses(tl.where(valid, n_steps * loss, float("nan")), keep, rows, losses)
    if grad_logits[0] is not None:
        away = (rest * of_likeliest - mean_of_others)[:, None]
        mean = (mean_of_others + (1.0 - rest) * of_likeliest)[:, None]
        for first in range(0, S.K, S.TILE):
            _, p, slope, is_likeliest = _factorised_tile(logits, rows, row, first, draws, count, S)
            z = load_classes(logits, rows, first, S)
            shares = exp_difference(z, finite(top_other)[:, None]) / tl.where(others > 0.0, others, 1.0)[:, None]
            gradient = p * tl.where(is_likeliest, away, slope - mean)
            gradient += far_gradient(by_log_p, by_log_rest, p, shares, is_class(x, first, S.TILE), is_likeliest)
            gradient = tl.where(valid[:, None], n_steps * gradient, float("nan"))
            store_classes(grad_logits, rows, first, tl.where(keep[:, None], gradient, 0.0), S)
