// A step of rows of classes: what each row sends, and its new state.
#pragma once

#include "row_draws.h"

namespace bfn {
namespace {  // so that g++ inlines functions that are called once

// What each row sends: a class or, if `share` is above 0, a distribution p_k = e_k share. A row that has neither sends
// NaN.
template <class T>
struct SentRows {
  int64_t class_index[kLanes];  // -1 for no class
  T share[kLanes] = {}, beta[kLanes], spread[kLanes];
  uint8_t is_known[kLanes] = {};  // not 0 if the row sends a known class or distribution

  SentRows(const Rows& rows, const View& beta_view, const View& spread_view) {
    load_lanes(beta_view, rows, beta);
    load_lanes(spread_view, rows, spread);
    std::fill_n(class_index, kLanes, -1);
  }

  // Returns NaN for a row that sends NaN, and 0 for other rows. It is added to the numbers of the row.
  T poison_of(int64_t j) const { return class_index[j] < 0 && !(share[j] > T(0)) ? kNaN<T> : T(0); }

  // Writes base(i) + y_i for a tile, where y is the message. With kDistribution, e and the tile's scale give the
  // distributions that rows send. Without it no row sends a distribution, and e and scale are not read.
  template <bool kDistribution, class Base>
  void messages(const Tile& tile, const T* __restrict eps, const T* __restrict e, const T* scale, Base base,
                T* __restrict y) const {
    const T classes = static_cast<T>(tile.rows.num_classes);
    T poison[kLanes], by[kLanes];
    for (int64_t j = 0; j < kLanes; ++j) {
      poison[j] = poison_of(j);
      by[j] = kDistribution ? share[j] * scale[j] : T(0);
    }
    for_numbers(tile, [&](int64_t i, int32_t, auto j) {
      const T p = kDistribution && by[j] > T(0) ? e[i] * by[j] : T(0);
      y[i] = base(i) + (message(p, beta[j], spread[j], eps[i], classes) + poison[j]);
    });
    where_in_tile(tile, class_index,
                  [&](int64_t j, int64_t i) { y[i] = base(i) + message(T(1), beta[j], spread[j], eps[i], classes); });
  }

  // Writes the probabilities that each row sends. If the row sends a class, they are the one-hot vector of the class.
  void probabilities(const Tile& tile, const T* __restrict e, const T* scale, T* __restrict p) const {
    T poison[kLanes], by[kLanes];
    for (int64_t j = 0; j < kLanes; ++j) {
      poison[j] = poison_of(j);
      by[j] = share[j] * scale[j];
    }
    for_numbers(tile, [&](int64_t i, int32_t, auto j) { p[i] = (by[j] > T(0) ? e[i] * by[j] : T(0)) + poison[j]; });
    where_in_tile(tile, class_index, [&](int64_t, int64_t i) { p[i] = 1; });
  }
};

// Reads the logits of a step: the network's logits, with guidance if there is any. `guide` is not inlined, so that the
// loops of ordinary updates stay small.
template <class T>
struct StepLogits {
  const DiscreteUpdate& op;

  const T* operator()(const Tile& tile, T* buffer) const {
    const T* z = logits_of<T>(op.output_logits)(tile, buffer);
    return op.guidance.on() ? guide(tile, z, buffer) : z;
  }

