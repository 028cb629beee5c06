// Discretised data: the normal distribution that the network's output describes.
// Numbers in parentheses are equations of Graves et al. 2023 (arXiv 2308.07037).
#pragma once

#include "elementary.h"

namespace bfn {

// What the network predicts. kDirect: the mean and the std of the output normal. kData: the mean and log_std. kNoise:
// the noise and log_std.
enum class Parametrisation : int64_t { kDirect, kData, kNoise };

// |log_std| is at most log_std_max. The std that follows from it lies in [std_min, std_max].
template <class T>
struct OutputLimits {
  T std_min, std_max, log_std_max;

  template <class S>
  BFN_HD OutputLimits<S> as() const {
    return {static_cast<S>(std_min), static_cast<S>(std_max), static_cast<S>(log_std_max)};
  }
};

// The output normal, or one component of a mixture, and the derivatives of its mean and std by the two predictions.
template <class T>
struct OutputNormal {
  T mean, std, mean_by_prediction, std_by_log_std;
};

// The numbers that turn a prediction into the mean, which is offset + slope prediction, and a log_std into the std. The
// components of a mixture share them.
template <class T>
struct OutputScales {
  T offset, slope;
  bool early;  // t is below t_min, and the output normal is N(0, 1)
};

// With kData mean_scale is 0 and noise_scale is -1.
template <class T>
BFN_HD OutputScales<T> output_scales(Parametrisation kind, T mean, T mean_scale, T noise_scale) {
  if (kind == Parametrisation::kData) {
    mean_scale = T(0);
    noise_scale = T(-1);
  }
  const bool early = mean_scale == T(0) && noise_scale == T(0);
  return {mean_scale == T(0) ? T(0) : mean_scale * mean, -noise_scale, early};
}

// The output normal (105, 106). Its mean is mean_scale mean - noise_scale prediction. Its std is
// |noise_scale| exp(log_std). Both log_std and the std are clamped. With kDirect the arguments `prediction` and
// `log_std` are the mean and the std, a std that is not positive becomes NaN, and scales(), which returns the
// OutputScales, is not called.
template <class T, class F>
BFN_HD OutputNormal<T> output_normal(Parametrisation kind, OutputLimits<T> limits, T prediction, T log_std,
                                     F&& scales) {
  if (kind == Parametrisation::kDirect) return {prediction, log_std > T(0) ? log_std : kNaN<T>, T(1), T(1)};
  const OutputScales<T> by = scales();
  const T low = limits.std_min, high = limits.std_max, most = limits.log_std_max;
  const T capped = clamp(log_std, -most, most), std = abs(by.slope) * exp_normal(capped);
  const T clamped = clamp(std, low, high);
  const auto differ = [](T a, T b) { return (a < b) | (a > b); };  // false for NaN, and one instruction
  const bool flat = by.early | differ(capped, log_std) | differ(clamped, std);
  const T mu = by.offset + (by.early ? T(0) : by.slope * prediction);
  return {mu, by.early ? T(1) : clamped, by.slope, flat ? T(0) : std};
}

template <class T>
BFN_HD OutputNormal<T> output_normal(Parametrisation kind, OutputLimits<T> limits, T prediction, T log_std, T mean,
                                     T mean_scale, T noise_scale) {
  return output_normal(kind, limits, prediction, log_std,
                       [&] { return output_scales(kind, mean, mean_scale, noise_scale); });
}

}  // namespace bfn
