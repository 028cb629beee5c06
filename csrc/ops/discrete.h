// The ops of discrete data. A null view stands for an argument that was not passed. If a class is out of range, the CPU
// throws std::out_of_range. The GPU writes NaN instead, since it would have to synchronise to throw. The views of data,
// `x` and `sent.known`, have a class for each variable, or floating-point numbers: a distribution over the K classes.
// Numbers in parentheses are equations of Graves et al. 2023 (arXiv 2308.07037).
#pragma once

#include "../math/discrete.h"
#include "element_loss.h"
#include "noise.h"
#include "solver.h"

namespace bfn {

// out is the softmax of the logits.
struct DiscreteTheta {
  int64_t count, num_classes;
  View logits, out;
};

// out is the message or, if `probs` is set, its softmax. `spread` is sqrt(K alpha).
struct DiscreteSender {
  int64_t count, num_classes;
  View x, alpha, spread;
  bool probs;
  Noise noise;
  View out;
};

// The logits that a network puts out. A class whose mask is 0 counts as if its logit were -infinity.
struct ClassLogits : View {
  View class_mask;  // null if all classes count
};

// A step adds `values`, clipped to [-clip, clip], to its prediction p, except where the class is known.
struct Score {
  View values, clip;  // `clip` is null if nothing is clipped
};

struct DiscreteUpdate {
  int64_t count, num_classes;
  ClassLogits output_logits;
  View state;
  Solver solver;
  Guidance guidance;
  Score score;
  Sent sent;
  Noise noise;
  View out, theta;  // theta may be null; otherwise it receives the softmax of `out`
};

constexpr int64_t kRowStats = sizeof(RowStats<float>) / sizeof(float);  // the fields of RowStats

// L_inf (205) or, if `weight` is null, -ln p_x. If `stats` is not null, it receives the RowStats of each row, or the
// SoftStats, which the backward pass needs. A row whose mask is 0 gets zeros. On the CPU, `grad_logits` may be passed
// instead of `stats`. It receives the gradient. CUDA ignores `grad_logits`.
struct DiscreteLoss {
  int64_t num_classes;
  View x;
  ClassLogits logits;
  View weight, stats, grad_logits;
  LossTarget to;
};

struct DiscreteLossBackward {
  int64_t count, num_classes;
  View grad, x;
  ClassLogits logits;
  View weight, mask, stats, grad_logits;
};

struct DiscreteNStep {
  int64_t num_classes, n_steps;
  Receiver receiver;
  Draws draws;
  View x;
  ClassLogits logits;
  View alpha;
  View grad_logits;  // null if no gradient is needed
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
BFN_DISCRETE_LOSSES(BFN_DECLARE_LOSS)

}  // namespace bfn
