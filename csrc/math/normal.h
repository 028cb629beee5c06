// The standard normal: its density phi, its distribution function Phi, and the probability of an interval. Each
// function keeps its relative precision far from 0.
#pragma once

#include "elementary.h"

namespace bfn {

// The Mills ratio, with the density's constant left out: Phi(-z) = exp(-z^2/2) mills(z) for z >= 0. In float it is
// t P(t) with t = 1/(1 + 0.3z) and a polynomial P. The error is 2e-8.
BFN_HD float mills(float z) {
  const float t = reciprocal(1.0f + 0.3f * z);
  float p = -0.010760636f;
  p = p * t + 0.038807508f;
  p = p * t - 0.030210897f;
  p = p * t - 0.032942172f;
  p = p * t + 0.023566415f;
  p = p * t + 0.015509112f;
  p = p * t + 0.060739022f;
  p = p * t + 0.086990468f;
  p = p * t + 0.10893643f;
  p = p * t + 0.11968205f;
  p = p * t + 0.11968268f;
  return p * t;
}

BFN_HD double mills(double z) {
  if (z < 20) return 0.5 * ::erfc(z * 0.70710678118654752440) * ::exp(0.5 * z * z);
  const double w = 1 / (z * z);  // the error of the asymptotic series is 3e-15 at z = 20
  const double series = 1 - w * (1 - w * (3 - w * (15 - w * (105 - w * (945 - w * (10395 - w * 135135))))));
  return series / (z * kSqrtTwoPi);
}

// Phi(z) - 1/2 for z >= 0, given mass = Phi(-z). In float the mass has an error of 1e-7. So near 0 the result is an odd
// polynomial instead of 1/2 - mass. The error of the polynomial is 8e-10.
BFN_HD float within(float z, float mass) {
  const float s = z * z;
  float p = -7.66260867e-06f;
  p = p * s + 0.00011350748f;
  p = p * s - 0.00118634853f;
  p = p * s + 0.00997333011f;
  p = p * s - 0.0664903608f;
  p = p * s + 0.39894228f;
  return z < 1.0f ? z * p : 0.5f - mass;
}

BFN_HD double within(double, double mass) { return 0.5 - mass; }

// The density, Phi(-z) and the integral of Phi from -infinity to -z, for z >= 0.
template <class T>
struct Tail {
  T density, mass, integral;
};

// The tail at z >= 0, given e = exp(-z^2/2).
template <class T>
BFN_HD Tail<T> tail(T z, T e) {
  const T scale = static_cast<T>(1 / kSqrtTwoPi), ratio = mills(z);
  return {e * scale, e * ratio, e * (scale - z * ratio)};
}

template <class T>
BFN_HD Tail<T> tail(T z) {
  return tail(z, exp_term(T(-0.5) * z * z));
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

// The probability of an interval is exp(-z^2/2) (front - lost). The normal density at an end is exp(-z^2/2) times
// `left` or `right`. So nothing underflows if the interval is far from 0.
template <class T>
struct ScaledInterval {
  T z, front, lost, left, right;
};

// Phi(right) - Phi(left), given the exact width = right - left and middle = (left + right)/2. If both ends have the
// same sign, the probability is computed from the tail at the end nearer to 0, so that nothing cancels. The function
// has no branches, so that loops over it are vectorised.
template <class T>
BFN_HD ScaledInterval<T> scaled_interval(T left, T right, T middle, T width) {
  const T scale = static_cast<T>(1 / kSqrtTwoPi);
  const bool astride = (left <= T(0)) & (right >= T(0)), above = left > T(0);
  const T near = astride ? -left : above ? left : -right, far = astride ? right : above ? right : -left;
  const T near_mills = mills(near), far_mills = mills(far);
  // The densities at both ends; if the ends have the same sign, they are divided by the density at the nearer end.
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
