// The standard normal: density, tails and the probability of an interval, each by a form that keeps its relative
// precision far out.
#pragma once

#include "elementary.h"

namespace bfn {

// Mills ratio by the density's exponential alone: Phi(-z) = exp(-z^2/2) mills(z), z >= 0. 2e-8: t P(t), t = 1/(1 +
// 0.3z).
BFN_HD float mills(float z) {
  const float t = 1.0f / (1.0f + 0.3f * z);
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
  const double w = 1 / (z * z);  // asymptotic: 3e-15 at 20
  const double series = 1 - w * (1 - w * (3 - w * (15 - w * (105 - w * (945 - w * (10395 - w * 135135))))));
  return series / (z * kSqrtTwoPi);
}

template <class T>
BFN_HD T density(T z) {
  return exp(T(-0.5) * z * z) * static_cast<T>(1 / kSqrtTwoPi);
}

// Phi(-|z|)
template <class T>
BFN_HD T smaller_tail(T z) {
  return exp(T(-0.5) * z * z) * mills(abs(z));
}

template <class T>
BFN_HD T cdf(T z) {
  const T tail = smaller_tail(z);
  return z < T(0) ? tail : T(1) - tail;
}

// A logarithm of a probability and its derivatives by the two ends of the interval.
template <class T>
struct LogInterval {
  T value, by_left, by_right;
};

// ln Phi(z), and its derivative as by_right.
template <class T>
BFN_HD LogInterval<T> log_cdf(T z) {
  const T ratio = mills(abs(z)), exponent = T(-0.5) * z * z, e = exp(exponent);
  const T scale = static_cast<T>(1 / kSqrtTwoPi);
  if (z < T(0)) return {exponent + log(ratio), T(0), scale / ratio};
  const T tail = e * ratio;
  return {log1p(-tail), T(0), scale * e / (T(1) - tail)};
}

// ln(Phi(right) - Phi(left)), width = right - left exactly. On one side of 0 it is taken from the nearer edge, so that
// nothing cancels, however far out; `middle` is (left + right)/2.
template <class T>
BFN_HD LogInterval<T> log_interval(T left, T right, T middle, T width) {
  const T scale = static_cast<T>(1 / kSqrtTwoPi);
  if (left <= T(0) && right >= T(0)) {
    const T p = T(1) - smaller_tail(left) - smaller_tail(right);
    const T outside = smaller_tail(left) + smaller_tail(right);
    return {log1p(-outside), -density(left) / p, density(right) / p};
  }
  const bool above = left > T(0);
  const T near = above ? left : -right, far = above ? right : -left;
  const T drop = exp(-width * abs(middle)), ratio = drop * mills(far) / mills(near);
  const T by_near = scale / (mills(near) * (T(1) - ratio)), by_far = by_near * drop;
  const T value = T(-0.5) * near * near + log(mills(near)) + log1p(-ratio);
  return above ? LogInterval<T>{value, -by_near, by_far} : LogInterval<T>{value, -by_far, by_near};
}

}  // namespace bfn
