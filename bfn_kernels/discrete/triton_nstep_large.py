"""The n-step loss of discrete data in Triton for rows that do not fit in a tile. A program works on one row, tile by
tile, and computes the noise again whenever it goes through the row."""

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
from bfn_kernels.triton_ops.classes import (
    class_noise,
    finite,
    first_largest,
    is_class,
    load_classes,
    row_total,
    store_classes,
    sum_where,
    with_tile,
)
from bfn_kernels.triton_ops.elementary import clamp, exp, exp_difference, expm1, log, log1p
from bfn_kernels.triton_ops.noise import MONTE_CARLO, normals, start_of_draw
from bfn_kernels.triton_ops.reduction import write_losses
from bfn_kernels.triton_ops.views import block_of, load


@triton.jit
def _noise_of(noise, seed, rows, x, draw, count, K: tl.constexpr, T: tl.constexpr):
    """The normal of class x of each row."""
    start, place, there, _ = rows
    if noise[0] is not None:
        return tl.load(noise[0] + (start_of_draw(start, draw, count) + place) * K + x, mask=there, other=0).to(T)
    else:
        group = (start + place) * ((K + 3) // 4) + x // 4
        four = normals(tl.load(seed), group[:, None], MONTE_CARLO, draw, T)
        return sum_where(tl.arange(0, 4)[None, :] == (x % 4)[:, None], four)


@triton.jit
def _shifted(logits, rows, x, first, top, message, eps, K: tl.constexpr, TILE: tl.constexpr, T: tl.constexpr):
    """The logits after a message, without the terms that all classes share: the largest logit, which would leave the
    message no digits, is one."""
    z = load_classes(logits, rows, first, K, TILE, T, float("-inf")) - top[:, None]
    return z + message[0] * eps + tl.where(is_class(x, first, TILE), message[1], 0.0)


@triton.jit
def _start(rows, T: tl.constexpr):
    """The maximum and the sum of `with_tile` before the first tile."""
    return tl.full(rows[1].shape, float("-inf"), T), tl.zeros(rows[1].shape, T)


@triton.jit
def _log_rest(logits, rows, x, row_top, K: tl.constexpr, TILE: tl.constexpr, T: tl.constexpr):
    """ln Σ exp(z_k) over the classes k other than x, and z_x, both without the largest logit of the row."""
    top, total = _start(rows, T)
    z_x = tl.zeros(rows[1].shape, T)
    for first in range(0, K, TILE):
        z, is_x = load_classes(logits, rows, first, K, TILE, T, float("-inf")), is_class(x, first, TILE)
        top, total = with_tile(tl.where(is_x, float("-inf"), z), top, total)
        z_x += sum_where(is_x, z)
    return log(total) + (top - row_top), z_x - row_top


@triton.jit
def _growth(rows, x, first, spread, towards_x, eps, eps_x, K: tl.constexpr, TILE: tl.constexpr):
    """exp(y_k − y_x) − 1, which is 0 for k = x."""
    return expm1(_difference(rows, x, first, spread, towards_x, eps, eps_x, TILE))


@triton.jit
def _difference(rows, x, first, spread, towards_x, eps, eps_x, TILE: tl.constexpr):
    """y_k − y_x, which is 0 for k = x, in the range where its exponential is finite."""
    difference = clamp(spread * (eps - eps_x[:, None]) - towards_x, -MAX_SHIFT, MAX_SHIFT)
    return tl.where(is_class(x, first, TILE), 0.0, difference)


@triton.jit
def joint_sums(
    x, logits, alpha, draws, noise, seed, mask, values, counts, sums, count, n_steps,
    EACH: tl.constexpr, K: tl.constexpr, TILE: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """The loss and, for each draw, the mean S of exp(y_k − y_x) − 1 under p. If ln(1 + S) is not accurate, it also
    saves the mean M of exp(y_k − y_x), the largest logit after the message and the sum of exp(z − max)."""
    rows = block_of(count, 1)
    x, alpha = load(x, rows, tl.int64), load(alpha, rows, T)
    valid = valid_class(x, K)
    x = tl.where(valid, x, 0)
    towards_x = K * alpha[:, None]
    spread = tl.sqrt(towards_x)
    top, total = row_total(logits, rows, K, TILE, T)
    rest, z_x = _log_rest(logits, rows, x, top, K, TILE, T)
    loss = tl.zeros((1,), T)
    for draw in range(draws):
        eps_x = _noise_of(noise, seed, rows, x, draw, count, K, T)
        s = tl.zeros((1,), T)
        for first in range(0, K, TILE):
            eps = class_noise(noise, seed, rows, first, MONTE_CARLO, draw, count, K, TILE, T)
            z = load_classes(logits, rows, first, K, TILE, T, float("-inf"))
            p = exp_difference(z, top[:, None]) / total[:, None]
            s += tl.sum(p * _growth(rows, x, first, spread, towards_x, eps, eps_x, K, TILE), 1)
        served = serves(s)
        value = -log1p(tl.where(served, s, 0.0))
        y_top, y_total = _start(rows, T)
        mixture = tl.zeros((1,), T)
        if tl.sum((~served).to(tl.int32)) > 0:
            others_top, others_total = _start(rows, T)
            for first in range(0, K, TILE):
                eps = class_noise(noise, seed, rows, first, MONTE_CARLO, draw, count, K, TILE, T)
                y = _shifted(logits, rows, x, first, top, (spread, towards_x), eps, K, TILE, T)
                is_x = is_class(x, first, TILE)
                y_top, y_total = with_tile(y, y_top, y_total)
                others_top, others_total = with_tile(tl.where(is_x, float("-inf"), y), others_top, others_total)
                z = load_classes(logits, rows, first, K, TILE, T, float("-inf"))
                p = exp_difference(z, top[:, None]) / total[:, None]
                mixture += tl.sum(p * exp(_difference(rows, x, first, spread, towards_x, eps, eps_x, TILE)), 1)
            y_x = tl.sum(spread * eps_x[:, None] + towards_x, 1)
            moved = log(others_total) + others_top - y_x
            low = low_divergence(mixture, rest - z_x, moved - z_x, moved - rest)
            value = tl.where(served, value, low)
        at = sums + ((rows[0] + rows[1]) * draws + draw) * 4
        tl.store(at, s, mask=rows[2])
        tl.store(at + 1, mixture, mask=rows[2])
        tl.store(at + 2, y_top, mask=rows[2])
        tl.store(at + 3, y_total, mask=rows[2])
        loss += value / draws
    loss = tl.where(valid, n_steps * loss, float("nan"))
    write_losses(loss, load(mask, rows, tl.int1, True), rows, values, counts, EACH)


@triton.jit
def joint_gradient(
    x, logits, alpha, draws, noise, seed, mask, sums, grad_logits, count, n_steps,
    K: tl.constexpr, TILE: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    rows = block_of(count, 1)
    x, alpha = load(x, rows, tl.int64), load(alpha, rows, T)
    valid, keep = valid_class(x, K)[:, None], load(mask, rows, tl.int1, True)[:, None]
    x = tl.where(valid_class(x, K), x, 0)
    towards_x = K * alpha[:, None]
    spread = tl.sqrt(towards_x)
    top, total = row_total(logits, rows, K, TILE, T)
    for first in range(0, K, TILE):
        z = load_classes(logits, rows, first, K, TILE, T, float("-inf"))
        p = exp_difference(z, top[:, None]) / total[:, None]
        gradient = tl.zeros((1, TILE), T)
        for draw in range(draws):
            at = sums + ((rows[0] + rows[1]) * draws + draw) * 4
            s, mixture = tl.load(at)[:, None], tl.load(at + 1)[:, None]
            y_top, y_total = tl.load(at + 2)[:, None], tl.load(at + 3)[:, None]
            eps_x = _noise_of(noise, seed, rows, x, draw, count, K, T)
            eps = class_noise(noise, seed, rows, first, MONTE_CARLO, draw, count, K, TILE, T)
            growth = _growth(rows, x, first, spread, towards_x, eps, eps_x, K, TILE)
            draw_gradient = p * (s - growth) / (1.0 + s)
            if tl.sum((~serves(s)).to(tl.int32)) > 0:
                y = _shifted(logits, rows, x, first, top, (spread, towards_x), eps, K, TILE, T)
                ratio = exp(_difference(rows, x, first, spread, towards_x, eps, eps_x, TILE))
                low = low_gradient(p, ratio, mixture, exp_difference(y, y_top) / y_total)
                draw_gradient = tl.where(serves(s), draw_gradient, low)
            gradient += draw_gradient / draws
        gradient = tl.where(valid, n_steps * gradient, float("nan"))
        store_classes(grad_logits, rows, first, tl.where(keep, gradient, 0.0), K, TILE)


@triton.jit
def _factorised_tile(
    logits, rows, x, first, likeliest, far, rest_of_likeliest, top, total, alpha, nodes, node_weights, draws, noise,
    seed, count, K: tl.constexpr, TILE: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """A tile's part of the loss, its p, the derivatives by p, and where the likeliest class is. The classes `far` are
    left out; −1 stands for none."""
    z = load_classes(logits, rows, first, K, TILE, T, float("-inf"))
    p = exp_difference(z, top[:, None]) / total[:, None]
    is_likeliest = is_class(likeliest, first, TILE)
    rest = tl.where(is_likeliest, rest_of_likeliest[:, None], 1.0 - p)
    r = tl.sqrt(K * alpha)[:, None]
    is_x, near = is_class(x, first, TILE), (first + tl.arange(0, TILE) < K)[None, :]
    near = near & ~is_class(far[0], first, TILE) & ~is_class(far[1], first, TILE)
    loss = tl.zeros((1,), T)
    slope = tl.zeros((1, TILE), T)
    for draw in range(draws):
        if nodes is None:
            weight = (tl.zeros((), T) + 1.0) / draws
            eps = class_noise(noise, seed, rows, first, MONTE_CARLO, draw, count, K, TILE, T)
        else:
            weight = tl.load(node_weights + draw)
            eps = tl.zeros((1, TILE), T) + tl.load(nodes + draw)
        value, draw_slope = factorised_draw(p, rest, is_x, near, r, eps)
        loss += weight * value
        slope += weight * draw_slope
    return loss, p, slope, is_likeliest


@triton.jit
def _far_draws(
    rows, x, likeliest, far, log_p, log_rest, alpha, nodes, node_weights, draws, noise, seed, count,
    K: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """The part of the loss that the far classes add, and its derivatives by the logarithms of their shares."""
    loss, by_log_p, by_log_rest = tl.zeros((1,), T), tl.zeros((1,), T), tl.zeros((1,), T)
    for draw in range(draws):
        if nodes is None:
            weight = (tl.zeros((), T) + 1.0) / draws
            eps_x = _noise_of(noise, seed, rows, x, draw, count, K, T)
            eps = _noise_of(noise, seed, rows, likeliest, draw, count, K, T)
        else:
            weight = tl.load(node_weights + draw)
            eps_x = tl.zeros((1,), T) + tl.load(nodes + draw)
            eps = eps_x
        value, by_p, by_rest = far_draw(far[0] >= 0, far[1] >= 0, log_p, log_rest, tl.sqrt(K * alpha), eps_x, eps)
        loss += weight * value
        by_log_p += weight * by_p
        by_log_rest += weight * by_rest
    return loss, by_log_p, by_log_rest


@triton.jit
def factorised(
    x, logits, alpha, nodes, node_weights, draws, noise, seed, mask, values, counts, grad_logits, count, n_steps,
    EACH: tl.constexpr, K: tl.constexpr, TILE: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    rows = block_of(count, 1)
    x, alpha = load(x, rows, tl.int64), load(alpha, rows, T)
    valid, keep = valid_class(x, K), load(mask, rows, tl.int1, True)
    top, total = row_total(logits, rows, K, TILE, T)
    likeliest = first_largest(logits, rows, K, TILE, T)
    top_other, others = _start(rows, T)  # without the likeliest class, since 1 − its p would cancel
    z_x = tl.zeros((1,), T)
    for first in range(0, K, TILE):
        z = load_classes(logits, rows, first, K, TILE, T, float("-inf"))
        top_other, others = with_tile(tl.where(is_class(likeliest, first, TILE), float("-inf"), z), top_other, others)
        z_x += sum_where(is_class(x, first, TILE), z)
    rest = exp_difference(top_other, top) * others / total
    log_p, log_rest = z_x - top - log(total), top_other - top + log(others) - log(total)
    far_x = valid & is_far(log_p)
    far = tl.where(far_x, x, -1), tl.where(far_x & is_far(log_rest), likeliest, -1)
    loss, by_log_p, by_log_rest = tl.zeros((1,), T), tl.zeros((1,), T), tl.zeros((1,), T)
    if tl.sum(far_x.to(tl.int32)) > 0:
        loss, by_log_p, by_log_rest = _far_draws(
            rows, x, likeliest, far, log_p, log_rest, alpha, nodes, node_weights, draws, noise, seed, count, K, T
        )
    mean_of_others, of_likeliest = tl.zeros((1,), T), tl.zeros((1,), T)
    for first in range(0, K, TILE):
        value, p, slope, is_likeliest = _factorised_tile(
            logits, rows, x, first, likeliest, far, rest, top, total, alpha, nodes, node_weights, draws, noise, seed,
            count, K, TILE, T,
        )  # fmt: skip
        loss += value
        mean_of_others += sum_where(~is_likeliest, p * slope)
        of_likeliest += sum_where(is_likeliest, slope)
    write_losses(tl.where(valid, n_steps * loss, float("nan")), keep, rows, values, counts, EACH)
    if grad_logits[0] is not None:
        away = (rest * of_likeliest - mean_of_others)[:, None]
        mean = (mean_of_others + (1.0 - rest) * of_likeliest)[:, None]
        for first in range(0, K, TILE):
            _, p, slope, is_likeliest = _factorised_tile(
                logits, rows, x, first, likeliest, far, rest, top, total, alpha, nodes, node_weights, draws, noise,
                seed, count, K, TILE, T,
            )  # fmt: skip
            z = load_classes(logits, rows, first, K, TILE, T, float("-inf"))
            parts = exp_difference(z, finite(top_other)[:, None]) / tl.where(others > 0.0, others, 1.0)[:, None]
            gradient = p * tl.where(is_likeliest, away, slope - mean)
            gradient += far_gradient(by_log_p, by_log_rest, p, parts, is_class(x, first, TILE), is_likeliest)
            gradient = tl.where(valid[:, None], n_steps * gradient, float("nan"))
            store_classes(grad_logits, rows, first, tl.where(keep[:, None], gradient, 0.0), K, TILE)
