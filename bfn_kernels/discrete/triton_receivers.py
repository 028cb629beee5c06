"""One draw of the n-step loss of discrete data in Triton, for each receiver, with its gradient: tiles of whole rows."""

import triton
import triton.language as tl

from bfn_kernels.triton_ops.classes import softmax, sum_where
from bfn_kernels.triton_ops.elementary import clamp, exp, expm1, log, log1p, sigmoid, softplus

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
def factorised_draw(p, rest, is_x, inside, r, eps):
    """Of each coordinate −ln of p and 1 − p, one of them times the density ratio exp(shift), and its derivative by p:
    with w the one that is, −ln(1 + w·(exp(shift) − 1))."""
    shift = tl.where(is_x, -r, r) * eps - 0.5 * r * r
    w = tl.where(is_x, rest, p)
    capped = tl.where(shift < MAX_SHIFT, shift, MAX_SHIFT)
    growth = expm1(capped)
    s = w * growth
    # w near 1 and a small ratio: what is left of 1 is then the other share
    left = s < -0.5
    mixture = tl.where(left, tl.where(is_x, p, rest) + w * exp(capped), 1.0 + s)
    value = tl.where(left, -log(mixture), -log1p(tl.where(left, 0.0, s))) - (shift - capped)
    return tl.sum(tl.where(inside, value, 0.0), 1), tl.where(is_x, growth, -growth) / mixture


@triton.jit
def valid_class(x, K: tl.constexpr):
    return (x >= 0) & (x < K)
