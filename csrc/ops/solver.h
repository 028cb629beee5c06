// The numbers of a sampler's step. A null view stands for a missing argument.
#pragma once

#include "../math/solver.h"
#include "view.h"

namespace bfn {

// The new state is keep state + take message + std noise; the noise may be missing. p is the value or the probabilities
// that an ordinary update sends. The step sends p + extrapolation (p - previous) instead, and stores p in `prediction`.
// `prediction` and `previous` may be the same memory.
struct Solver {
  View keep, take, std, previous, extrapolation, prediction;
  bool predicts = false;  // whether `previous` or `prediction` is given

  BFN_HD bool on() const { return predicts || keep; }  // whether this is more than an ordinary update of classes
};

// The logits of a step are logit_scale times the network's logits plus unconditional_scale times the logits that the
// network gives without its condition.
struct Guidance {
  View logit_scale, unconditional, unconditional_scale;

  BFN_HD bool on() const { return logit_scale || unconditional; }
};

}  // namespace bfn
