// The expected values of the variables of a block. If the variables of a warp need different rules (EdgeRule), the warp
// executes these rules one after the other. So the block first sorts its variables by their rules.
#pragma once

#include "../math/expected_value.h"
#include "team.h"

namespace bfn {

// Finds the places of a thread's variables when the variables of the block are sorted by their rules.
template <int kCount>
__device__ void place_by_rule(const int (&rule)[kCount], int (&place)[kCount]) {
  constexpr int kBits = 12;  // the counts of all rules are packed into one number, with kBits bits for each
  static_assert(kBits * kEdgeRules <= 64 && kThreads * kCount < 1 << kBits, "a count fits its bits");
  uint64_t counts = 0;
#pragma unroll
  for (int j = 0; j < kCount; ++j) counts += uint64_t{1} << kBits * rule[j];
  const BlockTeam block(0);
  __shared__ uint64_t of_block;
  uint64_t next = block.sum_before(counts);
  if (threadIdx.x == blockDim.x - 1) of_block = next + counts;
  __syncthreads();
  uint64_t lower = of_block;
#pragma unroll
  for (int r = 1; r < kEdgeRules; ++r) next += lower <<= kBits;
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    place[j] = static_cast<int>(next >> kBits * rule[j]) & ((1 << kBits) - 1);
    next += uint64_t{1} << kBits * rule[j];
  }
}

// Writes the mean and the std of the block's variables to `numbers`. If they need different rules, they are sorted by
// their rules, and the result is true. `place` receives the places of a thread's variables. All threads of the block
// must call this function, and a barrier must follow.
template <class T, int kCount, int kRows, int kSize>
__device__ bool sort_by_rule(const T (&mean)[kCount], const T (&std)[kCount], const EdgeRuleLimits<T>& limits,
                             T (&numbers)[kRows][kSize], int (&place)[kCount]) {
  int rule[kCount];
  bool differs = false;
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    rule[j] = static_cast<int>(limits.rule(mean[j], std[j]));
    place[j] = threadIdx.x + kSize / kCount * j;
  }
  const int of_first = __shfl_sync(kWholeWarp, rule[0], 0);
#pragma unroll
  for (int j = 0; j < kCount; ++j) differs |= rule[j] != of_first;
  const bool mixed = __syncthreads_or(differs);
  if (mixed) place_by_rule(rule, place);
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    numbers[0][place[j]] = mean[j];
    numbers[1][place[j]] = std[j];
  }
  return mixed;
}

// Computes the expected values of a thread's variables. All kThreads threads of the block must call this function. The
// results of a thread do not depend on the variables of other threads.
template <class T, int kCount>
__device__ void expected_values(const T (&mean)[kCount], const T (&std)[kCount], Bins<T> bins,
                                ExpectedValue<T> (&value)[kCount]) {
  if constexpr (sizeof(T) == sizeof(double)) {  // in double only wide unclipped distributions have another rule
    for (int j = 0; j < kCount; ++j) value[j] = expected_value(mean[j], std[j], bins);
  } else {
    // `numbers` has the mean and std of each variable, and later its expected value. Neighbouring variables lie in
    // different memory banks.
    __shared__ T numbers[4][kThreads * kCount];
    const EdgeRuleLimits<T> limits(bins);
    int place[kCount];
    sort_by_rule(mean, std, limits, numbers, place);
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < kThreads * kCount; i += kThreads) {
      const ExpectedValue<T> k = expected_value(numbers[0][i], numbers[1][i], bins, limits);
      numbers[0][i] = k.base;
      numbers[1][i] = k.shift;
      numbers[2][i] = k.by_mean;
      numbers[3][i] = k.by_std;
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const int i = place[j];
      value[j] = {numbers[0][i], numbers[1][i], numbers[2][i], numbers[3][i]};
    }
  }
}

}  // namespace bfn
