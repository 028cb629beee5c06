"""The network's normal, bins and their probabilities in Triton, the counterpart of
csrc/math/{discretised,bins,bin_prob}.h.

A bin is represented by its index, counted from 0. The index is a float, so that it can be NaN. C is the `Constants` of
a kernel. Numbers in parentheses are equations of Graves et al. 2023.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from bfn_kernels.discretised.reference import pair
from bfn_kernels.records import Network
from bfn_kernels.triton_ops.class_tiles import class_view
from bfn_kernels.triton_ops.elementary import at_least_tiny, clamp, exp, log, log_normal, quotient, reciprocal
from bfn_kernels.triton_ops.normal import SCALE, log_cdf, log_interval, mills, scaled_interval
from bfn_kernels.triton_ops.views import View, component_view, load, views

TINY_TOTAL = tl.constexpr(1e-5)  # an unclipped distribution with less mass in [−1, 1] counts as uniform
_HALF_LOG_TWO_PI = tl.constexpr(0.91893853320467274178)

# What the predictions are: the output distribution's mean and std, or predictions of the data, or of the noise.
DIRECT, DATA, NOISE = range(3)
_DIRECT, _DATA = tl.constexpr(DIRECT), tl.constexpr(DATA)


class Constants(NamedTuple):
    """What is constant in a compiled kernel. T: the type of the arithmetic. K: the number of bins. CLIP: whether the
    first and the last bin have the mass beyond [−1, 1]. M: the number of components of a mixture, or 0. KIND: DIRECT,
    DATA or NOISE. The others: the limits of the std."""

    T: Any
    K: Any = None
    CLIP: Any = None
    M: Any = 0
    KIND: Any = DIRECT
    STD_MIN: Any = None
    STD_MAX: Any = None
    LOG_STD_MAX: Any = None


def kind_of(mean_scale: Tensor | None) -> int:
    """The KIND of a network's predictions: NOISE if there are scales, else DATA."""
    return DATA if mean_scale is None else NOISE


def network_views(shape: torch.Size, network: Network, one_by_one: bool = False) -> Network:
    """The views of a network's output, mean and scales. shape: the shape of the variables."""
    output = *pair(network.pred_mean, network.pred_log_std), network.mixture_logits
    made = output_views(shape, output, components_of(network.mixture_logits), one_by_one)
    return Network(*made, *views(shape, *network[3:]))


def components_of(mixture_logits: Tensor | None) -> int:
    """M of the `Constants`."""
    return 0 if mixture_logits is None else mixture_logits.shape[-1]


def output_views(
    shape: torch.Size, output: Sequence[Tensor | None], components: int, one_by_one: bool = False
) -> tuple[View, ...]:
    """The views of the predictions and mixture logits, or of their gradients. A mixture has class views or, if the
    kernel takes the components one by one, component views."""
    if components == 0:
        return views(shape, *output)
    if one_by_one:
        return tuple(component_view(t, shape) for t in output)
    return tuple(class_view(t, torch.Size((*shape, components))) for t in output)


@triton.jit
def output_normal(network, block, C):
    """The mean and std of the network's normal (105, 106), and their derivatives by the two predictions."""
    prediction, log_std = load(network.pred_mean, block, C.T), load(network.pred_log_std, block, C.T)
    return normal_of(prediction, log_std, network, block, C)


