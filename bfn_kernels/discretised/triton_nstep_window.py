"""The windows over which the n-step loss of discretised data sums, in Triton (113–119). A window has the bins in which
the terms of some draws are not negligible. csrc/math/nstep.h explains which points of a window are summed.

C is the `Constants` of a kernel. Numbers in parentheses are equations of Graves et al. 2023.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from bfn_kernels.discretised.triton_bins import bin_place, index, origin_of, position, to_centre
from bfn_kernels.triton_ops.elementary import clamp

NODES = tl.constexpr(20)  # the Gauss–Legendre nodes of a panel, a part of a window
_PANEL = tl.constexpr(11.0)  # in units of s: the longest panel
_REACH = tl.constexpr(5.5)  # in units of s: 4e-8 of a bump's mass lies farther from its peak
_STEP = tl.constexpr(0.95)  # in units of s: the distance of points
_LEAST_WIDTH = tl.constexpr(3.2)  # in bins: the least s for which a cut has a correction
_LARGEST_SLOPE = tl.constexpr(0.8)  # the largest slope at a cut, per bin, for which it has a correction


class Terms(NamedTuple):
    """What the terms of a variable need: x, the normal of the output distribution, the std of the message, 1/std, 1/K
    in units of std and of τ, and whether the distribution counts as uniform."""

    x: Any
    mean: Any
    std: Any
    tau: Any
    inverse_std: Any
    unit: Any
    q_unit: Any
    uniform: Any


class Origin(NamedTuple):
    """The term from whose exponent all others are computed, about the largest term: its bin; z and its side, as
    `bin_place` returns them; the derivative of z by the distance of another term, or 0 where that is not linear; and
    its q."""

    bin: Any
    z: Any
    side: Any
    along: Any
    q: Any


class Window(NamedTuple):
    """The window of the bumps of some draws: the distance from the origin to the first point, or to the beginning of
    the first panel; the distance of two points in bins, or the length of a panel; the number of points; the number of
    panels of Gauss–Legendre nodes, or 0; and whether a correction is needed at its low and at its high end."""

    offset: Any
    step: Any
    points: Any
    panels: Any
    cut_low: Any
    cut_high: Any


@triton.jit
def reach(beyond, s):
    """How far from an end of [−1, 1] a window reaches if the peak lies beyond this end."""
    over = tl.where(beyond > 0.0, beyond, 0.0)
    rest = _REACH * s * _REACH * s
    return rest / (over + tl.sqrt(over * over + rest))


@triton.jit
def find_origin(terms, eps, C):
    """The origin for draws about eps: the bin of the mean, in which z is 0, or the largest of the other bins. The edges
    of these are half a bin nearer to the mean than their centres."""
    half: tl.constexpr = 1.0 / C.K
    to_mean = terms.mean - terms.x
    by_mean, by_eps, _ = bump(terms)
    peak = terms.x + by_mean * (to_mean - clamp(to_mean, -half, half)) + by_eps * eps
    own, other = origin_at(terms, index(terms.mean, C.K), C), origin_at(terms, index(peak, C.K), C)
    is_own = log_origin(own, eps) > log_origin(other, eps)
    chosen = ()
    for i in tl.static_range(5):
        chosen += (tl.where(is_own, own[i], other[i]),)
    return Origin(chosen[0], chosen[1], chosen[2], chosen[3], chosen[4])


@triton.jit
def origin_at(terms, bin, C):
    left, right = edges_at(terms, bin, bin * 0.0, C)
    z, width = 0.5 * (left + right), 2.0 * terms.unit
    if C.CLIP:  # an end bin has one edge
        at_low, at_high = bin == 0.0, bin == C.K - 1.0
        left, right = tl.where(at_low, -1e30, left), tl.where(at_high, 1e30, right)
        width = tl.where(at_low | at_high, 1e30, width)
    z, side = bin_place(left, right, z, width)
    along = tl.where(terms.uniform | (side != 0.0), 0.0, 2.0 * terms.unit)
    q = to_centre(origin_of(terms.x, C.K), bin, C.K) * terms.q_unit
    return Origin(bin, tl.where(terms.uniform, 0.0, z), side, along, q)


@triton.jit
def log_origin(origin, eps):
    """ln of the origin's term without its mass."""
    return origin.q * (eps - 0.5 * origin.q) - 0.5 * origin.z * origin.z


