// Continuous data; equation numbers are those of arXiv 2308.07037.
#pragma once

#include "common.h"

namespace bfn {

// What turns a prediction into data: x = mean_scale mean - noise_scale prediction (84), both 0 where t < t_min. A
// network that puts out the data itself has 0 and -1.
template <class T>
BFN_HD T predict(T prediction, T mean, T mean_scale, T noise_scale) {
  if (mean_scale == T(0)) return noise_scale == T(0) ? T(0) : -noise_scale * prediction;
  return mean_scale * mean - noise_scale * prediction;
}

template <class T>
struct SquaredLossGradient {
  T grad_x, grad_prediction, grad_mean;
};

// weight (x - clip(x_hat))^2 + offset: (101), (96) and -ln N(x; x_hat, v).
template <class T>
BFN_HD T squared_loss(T x, T x_hat, T weight, T offset, T low, T high) {
  return weight * square(x - clamp(x_hat, low, high)) + offset;
}

template <class T>
BFN_HD SquaredLossGradient<T> squared_loss_gradient(T x, T x_hat, T weight, T mean_scale, T noise_scale, T low,
                                                    T high) {
  const T grad_x = 2 * weight * (x - clamp(x_hat, low, high));
  const T grad_x_hat = x_hat < low || x_hat > high ? T(0) : -grad_x;
  return {grad_x, -noise_scale * grad_x_hat, mean_scale * grad_x_hat};
}

}  // namespace bfn
