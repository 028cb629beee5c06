// What a network put out for a block of variables of discretised data, as normals and, of a mixture, their shares.
#pragma once

#include <type_traits>

#include "../math/discretised.h"
#include "../ops/discretised.h"
#include "parallel.h"
#include "view.h"

namespace bfn {

// The numbers of variables [start, start + length), once for each component.
template <class T>
const T* load_each(const View& view, int64_t start, int64_t length, int64_t components, T* buffer) {
  if (components == 1) return load(view, start, length, buffer);
  T single[kBlock];
  const T* values = load(view, start, length, single);
  for (int64_t i = 0; i < length; ++i) std::fill_n(buffer + i * components, components, values[i]);
  return buffer;
}

// Arrays hold the components of a variable side by side. A block has at most kBlock of them.
template <class T>
struct NetworkBlock {
  int64_t length, components;
  bool mixed;  // also of a single component, whose share is 1
  Bins<T> bins;
  T mean[kBlock], std[kBlock], mean_by_prediction[kBlock], std_by_log_std[kBlock];
  T share[kBlock], log_share[kBlock];  // of a mixture alone

  NetworkBlock(const NetworkOutput& from, int64_t start, int64_t variables)
      : length(variables),
        components(from.components),
        mixed(static_cast<bool>(from.mixture_logits)),
        bins{from.num_bins, from.clip} {
    T buffers[5][kBlock];
    const T* prediction = load(from.prediction, start * components, all(), buffers[0]);
    const T* log_std = load(from.log_std, start * components, all(), buffers[1]);
    const T* state = load_each(from.mean, start, length, components, buffers[2]);
    const T* a = load_each(from.mean_scale, start, length, components, buffers[3]);
    const T* b = load_each(from.noise_scale, start, length, components, buffers[4]);
    const auto read = [&](auto kind) {  // known to the compiler, so that the loop has no branch
      for (int64_t i = 0; i < all(); ++i) {
        const auto normal = output_normal(decltype(kind)::value, prediction[i], log_std[i], state[i], a[i], b[i]);
        mean[i] = normal.mean;
        std[i] = normal.std;
        mean_by_prediction[i] = normal.mean_by_prediction;
        std_by_log_std[i] = normal.std_by_log_std;
      }
    };
    using P = Parametrisation;
    if (from.kind == P::kDirect) read(std::integral_constant<P, P::kDirect>{});
    if (from.kind == P::kData) read(std::integral_constant<P, P::kData>{});
    if (from.kind == P::kNoise) read(std::integral_constant<P, P::kNoise>{});
    if (mixed) read_shares(from.mixture_logits, start);
  }

  int64_t all() const { return length * components; }

 private:
  void read_shares(const View& logits, int64_t start) {
    const T* z = load(logits, start * components, all(), share);
    for (int64_t i = 0; i < all(); i += components) {
      T top = z[i], sum = 0;
      for (int64_t m = i; m < i + components; ++m) top = z[m] <= top ? top : z[m];
      for (int64_t m = i; m < i + components; ++m) log_share[m] = z[m] - top;
      for (int64_t m = i; m < i + components; ++m) sum += exp(log_share[m]);
      for (int64_t m = i; m < i + components; ++m) log_share[m] -= log(sum);
    }
    for (int64_t i = 0; i < all(); ++i) share[i] = exp(log_share[i]);
  }
};

// ln sum_m exp(terms_m), and the parts of the terms in it.
template <class T>
T log_sum(const T* terms, int64_t components, T* parts) {
  T top = terms[0], sum = 0;
  for (int64_t m = 1; m < components; ++m) top = terms[m] <= top ? top : terms[m];
  for (int64_t m = 0; m < components; ++m) parts[m] = exp(terms[m] - top);
  for (int64_t m = 0; m < components; ++m) sum += parts[m];
  for (int64_t m = 0; m < components; ++m) parts[m] /= sum;
  return top + log(sum);
}

// Derivatives by a block's means, stds and logits.
template <class T>
struct GradientBlock {
  T by_mean[kBlock], by_std[kBlock], by_logit[kBlock];

  // By the predictions; 0 where the mask is.
  void write(const NetworkGradients& to, const NetworkBlock<T>& from, int64_t start, const uint8_t* mask = nullptr) {
    for (int64_t i = 0; i < from.all(); ++i) by_mean[i] *= from.mean_by_prediction[i];
    for (int64_t i = 0; i < from.all(); ++i) by_std[i] *= from.std_by_log_std[i];
    write_one(to.grad_prediction, from, start, mask, by_mean);
    write_one(to.grad_log_std, from, start, mask, by_std);
    write_one(to.grad_mixture_logits, from, start, mask, by_logit);
  }

 private:
  void write_one(const View& to, const NetworkBlock<T>& from, int64_t start, const uint8_t* mask, T* values) {
    if (!to) return;
    for (int64_t i = 0; mask && i < from.length; ++i) {
      if (!mask[i]) std::fill_n(values + i * from.components, from.components, T(0));
    }
    store(to, start * from.components, from.all(), values);
  }
};

}  // namespace bfn
