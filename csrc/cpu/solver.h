// A solver's extrapolation of predictions, for a block of variables.
#pragma once

#include "../ops/solver.h"
#include "view.h"

namespace bfn {

// Stores p as the step's prediction, and then replaces p by p + extrapolation (p - previous). It reads `previous`
// first, since the stored p may overwrite it. The function is not inlined, so that the loops of ordinary updates stay
// small.
template <class T>
[[gnu::noinline]] void extrapolate(const Solver& op, int64_t start, int64_t length, T* p) {
  T next[kBlock], buffers[2][kBlock];
  if (op.previous) {
    const T* previous = load(op.previous, start, length, buffers[0]);
    const T* factor = load(op.extrapolation, start, length, buffers[1]);
    for (int64_t i = 0; i < length; ++i) next[i] = extrapolated(p[i], previous[i], factor[i]);
  }
  if (op.prediction) store(op.prediction, start, length, p);
  if (op.previous) std::copy_n(next, length, p);
}

}  // namespace bfn
