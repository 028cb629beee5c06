// The numbers of a step. A view that is null stands for an argument that was not given.
#pragma once

#include "../math/solver.h"
#include "view.h"

namespace bfn {

// keep times the state + take times the message + std times the noise, of which the last may be missing. p is what
// would be sent: a value, or probabilities. The message is that of p + extrapolation (p - previous). `prediction`
// receives p itself; it may be the memory of `previous`.
struct Solver {
  View keep, take, std, previous, extrapolation, prediction;
  bool predicts = false;  // whether there is a previous or a prediction

  BFN_HD bool on() const { return predicts || keep; }  // whether an update of classes has less
};

// The logits of a step: logit_scale times the network's, and unconditional_scale times those of the network without
// its condition.
struct Guidance {
  View logit_scale, unconditional, unconditional_scale;

  BFN_HD bool on() const { return logit_scale || unconditional; }
};

}  // namespace bfn
