// The ops of continuous data. A view that is null stands for an argument that was not given.
#pragma once

#include "loss.h"
#include "noise.h"

namespace bfn {

// out = a state + b data + std eps: flow, sender, update, and sender and update in one.
struct GaussianStep {
  int64_t count;
  View state, a, data, b, std;
  Noise noise;
  View out;
};

struct Prediction {
  View prediction, mean, a, b;
  double low, high;
};

struct PredictData {
  int64_t count;
  Prediction from;
  View out;
};

// by_x_hat goes through the clip to the prediction and the mean.
struct PredictDataBackward {
  int64_t count;
  View grad;
  Prediction from;
  View by_prediction, by_mean;
};

struct SquaredLoss {
  View x;
  Prediction from;
  View weight, offset;
  LossTarget to;
};

struct SquaredLossBackward {
  int64_t count;
  View grad, x;
  Prediction from;
  View weight, mask, by_x, by_prediction, by_mean;
};

template <class T>
void gaussian_step(const GaussianStep& op);
template <class T>
void predict_data(const PredictData& op);
template <class T>
void predict_data_backward(const PredictDataBackward& op);
template <class T>
void squared_loss(const SquaredLoss& op);
template <class T>
void squared_loss_backward(const SquaredLossBackward& op);

}  // namespace bfn
