// The steps of solvers for elementwise data.
#pragma once

#include "../ops/solver.h"
#include "access.h"

namespace bfn {

// Stores p as the step's prediction, and then replaces p by p + extrapolation (p - previous). It reads `previous`
// first, since the stored p may overwrite it.
template <class At, class T, int kCount>
__device__ __forceinline__ void extrapolate(const At& at, const Solver& op, T (&p)[kCount]) {
  T previous[kCount] = {}, factor[kCount] = {};
  if (op.previous) {
    at.data(op.previous, previous);
    at.rows(op.extrapolation, factor);
  }
  if (op.prediction) at.store_data(op.prediction, p);
  if (!op.previous) return;
#pragma unroll
  for (int j = 0; j < kCount; ++j) p[j] = extrapolated(p[j], previous[j], factor[j]);
}

// Applies guidance to the network's logits.
template <class At, class T, int kCount>
__device__ __forceinline__ void guide(const At& at, const Guidance& guidance, T (&z)[kCount]) {
  T scale[kCount], unconditional[kCount], unconditional_scale[kCount];
  at.rows(guidance.logit_scale, scale, T(1));
  at.network(guidance.unconditional, unconditional);
  at.rows(guidance.unconditional_scale, unconditional_scale);
#pragma unroll
  for (int j = 0; j < kCount; ++j) z[j] = guided(z[j], scale[j], unconditional[j], unconditional_scale[j]);
}

// Adds the views of a solver's step to the layout.
inline Layout& with_solver(Layout& layout, const Solver& op) {
  return layout.data(op.previous).data(op.prediction).rows(op.keep).rows(op.take).rows(op.std).rows(op.extrapolation);
}

}  // namespace bfn
