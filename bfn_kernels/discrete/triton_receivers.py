"""The n-step loss of discrete data in Triton, with its gradient, for each receiver.

A tile has whole rows. The functions that `triton_nstep_large` calls also take a part of a row. A share is the
probability p of a class, or 1 − p.
"""

import triton
import triton.language as tl

from bfn_kernels.triton_ops.class_tiles import class_noise, finite, softmax, sum_where
from bfn_kernels.triton_ops.elementary import (
    clamp,
    exp,
    exp2_less,
    exp2_term,
    exp_difference,
    expm1,
    log,
    log1p,
    log_normal,
    reciprocal,
    sigmoid,
    softplus_fall,
)
from bfn_kernels.triton_ops.philox import MONTE_CARLO

MAX_SHIFT = tl.constexpr(80.0)  # its exponential is well within the range of float32
_SMALL_SPREAD = tl.constexpr(0.25)  # kSmallSpread of csrc/math/discrete.h
_LARGE_SPREAD = tl.constexpr(0.8)  # kLargeSpread
_LOG2_E = tl.constexpr(1.44269504088896340736)


@triton.jit
def log_others(z, is_x, inside):
    """ln Σ exp(z_k) over the classes k other than x. If z_x is subtracted, it is ln((1 − p_x)/p_x)."""
    others = tl.where(is_x | ~inside, float("-inf"), z)
    top = tl.max(others, 1)
    return log(tl.sum(exp(others - top[:, None]), 1)) + top


@triton.jit
def serves(s):
    """Whether ln M is accurate as ln(1 + s), where s = M − 1. Otherwise callers compute it from M or from log-odds."""
    return (s > -0.5) & (s < 1e8)


@triton.jit
def low_divergence(mixture, before, after, drift):
    """−ln M, where the argument `mixture` is M, the mean of the density ratios. If M is too small or too large, it is a
    difference of two softplus of log-odds, which is less accurate."""
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
def joint(z, p, is_x, inside, alpha, draws, rows, count, S):
    """The mean over draws of −ln M, and its gradient, the mean of softmax(z) − softmax(z + y). M is the mean of
    exp(y_k − y_x) under p.

    z: the logits minus the largest one.
    """
    towards_x = S.K * alpha[:, None]
    spread = tl.sqrt(towards_x)
    small = spread < _SMALL_SPREAD
    less, one = tl.where(small, 1.0, 0.0).to(S.T), tl.where(small, 0.0, 1.0).to(S.T)
    accurate = tl.sum(tl.where(rows[2][:, None] & (spread < _LARGE_SPREAD), 1, 0)) > 0
    q, p_x = tl.where(is_x, 0.0, p), sum_where(is_x, p)
    is_small, others = tl.sum(less, 1) > 0.0, tl.sum(q, 1)
    weight = reciprocal(tl.zeros((), S.T) + draws.n_samples)
    value, by_x = p_x * 0.0, p_x * 0.0
    gradient, far = tl.zeros((S.ROWS, S.TILE), S.T), tl.zeros((S.ROWS,), tl.int32)
    for draw in range(draws.n_samples):
        eps = class_noise(draws, rows, 0, MONTE_CARLO, draw, count, S)
        shift = -(spread * sum_where(is_x, eps)[:, None] + towards_x) * _LOG2_E
        exponent = tl.fma(spread * _LOG2_E, eps, shift)
        ratio = exp2_less(exponent, less) if accurate else exp2_term(exponent)
        total = tl.sum(q * ratio, 1)
        # M is 1 + s. For a small spread, `ratio` is the density ratio minus 1, so that `total` is s.
        level = tl.where(is_small, total, p_x + total)
        s, mixture = tl.where(is_small, total, total - others), tl.where(is_small, 1.0 + total, level)
        near, within = serves(s), _is_within(mixture)
        mean = tl.where(near, 1.0 + s, tl.where(within, mixture, 1.0))
        inverse = reciprocal(mean)
        lost = tl.where(near, s - (mean - 1.0), 0.0)  # the rounding error of 1 + s
        value -= weight * (log_normal(mean) + lost * inverse)
        factor = weight * inverse
        by_x += factor * s
        if accurate:
            # Σ p_j·(ratio_j − ratio) over all classes j, since the sum of p_j is not exactly 1
            difference = tl.fma(-others[:, None], ratio, total[:, None])
            difference = tl.fma(p_x[:, None], one - ratio, difference)
        else:
            difference = level[:, None] - ratio
        gradient += q * (factor[:, None] * difference)  # exactly 0 for a class that has all of the probability
        far = tl.maximum(far, (~(near | within)).to(tl.int32))
    gradient += tl.where(is_x, (p_x * by_x)[:, None], 0.0)
    if tl.sum(far) > 0:
        far_value, far_gradient = _joint_far(z, p, is_x, inside, spread, towards_x, draws, rows, count, S)
        value = tl.where(far > 0, weight * far_value, value)
        gradient = tl.where((far > 0)[:, None], weight * far_gradient, gradient)
    return value, gradient


