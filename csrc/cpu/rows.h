// Sums and maxima over the classes of a row, in 16 lanes that compilers turn into SIMD without reordering anything.
#pragma once

#include <limits>

#include "../math/discrete.h"

namespace bfn {

constexpr int kSumLanes = 16;

// In double, so that the number of classes does not cost precision.
template <class T, class F>
T sum_over(int64_t begin, int64_t end, F&& f) {
  double lanes[kSumLanes] = {};
  int64_t k = begin;
  for (; k + kSumLanes <= end; k += kSumLanes) {
    for (int j = 0; j < kSumLanes; ++j) lanes[j] += f(k + j);
  }
  double sum = 0;
  for (; k < end; ++k) sum += f(k);
  for (int j = 0; j < kSumLanes; ++j) sum += lanes[j];
  return static_cast<T>(sum);
}

// NaN where any of them is.
template <class T, class F>
T max_over(int64_t begin, int64_t end, F&& f) {
  T lanes[kSumLanes], top = -std::numeric_limits<T>::infinity();
  for (int j = 0; j < kSumLanes; ++j) lanes[j] = top;
  int64_t k = begin;
  for (; k + kSumLanes <= end; k += kSumLanes) {
    for (int j = 0; j < kSumLanes; ++j) {
      const T value = f(k + j);
      lanes[j] = value <= lanes[j] ? lanes[j] : value;
    }
  }
  for (; k < end; ++k) top = f(k) <= top ? top : f(k);
  for (int j = 0; j < kSumLanes; ++j) top = lanes[j] <= top ? top : lanes[j];
  return top;
}

template <class T, class F>
T sum_without(int64_t x, int64_t count, F&& f) {
  return sum_over<T>(0, x, f) + sum_over<T>(x + 1, count, f);
}

template <class T>
T max_of(const T* z, int64_t count) {
  return max_over<T>(0, count, [z](int64_t k) { return z[k]; });
}

// Of a whole row: e_x and the sums of e_k and e_k^2 over k != x. `e`, if given, receives every e_k.
template <class T>
RowStats<T> row_stats(const T* z, int64_t x, int64_t count, T* e) {
  const T top = max_of(z, count);
  for (int64_t k = 0; k < count; ++k) e[k] = exp_difference(z[k], top);
  return {top, e[x], sum_without<T>(x, count, [e](int64_t k) { return e[k]; }),
          sum_without<T>(x, count, [e](int64_t k) { return e[k] * e[k]; })};
}

// ln((1 - p_x)/p_x), by the largest logit but x's.
template <class T, class F>
T log_odds_against(int64_t x, int64_t count, F&& z) {
  const T below = max_over<T>(0, x, z), above = max_over<T>(x + 1, count, z);
  const T top = below <= above ? above : below;
  return log(sum_without<T>(x, count, [&](int64_t k) { return exp(z(k) - top); })) + top - z(x);
}

}  // namespace bfn
