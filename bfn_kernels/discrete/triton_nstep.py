"""The n-step loss of discrete data in Triton, with its gradient: n·E[ln p_S(y) − ln p_R(y)] (189, 190).

A kernel takes whole rows, whose noise it makes once, where K fits a tile.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from bfn_kernels.checks import compute_dtype
from bfn_kernels.discrete.autograd import RECEIVERS
from bfn_kernels.triton_ops.classes import (
    class_noise,
    class_view,
    is_class,
    load_classes,
    softmax,
    store_classes,
    small_tile_limit,
    sum_where,
    tile_of,
)
from bfn_kernels.triton_ops.elementary import clamp, exp, expm1, log, log1p, sigmoid, softplus
from bfn_kernels.triton_ops.noise import MONTE_CARLO
from bfn_kernels.triton_ops.reduction import Losses, write_losses
from bfn_kernels.triton_ops.views import block_of, compute_type, constants, launch, load, programs, view

_JOINT = tl.constexpr(RECEIVERS["joint"])
_MAX_SHIFT = tl.constexpr(80.0)  # exp of it stays well within float32


def discrete_nstep(
    x: Tensor, logits: Tensor, alpha: Tensor, n_steps: int, receiver: int, n_samples: int, nodes, node_weights, seed,
    noise, mask, reduction: int, need_logits: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    shape, T = logits.shape, compute_type(logits)
    dtype = compute_dtype(logits)
    tile = tile_of(shape[-1], small=True)
    if shape[-1] > small_tile_limit():
        raise ValueError(
            f"discrete_time_loss with backend='triton' takes logits of up to {small_tile_limit()} classes, got {shape[-1]}; "
            "backend='reference' takes more"
        )
    losses = Losses(x, mask, reduction, dtype, tile.rows)
    by_logits = torch.empty(shape if need_logits else (0,), dtype=dtype, device=x.device)
    given = [None] * 2 if n_samples else [constants(tuple(v), dtype, x.device) for v in (nodes, node_weights)]
    draws = noise if noise is None else noise.reshape(-1, shape[-1])
    draws = class_view(draws, None if draws is None else draws.shape)
    launch(
        _nstep, programs(x.numel(), tile.rows), view(x, x.shape), class_view(logits, shape), view(alpha, x.shape),
        *given, n_samples or len(nodes), draws, seed, view(mask, x.shape), *losses.arguments,
        class_view(by_logits if need_logits else None, shape), x.numel(), n_steps,
        JOINT=receiver == RECEIVERS["joint"], EACH=losses.each, K=shape[-1], ROWS=tile.rows, TILE=tile.classes, T=T,
        warps=tile.warps,
    )  # fmt: skip
    return *losses.finish(), by_logits


@triton.jit
def _log_odds_against(z, is_x, inside):
    """ln((1 − p_x)/p_x), by the largest number but x's."""
    others = tl.where(is_x | ~inside, float("-inf"), z)
    top = tl.max(others, 1)
    return log(tl.sum(exp(others - top[:, None]), 1)) + top - sum_where(is_x, z)


@triton.jit
def _serves(s):
    """Whether ln(1 + s) is accurate; else differences of softplus say it better."""
    return (s > -0.5) & (s < 1e8)


@triton.jit
def _joint_draw(z, p, before, is_x, inside, alpha, eps, K: tl.constexpr):
    """−ln(1 + S), S the mean of exp(y_k − y_x) − 1 under p, and softmax(z) − softmax(z + y)."""
    towards_x = K * alpha[:, None]
    spread = tl.sqrt(towards_x)
    difference = spread * (eps - sum_where(is_x, eps)[:, None]) - towards_x
    growth = tl.where(is_x | ~inside, 0.0, expm1(clamp(difference, -_MAX_SHIFT, _MAX_SHIFT)))
    s = tl.sum(p * growth, 1)
    serves = _serves(s)
    value = -log1p(tl.where(serves, s, 0.0))
    gradient = p * (s[:, None] - growth) / (1.0 + s)[:, None]
    if tl.sum((~serves).to(tl.int32)) > 0:
        shifted = z + spread * eps + tl.where(is_x, towards_x, 0.0)
        after = _log_odds_against(shifted, is_x, inside)
        value = tl.where(serves, value, softplus(before) - softplus(after))
        gradient = tl.where(serves[:, None], gradient, p - softmax(shifted))
    return value, gradient