 private:
  [[gnu::noinline]] const T* guide(const Tile& tile, const T* z, T* buffer) const {
    T scale[kLanes], other_scale[kLanes], other_buffer[kBlock];
    load_lanes(op.guidance.logit_scale, tile.rows, scale, T(1));
    load_lanes(op.guidance.unconditional_scale, tile.rows, other_scale);
    const View& unconditional = op.guidance.unconditional;
    std::fill_n(other_buffer, unconditional ? 0 : tile.numbers(), T(0));
    const T* other = unconditional ? load_tile(unconditional, tile, other_buffer, T(0)) : other_buffer;
    for_numbers(tile,
                [&](int64_t i, int32_t, auto j) { buffer[i] = guided(z[i], scale[j], other[i], other_scale[j]); });
    return buffer;  // the padding of a row stays -infinity
  }
};

// Stores p as the step's prediction, and then replaces p by p + extrapolation (p - previous). It reads `previous`
// first, since the stored p may overwrite it.
template <class T>
void extrapolate_tile(const Solver& op, const Tile& tile, T* __restrict p) {
  T next[kBlock], buffer[kBlock], factor[kLanes];
  if (op.previous) {
    load_lanes(op.extrapolation, tile.rows, factor);
    const T* previous = load_tile(op.previous, tile, buffer, T(0));
    for_numbers(tile, [&](int64_t i, int32_t, auto j) { next[i] = extrapolated(p[i], previous[i], factor[j]); });
  }
  if (op.prediction) store_tile(op.prediction, tile, p);
  if (op.previous) std::copy_n(next, tile.numbers(), p);
}

// Replaces p by the known distribution in rows that have one.
template <class T>
void replace_known(const View& known, const Tile& tile, const uint8_t (&is_known)[kLanes], T* __restrict p) {
  T buffer[kBlock];
  const T* x = load_tile(known, tile, buffer, T(0));
  for_numbers(tile, [&](int64_t i, int32_t, auto j) { p[i] = is_known[j] ? x[i] : p[i]; });
}

// Adds the clipped score to p, except in rows whose class is known.
template <class T>
void add_score(const Score& op, const Tile& tile, const uint8_t (&is_known)[kLanes], T* __restrict p) {
  T buffer[kBlock], limit[kLanes];
  load_lanes(op.clip, tile.rows, limit, -kMinusInfinity<T>);
  const T* score = load_tile(op.values, tile, buffer, T(0));
  for_numbers(tile,
              [&](int64_t i, int32_t, auto j) { p[i] += is_known[j] ? T(0) : clipped_score(score[i], limit[j]); });
}

// Writes the new state of a tile in a solver's step. The distribution that a row sends is given by e and the tile's
// scale.
template <class T>
[[gnu::noinline]] void solve_tile(const DiscreteUpdate& op, const Tile& tile, const SentRows<T>& sent, const T* e,
                                  const T* scale, const T* eps, const T* state, T* out) {
  T p[kBlock], keep[kLanes];
  sent.probabilities(tile, e, scale, p);
  if (op.sent.known.is_floating()) replace_known(op.sent.known, tile, sent.is_known, p);
  if (op.score.values) add_score(op.score, tile, sent.is_known, p);
  extrapolate_tile(op.solver, tile, p);
  load_lanes(op.solver.keep, tile.rows, keep, T(1));
  const T classes = static_cast<T>(tile.rows.num_classes);
  for_numbers(tile, [&](int64_t i, int32_t, auto j) {
    out[i] = fused(keep[j], state[i], message(p[i], sent.beta[j], sent.spread[j], eps[i], classes));
  });
}

// Decides from the network's output what each row sends. The e_k of a row that sends a distribution are then in the
// scratch memory.
template <class T>
void choose(const DiscreteUpdate& op, const Rows& rows, RowScratch<T>& scratch, SentRows<T>& sent) {
  const StepLogits<T> logits{op};
  if (op.sent.choice == Choice::kMode) return find_modes<T>(rows, logits, sent.class_index);
  if (op.sent.choice == Choice::kMean) {
    const RowSums<T> sums(rows, nullptr, scratch, logits, {&op.output_logits});
    for (int64_t j = 0; j < kLanes; ++j) sent.share[j] = static_cast<T>(1 / sums.rest[j]);
  } else {
    const RowSums<T, SumMode::kRounded> sums(rows, nullptr, scratch, logits, {&op.output_logits});
    T uniform[kLanes], buffer[noise_buffer_size(kLanes)];
    copy_lanes(rows, uniforms_of(op.sent.draw, rows.first, rows.count, buffer), uniform);
    draw_classes(rows, sums.rest, scratch, uniform, sent.class_index);
  }
}

// Replaces what a row sends by its known class, if it has one.
template <class T>
void send_known(const DiscreteUpdate& op, const Rows& rows, const uint8_t (&known)[kLanes], SentRows<T>& sent,
                BadClass& bad) {
  int64_t x[kLanes];
  std::fill_n(x, kLanes, -1);  // replace_known sends soft data
  if (!op.sent.known.is_floating()) load_classes(op.sent.known, rows, known, x, &bad);
  for (int64_t j = 0; j < kLanes; ++j) {
    sent.class_index[j] = known[j] ? x[j] : sent.class_index[j];
    sent.share[j] = known[j] ? T(0) : sent.share[j];
    sent.is_known[j] = known[j];
  }
}

// A function that writes the new state of a tile. It returns the new state after it was rounded to the type of the
// state.
template <class T>
class NewState {
 public:
  NewState(const DiscreteUpdate& op, const SentRows<T>& sent, const RowScratch<T>& scratch)
      : op_(op),
        sent_(sent),
        scratch_(scratch),
        any_distribution_(std::any_of(sent.share, sent.share + kLanes, [](T share) { return !(share == T(0)); })) {}

  // It reads e of the tile from the scratch memory. The sums over the new state overwrite this e only afterwards.
  const T* operator()(const Tile& tile, T* new_state) const {
    T normals[kBlock], buffer[kBlock];
    const Prefetch<T> prefetch({&op_.state, &op_.out, &op_.theta}, tile.start());
    const T* eps = normals_or_zeros(op_.noise, tile, normals, prefetch);
    T* out = target_tile(op_.out, tile, new_state);
    const T* __restrict state = load_tile(op_.state, tile, buffer, T(0));
    if (state == out) {
      std::copy_n(state, tile.numbers(), buffer);
      state = buffer;
    }
    const auto base = [state](int64_t i) { return state[i]; };
    const T *e = scratch_.e_of(tile), *scale = scratch_.sums_of(tile).scale;
    if (op_.solver.on() || op_.score.values || op_.sent.known.is_floating()) {
      solve_tile(op_, tile, sent_, e, scale, eps, state, out);
    } else if (any_distribution_) {
      sent_.template messages<true>(tile, eps, e, scale, base, out);
    } else {
      sent_.template messages<false>(tile, eps, e, scale, base, out);
    }
    store_tile(op_.out, tile, out);
    if (op_.out.dtype != dtype_of<T>()) return load_tile(op_.out, tile, new_state, kMinusInfinity<T>);
    pad_tile(tile, out, kMinusInfinity<T>);
    return out;
  }

 private:
  const DiscreteUpdate& op_;
  const SentRows<T>& sent_;
  const RowScratch<T>& scratch_;
  const bool any_distribution_;
};

}  // namespace
}  // namespace bfn
