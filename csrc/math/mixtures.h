// Mixtures of M normals. The CPU and CUDA kernels store the components in different ways. So the functions read no
// arrays: the caller passes numbers, or a function that returns them.
#pragma once

#include "expected_value.h"

namespace bfn {

// ln sum_m exp(term_m), stored as the largest term `top` and the sum of exp(term_m - top).
template <class T>
struct LogSum {
  T top = kMinusInfinity<T>, sum = 0;

  // Adds a term, and raises `top` if the term is larger.
  BFN_HD void add(T term) {
    if (term > top) {
      sum = sum * exp(top - term) + 1;
      top = term;
    } else {
      sum += term == top ? T(1) : exp(term - top);
    }
  }
  BFN_HD T value() const { return top + log(sum); }
  // exp(term) divided by the whole sum. exp(term - value()) would contain the rounding error of value(), which may be
  // large.
  BFN_HD T share(T term) const { return exp(term - top) / sum; }
};

// Turns the mixture logits into ln pi_m, where pi_m is the share of component m. The log-sum of the logits is stored as
// two numbers, since their sum would be rounded.
template <class T>
struct LogShares {
  T top, log_sum;

  BFN_HD explicit LogShares(LogSum<T> logits) : top(logits.top), log_sum(log(logits.sum)) {}
  BFN_HD T operator()(T logit) const { return (logit - top) - log_sum; }
};

// The component that a uniform number draws: the first one whose cumulative share exceeds the number. If there is none,
// it is the last one whose share is above 0. It is -1 if the shares are NaN.
template <class T, class F>
BFN_HD int drawn_component(int count, T uniform, F&& share_of) {
  T cumulative = 0;
  int last = 0;
  for (int m = 0; m < count; ++m) {
    const T share = share_of(m);
    cumulative += share;
    if (cumulative > uniform) return m;
    if (share > T(0)) last = m;
  }
  return cumulative == cumulative ? last : -1;
}

// The centre of the bin with the largest mass. If several bins have this mass, it is the first of them. All bins are
// tried, since a mixture may have several maxima.
template <class T, class F>
BFN_HD T mixture_mode(Bins<T> bins, F&& mass_of) {
  T best = 0, best_mass = -1;
  for (int64_t k = 0; k < bins.count; ++k) {
    const T mass = mass_of(static_cast<T>(k));
    if (mass > best_mass) best = static_cast<T>(k);
    best_mass = mass <= best_mass ? best_mass : mass;
  }
  return best_mass >= T(0) ? bins.centre(best) : best_mass;  // a mass of NaN gives NaN
}

// The derivatives of a function by the mean, std and logit of a component.
template <class T>
struct ComponentGradient {
  T by_mean, by_std, by_logit;
};

// The derivatives of a function of k = sum_m pi_m k_m by the numbers of component m. `slope` is pi_m times the
// function's derivative by k, and `excess` is k_m - k.
template <class T>
BFN_HD ComponentGradient<T> mean_gradient(T slope, ExpectedValue<T> of_component, T excess) {
  return {slope * of_component.by_mean, slope * of_component.by_std, slope * excess};
}

// The derivatives of weight ln sum_m pi_m p_m by the numbers of component m. `share` is pi_m, and `posterior` is
// pi_m p_m divided by the sum.
template <class T>
BFN_HD ComponentGradient<T> log_sum_gradient(T weight, T posterior, T share, WithGradient<T> log_p) {
  return {weight * posterior * log_p.by_mean, weight * posterior * log_p.by_std, weight * (posterior - share)};
}

}  // namespace bfn