@triton.jit
def _binary_node(p, before, is_x, inside, alpha, node):
    """K = 2: y_x − y_o ~ N(2α, 4α)."""
    difference = -(2.0 * alpha + 2.0 * tl.sqrt(alpha) * node)
    p_x, other = sum_where(is_x, p), sum_where(~is_x & inside, p)
    growth = expm1(clamp(difference, -_MAX_SHIFT, _MAX_SHIFT))
    s = other * growth
    serves = _serves(s)
    value = tl.where(serves, -log1p(tl.where(serves, s, 0.0)), softplus(before) - softplus(before + difference))
    step = tl.where(serves, other * p_x * growth / (1.0 + s), sigmoid(before + difference) - other)
    return value, tl.where(is_x, step[:, None], -step[:, None])


@triton.jit
def _factorised_draw(p, rest, is_x, inside, r, eps):
    """Of each coordinate −ln of p and 1 − p, one of them times the density ratio exp(shift), and its derivative by p:
    with w the one that is, −ln(1 + w·(exp(shift) − 1))."""
    shift = tl.where(is_x, -r, r) * eps - 0.5 * r * r
    w = tl.where(is_x, rest, p)
    capped = tl.where(shift < _MAX_SHIFT, shift, _MAX_SHIFT)
    growth = expm1(capped)
    s = w * growth
    # w near 1 and a small ratio: what is left of 1 is then the other share
    left = s < -0.5
    mixture = tl.where(left, tl.where(is_x, p, rest) + w * exp(capped), 1.0 + s)
    value = tl.where(left, -log(mixture), -log1p(tl.where(left, 0.0, s))) - (shift - capped)
    return tl.sum(tl.where(inside, value, 0.0), 1), tl.where(is_x, growth, -growth) / mixture


@triton.jit
def _nstep(
    x, logits, alpha, nodes, node_weights, draws, noise, seed, mask, values, counts, by_logits, count, n_steps,
    JOINT: tl.constexpr, EACH: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    rows = block_of(count, ROWS)
    x, alpha = load(x, rows, tl.int64), load(alpha, rows, T)
    keep = load(mask, rows, tl.int1, True)
    z = load_classes(logits, rows, 0, K, TILE, T, float("-inf"))
    k = tl.arange(0, TILE)[None, :]
    is_x, inside = is_class(x, 0, TILE), k < K
    p = softmax(z)
    if JOINT:
        before = _log_odds_against(z, is_x, inside)
    else:
        top = tl.max(p, 1)
        is_likeliest = k == tl.min(tl.where(p == top[:, None], k, TILE), 1)[:, None]
        # 1 − p of the likeliest class, subtracted, would cancel
        rest = tl.where(is_likeliest, sum_where(~is_likeliest, p)[:, None], 1.0 - p)
        r = tl.sqrt(K * alpha)[:, None]
    loss = tl.zeros((ROWS,), T)
    gradient = tl.zeros((ROWS, TILE), T)
    for draw in range(draws):
        if nodes is None:
            weight = (tl.zeros((), T) + 1.0) / draws
            eps = class_noise(noise, seed, rows, 0, MONTE_CARLO, draw, count, K, TILE, T)
            if JOINT:
                value, by = _joint_draw(z, p, before, is_x, inside, alpha, eps, K)
            else:
                value, by = _factorised_draw(p, rest, is_x, inside, r, eps)
        else:
            weight, node = tl.load(node_weights + draw), tl.load(nodes + draw)
            if JOINT:
                value, by = _binary_node(p, before, is_x, inside, alpha, node)
            else:
                value, by = _factorised_draw(p, rest, is_x, inside, r, node)
        loss += weight * value
        gradient += weight * by
    valid = _valid(x, K)
    write_losses(tl.where(valid, n_steps * loss, float("nan")), keep, rows, values, counts, EACH)
    if by_logits[0] is not None:
        if not JOINT:
            # p_k (g_k − mean of g), which for the likeliest class would cancel: there the differences are summed
            mean = tl.sum(tl.where(inside, p * gradient, 0.0), 1)[:, None]
            largest = sum_where(is_likeliest, gradient)[:, None]
            away = sum_where(~is_likeliest & inside, p * (largest - gradient))[:, None]
            gradient = p * tl.where(is_likeliest, away, gradient - mean)
        gradient = tl.where(valid[:, None], n_steps * gradient, float("nan"))
        store_classes(by_logits, rows, 0, tl.where(keep[:, None], gradient, 0.0), K, TILE)


@triton.jit
def _valid(x, K: tl.constexpr):
    return (x >= 0) & (x < K)
