// What a step of a row of classes sends, and the new state of a solver's step.
#pragma once

#include "classes.h"

namespace bfn {

// A row sends the class `class_index` or, if is_distribution is set, the distribution e_k * inverse, where e_k is an
// exponential of the row. If is_distribution is not set and the class is -1, the row sends NaN.
template <class T>
struct SentRow {
  int64_t class_index;
  bool is_distribution;
  T inverse;

  __device__ T at(int64_t k, T e) const { return is_distribution ? e * inverse : static_cast<T>(k == class_index); }
};

// Draws the first class whose cumulative e exceeds `threshold`. If there is none, it draws the last class whose
// probability is above 0.
template <class A, class Team, int kSlots>
__device__ int draw_class(const Team& team, ClassRow<A, Team, kSlots>& row, int count, typename A::Compute threshold) {
  using T = typename A::Compute;
  int first = count, last = 0;
  T before = 0;
  const auto round = [&](int i) {
    T e[4], sum = 0;
    const int k = 4 * (team.rank + i * team.size);
    row.exponential_group(i, k, e);
#pragma unroll
    for (int j = 0; j < 4; ++j) sum += e[j];
    T cumulative = before + team.sum_before(sum);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      cumulative += e[j];
      if (e[j] > T(0)) {
        last = k + j;
        if (cumulative > threshold && k + j < first) first = k + j;
      }
    }
    before += team.reduce(sum, T(0), Add());
  };
  // Every thread takes part in every round, even if no classes are left for it, since the sums of a team need all
  // threads.
  if constexpr (kSlots != kSweep) {
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
      if (4 * i * team.size < count) round(i);
    }
  } else {
#pragma unroll 1
    for (int i = 0; 4 * i * team.size < count; ++i) round(i);
  }
  first = team.reduce(first, count, Smaller());
  last = team.reduce(last, 0, Larger());
  return first < count ? first : last;
}

// Decides from the network's output what a row sends.
template <class A, class Team, int kSlots>
__device__ SentRow<typename A::Compute> choose(const Team& team, const DiscreteUpdate& op, int64_t row,
                                               ClassRow<A, Team, kSlots>& logits, int64_t draw_seed) {
  using T = typename A::Compute;
  const int count = static_cast<int>(op.num_classes);
  if (op.sent.choice == Choice::kMode) {
    const T top = logits.max_over([](int, int, int, T z) { return z; });
    return {top - top == T(0) ? logits.first_of(top) : -1, false, T(0)};
  }
  const T sum = logits.exponentials();
  if (op.sent.choice == Choice::kMean) return {-1, true, T(1) / sum};
  if (!(sum > T(0))) return {-1, false, T(0)};
  const T uniform = one_uniform<T>(op.sent.draw, draw_seed, row);
  return {draw_class(team, logits, count, uniform * sum), false, T(0)};
}

// The row scalars of an update. Only a solver's step needs the last two.
template <class T>
struct StepScalars {
  T beta, spread, extrapolation, keep;

  __device__ StepScalars(const DiscreteUpdate& op, int64_t row, bool solves)
      : beta(read_row<T>(op.solver.take, row)),
        spread(read_row<T>(op.solver.std, row)),
        extrapolation(solves ? read_row<T>(op.solver.extrapolation, row) : T(0)),
        keep(solves ? read_row<T>(op.solver.keep, row, T(1)) : T(1)) {}
};

// Adds the clipped score of a group to p.
template <class A>
__device__ void add_score(const Score& op, int64_t row, int count, int first, typename A::Compute (&p)[4]) {
  using T = typename A::Compute;
  const T limit = read_row<T>(op.clip, row, -kMinusInfinity<T>);
  T score[4] = {};
  A::load(op.values, row, count, first, score);
#pragma unroll
  for (int j = 0; j < 4; ++j) p[j] += clipped_score(score[j], limit);
}

// Writes the new state of a group of classes in a solver's step that sends p. It reads `previous` first, since the
// stored p may overwrite it.
template <class A>
__device__ __forceinline__ void solve(const DiscreteUpdate& op, const StepScalars<typename A::Compute>& scalars,
                                      int64_t seed, int64_t row, int first, typename A::Compute (&p)[4]) {
  using T = typename A::Compute;
  const int count = static_cast<int>(op.num_classes);
  T previous[4] = {}, state[4] = {}, eps[4] = {};
  if (op.solver.previous) A::load(op.solver.previous, row, count, first, previous);
  if (op.solver.prediction) A::store(op.solver.prediction, row, count, first, p);
  if (op.solver.previous) {
#pragma unroll
    for (int j = 0; j < 4; ++j) p[j] = extrapolated(p[j], previous[j], scalars.extrapolation);
  }
  A::load(op.state, row, count, first, state);
  if (op.noise.any()) class_normals(op.noise, seed, row, count, first, 0, 0, eps);
  const T classes = static_cast<T>(count);
#pragma unroll
  for (int j = 0; j < 4; ++j)
    state[j] = fused(scalars.keep, state[j], message(p[j], scalars.beta, scalars.spread, eps[j], classes));
  A::store(op.out, row, count, first, state);
}

}  // namespace bfn