@triton.jit
def _joint_far(z, p, is_x, inside, spread, towards_x, draws, rows, count, S):
    """The sums over draws of what `joint` averages, for rows where `_is_within` does not hold for M in a draw. The
    value is a difference of two softplus of log-odds, which is less accurate."""
    others, z_x = log_others(z, is_x, inside), sum_where(is_x, z)
    value, gradient = tl.zeros((S.ROWS,), S.T), tl.zeros((S.ROWS, S.TILE), S.T)
    for draw in range(draws.n_samples):
        y = spread * class_noise(draws, rows, 0, MONTE_CARLO, draw, count, S) + tl.where(is_x, towards_x, 0.0)
        moved = log_others(z + y, is_x, inside) - sum_where(is_x, y)
        value += softplus_fall(others - z_x, moved - z_x, moved - others)
        gradient += p - softmax(z + y)
    return value, gradient


@triton.jit
def binary_node(p, before, is_x, inside, alpha, node):
    """−ln M of the joint receiver and its gradient at a node of the quadrature, for K = 2. They depend only on
    y_x − y_o ~ N(2α, 4α), where o is the other class."""
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
    """A draw of the factorised receiver: the sum over coordinates of −ln(1 + w·(exp(shift) − 1)), and its derivative by
    p. A coordinate's density is a mixture of two densities with the shares p and 1 − p. One is the sender's density.
    The other is the sender's times exp(shift), and its share is w. Coordinates where `near` is False are left out."""
    shift = tl.where(is_x, -r, r) * eps - 0.5 * r * r
    w = tl.where(is_x, rest, p)
    capped = tl.where(shift < MAX_SHIFT, shift, MAX_SHIFT)
    growth = expm1(capped)
    s = w * growth
    # If w is near 1 and exp(shift) is small, 1 + s would cancel. The mixture is then the sum of its two terms.
    cancels = s < -0.5
    mixture = tl.where(cancels, tl.where(is_x, p, rest) + w * exp(capped), 1.0 + s)
    value = tl.where(cancels, -log(mixture), -log1p(tl.where(cancels, 0.0, s))) - (shift - capped)
    slope = tl.where(is_x, growth, -growth) / mixture
    return tl.sum(tl.where(near, value, 0.0), 1), tl.where(near, slope, 0.0)


@triton.jit
def is_far(log_share):
    """Whether the sender's share in a coordinate is so small that 1 − share rounds to 1, and the share and exp(shift)
    may both underflow. Such a coordinate is computed from logarithms. Only two coordinates can be far: x, with the
    share p_x, and the likeliest class, with the share 1 − p, and then x is far, too."""
    least: tl.constexpr = -64.0 if log_share.dtype == tl.float32 else -660.0
    return log_share < least


@triton.jit
def far_shares(z, is_x, is_likeliest):
    """Returns ln p_x; ln of the rest, which is 1 − p of the likeliest class; and p_k/rest for each other class k."""
    top, others = tl.max(z, 1), tl.where(is_likeliest, float("-inf"), z)
    log_total, top_other = log(tl.sum(exp_difference(z, top[:, None]), 1)), tl.max(others, 1)
    e = exp_difference(others, finite(top_other)[:, None])
    rest = tl.sum(e, 1)
    shares = e / tl.where(rest > 0.0, rest, 1.0)[:, None]
    return sum_where(is_x, z) - top - log_total, top_other - top + log(rest) - log_total, shares


@triton.jit
def far_gradient(by_log_p, by_log_rest, p, shares, is_x, is_likeliest):
    """The gradient by the logits, from the derivatives by ln p_x and by the logarithm of the rest. The gradient of ln
    p_x is e_x − p. The gradient of the rest's logarithm is −p for the likeliest class, and p_k/rest − p_k for another
    class, where p_k is negligible, since the rest is small."""
    return by_log_p[:, None] * (is_x.to(p.dtype) - p) + by_log_rest[:, None] * tl.where(is_likeliest, -p, shares)


@triton.jit
def far_draw(far_x, far_rest, log_p, log_rest, r, eps_x, eps):
    """The sum of the terms −ln(share + (1 − share)·exp(shift)) of x and of the likeliest class, and the derivative of
    each term by the logarithm of its share. A term is left out if its share is not far. eps_x, eps: the normals of x
    and of the likeliest class."""
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
