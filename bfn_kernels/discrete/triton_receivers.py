"""One draw of the n-step loss of discrete data in Triton, for each receiver, with its gradient: tiles of whole rows."""

import triton
import triton.language as tl

from bfn_kernels.triton_ops.classes import finite, softmax, sum_where
from bfn_kernels.triton_ops.elementary import clamp, exp, exp_difference, expm1, log, log1p, sigmoid, softplus

MAX_SHIFT = tl.constexpr(80.0)  # exp of it stays well within float32


@triton.jit
def log_odds_against(z, is_x, inside):
    """ln((1 − p_x)/p_x), by the largest number but x's."""
    others = tl.where(is_x | ~inside, float("-inf"), z)
    top = tl.max(others, 1)
    return log(tl.sum(exp(others - top[:, None]), 1)) + top - sum_where(is_x, z)


@triton.jit
def serves(s):
    """Whether ln(1 + s) is accurate; else differences of softplus say it better."""
    return (s > -0.5) & (s < 1e8)


@triton.jit
def joint_draw(z, p, before, is_x, inside, alpha, eps, K: tl.constexpr):
    """−ln(1 + S), S the mean of exp(y_k − y_x) − 1 under p, and softmax(z) − softmax(z + y)."""
    towards_x = K * alpha[:, None]
    spread = tl.sqrt(towards_x)
    difference = spread * (eps - sum_where(is_x, eps)[:, None]) - towards_x
    growth = tl.where(is_x | ~inside, 0.0, expm1(clamp(difference, -MAX_SHIFT, MAX_SHIFT)))
    s = tl.sum(p * growth, 1)
    served = serves(s)
    value = -log1p(tl.where(served, s, 0.0))
    gradient = p * (s[:, None] - growth) / (1.0 + s)[:, None]
    if tl.sum((~served).to(tl.int32)) > 0:
        shifted = z + spread * eps + tl.where(is_x, towards_x, 0.0)
        after = log_odds_against(shifted, is_x, inside)
        value = tl.where(served, value, softplus(before) - softplus(after))
        gradient = tl.where(served[:, None], gradient, p - softmax(shifted))
    return value, gradient


@triton.jit
def binary_node(p, before, is_x, inside, alpha, node):
    """K = 2: y_x − y_o ~ N(2α, 4α)."""
    difference = -(2.0 * alpha + 2.0 * tl.sqrt(alpha) * node)
    p_x, other = sum_where(is_x, p), sum_where(~is_x & inside, p)
    growth = expm1(clamp(difference, -MAX_SHIFT, MAX_SHIFT))
    s = other * growth
    served = serves(s)
    value = tl.where(served, -log1p(tl.where(served, s, 0.0)), softplus(before) - softplus(before + difference))
    step = tl.where(served, other * p_x * growth / (1.0 + s), sigmoid(before + difference) - other)
    return value, tl.where(is_x, step[:, None], -step[:, None])


@triton.jit
def factorised_draw(p, rest, is_x, near, r, eps):
    """Of each coordinate −ln of p and 1 − p, one of them times the density ratio exp(shift), and its derivative by p:
    with w the one that is, −ln(1 + w·(exp(shift) − 1)). `near`: those that there are and that are not far."""
    shift = tl.where(is_x, -r, r) * eps - 0.5 * r * r
    w = tl.where(is_x, rest, p)
    capped = tl.where(shift < MAX_SHIFT, shift, MAX_SHIFT)
    growth = expm1(capped)
    s = w * growth
    # w near 1 and a small ratio: what is left of 1 is then the other share
    left = s < -0.5
    mixture = tl.where(left, tl.where(is_x, p, rest) + w * exp(capped), 1.0 + s)
    value = tl.where(left, -log(mixture), -log1p(tl.where(left, 0.0, s))) - (shift - capped)
    slope = tl.where(is_x, growth, -growth) / mixture
    return tl.sum(tl.where(near, value, 0.0), 1), tl.where(near, slope, 0.0)


@triton.jit
def is_far(log_share):
    """Whether both a share and the ratio may underflow beside a w of 1. Where p_x does, so may what the likeliest class
    leaves to others: those two coordinates, and no others, are then added in logs."""
    least: tl.constexpr = -64.0 if log_share.dtype == tl.float32 else -660.0
    return log_share < least


@triton.jit
def far_shares(z, is_x, is_likeliest):
    """ln p_x, ln of what the likeliest class leaves to others, and which part of that each of those has."""
    top, others = tl.max(z, 1), tl.where(is_likeliest, float("-inf"), z)
    log_total, top_other = log(tl.sum(exp_difference(z, top[:, None]), 1)), tl.max(others, 1)
    e = exp_difference(others, finite(top_other)[:, None])
    rest = tl.sum(e, 1)
    parts = e / tl.where(rest > 0.0, rest, 1.0)[:, None]
    return sum_where(is_x, z) - top - log_total, top_other - top + log(rest) - log_total, parts


@triton.jit
def far_gradient(by_log_p, by_log_rest, p, parts, is_x, is_likeliest):
    """By the logits: of ln p_x, e_x − p; of ln of the rest, the others' parts of it, −p for the likeliest itself."""
    return by_log_p[:, None] * (is_x.to(p.dtype) - p) + by_log_rest[:, None] * tl.where(is_likeliest, -p, parts)


@triton.jit
def far_draw(far_x, far_rest, log_p, log_rest, r, eps_x, eps):
    """Of both −ln(share + exp(shift)), and its derivative by ln share; eps_x and eps are those of x and of the
    likeliest class. 0 where they are not far."""
    value, by_log_p = _far_term(log_p, -r * eps_x - 0.5 * r * r)
    value_of_rest, by_log_rest = _far_term(log_rest, r * eps - 0.5 * r * r)
    value = tl.where(far_x, value, 0.0) + tl.where(far_rest, value_of_rest, 0.0)
    return value, tl.where(far_x, by_log_p, 0.0), tl.where(far_rest, by_log_rest, 0.0)


@triton.jit
def _far_term(log_share, shift):
    above = log_share - shift
    growth = expm1(tl.where(shift < MAX_SHIFT, shift, MAX_SHIFT))
    return -tl.where(above > 0.0, log_share, shift) - log1p(exp(-tl.abs(above))), growth * sigmoid(above)


@triton.jit
def valid_class(x, K: tl.constexpr):
    return (x >= 0) & (x < K)
