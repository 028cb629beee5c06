// The ops of binary data. A null view stands for a missing argument. For a class out of range, the CPU throws
// std::out_of_range. A GPU would have to synchronise to report it, so its result is NaN.
#pragma once

#include "../math/binary.h"
#include "loss.h"
#include "noise.h"
#include "solver.h"

namespace bfn {

// out = the message, or its sigmoid if `probs`. `spread` is 2 sqrt(alpha).
struct BinarySender {
  int64_t count;
  View x, alpha, spread;
  bool probs;
  Noise noise;
  View out;
};

struct BinaryUpdate {
  int64_t count;
  View output_logits, state;
  Solver solver;
  Guidance guidance;
  Sent sent;
  Noise noise;
  View out, theta;  // theta, if it is not null, gets the sigmoid of `out`
};

// L_inf (205) if there is a weight, else -ln p_x. grad_logits is null if no gradient is wanted.
struct BinaryLoss {
  View x, logits, weight;
  View grad_logits;
  LossTarget to;
};

// A node of a quadrature is used as s eps instead of eps. This is the same, since the nodes are symmetric.
struct BinaryNStep {
  int64_t n_steps;
  Receiver receiver;
  Draws draws;
  View x, logits, alpha;
  View grad_logits;
  LossTarget to;
};

template <class T>
void binary_sender(const BinarySender& op);
template <class T>
void binary_update(const BinaryUpdate& op);
template <class T>
void binary_loss(const BinaryLoss& op);
template <class T>
void binary_nstep(const BinaryNStep& op);

}  // namespace bfn
