"""k̂ = Σ p_k c_k, the mean of the output distribution, in Triton, the counterpart of csrc/math/expected_value.h.

p_k is the probability of bin k, c_k its centre, and h = 2/K its width. φ and Φ are the density and the distribution
function of the standard normal. For a clipped distribution, k̂ = (1 − 1/K) − h·Σ Φ(z_j) over the inner edges b_j of the
bins, with z_j = (b_j − mean)/std. The edges are a uniform grid, so that one of several rules can compute the sum. For a
tiny std, the rule adds the few edges near the mean one by one. Otherwise, if the mean is far from both ends of the
edges, the rule is a Fourier series. Near an end, it again adds edges if the std is small, or is Euler–Maclaurin's
formula or, for a large std, a Taylor series. So in float32 the cost does not grow with K. In float64 all edges are
added. In both types, a wide unclipped distribution has another series.
"""

import triton
import triton.language as tl

from bfn_kernels.discretised.triton_bins import (
    TINY_TOTAL,
    centre,
    index,
    needed,
    origin_of,
    position,
    std_of_finite,
    to_centre,
    to_edge,
)
from bfn_kernels.triton_ops.elementary import at_least_tiny, clamp, exp2_term, reciprocal, sincospi, square
from bfn_kernels.triton_ops.normal import integral_slope, mass_near_zero, tail, within

# If std < FOUR·h, or near an end std < SMOOTH·h, the edges within REACH·std of the mean are summed, at least FEWEST
# edges. For edges farther away, zφ is at most 4e-8. If std ≥ WIDE, a Taylor series is used, since the terms of
# Euler–Maclaurin would cancel.
REACH, FEWEST, FOUR, SMOOTH, WIDE = map(tl.constexpr, (6.0, 4, 1 / 3, 1.75, 4.0))
FLAT = tl.constexpr(1.15)  # if all edges are within so many std of the mean, differences of tails would cancel
BERNOULLI = (  # B_2m/(2m)!, m = 1..12
    1 / 12, -1 / 720, 1 / 30240, -1 / 1209600, 1 / 47900160, -5.2841901386874932e-10, 1.3382536530684679e-11,
    -3.3896802963225829e-13, 8.5860620562778446e-15, -2.1748686985580619e-16, 5.5090028283602295e-18,
    -1.3954464685812523e-19,
)  # fmt: skip
# The numbers of terms of Euler–Maclaurin and of the Taylor series, for errors of 1e-8 at SMOOTH and at WIDE.
CORRECTIONS, SERIES = tl.constexpr(4), tl.constexpr(4)
_PI = 3.14159265358979323846
_TWO_OVER_PI, _FOUR_PI = tl.constexpr(2 / _PI), tl.constexpr(4 * _PI)
_EXPONENT = tl.constexpr(-28.477658649975013)  # −2π²/ln 2
# The series of wide unclipped distributions: the number of terms of each of its sums, and the least std for which it is
# used. At this std its error is 1e-9 in float32, and 1e-16 in float64.
UNCLIPPED_SERIES, UNCLIPPED_WIDE, UNCLIPPED_WIDE_FLOAT64 = tl.constexpr(12), tl.constexpr(1.0), tl.constexpr(2.0)


@triton.jit
def _edges_left_of(mean, K: tl.constexpr):
    """The number of inner edges left of the mean. `index` may round the mean into a neighbouring bin. This is
    corrected, since with a small std it matters on which side of an edge the mean lies."""
    origin, bin = origin_of(mean, K), index(mean, K)
    down = tl.where(to_edge(origin, bin, K) > 0.0, 1.0, 0.0)
    up = tl.where(to_edge(origin, bin + 1.0, K) < 0.0, 1.0, 0.0)
    return clamp(bin - down + up, 0.0, K - 1.0)


@triton.jit
def _edge_sum(mean, std, counted, most, K: tl.constexpr):
    """The base and shift of k̂ (see `expected_value`) and its derivatives, from a sum over the `counted` edges nearest
    to the mean. most: the largest `counted` in the block. Of ΣΦ(z), the base has 0 for an edge left of the mean and 1
    for an edge right of it, and the shift has the rest."""
    origin, unit, below = origin_of(mean, K), reciprocal(K * std), _edges_left_of(mean, K)
    first = clamp(tl.floor(position(mean, K) - std * (REACH * K * 0.5)) + 1.0, 1.0, K - counted)
    shift, density, moment = mean * 0.0, mean * 0.0, mean * 0.0
    for i in range(most):
        j = first + i
        z = to_edge(origin, j, K) * unit
        phi, mass, _ = tail(tl.abs(z))
        phi = tl.where(i < counted, phi, 0.0)
        shift += tl.where(i < counted, tl.where(j > below, mass, -mass), 0.0)
        density += phi
        moment += z * phi
    return centre(below, K), (2.0 / K) * shift, 2.0 * unit * density, 2.0 * unit * moment


