"""A draw of the n-step loss of discrete data in Triton, with its gradient, for each receiver.

The tiles are whole rows. A share is p of a class or 1 − p.
"""

import triton
import triton.language as tl

from bfn_kernels.triton_ops.classes import finite, softmax, sum_where
from bfn_kernels.triton_ops.elementary import (
    clamp,
    exp,
    exp_and_expm1,
    exp_difference,
    expm1,
    log,
    log1p,
    reciprocal,
    sigmoid,
    softplus_fall,
)

MAX_SHIFT = tl.constexpr(80.0)  # its exponential is well within the range of float32


@triton.jit
def log_others(z, is_x, inside):
    """ln Σ exp(z_k) over the classes k other than x. Less z_x, it is ln((1 − p_x)/p_x)."""
    others = tl.where(is_x | ~inside, float("-inf"), z)
    top = tl.max(others, 1)
    return log(tl.sum(exp(others - top[:, None]), 1)) + top


@triton.jit
def serves(s):
    """Whether ln(1 + s) is accurate; otherwise `low_divergence` is more accurate."""
    return (s > -0.5) & (s < 1e8)


@triton.jit
def low_divergence(mixture, before, after, drift):
    """−ln M of the mean M of the density ratios. If M is out of float's range, it is a difference of two softplus of
    log-odds, which is less accurate."""
    within = _is_within(mixture)
    return tl.where(within, -log(tl.where(within, mixture, 1.0)), softplus_fall(before, after, drift))


@triton.jit
def low_gradient(p, ratio, mixture, p_after):
    """The gradient of `low_divergence`, p − softmax(z + y)."""
    within = _is_within(mixture)
    return tl.where(within, p * (mixture - ratio) / tl.where(within, mixture, 1.0), p - p_after)


@triton.jit
def _is_within(mixture):
    return (mixture > 1e-18) & (mixture < 1e30)


@triton.jit
def joint_draw(z, others, z_x, p, is_x, inside, alpha, eps, K: tl.constexpr):
    """−ln(1 + S) and its gradient softmax(z) − softmax(z + y), where S is the mean of exp(y_k − y_x) − 1 under p.

    z: the logits minus the largest one. others: `log_others` of z.
    """
    towards_x = K * alpha[:, None]
    spread = tl.sqrt(towards_x)
    difference = clamp(spread * (eps - sum_where(is_x, eps)[:, None]) - towards_x, -MAX_SHIFT, MAX_SHIFT)
    ratio, growth = exp_and_expm1(difference)
    ratio, growth = tl.where(is_x, 1.0, ratio), tl.where(is_x, 0.0, growth)
    s, mixture = tl.sum(p * growth, 1), tl.sum(p * ratio, 1)
    near, within = serves(s), _is_within(mixture)
    capped = tl.where(within, mixture, 1.0)
    value = tl.where(near, -log1p(tl.where(near, s, 0.0)), -log(capped))
    inverse = reciprocal(tl.where(near, 1.0 + s, capped))
    level = tl.where(near, s, mixture)[:, None]
    gradient = p * (level - tl.where(near[:, None], growth, ratio)) * inverse[:, None]
    if tl.sum((~(near | within)).to(tl.int32)) > 0:
        y = spread * eps + tl.where(is_x, towards_x, 0.0)
        shifted = z + y
        moved = log_others(shifted, is_x, inside) - sum_where(is_x, y)
        far = softplus_fall(others - z_x, moved - z_x, moved - others)
        value = tl.where(near | within, value, far)
        gradient = tl.where((near | within)[:, None], gradient, p - softmax(shifted))
    return value, gradient


@triton.jit
def binary_node(p, before, is_x, inside, alpha, node):
    """A node of the joint receiver for K = 2. It depends only on y_x − y_o ~ N(2α, 4α), where o is the other class."""
    difference = -(2.0 * alpha + 2.0 * tl.sqrt(alpha) * node)
    p_x, other = sum_where(is_x, p), sum_where(~is_x & inside, p)
    capped = clamp(difference, -MAX_SHIFT, MAX_SHIFT)
    growth = expm1(capped)
    s = other * growth
    served = serves(s)
    low = low_divergence(p_x + other * exp(capped), before, before + difference, difference)
    value = tl.where(served, -log1p(tl.where(served, s, 0.0)), low)
    step = tl.where(served, other * p_x * growth * reciprocal(1.0 + s), sigmoid(before + difference) - other)
    return value, tl.where(is_x, step[:, None], -step[:, None])


@triton.jit
def factorised_draw(p, rest, is_x, near, r, eps):
    """The sum over coordinates of −ln(1 + w·(exp(shift) − 1)), and its derivative by p. A coordinate's density is a
    mixture of two densities with the shares p and 1 − p. w is the share of the density that is the sender's times
    exp(shift). Coordinates that are not `near` are left out."""
    shift = tl.where(is_x, -r, r) * eps - 0.5 * r * r
    w = tl.where(is_x, rest, p)
    capped = tl.where(shift < MAX_SHIFT, shift, MAX_SHIFT)
    growth = expm1(capped)
    s = w * growth
    # if w is near 1 and exp(shift) is small, 1 + s would cancel, so that the mixture is the sum of its two terms
    cancels = s < -0.5
    mixture = tl.where(cancels, tl.where(is_x, p, rest) + w * exp(capped), 1.0 + s)
    value = tl.where(cancels, -log(mixture), -log1p(tl.where(cancels, 0.0, s))) - (shift - capped)
    slope = tl.where(is_x, growth, -growth) / mixture
    return tl.sum(tl.where(near, value, 0.0), 1), tl.where(near, slope, 0.0)


@triton.jit
def is_far(log_share):
    """Whether a share is so small that, in a coordinate whose w rounds to 1, the share and the density ratio may both
    underflow. If p_x is so small, then 1 − p of the likeliest class may be so, too. Only these two coordinates are then
    computed from logarithms."""
    least: tl.constexpr = -64.0 if log_share.dtype == tl.float32 else -660.0
    return log_share < least


@triton.jit
def far_shares(z, is_x, is_likeliest):
    """ln p_x; ln of the rest, 1 − p of the likeliest class; and each other class's share of the rest."""
    top, others = tl.max(z, 1), tl.where(is_likeliest, float("-inf"), z)
    log_total, top_other = log(tl.sum(exp_difference(z, top[:, None]), 1)), tl.max(others, 1)
    e = exp_difference(others, finite(top_other)[:, None])
    rest = tl.sum(e, 1)
    shares = e / tl.where(rest > 0.0, rest, 1.0)[:, None]
    return sum_where(is_x, z) - top - log_total, top_other - top + log(rest) - log_total, shares


@triton.jit
def far_gradient(by_log_p, by_log_rest, p, shares, is_x, is_likeliest):
    """The gradient by the logits. The derivative of ln p_x is e_x − p. The derivative of the rest's logarithm is each
    class's share of the rest, and −p for the likeliest class."""
    return by_log_p[:, None] * (is_x.to(p.dtype) - p) + by_log_rest[:, None] * tl.where(is_likeliest, -p, shares)


@triton.jit
def far_draw(far_x, far_rest, log_p, log_rest, r, eps_x, eps):
    """The sum of the terms −ln(share + exp(shift)) of x and of the likeliest class, and its derivatives by ln share.
    eps_x and eps are the normals of these two classes. A term is 0 if its share is not far."""
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
