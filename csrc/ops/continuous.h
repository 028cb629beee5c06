// The ops of continuous data. A null view stands for an argument that was not passed.
// Numbers in parentheses are equations of Graves et al. 2023 (arXiv 2308.07037).
#pragma once

#include "noise.h"
#include "solver.h"

namespace bfn {

// out = state_scale state + data_scale data + noise_scale eps, where eps is the noise. The scales decide which op this
// is: the flow (77), the sender, the update by a given message (49, 50), or an update that also draws the message.
struct GaussianStep {
  int64_t count;
  View state, state_scale, data, data_scale, noise_scale;
  Noise noise;
  View out;
};

// A network's prediction, and the numbers that turn it into predicted data x_hat (84). x_hat is then clipped to [low,
// high].
struct Prediction {
  View prediction, mean, mean_scale, noise_scale;
  double low, high;
};

// A sampling step from the state `from.mean`: an update by a message about x_hat or, with a solver's rule, a step of an
// ODE or SDE towards x_hat. Where known_mask is not 0, the known value replaces x_hat.
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

// `grad` is the gradient by the clipped x_hat. The op turns it into the gradients by the prediction and the mean.
struct PredictDataBackward {
  int64_t count;
  View grad;
  Prediction from;
  View grad_prediction, grad_mean;
};

template <class T>
void gaussian_step(const GaussianStep& op);
template <class T>
void continuous_update(const ContinuousUpdate& op);
template <class T>
void predict_data(const PredictData& op);
template <class T>
void predict_data_backward(const PredictDataBackward& op);

}  // namespace bfn
