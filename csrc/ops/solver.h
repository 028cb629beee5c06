// The numbers of a step. A view that is null stands for an argument that was not given.
#pragma once

#include "../math/solver.h"
#include "view.h"

namespace bfn {

// The new state is keep state + take message + std noise; the noise may be missing. The step sends p + extrapolation (p
// - previous), where p is the value or the probabilities that an update would send. `prediction` receives p; its memory
// may be the memory of `previous`.
struct Solver {
  View keep, take, std, previous, extrapolation, prediction;
  bool predicts = false;  // whether `previous` or `prediction` is given

  BFN_HD bool on() const { return predicts || keep; }  // whether this is more than an ordinary update of classes
};

// The logits of a step: logit_scale times the network's, and unconditional_scale times those of the network without
// its condition.
struct Guidance {
  View logit_scale, unconditional, unconditional_scale;

  BFN_HD bool on() const { return logit_scale || unconditional; }
};

}  // namespace bfn
