// Continuous data. Numbers in parentheses are equations of Graves et al. 2023 (arXiv 2308.07037).
#pragma once

#include "element_loss.h"

namespace bfn {

// Turns a prediction of the noise into data: x_hat = mean_scale * mean - noise_scale * prediction (84). Both scales are
// 0 if t < t_min. If the network predicts the data itself, mean_scale is 0 and noise_scale is -1. If mean_scale is 0,
// the mean is ignored, even if it is infinite or NaN.
template <class T>
BFN_HD T predict(T prediction, T mean, T mean_scale, T noise_scale) {
  if (mean_scale == T(0)) return noise_scale == T(0) ? T(0) : -noise_scale * prediction;
  return mean_scale * mean - noise_scale * prediction;
}

template <class T>
struct PredictionGradient {
  T grad_prediction, grad_mean;
};

// The gradients by the two arguments `prediction` and `mean` of the function predict. x_hat is the result of `predict`.
// It is clipped to [low, high] afterwards. `grad` is the gradient by the clipped x_hat. Both gradients are 0 if x_hat
// lies outside [low, high].
template <class T>
BFN_HD PredictionGradient<T> prediction_gradient(T grad, T x_hat, T mean_scale, T noise_scale, T low, T high) {
  const T grad_x_hat = x_hat < low || x_hat > high ? T(0) : grad;
  return {-noise_scale * grad_x_hat, mean_scale * grad_x_hat};
}

// weight * (x - clamp(x_hat))^2 + offset. The weight and the offset decide which loss this is: L_inf (101), L_n (96) or
// -ln N(x; x_hat, v).
struct SquaredLoss : AnyLoss {
  static constexpr Input kInputs[] = {Input{"x", kData, kSlope},
                                      Input{"prediction", kNetwork, kSlope},
                                      Input{"mean", kData, kSlope | kOptional, 0, 1},
                                      Input{"mean_scale", kRow, kOptional, 0, 1},
                                      Input{"noise_scale", kRow, kOptional, -1, 1},
                                      Input{"low", kNumber},
                                      Input{"high", kNumber},
                                      Input{"weight", kRow},
                                      Input{"offset", kRow, kOptional}};
  static constexpr int kVariants = 2;
  static constexpr auto variant = [](const auto* in, const double*) { return in[3] || in[4] ? 1 : 0; };
  static Limits limits(int, const double* numbers) { return {"x", 0, numbers[0], numbers[1]}; }
  // The network predicts the noise if kNoise is 1, and else the data.
  template <class T, int kNoise>
  struct Term {
    T low, high;

    explicit Term(const double* numbers) : low(static_cast<T>(numbers[0])), high(static_cast<T>(numbers[1])) {}
    BFN_HD LossTerm<T, 3> operator()(T scale, T x, T prediction, T mean, T mean_scale, T noise_scale, T weight,
                                     T offset) const {
      const T by_mean = kNoise ? mean_scale : T(0), by_noise = kNoise ? noise_scale : T(-1);
      const T x_hat = kNoise ? predict(prediction, mean, mean_scale, noise_scale) : prediction;
      const T error = x - clamp(x_hat, low, high), grad_x = 2 * (scale * weight) * error;
      const auto by = prediction_gradient(-grad_x, x_hat, by_mean, by_noise, low, high);
      return {weight * square(error) + offset, {grad_x, by.grad_prediction, by.grad_mean}};
    }
  };
};

#define BFN_CONTINUOUS_LOSSES(X) X(continuous_squared_loss, SquaredLoss)

// The mean after a message about x: keep * mean + take * x + noise_std * eps. One step draws the message from the
// sender distribution and updates the mean by it (49, 50). noise_std is not the noise_scale of `predict`.
template <class T>
BFN_HD T updated_mean(T keep, T mean, T take, T x, T noise_std, T eps) {
  return fused(noise_std, eps, fused(take, x, keep * mean));
}

}  // namespace bfn