@triton.jit
def normal_of(prediction, log_std, network, block, C):
    """What `output_normal` returns, for two predictions. If they are the mean and the std themselves, a std that is not
    positive becomes NaN."""
    if C.KIND == _DIRECT:
        one = tl.full(prediction.shape, 1.0, C.T)
        return prediction, tl.where(log_std > 0.0, log_std, float("nan")), one, one
    else:
        low: tl.constexpr = C.STD_MIN
        high: tl.constexpr = C.STD_MAX
        most: tl.constexpr = C.LOG_STD_MAX
        exp_log_std = exp(clamp(log_std, -most, most))
        if C.KIND == _DATA:
            std, mu, slope = exp_log_std, prediction, tl.full(prediction.shape, 1.0, C.T)
            early = tl.full(prediction.shape, False, tl.int1)
        else:
            mean_scale, noise_scale = load(network.mean_scale, block, C.T), load(network.noise_scale, block, C.T)
            early = (mean_scale == 0.0) & (noise_scale == 0.0)  # t < t_min
            std, slope = tl.abs(noise_scale) * exp_log_std, -noise_scale
            mu = tl.where(mean_scale == 0.0, 0.0, mean_scale * load(network.mean, block, C.T))
            mu -= tl.where(early, 0.0, noise_scale * prediction)
        flat = early | (log_std < -most) | (log_std > most) | (std < low) | (std > high)
        clamped = tl.where(early, 1.0, clamp(std, low, high))
        return mu, clamped, slope, tl.where(flat, 0.0, std)


@triton.jit
def position(x, K: tl.constexpr):
    """The position of x in units of bins. Bin i is from i to i + 1."""
    return (x * 0.5 + 0.5) * K


@triton.jit
def index(x, K: tl.constexpr):
    return clamp(tl.floor(position(x, K)), 0.0, K - 1.0)


@triton.jit
def centre(i, K: tl.constexpr):
    """The centre of a bin. Differences of centres are divided by numbers as small as 1e-5, so all kernels must compute
    the same centre. In float32, div_rn rounds the quotient correctly."""
    if i.dtype == tl.float64:
        return (2.0 * i + 1.0) / K - 1.0
    else:
        return tl.div_rn(2.0 * i + 1.0, tl.full(i.shape, K, tl.float32)) - 1.0


@triton.jit
def origin_of(point, K: tl.constexpr):
    """K times a number, the point, as the sum of two numbers. In float32 the first of them is exact for K up to 65536.
    From them `to_edge` computes distances in units of 1/K without the rounding error of −1 + 2j/K."""
    if point.dtype == tl.float64:
        leading = point
    else:
        leading = (point.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True)
    return leading * K, (point - leading) * K


@triton.jit
def to_edge(origin, j, K: tl.constexpr):
    """The distance from a point to the edge −1 + 2j/K, in units of 1/K. origin: `origin_of` the point."""
    return (2.0 * j - K - origin[0]) - origin[1]


@triton.jit
def to_centre(origin, i, K: tl.constexpr):
    """The distance from a point to the centre of bin i, in units of 1/K. i may be any real number."""
    return to_edge(origin, i + 0.5, K)


@triton.jit
def std_of_finite(mean, std):
    """The std, or NaN if the mean is infinite or NaN, since such a distribution has no probabilities."""
    return std + 0.0 * mean


@triton.jit
def _by_mean_and_std(value, by_left, by_right, left, right, inverse_std):
    """The value with its derivatives by mean and std. left, right: the edges, relative to the mean, in units of std.
    by_left, by_right: the derivatives by these edges."""
    return value, -(by_left + by_right) * inverse_std, -(left * by_left + right * by_right) * inverse_std


@triton.jit
def _is_narrow(z, d):
    """Whether `_narrow_bin` is used, as csrc/math/bin_prob.h decides it."""
    if z.dtype == tl.float64:
        return (d < 0.01) & (tl.abs(z * d) < 0.015)
    else:
        return (d < 0.3) & (tl.abs(z * d) < 0.5)


@triton.jit
def needed(condition):
    """Whether a variable of the block has this condition, so that the block must compute what such variables need."""
    return tl.max(condition.to(tl.int32), 0) > 0


