#include "../ops/circular.h"

#include "access.h"

namespace bfn {
namespace {

// Draws the angles of a pack, in turns. Few variables are still open after their first proposals. A thread handles its
// open variables one at a time. So the loop of a warp lasts as long as the thread with the most open variables needs.
template <class T, int kCount>
__device__ __forceinline__ void draw_angles(int64_t seed, int64_t start, const T (&concentration)[kCount],
                                            T (&turns)[kCount]) {
  uint32_t word[kCount], open = 0;
  T height[kCount];
  words(seed, start, kAngle, word);
  VonMises<T> law(concentration[0]);
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    if (concentration[j] != law.concentration) law = VonMises<T>(concentration[j]);  // mostly a row shares its law
    const Proposal<T> first = law.propose(static_cast<T>(magnitude_of(word[j])), word[j] >> 31);
    turns[j] = first.turns;
    height[j] = first.height;
    open |= law.surely_accepts(first, word[j]) ? 0u : 1u << j;
  }
  while (open) {
    const uint32_t lowest = open & (0u - open);
    open ^= lowest;
    T k = concentration[0], t = turns[0], h = height[0];
    uint32_t w = word[0], index = 0;
#pragma unroll
    for (int j = 1; j < kCount; ++j) {
      const bool here = lowest == 1u << j;
      k = here ? concentration[j] : k;
      t = here ? turns[j] : t;
      h = here ? height[j] : h;
      w = here ? word[j] : w;
      index = here ? j : index;
    }
    t = VonMises<T>(k).draw({t, h}, kMostCalls,
                            SeededAngle<T>{static_cast<uint64_t>(seed), static_cast<uint64_t>(start + index), w});
#pragma unroll
    for (int j = 0; j < kCount; ++j) turns[j] = lowest == 1u << j ? t : turns[j];
  }
}

template <class At>
__global__ void __launch_bounds__(kThreads, 2)
    circular_step_kernel(const __grid_constant__ CircularStep op, const __grid_constant__ RowMap rows,
                         const typename At::Compute period, const typename At::Compute per_unit) {
  using T = typename At::Compute;
  const int64_t seed = seed_of(op.angle.seed ? op.angle : op.normals);
  for_grid<At>(op.count, rows, [&](auto at) {
    constexpr int kCount = decltype(at)::kCount;
    T alpha[kCount], sent[kCount], mean[kCount], concentration[kCount], turns[kCount] = {};
    at.rows(op.alpha, alpha);
    if (op.table) {
      T normals[kCount];
      at.noise(op.normals, seed, normals);
#pragma unroll
      for (int j = 0; j < kCount; ++j) alpha[j] = quantile_of(op.table, op.rows, alpha[j], normals[j]);
    }
    if (op.angle.seed) draw_angles(seed, at.start, alpha, turns);
    if constexpr (std::is_same_v<At, General<T>>) {
      if (op.angle.explicit_values) {
        const auto number = [&](int64_t n) { return read<T>(op.angle.explicit_values, n * op.count + at.start); };
        const VonMises<T> law(alpha[0]);
        const Proposal<T> first = law.propose(given_unit(number(0)));
        const GivenAngle<T, decltype(number)> given{number};
        turns[0] = law.accepts(first, given_bound(number(1))) ? first.turns : law.draw(first, op.proposals - 1, given);
      }
    }
    if (op.certain > 0) {
      bool is_known[kCount];
      at.mask(op.known_mask, is_known);
#pragma unroll
      for (int j = 0; j < kCount; ++j) {
        turns[j] = is_known[j] ? T(0) : turns[j];
        alpha[j] = is_known[j] ? static_cast<T>(op.certain) : alpha[j];
      }
    }
    at.data(op.sent, sent);
    replace_known(at, op.known, op.known_mask, sent);
    if (op.mean) {
      at.data(op.mean, mean);
      at.data(op.concentration, concentration);
#pragma unroll
      for (int j = 0; j < kCount; ++j) {
        mean[j] *= per_unit;
        add_message(mean[j], concentration[j], fused(per_unit, sent[j], turns[j]), alpha[j]);
      }
    } else {
#pragma unroll
      for (int j = 0; j < kCount; ++j) {
        mean[j] = wrapped(fused(per_unit, sent[j], turns[j]));
        concentration[j] = alpha[j];
      }
    }
#pragma unroll
    for (int j = 0; j < kCount; ++j) mean[j] *= period;
    at.store_data(op.new_mean, mean);
    if (op.new_concentration) {
      op.mean ? at.store_data(op.new_concentration, concentration)
              : at.store_compute(op.new_concentration, concentration);
    }
    if (!op.new_log) return;
#pragma unroll
    for (int j = 0; j < kCount; ++j) concentration[j] = scaled_log(concentration[j], op.log_least, op.log_factor);
    at.store_compute(op.new_log, concentration);
  });
}

}  // namespace

template <class T>
void circular_step(const CircularStep& op) {
  Layout layout = Layout().data(op.sent).data(op.mean).data(op.concentration).data(op.known).bytes(op.known_mask);
  layout.data(op.new_mean).rows(op.alpha).rows(op.new_log).noise(op.normals).noise(op.angle);
  op.mean ? layout.data(op.new_concentration) : layout.rows(op.new_concentration);
  with_access<T>(layout, [&](auto tag) {
    using At = typename decltype(tag)::type;
    launch(&circular_step_kernel<At>, grid_for<At>(op.count), kThreads, op, layout.row_map(), static_cast<T>(op.period),
           static_cast<T>(1 / op.period));
  });
}

BFN_INSTANTIATE(circular_step, const CircularStep&);

}  // namespace bfn
