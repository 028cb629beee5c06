// Steps of solvers [derived].
#pragma once

#include "common.h"

namespace bfn {

// p at a later place of the line through it and the prediction before, `by` times their distance ahead.
template <class T>
BFN_HD T extrapolated(T p, T previous, T by) {
  return fused(by, p - previous, p);
}

// The logit of classifier-free guidance: (1 + w) z - w z_unconditional, over a temperature.
template <class T>
BFN_HD T guided(T z, T scale, T unconditional, T unconditional_scale) {
  return fused(unconditional_scale, unconditional, scale * z);
}

}  // namespace bfn
