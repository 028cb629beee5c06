// What a solver's step does to elementwise data.
#pragma once

#include "../ops/solver.h"
#include "access.h"

namespace bfn {

// Puts out p, and turns it into what the step takes. The prediction before is read first, since p may take its place.
template <class At, class T, int kCount>
__device__ __forceinline__ void extrapolate(const At& at, const Solver& op, T (&p)[kCount]) {
  T previous[kCount] = {}, by[kCount] = {};
  if (op.previous) {
    at.data(op.previous, previous);
    at.rows(op.extrapolation, by);
  }
  if (op.prediction) at.store_data(op.prediction, p);
  if (!op.previous) return;
#pragma unroll
  for (int j = 0; j < kCount; ++j) p[j] = extrapolated(p[j], previous[j], by[j]);
}

template <class At, class T, int kCount>
__device__ __forceinline__ void guide(const At& at, const Guidance& by, T (&z)[kCount]) {
  T scale[kCount], unconditional[kCount], unconditional_scale[kCount];
  at.rows(by.logit_scale, scale, T(1));
  at.network(by.unconditional, unconditional);
  at.rows(by.unconditional_scale, unconditional_scale);
#pragma unroll
  for (int j = 0; j < kCount; ++j) z[j] = guided(z[j], scale[j], unconditional[j], unconditional_scale[j]);
}

// The layout with the views of a solver's step.
inline Layout& with_solver(Layout& layout, const Solver& op) {
  return layout.data(op.previous).data(op.prediction).rows(op.keep).rows(op.take).rows(op.std).rows(op.extrapolation);
}

}  // namespace bfn
