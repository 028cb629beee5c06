"""k = Σ p_k c_k, the mean of the output distribution, in Triton: csrc/math/expected_value.h again.

The inner edges are a uniform grid, so that sums over them cost the same for every K: few of them are summed as they
are, many by Euler–Maclaurin, and where std is large by a Taylor series.
"""

import triton
import triton.language as tl

from bfn_kernels.discretised.triton_bins import TINY_TOTAL, centre, index, origin_of, position, to_edge
from bfn_kernels.triton_ops.elementary import clamp
from bfn_kernels.triton_ops.normal import tail


@triton.jit
def _edge_sum(mean, std, counted, most, K: tl.constexpr):
    """Sums over as many edges as each variable counts of those nearest to the mean: base and shift of k, and its
    derivatives. An edge left of the mean counts 0 in the base and Φ(z) in the shift, one right of it 1 and Φ(z) − 1."""
    origin, unit, below = origin_of(mean, K), 1.0 / (K * std), index(mean, K)
    first = clamp(tl.floor(position(mean, K) - 3.0 * K * std) + 1.0, 1.0, K - counted)
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
def _end_correction(z, phi, r):
    """Euler–Maclaurin's corrections at an end, to ΣΦ, Σφ and Σzφ with the step r: over m = 1..4,
    B_2m/(2m)!·r^(2m−1)·f^(2m−1)(z), by Hermite polynomials."""
    far = clamp(z, -14.0, 14.0)  # where φ is 0, He must not be infinite
    c0 = 1.0 / 12
    r2 = r * r
    c1, c2, c3 = -r2 / 720, r2 * r2 / 30240, -r2 * r2 * r2 / 1209600
    he1 = far
    he2 = far * he1 - 1.0
    he3 = far * he2 - 2.0 * he1
    he4 = far * he3 - 3.0 * he2
    he5 = far * he4 - 4.0 * he3
    he6 = far * he5 - 5.0 * he4
    he7 = far * he6 - 6.0 * he5
    he8 = far * he7 - 7.0 * he6
    scale = r * phi
    cdf = scale * (c0 + c1 * he2 + c2 * he4 + c3 * he6)
    density = -scale * (c0 * he1 + c1 * he3 + c2 * he5 + c3 * he7)
    moment = -scale * (c0 * he2 + c1 * he4 + c2 * he6 + c3 * he8)
    return cdf, density, moment


@triton.jit
def _smooth_sum(mean, std, K: tl.constexpr):
    """2h ≤ std < 2. By the symmetry in the mean no tail is 1 minus little."""
    h: tl.constexpr = 2.0 / K
    r, m = h / std, tl.abs(mean)
    sign = tl.where(mean < 0.0, -1.0, 1.0)
    low, high = (h - 1.0 - m) / std, (1.0 - h - m) / std  # the first edge and the last
    beyond = high < 0.0  # the mean lies right of every edge
    a_phi, a_mass, a_integral = tail(-low)
    c_phi, c_mass, c_integral = tail(tl.abs(high))
    low_cdf, low_density, low_moment = _end_correction(low, a_phi, r)
    high_cdf, high_density, high_moment = _end_correction(high, c_phi, r)
    shift = std * (a_integral - c_integral) - h / 2 * (a_mass + tl.where(beyond, c_mass, -c_mass))
    shift -= h * (high_cdf - low_cdf)
    by_mean = (tl.where(beyond, c_mass, 1.0 - c_mass) - a_mass) + r / 2 * (a_phi + c_phi)
    by_mean += r * (high_density - low_density)
    by_std = a_phi - c_phi + r / 2 * (low * a_phi + high * c_phi) + r * (high_moment - low_moment)
    base = tl.where(beyond, centre(m * 0.0 + (K - 1.0), K), m)
    return sign * base, sign * shift, by_mean, sign * by_std


@triton.jit
def _wide_term(sums, terms, far, w, n: tl.constexpr, moment: tl.constexpr):
    power, before, he = terms
    power *= w / ((2 * n - 1) * (2 * n))
    value = sums[0] + power * moment * before
    by_mean = sums[1] + power * moment * he
    before = far * he - (2 * n) * before
    by_std = sums[2] + power * moment * before
    return (value, by_mean, by_std), (power, before, far * before - (2 * n + 1) * he)


