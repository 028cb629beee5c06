// Sums over a uniform grid of edges by the Euler-Maclaurin formula: of Phi(z_j), phi(z_j) and z_j phi(z_j), where
// z_j = (b_j - mean)/std, h is the distance of two edges, and r = h/std. The sums are multiplied by h, r and r.
#pragma once

#include "normal.h"

namespace bfn {

// The Euler-Maclaurin terms at one end of the sums of Phi, phi and z phi. The terms without a derivative are included
// in the last two, times `half`, but not in the first.
template <class T>
struct EndTerms {
  T cdf, density, z_density;
};

// The Euler-Maclaurin corrections for the step r = h/std: the sum over m = 1..4 of B_2m/(2m)! r^(2m-1) f^(2m-1)(z). The
// derivatives of phi are Hermite polynomials times phi. So the sum is a polynomial in w = (r z)^2, whose coefficients
// are polynomials in r^2. Both ends use the same coefficients.
template <class T>
struct EulerMaclaurin {
  T r, cdf[4], density[4];

  BFN_HD explicit EulerMaclaurin(T step) : r(step) {
    const T v = r * r;
    cdf[0] = T(1.0 / 12) + v * (T(1.0 / 720) + v * (T(1.0 / 10080) + v * T(1.0 / 80640)));
    cdf[1] = T(-1.0 / 720) + v * (T(-1.0 / 5040) + v * T(-1.0 / 26880));
    cdf[2] = T(1.0 / 30240) + v * T(1.0 / 80640);
    cdf[3] = T(-1.0 / 1209600);
    density[0] = T(1.0 / 12) + v * (T(1.0 / 240) + v * (T(1.0 / 2016) + v * T(1.0 / 11520)));
    density[1] = T(-1.0 / 720) + v * (T(-1.0 / 3024) + v * T(-1.0 / 11520));
    density[2] = T(1.0 / 30240) + v * T(1.0 / 57600);
    density[3] = T(-1.0 / 1209600);
  }

  // The terms at the last edge, divided by r. The terms at the first edge follow by symmetry.
  BFN_HD EndTerms<T> at(T z, T phi, T half) const {
    const T zr = z * r, w = zr * zr;
    T c = cdf[3], d = density[3], slope = 7 * density[3];  // `slope` is the derivative of z d by z
    for (int k = 2; k >= 0; --k) {
      c = c * w + cdf[k];
      d = d * w + density[k];
      slope = slope * w + (2 * k + 1) * density[k];
    }
    const T inner = fused(-zr, d, half);
    return {phi * c, phi * inner, phi * (z * inner + r * slope)};
  }
};

// The sums over the edges from -end to `end`, for a std from 1.75h to 4. They are computed at m = |mean|. At a negative
// mean, Phi at the first edge could be near 1, and would have lost its digits.
template <class T>
struct SmoothSums {
  T unit, left, right;  // 1/std, and the distances of m from the first edge and of the last edge from m, times unit
  Tail<T> a, c;         // beyond the first edge, and beyond the last
  T base, integral;     // k of a clipped distribution is their sum and corrections; base is m, last_centre or 0
  T mass, fall;         // Phi at the last edge minus Phi at the first, and phi at the first minus phi at the last
  T ends;               // Phi at the last edge plus Phi at the first; if m is left of the last edge, this minus 1
  T cdf, density, z_density;  // the corrections

  // The distances are clamped where the density is almost 0. Otherwise w could be infinite, or the density subnormal.
  BFN_HD SmoothSums(T m, T std, T h, T end, T half, T last_centre)
      : unit(reciprocal(std)),
        left(at_most((end + m) * unit, T(10))),
        right(clamp((end - m) * unit, T(-10), T(10))),
        a(tail(left)),
        c(tail(abs(right))),
        base(right < T(0) ? last_centre : m),
        integral(std * (a.integral - c.integral)),
        mass((right < T(0) ? c.mass : 1 - c.mass) - a.mass),
        fall(a.density - c.density),
        ends((right < T(0) ? c.mass : -c.mass) + a.mass) {
    const T r = h * unit;
    const EulerMaclaurin<T> corrections(r);
    const EndTerms<T> first = corrections.at(left, a.density, half), last = corrections.at(right, c.density, half);
    cdf = r * (last.cdf - first.cdf);
    density = r * (last.density + first.density);
    z_density = r * (last.z_density - first.z_density);
    const bool flat = left < T(1.15);  // all edges are so near to m that the differences of tails would cancel
    if (!needed(flat)) return;
    using Near = NearZero<T>;
    const T to_left = Near::mass(left), to_right = Near::mass(right);
    const T between = 4 * end * m * unit * Near::integral_slope(left, right);
    base = flat ? T(0) : base;
    integral = flat ? between : integral;
    mass = flat ? to_left + to_right : mass;
    fall = flat ? fused(right, to_right, fused(-left, to_left, between * unit)) : fall;
    ends = flat ? to_right - to_left : ends;
  }
};

}  // namespace bfn
