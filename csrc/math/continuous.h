// Continuous data; equation numbers are those of arXiv 2308.07037.
#pragma once

#include "common.h"

namespace bfn {

// What turns a prediction into data: x = a mean - b prediction (84), with a = b = 0 where t < t_min. A network that
// puts out the data itself has a = 0, b = -1.
template <class T>
BFN_HD T predict(T prediction, T mean, T a, T b) {
  if (a == T(0)) return b == T(0) ? T(0) : -b * prediction;
  return a * mean - b * prediction;
}

template <class T>
struct SquaredLossGradient {
  T by_x, by_prediction, by_mean;
};

// weight (x - clip(x_hat))^2 + offset: (101), (96) and -ln N(x; x_hat, v).
template <class T>
BFN_HD T squared_loss(T x, T x_hat, T weight, T offset, T low, T high) {
  return weight * square(x - clamp(x_hat, low, high)) + offset;
}

template <class T>
BFN_HD SquaredLossGradient<T> squared_loss_gradient(T x, T x_hat, T weight, T a, T b, T low, T high) {
  const T by_x = 2 * weight * (x - clamp(x_hat, low, high));
  const T by_x_hat = x_hat < low || x_hat > high ? T(0) : -by_x;
  return {by_x, -b * by_x_hat, a * by_x_hat};
}

}  // namespace bfn
