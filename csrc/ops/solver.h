// What a solver's step has beside an update of the state. A view that is null stands for an argument that was not
// given.
#pragma once

#include "../math/solver.h"
#include "view.h"

namespace bfn {

// p is what would be sent: a value, or probabilities. A step takes p + extrapolation (p - previous) in its place, and
// state_scale times the state. `prediction` receives p itself; it may be the memory of `previous`.
struct Solver {
  bool on = false;  // whether there is any of these
  View state_scale, previous, extrapolation, prediction;
};

// The logits of a step: logit_scale times the network's, and unconditional_scale times those of the network without
// its condition.
struct Guidance {
  View logit_scale, unconditional, unconditional_scale;

  BFN_HD bool on() const { return logit_scale || unconditional; }
};

}  // namespace bfn
