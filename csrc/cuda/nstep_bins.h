// The sum over bins of the discretised n-step loss (math/nstep.h). A thread computes the sums of a variable for some
// draws. It makes each term once and adds it to the sums of these draws, which stay in registers.
#pragma once

#include "../math/nstep.h"
#include "../ops/discretised.h"
#include "access.h"
#include "nodes.h"
#include "team.h"

namespace bfn {

// The sums of kDraws draws of a variable.
template <class T, int kDraws>
class NStepSums {
 public:
  T weight[kDraws];  // of each draw in the expectation

  // Makes the draws [first, end) of the variable `at`. They are at most kDraws, and the last one is repeated with a
  // weight of 0.
  template <class At>
  __device__ NStepSums(const DiscretisedLoss& op, const Nodes<T>& nodes, const At& at, int first, int end) {
    const Noise& noise = op.draws.noise;
    const int64_t seed = seed_of(noise), variables = op.to.batch * op.to.per_batch;
    const T share = T(1) / static_cast<T>(op.draws.count());
#pragma unroll
    for (int i = 0; i < kDraws; ++i) {
      const int draw = first + i < end ? first + i : end - 1, node = draw < kMaxNodes ? draw : 0;
      T drawn[1] = {nodes.at[node]};
      if (op.draws.n_samples) at.noise(noise, seed, drawn, static_cast<uint32_t>(draw), variables);
      eps_[i] = drawn[0];
      weight[i] = first + i < end ? (op.draws.n_samples ? share : nodes.weight[node]) : T(0);
    }
  }

  // Computes ln sum_k p_k exp(q_k (eps - q_k / 2)) of each draw and its derivatives, which `of` then returns.
  __device__ void sum(const NStepNormal<T>& normal) {
    T least = eps_[0], most = eps_[0];
#pragma unroll
    for (int i = 0; i < kDraws; ++i) {
      least = eps_[i] < least ? eps_[i] : least;
      most = eps_[i] > most ? eps_[i] : most;
      top_[i] = T(-1e30);
      sum_[i] = {T(0), T(0), T(0)};
    }
    const NStepTerms<T>& terms = normal.terms;
    const NStepOrigin<T> origin = normal.origin(least, most);
    const NStepWindow<T> window = normal.window(origin, least, most);
#pragma unroll
    for (int i = 0; i < kDraws; ++i) slope_[i] = terms.slope(origin, eps_[i]);
    const int count = static_cast<int>(window.count);
    // The second half of the window comes first, and the first half after it, backwards. The term of the first point is
    // then not much smaller than the largest, so that `add` seldom raises the top again.
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
      const int later = count / 2 + i;
      add(terms.point(origin, window.point(later < count ? later : count - 1 - i)));
    }
#pragma unroll 1
    for (int end = 0; end < (terms.bins.clip ? 2 : 0); ++end) add(terms.end_bin(origin, end == 0));
    if (window.panels > T(0)) {
#pragma unroll 1
      for (int end = 0; end < 2; ++end) add_cut(terms, origin, window, end == 0);
    }
#pragma unroll
    for (int i = 0; i < kDraws; ++i)
      sum_[i] = nstep_log(top_[i], terms.log_origin(origin, eps_[i]), sum_[i], normal.total);
  }
  __device__ const WithGradient<T>& of(int draw) const { return sum_[draw]; }

 private:
  T eps_[kDraws], slope_[kDraws], top_[kDraws];
  WithGradient<T> sum_[kDraws];  // the sums, divided by 2^top

  __device__ static void add_to(WithGradient<T>& sum, T e, const WithGradient<T>& mass) {
    sum.value = fused(e, mass.value, sum.value);
    sum.by_mean = fused(e, mass.by_mean, sum.by_mean);
    sum.by_std = fused(e, mass.by_std, sum.by_std);
  }
  __device__ T power(const NStepTerm<T>& term, int draw) const {
    return fused(term.distance, slope_[draw], term.exponent);
  }
  // Adds a term to the sums of all draws. Terms up to 2^60 times the top do not overflow.
  __device__ void add(const NStepTerm<T>& term) {
    T over[kDraws], most = kMinusInfinity<T>;
#pragma unroll
    for (int i = 0; i < kDraws; ++i) {
      over[i] = power(term, i) - top_[i];
      most = Larger()(over[i], most);
    }
    if (most > T(60)) {
#pragma unroll
      for (int i = 0; i < kDraws; ++i) {
        if (!(over[i] > T(0))) continue;
        const T scale = exp2_term(-over[i]);
        top_[i] = power(term, i);
        over[i] = 0;
        sum_[i] = {sum_[i].value * scale, sum_[i].by_mean * scale, sum_[i].by_std * scale};
      }
    }
#pragma unroll
    for (int i = 0; i < kDraws; ++i) add_to(sum_[i], exp2_term(over[i]), term.mass);
  }
  __device__ void add_cut(const NStepTerms<T>& terms, const NStepOrigin<T>& origin, const NStepWindow<T>& window,
                          bool low) {
    const NStepCut<T> cut = terms.cut(origin, window, low);
#pragma unroll
    for (int i = 0; i < kDraws; ++i) {
      const NStepTerm<T> term = cut.of(eps_[i]);
      add_to(sum_[i], exp2_term(power(term, i) - top_[i]), term.mass);
    }
  }
};

// Calls f(sums, first) for the draws of the variable `at`, up to kDraws at a time. `first` says whether they are its
// first draws.
template <class T, int kDraws, class At, class F>
__device__ void for_draws(const DiscretisedLoss& op, const Nodes<T>& nodes, const At& at, F&& f) {
  const int all = static_cast<int>(op.draws.count()), rounds = (all + kDraws - 1) / kDraws;
  const int each = (all + rounds - 1) / rounds;
#pragma unroll 1
  for (int first = 0; first < all; first += each) {
    NStepSums<T, kDraws> sums(op, nodes, at, first, first + each < all ? first + each : all);
    f(sums, first == 0);
  }
}

// Calls f with the number of draws that a thread sums at a time, as a constant. In double more sums would not fit the
// registers.
template <class T, class F>
void with_draws(const Draws& draws, F&& f) {
  if constexpr (sizeof(T) == sizeof(double)) {
    f(std::integral_constant<int, 4>{});
  } else if (draws.count() <= 8) {
    f(std::integral_constant<int, 8>{});
  } else {
    f(std::integral_constant<int, 10>{});
  }
}

}  // namespace bfn
