// The ops of discrete data. A view that is null stands for an argument that was not given. A class out of range is
// std::out_of_range on the CPU; elsewhere, where looking at it would cost a synchronisation, it makes NaN.
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
  View out, theta;  // theta, if it is not null, gets the softmax of what out gets
};

constexpr int64_t kRowStats = sizeof(RowStats<float>) / sizeof(float);  // how many numbers are saved of a row

// L_inf (205) if there is a weight, else -ln p_x. If a gradient is wanted, `stats` gets the RowStats of each row, or
// zeros for a row that the mask leaves out. The CPU may write the gradient to `grad_logits` instead; CUDA ignores this
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
