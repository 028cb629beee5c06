// What a solver's step does to what would be sent, a block at a time.
#pragma once

#include "../ops/solver.h"
#include "view.h"

namespace bfn {

// Puts out p, and turns it into what the step takes. The prediction before is read first, since p may take its place.
// Like all that updates do without, it is a function of its own, which keeps their loops small.
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
