#include "../ops/circular.h"

#include "noise.h"
#include "range_check.h"

namespace bfn {
namespace {

// Draws an angle in turns for each of the variables [start, start + length). The first proposals are made for all
// variables, in a vectorised loop. The few variables whose proposals are not accepted are handled one by one. Seeded
// and explicit numbers take the same loops, so that equal numbers give the same bits.
template <class T>
void draw_angles(const CircularStep& op, int64_t start, int64_t length, const T* concentration, T* __restrict turns) {
  uint32_t buffer[noise_buffer_size(kBlock)];
  const uint32_t* word = buffer;
  T signed_unit[kBlock], bound[kBlock];
  int32_t accepted[kBlock];  // integers as wide as a float, so that the loop is vectorised
  if (op.angle.seed) {
    word = each_word(seed_of(op.angle), kAngle, start, length, buffer, [](uint32_t w) { return w; });
    for (int64_t i = 0; i < length; ++i) signed_unit[i] = static_cast<T>(signed_unit_of(word[i]));
    for (int64_t i = 0; i < length; ++i) bound[i] = bound_of<T>(word[i]);
  } else {
    T given[kBlock];
    const T* numbers = load(op.angle.explicit_values, start, length, given);
    for (int64_t i = 0; i < length; ++i) signed_unit[i] = given_unit(numbers[i]);
    numbers = load(op.angle.explicit_values, op.count + start, length, given);
    for (int64_t i = 0; i < length; ++i) bound[i] = given_bound(numbers[i]);
  }
  for (int64_t i = 0; i < length; ++i) {
    const VonMises<T> law(concentration[i]);
    const Proposal<T> first = law.propose(signed_unit[i]);
    turns[i] = first.turns;
    accepted[i] = law.accepts(first, bound[i]);
  }
  const int64_t calls = op.angle.seed ? kMostCalls : op.proposals - 1;
  for (int64_t i = 0; i < length; ++i) {
    if (accepted[i]) continue;
    const VonMises<T> law(concentration[i]);
    SeededAngle<T> seeded{};
    if (op.angle.seed) seeded = {seed_of(op.angle), static_cast<uint64_t>(start + i), word[i]};
    const auto number = [&](int64_t n) {
      T given;
      return *load(op.angle.explicit_values, n * op.count + start + i, 1, &given);
    };
    const GivenAngle<T, decltype(number)> given{number};
    const auto more = [&](int64_t call) { return op.angle.seed ? seeded(call) : given(call); };
    turns[i] = law.draw(law.propose(signed_unit[i]), calls, more);
  }
}

}  // namespace

template <class T>
void circular_step(const CircularStep& op) {
  const T period = static_cast<T>(op.period), per_unit = static_cast<T>(1 / op.period);
  RangeCheck<T> range("concentration", 0);
  for_blocks(op.count, 1, [&](int64_t start, int64_t length) {
    T buffers[3][kBlock], normals[noise_buffer_size(kBlock)], drawn[kBlock];
    T turns[kBlock] = {}, mean[kBlock], concentration[kBlock];
    const T* alpha = load(op.alpha, start, length, buffers[0]);
    if (op.table) {
      const T* z = normals_of(op.normals, start, length, normals);
      for (int64_t i = 0; i < length; ++i) drawn[i] = quantile_of(op.table, op.rows, alpha[i], z[i]);
      alpha = drawn;
    }
    if (op.angle.any()) draw_angles(op, start, length, alpha, turns);
    if (op.certain > 0) {
      std::fill_n(mean, length, T(0));
      overwrite(op.known_mask, start, length, mean, turns);
      std::fill_n(mean, length, static_cast<T>(op.certain));
      overwrite(op.known_mask, start, length, mean, drawn);
    }
    const auto load_message = [&](const View& about, T* __restrict y) {
      const T* x = load(about, start, length, buffers[1]);
      for (int64_t i = 0; i < length; ++i) y[i] = fused(per_unit, x[i], turns[i]);
    };
    load_message(op.sent, mean);
    if (op.known) {
      load_message(op.known, concentration);
      overwrite(op.known_mask, start, length, concentration, mean);
    }
    if (op.mean) {
      const T* before = load(op.mean, start, length, buffers[1]);
      const T* c = load(op.concentration, start, length, buffers[2]);
      int negative = 0;
      for (int64_t i = 0; i < length; ++i) {
        T after = per_unit * before[i], k = c[i];
        negative |= k < T(0);
        add_message(after, k, mean[i], alpha[i]);
        mean[i] = period * after;
        concentration[i] = k;
      }
      if (negative) range.check(c, length);
    } else {
      for (int64_t i = 0; i < length; ++i) mean[i] = period * wrapped(mean[i]);
      std::copy_n(alpha, length, concentration);
    }
    store(op.new_mean, start, length, mean);
    if (op.new_concentration) store(op.new_concentration, start, length, concentration);
    if (!op.new_log) return;
    for (int64_t i = 0; i < length; ++i) concentration[i] = scaled_log(concentration[i], op.log_least, op.log_factor);
    store(op.new_log, start, length, concentration);
  });
  range.throw_if_found();
}

BFN_INSTANTIATE(circular_step, const CircularStep&);

}  // namespace bfn
