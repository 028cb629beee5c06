#include "../ops/circular.h"

#include "loss.h"
#include "noise.h"

namespace bfn {
namespace {

// Draws an angle in turns for each of the variables [start, start + length). The first proposals are made for all
// variables, in a vectorised loop. The few variables whose proposals are not accepted are handled one by one.
template <class T>
void draw_angles(const int64_t* seed, int64_t start, int64_t length, const T* concentration, T* __restrict turns) {
  const uint64_t key = static_cast<uint64_t>(*seed);
  uint32_t buffer[noise_buffer_size(kBlock)];
  int32_t accepted[kBlock];  // integers as wide as a float, so that the loop is vectorised
  const uint32_t* word = each_word(key, kAngle, start, length, buffer, [](uint32_t w) { return w; });
  for (int64_t i = 0; i < length; ++i) {
    const VonMises<T> law(concentration[i]);
    const Proposal<T> first = law.propose(word[i]);
    turns[i] = first.turns;
    accepted[i] = law.accepts(first, word[i], T(1));
  }
  for (int64_t i = 0; i < length; ++i) {
    if (accepted[i]) continue;
    const VonMises<T> law(concentration[i]);
    turns[i] = law.draw(key, static_cast<uint64_t>(start + i), word[i], law.propose(word[i]));
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
      const T* z = normals_of(op.noise, start, length, normals);
      for (int64_t i = 0; i < length; ++i) drawn[i] = quantile_of(op.table, op.rows, alpha[i], z[i]);
      alpha = drawn;
    }
    if (op.noise.seed) draw_angles(op.noise.seed, start, length, alpha, turns);
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

template <class T>
void circular_loss(const CircularLoss& op) {
  const T scale = known_scale<T>(op.to), per_unit = static_cast<T>(1 / op.period);
  const T log_period = static_cast<T>(std::log(op.period));
  RangeCheck<T> range("concentration", 0);
  reduce_losses<T>(op.to, 1, [&](int64_t start, int64_t length, const uint8_t* mask, T* __restrict loss) {
    T buffers[3][kBlock], unused[2][kBlock];
    const T* x = load(op.x, start, length, buffers[0]);
    const T* prediction = load(op.prediction, start, length, buffers[1]);
    const T* weight = load(op.weight, start, length, buffers[2]);
    SavedGradient<T> by_prediction(op.grad_prediction, start, length, mask);
    SavedGradient<T> by_weight(op.grad_weight, start, length, mask);
    // A loop with conditions would not be vectorised.
    T* __restrict const prediction_slopes = op.grad_prediction ? by_prediction.out : unused[0];
    T* __restrict const weight_slopes = op.grad_weight ? by_weight.out : unused[1];
    const auto each = [=](auto term) {
      for (int64_t i = 0; i < length; ++i) {
        const CircularTerm<T> cost = term(per_unit * (x[i] - prediction[i]), weight[i]);
        loss[i] = cost.value;
        prediction_slopes[i] = scale * per_unit * cost.by_turns;
        weight_slopes[i] = scale * cost.by_weight;
      }
    };
    switch (op.cost) {
      case CircularCost::kCosine:
        each([](T turns, T w) { return circular_cost<CircularCost::kCosine>(turns, w, T(0)); });
        break;
      case CircularCost::kSquare:
        each([](T turns, T w) { return circular_cost<CircularCost::kSquare>(turns, w, T(0)); });
        break;
      case CircularCost::kDensity:
        each([&](T turns, T w) { return circular_cost<CircularCost::kDensity>(turns, w, log_period); });
        range.check(weight, length, mask);
    }
    if (op.grad_prediction) by_prediction.write();
    if (op.grad_weight) by_weight.write();
  });
  store_unit_scale<T>(op.to);
  range.throw_if_found();
}

BFN_INSTANTIATE(circular_step, const CircularStep&);
BFN_INSTANTIATE(circular_loss, const CircularLoss&);

}  // namespace bfn
