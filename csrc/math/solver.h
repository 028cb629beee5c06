// The steps of solvers. These formulas are not in the paper.
#pragma once

#include "common.h"

namespace bfn {

// Extrapolates the prediction p along the line from the previous prediction to p: p + factor (p - previous).
template <class T>
BFN_HD T extrapolated(T p, T previous, T factor) {
  return fused(factor, p - previous, p);
}

// The logit of classifier-free guidance: (1 + w) z - w z', where z' is the logit without the condition. The result may
// also be divided by a temperature. So the caller passes (1 + w) and -w, divided by the temperature, as `scale` and
// `unconditional_scale`. If z is -infinity, the result is -infinity, so that a probability of 0 stays 0. If w is 0, z'
// is ignored, even if it is infinite.
template <class T>
BFN_HD T guided(T z, T scale, T unconditional, T unconditional_scale) {
  const T other = unconditional_scale == T(0) ? T(0) : unconditional;
  const T value = fused(unconditional_scale, other, scale * z);
  return z == -std::numeric_limits<T>::infinity() ? z : value;
}

}  // namespace bfn
