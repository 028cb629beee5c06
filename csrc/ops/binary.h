// The ops of binary data. A view that is null stands for an argument that was not given. A class out of range is
// std::out_of_range on the CPU; elsewhere, where looking at it would cost a synchronisation, it makes NaN.
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
  View out, theta;  // theta, if it is not null, gets the sigmoid of what out gets
};

// L_inf (205) if there is a weight, else -ln p_x. grad_logits is null if no gradient is wanted.
struct BinaryLoss {
  View x, logits, weight;
  View grad_logits;
  LossTarget to;
};

// A node is used as s eps, which the symmetry of the nodes allows.
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
