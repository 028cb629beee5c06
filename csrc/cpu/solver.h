// The extrapolation of a solver's step, for a block of variables.
#pragma once

#include "../ops/solver.h"
#include "view.h"

namespace bfn {

// Stores p as the step's prediction, then replaces p by p + extrapolation (p - previous). The previous prediction is
// read first, since p may be stored over it. Ordinary updates do not need this code; as a function of its own it keeps
// their loops small.
template <class T>
[[gnu::noinline]] void extrapolate(const Solver& op, int64_t start, int64_t length, T* p) {
  T ahead[kBlock], buffers[2][kBlock];
  if (op.previous) {
    const T* previous = load(op.previous, start, length, buffers[0]);
    const T* by = load(op.extrapolation, start, length, buffers[1]);
    for (int64_t i = 0; i < length; ++i) ahead[i] = extrapolated(p[i], previous[i], by[i]);
  }
  if (op.prediction) store(op.prediction, start, length, p);
  if (op.previous) std::copy_n(ahead, length, p);
}

}  // namespace bfn