@triton.jit
def _inside_sum(mean, std, K: tl.constexpr):
    """The base, shift and derivatives of k̂ for std ≥ FOUR·h as if the grid of edges had no ends. The sums are periodic
    in the mean. In their Fourier series [derived], term n has the factor q^(n²), so that two terms suffice."""
    steps = std * (0.5 * K)
    q = exp2_term(steps * steps * _EXPONENT)
    q4 = square(square(q))
    sine, cosine = sincospi(-to_centre(origin_of(mean, K), index(mean, K), K))
    shift = sine * (q4 * cosine - q) * (_TWO_OVER_PI / K)
    by_mean = 1.0 + 2.0 * (q4 * (2.0 * cosine * cosine - 1.0) - q * cosine)
    return mean, shift, by_mean, steps * sine * (q - 4.0 * q4 * cosine) * _FOUR_PI


@triton.constexpr_function
def _bernoulli(i):
    return BERNOULLI[i]


@triton.jit
def _end_correction(z, phi, r):
    """Euler–Maclaurin's corrections at an end of the sums ΣΦ, Σφ and Σzφ with the step r: the sum over m of
    B_2m/(2m)!·r^(2m−1)·f^(2m−1)(z). The derivatives f^(2m−1) are Hermite polynomials times φ."""
    far = clamp(z, -14.0, 14.0)  # φ is 0 for |z| > 14, where He could be infinite
    cdf, density, moment = far * 0.0, far * 0.0, far * 0.0
    power, even, odd = r * phi, far * 0.0 + 1.0, far  # He_2m−2 and He_2m−1
    for i in tl.static_range(CORRECTIONS):
        term = power * _bernoulli(i)
        cdf += term * even
        density -= term * odd
        even = far * odd - (2 * i + 1) * even
        moment -= term * even
        odd = far * even - (2 * i + 2) * odd
        power *= r * r
    return cdf, density, moment


@triton.jit
def _between(below, below_mass, above, above_mass):
    """Φ(above) − Φ(−below) for below ≥ 0, from the masses of the two tails."""
    inside = within(below, below_mass) + within(tl.abs(above), above_mass)
    return tl.where(above < 0.0, above_mass - below_mass, inside)


@triton.jit
def _smooth_sum(mean, std, K: tl.constexpr):
    """The base, shift and derivatives of k̂ by Euler–Maclaurin. They are computed for |mean|, so that no tail is near
    1."""
    h: tl.constexpr = 2.0 / K
    unit, m = reciprocal(std), tl.abs(mean)
    r = h * unit
    sign = tl.where(mean < 0.0, -1.0, 1.0)
    low, high = (h - 1.0 - m) * unit, (1.0 - h - m) * unit  # the first edge and the last one, in units of std
    beyond = high < 0.0  # whether the mean is right of all edges
    a_phi, a_mass, a_integral = tail(-low)
    c_phi, c_mass, c_integral = tail(tl.abs(high))
    low_cdf, low_density, low_moment = _end_correction(low, a_phi, r)
    high_cdf, high_density, high_moment = _end_correction(high, c_phi, r)
    # base + shift is k̂ with an integral in the place of the sum of Φ. `mass` and `fall` are the integrals of φ and zφ.
    # `ends` is the sum of Φ at the first and at the last edge, minus 1 unless the mean is right of all edges.
    base, shift = tl.where(beyond, centre(m * 0.0 + (K - 1.0), K), m), std * (a_integral - c_integral)
    mass, ends = tl.where(beyond, c_mass, 1.0 - c_mass) - a_mass, tl.where(beyond, c_mass, -c_mass) + a_mass
    fall = a_phi - c_phi
    flat = -low < FLAT
    if needed(flat):
        to_low, to_high = mass_near_zero(-low), mass_near_zero(high)
        between = m * unit * (4.0 * (1.0 - h)) * integral_slope(-low, high)
        base, shift = tl.where(flat, 0.0, base), tl.where(flat, between, shift)
        mass, ends = tl.where(flat, to_low + to_high, mass), tl.where(flat, to_high - to_low, ends)
        fall = tl.where(flat, between * unit + low * to_low + high * to_high, fall)
    shift -= h * (0.5 * ends + (high_cdf - low_cdf))
    by_mean = mass + 0.5 * r * (a_phi + c_phi) + r * (high_density - low_density)
    by_std = fall + 0.5 * r * (low * a_phi + high * c_phi) + r * (high_moment - low_moment)
    return sign * base, sign * shift, by_mean, sign * by_std