@triton.jit
def bump(terms):
    """The derivatives of the bump's peak by the mean and by eps, and its width s."""
    std = tl.where(terms.uniform, 1e9, terms.std)
    variance = std * std + terms.tau * terms.tau
    s = std * terms.tau / tl.sqrt(variance)
    return terms.tau * terms.tau / variance, std * std / variance * terms.tau, s


@triton.jit
def find_window(terms, bin, least, most, C):
    """The window for all draws with an eps from `least` to `most`. bin: its origin."""
    x = terms.x
    first: tl.constexpr = 1.0 if C.CLIP else 0.0
    last: tl.constexpr = C.K - 1.0 - first
    zero, no = x * 0.0, tl.full(x.shape, False, tl.int1)
    if x.dtype == tl.float64 or last < first:  # in float64 the difference between two rules would show
        return Window(first - bin, zero + 1.0, zero + (last - first + 1.0), zero, no, no)
    else:
        by_mean, by_eps, s = bump(terms)
        centre = x + by_mean * (terms.mean - x)
        low_peak, high_peak = centre + by_eps * least, centre + by_eps * most
        # the window has one bin more on each side than the bumps need
        low = position(clamp(low_peak, -1.0, 1.0) - reach(low_peak - 1.0, s), C.K) - 1.5
        high = position(clamp(high_peak, -1.0, 1.0) + reach(-1.0 - high_peak, s), C.K) + 0.5
        cut_low, cut_high = low <= first - 0.5, high >= last + 0.5
        begin, end = tl.where(cut_low, first - 0.5, low), tl.where(cut_high, last + 0.5, high)
        start = clamp(tl.floor(begin + 0.5), first, last)
        whole = clamp(tl.floor(end + 0.5), first, last) - start + 1.0
        width = s * (0.5 * C.K)  # of the bump, in bins
        lengths = (end - begin) / (_PANEL * width)  # of panels
        slope_low, slope_high = tl.where(cut_low, -1.0 - low_peak, 0.0), tl.where(cut_high, high_peak - 1.0, 0.0)
        nodes = (cut_low | cut_high) & (width >= _LEAST_WIDTH) & (whole > NODES * (lengths + 1.0))
        nodes = nodes & (tl.maximum(slope_low, slope_high) <= _LARGEST_SLOPE * width * s)
        step = tl.where((cut_low | cut_high) | ~(_STEP * width > 1.0), 1.0, _STEP * width)
        # A quotient may be off in the last place. Beyond a cut there is no bin for one more point.
        steps = tl.where(step == 1.0, whole - 1.0, (whole - 1.0) / step)
        pieces = tl.ceil(tl.where(nodes, lengths, steps))
        points = tl.where(nodes, NODES * pieces, pieces + 1.0)
        step = tl.where(nodes, (end - begin) / pieces, step)
        points, panels = tl.where(points >= 0.0, points, 1.0), tl.where(nodes, pieces, 0.0)
        offset = tl.where(nodes, begin, start) - bin
        return Window(offset, step, points, panels, cut_low & nodes, cut_high & nodes)


@triton.jit
def edges_at(terms, bin, distance, C):
    """The edges, in units of std, of the bin at a distance from `bin`, which may lie between two bins. Each edge is
    computed from a whole number of bins, since its rounding error is divided by a small std."""
    leading, trailing = origin_of(terms.mean, C.K)
    whole = tl.floor(distance)
    fraction = 2.0 * (distance - whole) - trailing
    edge = 2.0 * (bin + whole) - C.K
    return (edge - leading + fraction) * terms.unit, (edge + 2.0 - leading + fraction) * terms.unit
