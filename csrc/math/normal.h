// The standard normal: its density phi, its distribution function Phi, and the probability of an interval. Densities
// and probabilities keep their relative precision far from 0.
#pragma once

#include "elementary.h"

namespace bfn {

// Phi(-z) / exp(-z^2/2) for z >= 0, which is the Mills ratio divided by sqrt(2 pi). In float it is u P(u) with
// u = 1/(z + 10/3) and a polynomial P, whose relative error is 7e-8.
BFN_HD float mills(float z) {
  const float u = reciprocal(z + 3.3333333f);
  float p = fused(-6074.4106f, u, 6572.0854f);
  p = p * u - 1534.8726f;
  p = p * u - 502.09073f;
  p = p * u + 107.75681f;
  p = p * u + 21.274502f;
  p = p * u + 24.995481f;
  p = p * u + 10.739564f;
  p = p * u + 4.0346827f;
  p = p * u + 1.3298006f;
  p = p * u + 0.39894226f;
  return p * u;
}

BFN_HD double mills(double z) {
  if (z < 20) return 0.5 * ::erfc(z * 0.70710678118654752440) * ::exp(0.5 * z * z);
  const double w = 1 / (z * z);  // the error of the asymptotic series is 3e-15 at z = 20
  const double series = 1 - w * (1 - w * (3 - w * (15 - w * (105 - w * (945 - w * (10395 - w * 135135))))));
  return series / (z * kSqrtTwoPi);
}

// Phi(z) - 1/2 for |z| <= 1.15: z times a polynomial in z^2. The absolute error is 2e-9.
template <class T>
struct NearZero {
  BFN_HD static T coefficient(int k) {
    const T c[6] = {T(0.398942262),    T(-0.0664900318),  T(0.00997168291),
                    T(-0.00118299352), T(0.000110514469), T(-6.6877551e-06)};
    return c[k];
  }
  BFN_HD static T mass(T z) {
    T p = coefficient(5);
    for (int k = 4; k >= 0; --k) p = fused(p, z * z, coefficient(k));
    return z * p;
  }
  // (G(y) - G(z))/(y^2 - z^2), where G(z) is the integral of mass from 0 to z. Nothing cancels (Horner's scheme twice).
  BFN_HD static T integral_slope(T y, T z) {
    T p = coefficient(5) / 12, slope = p;
    for (int k = 4; k >= 0; --k) {
      p = fused(p, z * z, coefficient(k) / static_cast<T>(2 * k + 2));
      slope = fused(slope, y * y, p);
    }
    return slope;
  }
};

// Phi(z) - 1/2 for z >= 0, given mass = Phi(-z). In float the mass has an absolute error of 1e-7, which is too much for
// the small result near 0.
BFN_HD float within(float z, float mass) { return z < 1.0f ? NearZero<float>::mass(z) : 0.5f - mass; }
BFN_HD double within(double, double mass) { return 0.5 - mass; }

// The density, Phi(-z) and the integral of Phi from -infinity to -z, for z >= 0.
template <class T>
struct Tail {
  T density, mass, integral;
};

template <class T>
BFN_HD Tail<T> tail(T z) {
  const T scale = static_cast<T>(1 / kSqrtTwoPi), ratio = mills(z);
  const T e = exp2_term(static_cast<T>(-0.5 / kLogOfTwo) * z * z);
  return {e * scale, e * ratio, e * fused(-z, ratio, scale)};
}

// The logarithm of an interval's probability, and its derivatives by the two ends.
template <class T>
struct LogInterval {
  T value, by_left, by_right;
};

// ln Phi(z). Its derivative is by_right.
template <class T>
BFN_HD LogInterval<T> log_cdf(T z) {
  const T ratio = mills(abs(z)), exponent = T(-0.5) * z * z, e = exp(exponent);
  const T scale = static_cast<T>(1 / kSqrtTwoPi);
  if (z < T(0)) return {exponent + log(ratio), T(0), scale / ratio};
  const T tail = e * ratio;
  return {log1p(-tail), T(0), scale * e / (T(1) - tail)};
}

// An interval at the distance z from 0. Its probability is exp(-z^2/2) (front - lost). The normal density is
// exp(-z^2/2) left at its left end, and exp(-z^2/2) right at its right end. Far from 0 the probability would underflow,
// but `front` does not.
template <class T>
struct ScaledInterval {
  T z, front, lost, left, right;
};

// Phi(right) - Phi(left), given the exact width = right - left and middle = (left + right)/2. If both ends have the
// same sign, the probability is the difference of the tails on their side of 0, not of two numbers near 1. The function
// has no branches, so that loops over it are vectorised.
template <class T>
BFN_HD ScaledInterval<T> scaled_interval(T left, T right, T middle, T width) {
  const T scale = static_cast<T>(1 / kSqrtTwoPi);
  const bool astride = (left <= T(0)) & (right >= T(0)), above = left > T(0);
  const T near = astride ? -left : above ? left : -right, far = astride ? right : above ? right : -left;
  const T near_mills = mills(near), far_mills = mills(far);
  // exp(-x^2/2) at both ends x. If the ends have the same sign, it is divided by its value at the nearer end.
  const T at_near = astride ? exp_term(T(-0.5) * near * near) : T(1);
  const T at_far = exp_term(astride ? T(-0.5) * far * far : -width * abs(middle));
  const T beyond_far = at_far * far_mills;
  const bool in_order = astride | above;
  return {astride ? T(0) : near, astride ? T(1) : near_mills, astride ? at_near * near_mills + beyond_far : beyond_far,
          scale * (in_order ? at_near : at_far), scale * (in_order ? at_far : at_near)};
}

// ln of the probability of an interval, as scaled_interval computes it.
template <class T>
BFN_HD LogInterval<T> log_interval(T left, T right, T middle, T width) {
  const ScaledInterval<T> p = scaled_interval(left, right, middle, width);
  const T missing = p.lost / p.front, inverse = 1 / (p.front * (T(1) - missing));
  return {log1p(-missing) + (T(-0.5) * p.z * p.z + log(p.front)), -p.left * inverse, p.right * inverse};
}

}  // namespace bfn