@triton.constexpr_function
def _moment(K, p):
    """Σ h·b_j^p over the inner edges for even p, by Euler–Maclaurin, which is exact for polynomials."""
    h, derivative, total = 2 / K, p, 2 / (p + 1) - 2 / K
    for m, coefficient in enumerate(BERNOULLI[: p // 2]):
        total += coefficient * h ** (2 * m + 2) * 2 * derivative
        derivative *= (p - 2 * m - 1) * (p - 2 * m - 2)
    return total


@triton.jit
def _wide_sum(mean, std, K: tl.constexpr):
    """The base, shift and derivatives of k̂ by a Taylor series of Φ about z = −mean/std, the middle of the edges. With
    m_p = Σ h·b_j^p, k̂ = −Σ over even p of Φ^(p)(z)/p!·m_p/std^p, where the first term has Φ − ½ instead of Φ."""
    m0: tl.constexpr = _moment(K, 0)
    unit = reciprocal(std)
    z, w = -mean * unit, unit * unit
    phi, mass, _ = tail(tl.abs(z))
    far = clamp(z, -14.0, 14.0)
    value, by_mean, by_std = far * 0.0, far * 0.0 + m0, m0 * far
    power, odd, even = far * 0.0 + 1.0, far, far * far - 1.0
    for n in tl.static_range(1, SERIES):
        power *= w * (1.0 / ((2 * n - 1) * (2 * n)))
        term = power * _moment(K, 2 * n)
        value += term * odd
        by_mean += term * even
        odd = far * even - (2 * n) * odd
        by_std += term * odd
        even = far * odd - (2 * n + 1) * even
    half = within(tl.abs(z), mass)
    return m0 * tl.where(z < 0.0, half, -half), phi * value, phi * by_mean * unit, phi * by_std * unit


@triton.constexpr_function
def _factorial(n):
    product = 1
    for k in range(2, n + 1):
        product *= k
    return product


@triton.constexpr_function
def _moment_of_bins(K, n):
    """Σ c_k·∫ x^n/n! over bin k for odd n, by Euler–Maclaurin, which is exact for polynomials."""
    corrections = (
        coefficient * (2 / K) ** (2 * m) / _factorial(n + 2 - 2 * m)
        for m, coefficient in enumerate(BERNOULLI[: (n + 1) // 2], 1)
    )
    return 2 * (n + 1) / _factorial(n + 2) - 2 * sum(corrections)


@triton.constexpr_function
def _moment_of_all(n):
    """∫ x^n/n! over [−1, 1] for even n."""
    return 2 / _factorial(n + 1)


@triton.jit
def _wide_series(mean, std, K: tl.constexpr):
    """The base 0, k̂ as the shift, and the derivatives of k̂ for a wide unclipped distribution, where `_renormalised`
    would divide a small difference by a small mass.

    With z = mean/std the density in [−1, 1] is proportional to exp(zx/std − x²/2std²) = Σ h_n·x^n/n!, h_n =
    He_n(z)/std^n. So k̂ is Σ h_n·_moment_of_bins(n) over odd n, divided by Σ h_n·_moment_of_all(n) over even n. k̂ is 0
    if the mass in [−1, 1] is tiny, as for every std from 8e4 on.
    """
    unit = reciprocal(std)
    w, z = unit * unit, clamp(mean * unit, -6.0, 6.0)
    slope = z * unit
    h, before, last = z * 0.0 + 1.0, z * 0.0, z * 0.0  # h_n, h_n−1 and h_n−2
    above, above_by_slope, above_by_w = z * 0.0, z * 0.0, z * 0.0  # the numerator of k̂ and its derivatives
    below, below_by_slope, below_by_w = z * 0.0, z * 0.0, z * 0.0  # the denominator
    for n in tl.static_range(0, 2 * UNCLIPPED_SERIES, 2):
        after = slope * h - n * w * before
        below += _moment_of_all(n) * h
        below_by_slope += _moment_of_all(n) * n * before
        below_by_w += _moment_of_all(n) * n * (n - 1) * last
        above += _moment_of_bins(K, n + 1) * after
        above_by_slope += _moment_of_bins(K, n + 1) * (n + 1) * h
        above_by_w += _moment_of_bins(K, n + 1) * (n + 1) * n * before
        last = h
        before = after
        h = slope * after - (n + 1) * w * h
    k = above / below
    by_slope = (above_by_slope - k * below_by_slope) / below
    by_w = -0.5 * (above_by_w - k * below_by_w) / below
    phi, _, _ = tail(tl.abs(z))
    tiny = phi * unit * below < TINY_TOTAL
    by_mean, by_std = w * by_slope, -2.0 * unit * (slope * by_slope + w * by_w)
    return z * 0.0, tl.where(tiny, 0.0, k), tl.where(tiny, 0.0, by_mean), tl.where(tiny, 0.0, by_std)


@triton.jit
def _renormalised(parts, mean, std, K: tl.constexpr):
    """k̂ of the unclipped distribution and its derivatives, from k̂ of the clipped distribution at |mean|.

    The first and the last bin lose the mass beyond [−1, 1], and the rest is divided by the mass in [−1, 1]. k̂ is 0 if
    this mass is tiny. If |mean| > 1, the distance of k̂ from the last centre is computed, since a sum for k̂ itself
    would cancel.
    """
    base, shift, by_mean, by_std = parts
    m = tl.abs(mean)
    last = centre(m * 0.0 + (K - 1.0), K)
    sign = tl.where(mean < 0.0, -1.0, 1.0)
    unit = reciprocal(std)
    low, high = (-1.0 - m) * unit, (1.0 - m) * unit
    a_phi, a_mass, _ = tail(-low)
    c_phi, c_mass, _ = tail(tl.abs(high))
    total = _between(-low, a_mass, high, c_mass)
    tiny = total < TINY_TOTAL
    total = tl.where(tiny, 1.0, total)
    excess = ((base - last) + shift + 2.0 * last * a_mass) / total
    inside = (base + (shift + last * (a_mass - c_mass))) / total
    value = tl.where(high < 0.0, last + excess, inside)
    by_mean = by_mean * std + excess * c_phi - (value + last) * a_phi
    by_std = by_std * std + excess * high * c_phi - (value + last) * low * a_phi
    scale = 1.0 / (total * std)
    zero = value * 0.0
    by_mean, by_std = tl.where(tiny, 0.0, by_mean * scale), tl.where(tiny, 0.0, sign * by_std * scale)
    return zero, tl.where(tiny, 0.0, sign * value), by_mean, by_std


@triton.jit
def _select(condition, new, old):
    """The base, shift and derivatives `new` where the condition is True, else `old`."""
    base, shift = tl.where(condition, new[0], old[0]), tl.where(condition, new[1], old[1])
    return base, shift, tl.where(condition, new[2], old[2]), tl.where(condition, new[3], old[3])


@triton.jit
def expected_value(mean, std, K: tl.constexpr, CLIP: tl.constexpr):
    """k̂ = Σ p_k c_k and its derivatives by mean and std. k̂ is the sum of two parts, base and shift, so that losses can
    compute (x − base) − shift, which does not cancel. In float32, a rule runs only if a variable of the block needs
    it."""
    h: tl.constexpr = 2.0 / K
    m, std = mean if CLIP else tl.abs(mean), at_least_tiny(std_of_finite(mean, std))
    if mean.dtype == tl.float64:  # all edges, since the rules below are not accurate enough for float64
        parts = _edge_sum(m, std, K - 1.0, K - 1, K)
    else:
        parts = m, m * 0.0 + std * 0.0, m * 0.0, m * 0.0
        counted = clamp(tl.floor(std * (REACH * K)) + 1.0, FEWEST, K - 1.0)
        tiny, far_from_ends = std < FOUR * h, tl.abs(m) + REACH * std < 1.0 - h
        wide = std >= (WIDE if CLIP else UNCLIPPED_WIDE)
        narrow = tiny | ((std < SMOOTH * h) & ~(far_from_ends | wide))
        inside = far_from_ends & ~tiny
        smooth = ~(narrow | inside | wide)
        if needed(narrow):
            most = tl.max(tl.where(narrow, counted, 0.0), 0).to(tl.int32)
            parts = _select(narrow, _edge_sum(m, std, counted, most, K), parts)
        if needed(inside):
            parts = _select(inside, _inside_sum(m, std, K), parts)
        if needed(smooth):
            parts = _select(smooth, _smooth_sum(m, std, K), parts)
        if CLIP and needed(wide):
            parts = _select(wide, _wide_sum(m, std, K), parts)
    if not CLIP:
        parts = _renormalised(parts, mean, std, K)
        wide = std >= (UNCLIPPED_WIDE_FLOAT64 if mean.dtype == tl.float64 else UNCLIPPED_WIDE)
        if needed(wide):
            parts = _select(wide, _wide_series(mean, std, K), parts)
    return parts
