// The numbers of a sampler's step. A null view stands for an argument that was not passed.
#pragma once

#include "../math/solver.h"
#include "view.h"

namespace bfn {

// The new state is keep state + take m + std eps. eps is the noise, which may be missing. m is the mean of a message of
// accuracy 1 about p. In an ordinary update, p is the value or the probabilities that are sent. A solver stores p in
// `prediction`, and sends p + extrapolation (p - previous) instead of p. `prediction` and `previous` may be the same
// memory.
struct Solver {
  View keep, take, std, previous, extrapolation, prediction;
  bool predicts = false;  // whether `previous` or `prediction` is not null

  BFN_HD bool on() const { return predicts || keep; }  // false for an ordinary update of classes
};

// Classifier-free guidance. The logits of a step are logit_scale z + unconditional_scale z', where z are the network's
// logits, and z' (`unconditional`) are its logits without the condition.
struct Guidance {
  View logit_scale, unconditional, unconditional_scale;

  BFN_HD bool on() const { return logit_scale || unconditional; }
};

}  // namespace bfn
