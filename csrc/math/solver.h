// Steps of solvers [derived].
#pragma once

#include "common.h"

namespace bfn {

// p at a later place of the line through it and the prediction before, `by` times their distance ahead.
template <class T>
BFN_HD T extrapolated(T p, T previous, T by) {
  return fused(by, p - previous, p);
}

// The logit of classifier-free guidance: (1 + w) z - w z_unconditional, over a temperature. A probability of 0, whose z
// is -infinity, stays one, and without weight an infinite z_unconditional does not count.
template <class T>
BFN_HD T guided(T z, T scale, T unconditional, T unconditional_scale) {
  const T other = unconditional_scale == T(0) ? T(0) : unconditional;
  const T value = fused(unconditional_scale, other, scale * z);
  return z == -std::numeric_limits<T>::infinity() ? z : value;
}

}  // namespace bfn
