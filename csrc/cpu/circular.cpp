#include "../ops/circular.h"

#include "loss.h"
#include "noise.h"

namespace bfn {
namespace {

// Draws an angle in turns for each of the variables [start, start + length). The first two attempts are made for all
// variables, in vectorised loops. The few variables that need more attempts get them one by one.
template <class T>
void draw_angles(const int64_t* seed, int64_t start, int64_t length, const T* concentration, T* __restrict turns) {
  const uint64_t key = static_cast<uint64_t>(*seed);
  uint32_t words[4][kSetsAtOnce * kLanes];
  constexpr int64_t kAtOnce = kSetsAtOnce * kLanes;
  int32_t accepted[kAtOnce];  // integers as wide as a float, so that the loop is vectorised
  for (int64_t done = 0; done < length; done += kAtOnce) {
    const int64_t count = std::min(kAtOnce, length - done);
    const T* k = concentration + done;
    T* to = turns + done;
    fill_words<kSetsAtOnce>(words, key, static_cast<uint64_t>(start + done), 1, kLanes, kAngle, 0);
    for (int64_t i = 0; i < count; ++i) {
      const VonMises<T> law(k[i]);
      T first, second;
      const bool at_first = law.attempt(words[0][i], words[1][i], first);
      const bool at_second = law.attempt(words[2][i], words[3][i], second);
      to[i] = at_first ? first : second;
      accepted[i] = at_first | at_second;
    }
    for (int64_t i = 0; i < count; ++i) {
      if (!accepted[i]) to[i] = VonMises<T>(k[i]).draw(key, static_cast<uint64_t>(start + done + i), 1);
    }
  }
}

// Reads angles, and converts them to turns.
template <class T>
void load_turns(const View& view, double period, int64_t start, int64_t length, T* __restrict out) {
  T buffer[kBlock];
  const T* angle = load(view, start, length, buffer);
  const T per_unit = static_cast<T>(1 / period);
  for (int64_t i = 0; i < length; ++i) out[i] = per_unit * angle[i];
}

// Stores the scaled logarithms of concentrations.
template <class T>
void store_log(const View& to, const LogScale& scale, int64_t start, int64_t length, const T* concentration) {
  T logs[kBlock];
  const T least = static_cast<T>(scale.least), factor = static_cast<T>(scale.factor);
  for (int64_t i = 0; i < length; ++i) logs[i] = scaled_log(concentration[i], least, factor);
  store(to, start, length, logs);
}

// Draws the concentration of each variable from row `step` of the table.
template <class T>
void draw_concentrations(const CircularDraw& op, int64_t start, int64_t length, T* __restrict out) {
  T normals[noise_buffer_size(kBlock)], steps[kBlock];
  const T* z = normals_of(op.noise, start, length, normals);
  const T* step = load(op.step, start, length, steps);
  for (int64_t i = 0; i < length; ++i) out[i] = quantile_of(op.table, op.rows, step[i], z[i]);
}

}  // namespace

template <class T>
void circular_draw(const CircularDraw& op) {
  for_blocks(op.count, 1, [&](int64_t start, int64_t length) {
    T buffers[2][kBlock], drawn[kBlock], turns[kBlock];
    const T* concentration = drawn;
    if (op.table) {
      draw_concentrations(op, start, length, drawn);
    } else {
      concentration = load(op.concentration, start, length, buffers[0]);
    }
    draw_angles(op.noise.seed, start, length, concentration, turns);
    const T* x = load(op.x, start, length, buffers[1]);
    for (int64_t i = 0; i < length; ++i) turns[i] = turned(x[i], turns[i], op.period);
    store(op.mean, start, length, turns);
    if (!op.drawn) return;
    if (op.log.factor != 0) return store_log(op.drawn, op.log, start, length, concentration);
    store(op.drawn, start, length, concentration);
  });
}

template <class T>
void circular_step(const CircularStep& op) {
  for_blocks(op.count, 1, [&](int64_t start, int64_t length) {
    T buffers[2][kBlock], sent[kBlock], mean[kBlock], next[kBlock], turns[kBlock];
    load_turns(op.prediction, op.period, start, length, sent);
    load_turns(op.mean, op.period, start, length, mean);
    if (op.known) {
      load_turns(op.known, op.period, start, length, turns);
      overwrite(op.known_mask, start, length, turns, sent);
    }
    const T* alpha = load(op.alpha, start, length, buffers[0]);
    const T* concentration = load(op.concentration, start, length, buffers[1]);
    if (op.seed) {
      draw_angles(op.seed, start, length, alpha, turns);
      for (int64_t i = 0; i < length; ++i) sent[i] += turns[i];
    }
    for (int64_t i = 0; i < length; ++i) {
      CircularState<T> state{mean[i], concentration[i]};
      state.update(sent[i], alpha[i]);
      mean[i] = static_cast<T>(op.period) * state.turns;
      next[i] = state.concentration;
    }
    store(op.new_mean, start, length, mean);
    store(op.new_concentration, start, length, next);
    if (op.new_log) store_log(op.new_log, op.log, start, length, next);
  });
}

template <class T>
void circular_loss(const CircularLoss& op) {
  const T scale = known_scale<T>(op.to), per_unit = static_cast<T>(1 / op.period);
  const T log_period = static_cast<T>(std::log(op.period));
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
        each([](T turns, T w) { return cosine_loss(turns, w); });
        break;
      case CircularCost::kSquare:
        each([](T turns, T w) { return squared_angle(turns, w); });
        break;
      case CircularCost::kDensity:
        each([&](T turns, T w) { return negative_log_density(turns, w, log_period); });
    }
    if (op.grad_prediction) by_prediction.write();
    if (op.grad_weight) by_weight.write();
  });
  store_unit_scale<T>(op.to);
}

BFN_INSTANTIATE(circular_draw, const CircularDraw&);
BFN_INSTANTIATE(circular_step, const CircularStep&);
BFN_INSTANTIATE(circular_loss, const CircularLoss&);

}  // namespace bfn
