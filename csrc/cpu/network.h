// The output of a network for a block of variables of discretised data, as normal distributions. If the output is a
// mixture, each normal also has a share.
#pragma once

#include <type_traits>

#include "../math/discretised.h"
#include "../math/mixtures.h"
#include "../ops/discretised.h"
#include "parallel.h"
#include "range_check.h"
#include "view.h"

namespace bfn {

// Refuses a std that is not positive, if the caller passed the std. A std that is computed from a network's output is
// not checked.
template <class T>
struct StdCheck : RangeCheck<T> {
  StdCheck() : RangeCheck<T>("std", 0, HUGE_VAL, true) {}
};

// Reads one number for each of the variables [start, start + length), and repeats it for the variable's components.
template <class T>
const T* load_each(const View& view, int64_t start, int64_t length, int64_t components, T* buffer) {
  if (components == 1) return load(view, start, length, buffer);
  T single[kBlock];
  const T* values = load(view, start, length, single);
  for (int64_t i = 0; i < length; ++i) std::fill_n(buffer + i * components, components, values[i]);
  return buffer;
}

// The log-sum of an array of terms. It also writes exp(term - top) of each term to `e`. The compiler vectorises its
// loops.
template <class T>
LogSum<T> log_sum(const T* terms, int64_t components, T* e) {
  LogSum<T> total{terms[0], T(0)};
  for (int64_t m = 1; m < components; ++m) total.top = terms[m] <= total.top ? total.top : terms[m];
  for (int64_t m = 0; m < components; ++m) e[m] = exp(terms[m] - total.top);
  for (int64_t m = 0; m < components; ++m) total.sum += e[m];
  return total;
}

// The output normals of a block. The components of a variable are neighbours in each array. All variables of the block
// together have at most kBlock components.
template <class T>
struct NetworkBlock {
  static_assert(kMaxComponents <= kBlock, "a block holds all components of a variable");
  int64_t length, components;
  bool mixed;  // whether the output is a mixture; a mixture may have a single component
  Bins<T> bins;
  T mean[kBlock], std[kBlock], mean_by_prediction[kBlock], std_by_log_std[kBlock];
  T share[kBlock], log_share[kBlock];  // only for a mixture

  NetworkBlock(const NetworkOutput& from, int64_t start, int64_t variables, StdCheck<T>* check = nullptr)
      : length(variables),
        components(from.components),
        mixed(static_cast<bool>(from.mixture_logits)),
        bins{from.num_bins, from.clip} {
    T buffers[5][kBlock];
    const T* prediction = load(from.prediction, start * components, all(), buffers[0]);
    const T* log_std = load(from.log_std, start * components, all(), buffers[1]);
    const T* state = load_each(from.mean, start, length, components, buffers[2]);
    const T* mean_scale = load_each(from.mean_scale, start, length, components, buffers[3]);
    const T* noise_scale = load_each(from.noise_scale, start, length, components, buffers[4]);
    using P = Parametrisation;
    int refused = 0;                          // whether a std is given that is not positive
    const auto limits = from.limits.as<T>();  // a copy, since the compiler would read `from` again after each store
    const auto read = [&](auto kind) {        // `kind` is a compile-time constant, so that the loop has no branch
      for (int64_t i = 0; i < all(); ++i) {
        const auto normal = output_normal(decltype(kind)::value, limits, prediction[i], log_std[i], state[i],
                                          mean_scale[i], noise_scale[i]);
        mean[i] = normal.mean;
        std[i] = normal.std;
        mean_by_prediction[i] = normal.mean_by_prediction;
        std_by_log_std[i] = normal.std_by_log_std;
        if constexpr (decltype(kind)::value == P::kDirect) refused |= log_std[i] <= T(0);
      }
    };
    if (from.kind == P::kDirect) read(std::integral_constant<P, P::kDirect>{});
    if (from.kind == P::kData) read(std::integral_constant<P, P::kData>{});
    if (from.kind == P::kNoise) read(std::integral_constant<P, P::kNoise>{});
    if (mixed) read_shares(from.mixture_logits, start);
    if (refused && check) check->check(log_std, all());
  }

  int64_t all() const { return length * components; }

 private:
  void read_shares(const View& logits, int64_t start) {
    const T* z = load(logits, start * components, all(), log_share);
    for (int64_t i = 0; i < all(); i += components) {
      const LogShares<T> log_shares(log_sum(z + i, components, share + i));
      for (int64_t m = i; m < i + components; ++m) log_share[m] = log_shares(z[m]);
    }
    for (int64_t i = 0; i < all(); ++i) share[i] = exp(log_share[i]);
  }
};

// The derivatives of the losses of a block by the means, stds and mixture logits.
template <class T>
struct GradientBlock {
  T by_mean[kBlock], by_std[kBlock], by_logit[kBlock];

  void set(int64_t i, ComponentGradient<T> by) {
    by_mean[i] = by.by_mean;
    by_std[i] = by.by_std;
    by_logit[i] = by.by_logit;
  }
  void add(int64_t i, ComponentGradient<T> by) {
    by_mean[i] += by.by_mean;
    by_std[i] += by.by_std;
    by_logit[i] += by.by_logit;
  }

  // Turns the derivatives into derivatives by the predictions, and writes them. They are 0 for a variable whose mask is
  // 0.
  void write(const NetworkGradients& to, const NetworkBlock<T>& from, int64_t start, const uint8_t* mask = nullptr) {
    for (int64_t i = 0; i < from.all(); ++i) by_mean[i] *= from.mean_by_prediction[i];
    for (int64_t i = 0; i < from.all(); ++i) by_std[i] *= from.std_by_log_std[i];
    hide(to.grad_prediction, from, mask, by_mean);
    hide(to.grad_log_std, from, mask, by_std);
    hide(to.grad_mixture_logits, from, mask, by_logit);
    const int64_t first = start * from.components;
    store_pair(to.grad_prediction, to.grad_log_std, first, from.all(), by_mean, by_std);
    if (to.grad_mixture_logits) store(to.grad_mixture_logits, first, from.all(), by_logit);
  }

 private:
  static void hide(const View& to, const NetworkBlock<T>& from, const uint8_t* mask, T* values) {
    for (int64_t i = 0; to && mask && i < from.length; ++i) {
      if (!mask[i]) std::fill_n(values + i * from.components, from.components, T(0));
    }
  }
};

}  // namespace bfn
