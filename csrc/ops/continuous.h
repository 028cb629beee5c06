// The ops of continuous data. A null view stands for a missing argument.
#pragma once

#include "loss.h"
#include "noise.h"
#include "solver.h"

namespace bfn {

// out = state_scale state + data_scale data + noise_scale eps. This is the flow (77), the sender, the update (49, 50),
// or the sender and the update in one.
struct GaussianStep {
  int64_t count;
  View state, state_scale, data, data_scale, noise_scale;
  Noise noise;
  View out;
};

// A prediction and the numbers that turn it into data (84), which are clipped to [low, high].
struct Prediction {
  View prediction, mean, mean_scale, noise_scale;
  double low, high;
};

// The sender and the update in one, for a message about x_hat or about a known value. The state is the mean of `from`.
struct ContinuousUpdate {
  int64_t count;
  Prediction from;
  Solver solver;
  View known, known_mask;
  Noise noise;
  View out;
};

struct PredictData {
  int64_t count;
  Prediction from;
  View out;
};

// The gradient of x_hat goes through the clip to the prediction and the mean.
struct PredictDataBackward {
  int64_t count;
  View grad;
  Prediction from;
  View grad_prediction, grad_mean;
};

// A gradient is null if it is not wanted.
struct SquaredLoss {
  View x;
  Prediction from;
  View weight, offset, grad_x, grad_prediction, grad_mean;
  LossTarget to;
};

template <class T>
void gaussian_step(const GaussianStep& op);
template <class T>
void continuous_update(const ContinuousUpdate& op);
template <class T>
void predict_data(const PredictData& op);
template <class T>
void predict_data_backward(const PredictDataBackward& op);
template <class T>
void squared_loss(const SquaredLoss& op);

}  // namespace bfn
