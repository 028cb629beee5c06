// The n-step loss of discretised data (113-119): -E[eps^2/2 + ln sum_k p_k exp(-(y - c_k)^2 / 2 tau^2)], y = x + tau
// eps.
#pragma once

#include "discretised.h"

namespace bfn {

struct BinRange {
  int64_t first, last;
};

// Only bins near the peak of the product of the two normals, and the end bins, matter [derived]; in double all count,
// so that no window shows as a step.
template <class T>
BFN_HD BinRange window(T mean, T std, T y, T tau, Bins<T> bins) {
  if (sizeof(T) == sizeof(double)) return {0, bins.count - 1};
  const T s2 = 1 / (1 / (std * std) + 1 / (tau * tau));
  const T peak = clamp(s2 * (mean / (std * std) + y / (tau * tau)), T(-1), T(1)), reach = 6 * sqrt(s2) + bins.width();
  return {static_cast<int64_t>(bins.index(peak - reach)), static_cast<int64_t>(bins.index(peak + reach))};
}

// The std that the window goes by: an unclipped distribution that has next to no mass in [-1, 1] is uniform there.
template <class T>
BFN_HD T window_std(T mean, T std, Bins<T> bins) {
  const bool uniform = !bins.clip && exp(log_total(mean, std).value) < kTinyTotal<T>;
  return uniform ? T(1e9) : std;
}

// `log_p` and `responsibility` are scratch for `bins.count` numbers each.
template <class T>
BFN_HD WithGradient<T> discrete_time_divergence(T x, T mean, T std, T tau, Bins<T> bins, const T* eps, const T* weights,
                                                int64_t count, T* log_p, T* responsibility) {
  T low = eps[0], high = eps[0], poison = x + mean + std + tau;
  for (int64_t i = 0; i < count; ++i) {
    low = eps[i] < low ? eps[i] : low;
    high = eps[i] > high ? eps[i] : high;
    poison += eps[i];
  }
  poison -= poison;  // 0, or NaN where anything is not finite
  if (!(poison == T(0))) return {poison, poison, poison};
  const int64_t end = bins.count - 1;
  const T spread = window_std(mean, std, bins);
  const int64_t first = window(mean, spread, x + tau * low, tau, bins).first;
  const int64_t last = window(mean, spread, x + tau * high, tau, bins).last;
  const auto visit = [&](BinRange range, auto&& f) {
    if (range.first > 0) f(int64_t{0});
    for (int64_t k = range.first; k <= range.last; ++k) f(k);
    if (range.last < end) f(end);
  };
  visit({first, last}, [&](int64_t k) {
    log_p[k] = log_bin_prob(static_cast<T>(k), mean, std, bins).value;
    responsibility[k] = 0;
  });
  const T half_alpha = T(0.5) / (tau * tau);
  T value = 0;
  for (int64_t i = 0; i < count; ++i) {
    const T y = x + tau * eps[i];
    const BinRange near = window(mean, spread, y, tau, bins);
    T top = -std::numeric_limits<T>::infinity(), sum = 0;
    const auto term = [&](int64_t k) { return log_p[k] - half_alpha * square(y - bins.centre(static_cast<T>(k))); };
    visit(near, [&](int64_t k) { top = term(k) > top ? term(k) : top; });
    visit(near, [&](int64_t k) { sum += exp(term(k) - top); });
    value -= weights[i] * (T(0.5) * square(eps[i]) + top + log(sum));
    visit(near, [&](int64_t k) { responsibility[k] += weights[i] * exp(term(k) - top) / sum; });
  }
  WithGradient<T> result{value, 0, 0};
  visit({first, last}, [&](int64_t k) {
    if (responsibility[k] == T(0)) return;
    const auto p = log_bin_prob(static_cast<T>(k), mean, std, bins);
    result.by_mean -= responsibility[k] * p.by_mean;
    result.by_std -= responsibility[k] * p.by_std;
  });
  return result;
}

}  // namespace bfn
