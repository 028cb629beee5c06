// The ops of discrete data. A null view stands for a missing argument. For a class out of range, the CPU throws
// std::out_of_range. A GPU would have to synchronise to report it, so its result is NaN.
#pragma once

#include "../math/discrete.h"
#include "loss.h"
#include "noise.h"
#include "solver.h"

namespace bfn {

// out = softmax of the logits.
struct DiscreteTheta {
  int64_t count, num_classes;
  View logits, out;
};

struct DiscreteSender {
  int64_t count, num_classes;
  View x, alpha, spread;
  bool probs;
  Noise noise;
  View out;
};

struct DiscreteUpdate {
  int64_t count, num_classes;
  View output_logits, state;
  Solver solver;
  Guidance guidance;
  Sent sent;
  Noise noise;
  View out, theta;  // theta, if it is not null, gets the softmax of `out`
};

constexpr int64_t kRowStats = sizeof(RowStats<float>) / sizeof(float);  // how many numbers of each row are saved

// L_inf (205) if there is a weight, else -ln p_x. If a gradient is wanted, `stats` gets the RowStats of each row, or
// zeros for a row whose mask is 0. On the CPU, the gradient can be written to `grad_logits` instead. CUDA ignores this
// field.
struct DiscreteLoss {
  int64_t num_classes;
  View x, logits, weight, stats, grad_logits;
  LossTarget to;
};

struct DiscreteLossBackward {
  int64_t count, num_classes;
  View grad, x, logits, weight, mask, stats, grad_logits;
};

struct DiscreteNStep {
  int64_t num_classes, n_steps;
  Receiver receiver;
  Draws draws;
  View x, logits, alpha;
  View grad_logits;  // null if no gradient is wanted
  LossTarget to;
};

template <class T>
void discrete_theta(const DiscreteTheta& op);
template <class T>
void discrete_sender(const DiscreteSender& op);
template <class T>
void discrete_update(const DiscreteUpdate& op);
template <class T>
void discrete_loss(const DiscreteLoss& op);
template <class T>
void discrete_loss_backward(const DiscreteLossBackward& op);
template <class T>
void discrete_nstep(const DiscreteNStep& op);

}  // namespace bfn
