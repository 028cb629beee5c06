// The ops of discrete data. A view that is null stands for an argument that was not given.
#pragma once

#include <atomic>

#include "loss.h"
#include "noise.h"

namespace bfn {

// A class out of range that was met, for the error; -1 is one too.
struct BadClass {
  std::atomic<bool> found{false};
  std::atomic<int64_t> value{0};

  bool check(int64_t x, int64_t num_classes) {
    if (x >= 0 && x < num_classes) return true;
    value = x;
    found = true;
    return false;
  }
};

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
  BadClass* bad;
};

enum class DiscreteChoice : int64_t { kSample, kMode, kMean };

struct DiscreteUpdate {
  int64_t count, num_classes;
  View output_logits, state, alpha, spread;
  DiscreteChoice choice;
  View known, known_mask;
  Noise noise, draw;
  View out;
  BadClass* bad;
};

constexpr int64_t kRowStats = 4;  // numbers of math/discrete.h's RowStats

// L_inf where there is a weight, else -ln p_x. `stats` takes the RowStats of each row, four numbers, where a gradient
// will be asked for; zeros for those that the mask leaves out.
struct DiscreteLoss {
  int64_t num_classes;
  View x, logits, weight, stats;
  LossTarget to;
  BadClass* bad;
};

struct DiscreteLossBackward {
  int64_t count, num_classes;
  View grad, x, logits, weight, mask, stats, grad_logits;
};

enum class Receiver : int64_t { kJoint, kFactorised };

struct DiscreteNStep {
  int64_t num_classes, n_steps, n_samples;
  Receiver receiver;
  const double *nodes, *node_weights;
  int64_t num_nodes;
  View x, logits, alpha;
  Noise noise;
  View grad_logits;  // null where no gradient is asked for
  LossTarget to;
  BadClass* bad;
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