@triton.jit
def _narrow_bin(z, d):
    """The Taylor series of the mass of a narrow bin about its centre. z: the centre, relative to the mean. d: the width
    of the bin. Both are in units of std. The mass is d·φ(z)·(1 + series). Its derivatives by z and d are
    d·φ(z)·(tilt − z·(1 + series)) and φ(z)·(1 + series + growth)."""
    z2, d2 = z * z, d * d
    by_12: tl.constexpr = 1.0 / 12
    by_480: tl.constexpr = 1.0 / 480
    fourth = d2 * (z2 * z2 - 6.0 * z2 + 3.0) * by_480
    series = d2 * (0.5 * by_12 * (z2 - 1.0) + 0.25 * fourth)
    tilt = d2 * z * (by_12 + by_480 * d2 * (z2 - 3.0))
    growth = d2 * (by_12 * (z2 - 1.0) + fourth)
    return series, tilt, growth


@triton.jit
def _log_narrow_bin(z, d, inverse_std):
    """ln of the mass of a narrow bin, with its derivatives by mean and std. z and d are as in `_narrow_bin`."""
    s, tilt, growth = _narrow_bin(z, d)
    # 1/(1 + s) and ln(1 + s) as series in s, which lies between −0.004 and 0.011
    inverse = 1.0 - s * (1.0 - s * (1.0 - s * (1.0 - s)))
    log_total = s * (1.0 - s * (0.5 - s * (1.0 / 3 - s * 0.25)))
    by_z, by_d = tilt * inverse - z, 1.0 + growth * inverse  # by_d is the derivative by d, times d
    value = -0.5 * z * z - _HALF_LOG_TWO_PI + log_normal(d) + log_total
    return value, -by_z * inverse_std, -(z * by_z + by_d) * inverse_std


@triton.jit
def select(condition, new, old):
    """A value and its derivatives by mean and std: `new` where the condition is True, else `old`."""
    return tl.where(condition, new[0], old[0]), tl.where(condition, new[1], old[1]), tl.where(condition, new[2], old[2])


@triton.jit
def log_inner_bin(left, right, centre, std, inverse, per_std: tl.constexpr):
    """ln of the mass of a bin, with its derivatives by mean and std.

    centre, left and right are the bin's centre and its edges, relative to the mean. The unit is half the bin's width.
    std: in this unit; inverse: its `reciprocal`; per_std: the number of units in 1. The edges are arguments, since
    the centre ± 1 would lose digits of a wide bin's nearer edge. For a narrow bin a Taylor series about its centre is
    used, since Φ(right) − Φ(left) would cancel.
    """
    z, d, inverse_std = quotient(centre, std, inverse), 2.0 * inverse, per_std * inverse
    narrow = _is_narrow(z, d)
    p = _log_narrow_bin(z, d, inverse_std)
    if needed(~narrow):
        left, right = quotient(left, std, inverse), quotient(right, std, inverse)
        value, by_left, by_right = log_interval(left, right, z, d)
        p = select(narrow, p, _by_mean_and_std(value, by_left, by_right, left, right, inverse_std))
    return p


@triton.jit
def bin_place(left, right, z, d):
    """The place y of a bin, and its side. `scaled_inner_bin` divides the mass by exp(−y²/2). For a narrow bin, y is the
    centre. For a wide bin, y is the point of the bin that is nearest to 0. The side is −1 if y is the left edge, 1 if
    it is the right edge, else 0."""
    at = tl.where(left > 0.0, left, tl.where(right < 0.0, right, 0.0))
    side = tl.where(left > 0.0, -1.0, tl.where(right < 0.0, 1.0, 0.0))
    narrow = _is_narrow(z, d)
    at, side = tl.where(narrow, z, at), tl.where(narrow, 0.0, side)
    return at, side