@triton.jit
def _wide_sum(mean, std, K: tl.constexpr):
    """std ≥ 2: a Taylor series about the middle of the edges, with m_p the sum of h·b_j^p."""
    h: tl.constexpr = 2.0 / K
    h2: tl.constexpr = h * h
    m0: tl.constexpr = 2.0 - h
    z, w = -mean / std, 1.0 / (std * std)
    phi, mass, _ = tail(tl.abs(z))
    far = clamp(z, -14.0, 14.0)
    sums = far * 0.0, far * 0.0 + m0, m0 * far
    terms = far * 0.0 + 1.0, far, far * far - 1.0
    sums, terms = _wide_term(sums, terms, far, w, 1, 2.0 / 3 - h + h2 / 3)
    sums, terms = _wide_term(sums, terms, far, w, 2, 2.0 / 5 - h + h2 * (2.0 / 3 - h2 / 15))
    sums, terms = _wide_term(sums, terms, far, w, 3, 2.0 / 7 - h + h2 * (1 - h2 * (1.0 / 3 - h2 / 21)))
    m4: tl.constexpr = 2.0 / 9 - h + h2 * (4.0 / 3 - h2 * (14.0 / 15 - h2 * (4.0 / 9 - h2 / 15)))
    sums, terms = _wide_term(sums, terms, far, w, 4, m4)
    value, by_mean, by_std = sums
    half = tl.where(z < 0.0, 0.5 - mass, mass - 0.5)
    return m0 * half, phi * value, phi * by_mean / std, phi * by_std / std


@triton.jit
def _renormalised(base, shift, by_mean, by_std, mean, std, K: tl.constexpr):
    """From the clipped distribution's k at |mean| to the unclipped one's: without the end bins' mass beyond [−1, 1],
    over the mass inside; 0 where next to nothing is. Its distance from the last centre is what does not cancel."""
    m = tl.abs(mean)
    last = centre(m * 0.0 + (K - 1.0), K)
    sign = tl.where(mean < 0.0, -1.0, 1.0)
    low, high = (-1.0 - m) / std, (1.0 - m) / std
    a_phi, a_mass, _ = tail(-low)
    c_phi, c_mass, _ = tail(tl.abs(high))
    total = tl.where(high < 0.0, c_mass, 1.0 - c_mass) - a_mass
    tiny = total < TINY_TOTAL
    total = tl.where(tiny, 1.0, total)
    excess = ((base - last) + shift + 2.0 * last * a_mass) / total
    value = last + excess
    by_mean = by_mean * std + excess * c_phi - (value + last) * a_phi
    by_std = by_std * std + excess * high * c_phi - (value + last) * low * a_phi
    scale = 1.0 / (total * std)
    zero = value * 0.0
    by_mean, by_std = tl.where(tiny, 0.0, by_mean * scale), tl.where(tiny, 0.0, sign * by_std * scale)
    return zero, tl.where(tiny, 0.0, sign * value), by_mean, by_std


@triton.jit
def _any(condition):
    return tl.max(condition.to(tl.int32), 0) > 0


@triton.jit
def expected_value(mean, std, K: tl.constexpr, CLIP: tl.constexpr):
    """k = Σ p_k c_k in two parts, base and shift, since losses take its difference from x, and its derivatives. Each
    rule runs where a variable of the block wants it."""
    h: tl.constexpr = 2.0 / K
    if mean.dtype == tl.float64:  # no rule shows as a step
        base, shift, by_mean, by_std = _edge_sum(mean if CLIP else tl.abs(mean), std, K - 1.0, K - 1, K)
    else:
        m = mean if CLIP else tl.abs(mean)
        base, shift, by_mean, by_std = m, m * 0.0 + std * 0.0, m * 0.0, m * 0.0
        counted = tl.where(std < h / 2, 7.0, tl.where(std < h, 13.0, 25.0))
        counted = tl.where(counted < K - 1.0, counted, K - 1.0)
        narrow, wide = std < 2 * h, std >= 2.0
        wide = wide & ~narrow
        smooth = ~(narrow | wide)
        if _any(narrow):
            most = tl.max(tl.where(narrow, counted, 0.0), 0).to(tl.int32)
            base_of, shift_of, by_mean_of, by_std_of = _edge_sum(m, std, counted, most, K)
            base, shift = tl.where(narrow, base_of, base), tl.where(narrow, shift_of, shift)
            by_mean, by_std = tl.where(narrow, by_mean_of, by_mean), tl.where(narrow, by_std_of, by_std)
        if _any(smooth):
            base_of, shift_of, by_mean_of, by_std_of = _smooth_sum(m, std, K)
            base, shift = tl.where(smooth, base_of, base), tl.where(smooth, shift_of, shift)
            by_mean, by_std = tl.where(smooth, by_mean_of, by_mean), tl.where(smooth, by_std_of, by_std)
        if _any(wide):
            base_of, shift_of, by_mean_of, by_std_of = _wide_sum(m, std, K)
            base, shift = tl.where(wide, base_of, base), tl.where(wide, shift_of, shift)
            by_mean, by_std = tl.where(wide, by_mean_of, by_mean), tl.where(wide, by_std_of, by_std)
    if CLIP:
        return base, shift, by_mean, by_std
    else:
        return _renormalised(base, shift, by_mean, by_std, mean, std, K)
