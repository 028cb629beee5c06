// Steps of solvers [derived].
#pragma once

#include "common.h"

namespace bfn {

// Extrapolates the line through the previous prediction and p: p + by (p - previous).
template <class T>
BFN_HD T extrapolated(T p, T previous, T by) {
  return fused(by, p - previous, p);
}

// The logit of classifier-free guidance: (1 + w) z - w z_unconditional, divided by a temperature. If z is -infinity, so
// is the result: a probability of 0 stays 0. If w is 0, an infinite z_unconditional is ignored.
template <class T>
BFN_HD T guided(T z, T scale, T unconditional, T unconditional_scale) {
  const T other = unconditional_scale == T(0) ? T(0) : unconditional;
  const T value = fused(unconditional_scale, other, scale * z);
  return z == -std::numeric_limits<T>::infinity() ? z : value;
}

}  // namespace bfn
