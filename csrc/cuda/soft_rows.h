// The losses of a row of discrete data for soft data x (SoftStats): w ||x - p||^2, or the cross entropy of x and p.
#pragma once

#include "classes.h"

namespace bfn {

// Returns the loss of a row, and stores its SoftStats. Both are 0 for a row that is not `on`.
template <class A, class Team, int kSlots>
__device__ typename A::Compute soft_cost(const Team& team, const DiscreteLoss& op, int64_t row, bool on) {
  using T = typename A::Compute;
  const int count = static_cast<int>(op.num_classes);
  SoftStats<T> stats{};
  T cost = 0;
  if (on) {
    ClassRow<A, Team, kSlots> logits(team, count, Logits<A>(op.logits, row, count));
    const auto total = logits.total();
    const T inverse = T(1) / total.sum;
    const auto x = [&](int k) { return A::one(op.x, row, count, k); };
    const auto e = [&](T z) { return exp_difference(z, total.top); };
    // Sums f(k, p_k) over the classes but m, the class with p_m > 1/2.
    const auto sum_of_others = [&](auto&& f) {
      return logits.sum_over([&](int, int, int k, T z) {
        const T p = e(z) * inverse;
        return p > T(0.5) ? T(0) : f(k, p);
      });
    };
    stats.max = total.top;
    stats.rest = sum_of_others([&](int, T p) { return p; }) * total.sum;
    if (op.weight) {
      const T x_m = logits.sum_over([&](int, int, int k, T z) { return e(z) * inverse > T(0.5) ? x(k) : T(0); });
      const T distance = stats.likeliest_distance(x_m);
      stats.own = distance / stats.total();
      stats.others = sum_of_others([&](int k, T p) { return p * (x(k) - p); });
      const T squares = sum_of_others([&](int k, T p) { return square(x(k) - p); });
      cost = read_row<T>(op.weight, row) * (squares + square(distance));
    } else {
      stats.others = logits.sum_over([&](int, int, int k, T) { return x(k); });
      const T costs = logits.sum_over([&](int, int, int k, T z) {
        const T share = x(k);
        return share == T(0) ? T(0) : share * (total.top - z);
      });
      cost = stats.others * stats.log_total() + costs;
    }
  }
  if (op.stats && team.rank == 0) {
    const T numbers[] = {stats.max, stats.own, stats.rest, stats.others};
    for (int64_t i = 0; i < kRowStats; ++i) write_row(op.stats, row * kRowStats + i, numbers[i]);
  }
  return cost;
}

// Writes the gradient of a row. `top` is its largest logit.
template <class A, class Team, int kSlots>
__device__ void soft_gradient(const Team& team, const DiscreteLossBackward& op, int64_t row, bool on,
                              const SoftSlopes<typename A::Compute>& slopes, typename A::Compute top) {
  using T = typename A::Compute;
  const int count = static_cast<int>(op.num_classes);
  for_groups<kSlots>(team, count, [&](int, int first) {
    T z[4] = {}, x[4] = {};
    Logits<A>(op.logits, row, count)(first, z);
    A::load(op.x, row, count, first, x);
#pragma unroll
    for (int j = 0; j < 4; ++j) z[j] = on ? slopes.by(x[j], exp_difference(z[j], top)) : T(0);
    A::store(op.grad_logits, row, count, first, z);
  });
}

}  // namespace bfn