@triton.jit
def scaled_inner_bin(left, right, z, d, inverse_std):
    """Returns the place y of a bin and its side (see `bin_place`); then the mass of the bin and its derivatives by mean
    and std, all divided by exp(−y²/2), so that they do not underflow. The arguments are the edges, the centre
    and the width, as for `_narrow_bin`."""
    _, front, lost, of_left, of_right = scaled_interval(left, right, z, d)
    mass, by_mean, by_std = front - lost, of_left - of_right, left * of_left - right * of_right
    narrow = _is_narrow(z, d)
    series, tilt, growth = _narrow_bin(z, d)
    total, scale = 1.0 + series, SCALE * d
    by_z = z * total - tilt
    mass = tl.where(narrow, scale * total, mass)
    by_mean = tl.where(narrow, scale * by_z, by_mean)
    by_std = tl.where(narrow, scale * (z * by_z - (total + growth)), by_std)
    y, side = bin_place(left, right, z, d)
    return y, side, mass, by_mean * inverse_std, by_std * inverse_std


@triton.jit
def scaled_end_bin(z, first: tl.constexpr, inverse_std):
    """The mass of a clipped end bin, as `scaled_inner_bin` returns it, but the side is 1 for the first bin and −1 for
    the last, also where the place is 0. z is the bin's inner edge, relative to the mean, in units of std."""
    side: tl.constexpr = 1.0 if first else -1.0
    below, ratio, e = side * z < 0.0, mills(tl.abs(z)), exp(-0.5 * z * z)
    slope = (-side * SCALE) * inverse_std * tl.where(below, 1.0, e)
    return tl.where(below, z, 0.0), side, tl.where(below, ratio, 1.0 - e * ratio), slope, z * slope


@triton.jit
def log_total(mean, std):
    """ln of the mass in [−1, 1], as if it were one bin, and its derivatives by mean and std."""
    std = at_least_tiny(std_of_finite(mean, std))
    return log_inner_bin(-1.0 - mean, 1.0 - mean, -mean, std, reciprocal(std), 1)


@triton.jit
def is_uniform(total):
    return exp(total) < TINY_TOTAL


@triton.jit
def log_end_bin(z, first, inverse_std):
    """ln of the mass of the first or the last bin with all mass beyond it, and its derivatives by mean and std. z: the
    bin's inner edge, relative to the mean, in units of std. first: whether it is the first bin. The last bin is the
    mirror image of the first."""
    value, slope = log_cdf(tl.where(first, z, -z))
    slope = tl.where(first, -slope, slope) * inverse_std
    return value, slope, z * slope


@triton.jit
def log_bin_prob(i, mean, std, K: tl.constexpr, CLIP: tl.constexpr):
    """ln p of a bin (107–109), and its derivatives by mean and std."""
    std = at_least_tiny(std)
    origin, scale = origin_of(mean, K), K * std
    unit = reciprocal(scale)
    p = log_inner_bin(to_edge(origin, i, K), to_edge(origin, i + 1.0, K), to_centre(origin, i, K), scale, unit, K)
    if CLIP:
        first = i == 0.0
        end = first | (i == K - 1.0)
        if needed(end):
            edge = quotient(to_edge(origin, tl.where(first, 1.0, K - 1.0), K), scale, unit)
            p = select(end, log_end_bin(edge, first, K * unit), p)
        return p
    else:
        total = log_total(mean, std)
        uniform, zero = is_uniform(total[0]), mean * 0.0
        share = p[0] - total[0], p[1] - total[1], p[2] - total[2]
        return select(uniform, (-log(tl.full(mean.shape, K, mean.dtype)), zero, zero), share)


@triton.jit
def mode(mean, std, K: tl.constexpr):
    """The centre of the likeliest bin. The candidates are the bin of the mean, the first bin and the last bin, in this
    order. A later candidate wins only if it is strictly likelier."""
    best = index(mean, K)
    best_log_p, _, _ = log_bin_prob(best, mean, std, K, True)
    for last in tl.static_range(2):
        end = best * 0.0 + last * (K - 1.0)
        log_p, _, _ = log_bin_prob(end, mean, std, K, True)
        best = tl.where(log_p > best_log_p, end, best)
        best_log_p = tl.where(log_p > best_log_p, log_p, best_log_p)
    return tl.where(best_log_p == best_log_p, centre(best, K), best_log_p)
