// Discretised data: the normal that a network puts out. Equation numbers are those of arXiv 2308.07037.
#pragma once

#include "elementary.h"

namespace bfn {

enum class Parametrisation : int64_t { kDirect, kData, kNoise };

// With the derivatives of mean and std by the two predictions (105, 106).
template <class T>
struct OutputNormal {
  T mean, std, mean_by_prediction, std_by_log_std;
};

template <class T>
BFN_HD OutputNormal<T> output_normal(Parametrisation kind, T prediction, T log_std, T mean, T a, T b) {
  if (kind == Parametrisation::kDirect) return {prediction, log_std, T(1), T(1)};
  if (kind == Parametrisation::kData) {
    a = T(0);
    b = T(-1);
  }
  const bool early = a == T(0) && b == T(0);  // t < t_min: nothing was received yet
  const T std = abs(b) * exp_normal(clamp(log_std, T(-10), T(10)));
  const bool flat = early || log_std < T(-10) || log_std > T(10) || std < T(1e-3) || std > T(10);
  const T mu = (a == T(0) ? T(0) : a * mean) - (early ? T(0) : b * prediction);
  return {mu, early ? T(1) : clamp(std, T(1e-3), T(10)), -b, flat ? T(0) : std};
}

}  // namespace bfn
