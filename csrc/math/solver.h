// The steps of solvers [derived].
#pragma once

#include "common.h"

namespace bfn {

// Extrapolates the line through the previous prediction and p: p + factor (p - previous).
template <class T>
BFN_HD T extrapolated(T p, T previous, T factor) {
  return fused(factor, p - previous, p);
}

// The logit of classifier-free guidance: (1 + w) z - w z_unconditional, divided by a temperature. The caller passes the
// two factors. If z is -infinity, the result is -infinity, too, so that a probability of 0 stays 0. If w is 0, an
// infinite z_unconditional is ignored.
template <class T>
BFN_HD T guided(T z, T scale, T unconditional, T unconditional_scale) {
  const T other = unconditional_scale == T(0) ? T(0) : unconditional;
  const T value = fused(unconditional_scale, other, scale * z);
  return z == -std::numeric_limits<T>::infinity() ? z : value;
}

}  // namespace bfn
