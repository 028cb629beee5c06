#include "../ops/discrete.h"

#include "loss.h"
#include "noise.h"
#include "row_draws.h"
#include "row_slopes.h"

namespace bfn {
namespace {

// What each row sends: a class or, if `share` is above 0, a distribution p_k = e_k share. A row that has neither sends
// NaN.
template <class T>
struct SentRows {
  int64_t class_index[kLanes];  // -1 for no class
  T share[kLanes] = {}, beta[kLanes], spread[kLanes];

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
    const T* z = load_tile(op.output_logits, tile, buffer, kMinusInfinity<T>);
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

// Writes the new state of a tile in a solver's step. The distribution that a row sends is given by e and the tile's
// scale.
template <class T>
[[gnu::noinline]] void solve_tile(const Solver& op, const Tile& tile, const SentRows<T>& sent, const T* e,
                                  const T* scale, const T* eps, const T* state, T* out) {
  T p[kBlock], keep[kLanes];
  sent.probabilities(tile, e, scale, p);
  extrapolate_tile(op, tile, p);
  load_lanes(op.keep, tile.rows, keep, T(1));
  const T classes = static_cast<T>(tile.rows.num_classes);
  for_numbers(tile, [&](int64_t i, int32_t, auto j) {
    out[i] = fused(keep[j], state[i], message(p[i], sent.beta[j], sent.spread[j], eps[i], classes));
  });
}

// Writes the probabilities of rows. Their e_k and the scales of their tiles are in the scratch memory.
template <class T>
void store_probs(const View& out, const Rows& rows, const double (&sums)[kLanes], RowScratch<T>& scratch) {
  scratch.store(out, rows, [&](const Tile& tile, const T* e, const T* scale, T* p) {
    T factor[kLanes];
    for (int64_t j = 0; j < kLanes; ++j) factor[j] = static_cast<T>(1 / sums[j]) * scale[j];
    scale_tile(tile, e, factor, p);
  });
}

// The softmax of rows with few classes. It transposes all rows of a block at once, so that each lane has several rows.
// The processor then works on one row while another row waits for the result of an instruction. With 16 rows at a time,
// each step would wait for the previous one.
template <class T>
void theta_of_few_classes(const DiscreteTheta& op) {
  const int64_t classes = op.num_classes;
  for_blocks(op.count, classes, [&](int64_t start, int64_t length) {
    const int64_t room = round_up_to_lanes(length), first = start * classes, numbers = length * classes;
    T buffer[kBlock], z[kBlock], p[kBlock];
    const T* from = load(op.logits, first, numbers, buffer);
    if (length < room) {
      if (from != buffer) std::copy_n(from, numbers, buffer);
      std::fill(buffer + numbers, buffer + room * classes, T(0));
      from = buffer;
    }
    rows_to_lanes(room / kLanes * classes, from, z);
    softmax_steps(room / kLanes, classes, z, p);
    T* const out = length < room ? buffer : target(op.out, first, buffer);
    lanes_to_rows(room / kLanes * classes, p, out);
    store(op.out, first, numbers, out);
  });
}

// Saves zeros for rows whose losses do not count, since the backward pass reads these numbers.
template <class T>
void save_zeros(const DiscreteLoss& op, const Rows& rows) {
  const T zeros[kBlock] = {};
  if (op.stats) store(op.stats, rows.first * kRowStats, rows.count * kRowStats, zeros);
  for_tiles(rows, [&](const Tile& tile) {
    if (op.grad_logits) store_tile(op.grad_logits, tile, zeros);
  });
}

// Decides from the network's output what each row sends. The e_k of a row that sends a distribution are then in the
// scratch memory.
template <class T>
void choose(const DiscreteUpdate& op, const Rows& rows, RowScratch<T>& scratch, SentRows<T>& sent) {
  const StepLogits<T> logits{op};
  if (op.sent.choice == Choice::kMode) return find_modes<T>(rows, logits, sent.class_index);
  if (op.sent.choice == Choice::kMean) {
    const RowSums<T> sums(rows, nullptr, scratch, logits);
    for (int64_t j = 0; j < kLanes; ++j) sent.share[j] = static_cast<T>(1 / sums.rest[j]);
  } else {
    const RowSums<T, SumMode::kRounded> sums(rows, nullptr, scratch, logits);
    T uniform[kLanes];
    uniform_lanes(op.sent.draw, rows, uniform);
    draw_classes(rows, sums.rest, scratch, uniform, sent.class_index);
  }
}

// Replaces what a row sends by its known class, if it has one.
template <class T>
void send_known(const DiscreteUpdate& op, const Rows& rows, const uint8_t (&known)[kLanes], SentRows<T>& sent,
                BadClass& bad) {
  int64_t x[kLanes];
  load_classes(op.sent.known, rows, known, x, &bad);
  for (int64_t j = 0; j < kLanes; ++j) {
    sent.class_index[j] = known[j] ? x[j] : sent.class_index[j];
    sent.share[j] = known[j] ? T(0) : sent.share[j];
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
    const T* eps = normals_or_zeros(op_.noise, tile, normals, prefetch_of<T>({&op_.state, &op_.out, &op_.theta}, tile));
    T* out = target_tile(op_.out, tile, new_state);
    const T* __restrict state = load_tile(op_.state, tile, buffer, T(0));
    if (state == out) {
      std::copy_n(state, tile.numbers(), buffer);
      state = buffer;
    }
    const auto base = [state](int64_t i) { return state[i]; };
    const T *e = scratch_.e_of(tile), *scale = scratch_.sums_of(tile).scale;
    if (op_.solver.on()) {
      solve_tile(op_.solver, tile, sent_, e, scale, eps, state, out);
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

template <class T>
void discrete_theta(const DiscreteTheta& op) {
  if (op.num_classes <= kFewClasses) return theta_of_few_classes<T>(op);
  const auto make = [&] { return RowScratch<T>(op.num_classes); };
  for_row_blocks(op.count, op.num_classes, make, [&](const Rows& rows, RowScratch<T>& scratch) {
    store_probs(op.out, rows, RowSums<T>(rows, nullptr, scratch, logits_of<T>(op.logits)).rest, scratch);
  });
}

template <class T>
void discrete_sender(const DiscreteSender& op) {
  BadClass bad;
  const auto make = [&] { return RowScratch<T>(op.num_classes); };
  for_row_blocks(op.count, op.num_classes, make, [&](const Rows& rows, RowScratch<T>& scratch) {
    SentRows<T> sent(rows, op.alpha, op.spread);
    uint8_t all[kLanes];
    mask_lanes(rows, nullptr, all);
    load_classes(op.x, rows, all, sent.class_index, &bad);
    const auto messages = [&](const Tile& tile, T* y) {
      T normals[kBlock];
      const auto nothing = [](int64_t) { return T(0); };
      sent.template messages<false>(tile, normal_tile(op.noise, tile, normals, 0, 0, prefetch_of<T>({&op.out}, tile)),
                                    nullptr, nullptr, nothing, y);
      pad_tile(tile, y, kMinusInfinity<T>);
      return y;
    };
    if (op.probs) {
      store_probs(op.out, rows, RowSums<T, SumMode::kRounded>(rows, nullptr, scratch, messages).rest, scratch);
    } else {
      for_tiles(rows, [&](const Tile& tile) {
        T y[kBlock];
        store_tile(op.out, tile, messages(tile, y));
      });
    }
  });
  bad.throw_if_found("x", op.num_classes);
}

template <class T>
void discrete_update(const DiscreteUpdate& op) {
  BadClass bad;
  const auto make = [&] { return RowScratch<T>(op.num_classes); };
  for_row_blocks(op.count, op.num_classes, make, [&](const Rows& rows, RowScratch<T>& scratch) {
    SentRows<T> sent(rows, op.solver.take, op.solver.std);
    uint8_t known[kLanes] = {};
    if (op.sent.known) load_lanes(op.sent.known_mask, rows, known);
    if (std::count(known, known + kLanes, 0) > 0) choose(op, rows, scratch, sent);
    if (op.sent.known) send_known(op, rows, known, sent, bad);
    const NewState<T> update(op, sent, scratch);
    if (op.theta) {
      store_probs(op.theta, rows, RowSums<T>(rows, nullptr, scratch, update).rest, scratch);
    } else {
      for_tiles(rows, [&](const Tile& tile) {
        T new_state[kBlock];
        update(tile, new_state);
      });
    }
  });
  bad.throw_if_found("known", op.num_classes);
}

template <class T>
void discrete_loss(const DiscreteLoss& op) {
  BadClass bad;
  const int64_t count = op.num_classes;
  T factor[kLanes];
  std::fill_n(factor, kLanes, known_scale<T>(op.to));
  const auto make = [&] { return RowScratch<T>(count, static_cast<bool>(op.grad_logits)); };
  const auto block = [&](int64_t start, int64_t length, const uint8_t* mask, T* loss, RowScratch<T>& scratch) {
    const RowValues<int64_t> classes(op.x, start, length);
    const RowValues<T> weights(op.weight, start, length);
    for_rows(start, length, count, [&](const Rows& rows) {
      uint8_t costs[kLanes];
      if (!mask_lanes(rows, mask ? mask + rows.first - start : nullptr, costs)) return save_zeros<T>(op, rows);
      int64_t x[kLanes];
      classes.lanes(rows, x);
      check_classes(rows, costs, x, &bad);
      const RowSums<T, SumMode::kExactWithSquares> sums(rows, x, scratch, logits_of<T>(op.logits));
      double complement[kLanes] = {};
      if (op.weight) sums.complement_sums(rows, x, logits_of<T>(op.logits), complement);
      T weight[kLanes], cost[kLanes];
      weights.lanes(rows, weight);
      LaneStats<T> stats;
      for (int64_t j = 0; j < kLanes; ++j) {
        const RowStats<T> row = sums.stats(j, complement[j]);
        stats.set(j, row);
        cost[j] = weight[j] * squared_distance(row);
      }
      for (int64_t j = 0; !op.weight && j < kLanes; ++j) cost[j] = cross_entropy(stats.at(j), sums.z_x[j]);
      for (int64_t j = 0; j < rows.count; ++j) loss[rows.first - start + j] = x[j] < 0 ? kNaN<T> : cost[j];
      if (op.stats) stats.store_where(costs, op.stats, rows);
      if (op.grad_logits) {
        const LaneSlopes<T> slopes(stats, op.weight ? weight : nullptr, factor, costs);
        scratch.store(op.grad_logits, rows, [&](const Tile& tile, const T* e, const T* scale, T* out) {
          slopes.write(tile, x, e, scale, out);
        });
      }
    });
  };
  reduce_losses<T>(op.to, row_width(count), make, block);
  if (op.grad_logits) store_unit_scale<T>(op.to);
  bad.throw_if_found("x", op.num_classes);
}

template <class T>
void discrete_loss_backward(const DiscreteLossBackward& op) {
  for_blocks(op.count, row_width(op.num_classes), [&](int64_t start, int64_t length) {
    const RowValues<int64_t> classes(op.x, start, length);
    const RowValues<uint8_t> mask(op.mask, start, length, 1);
    const RowValues<T> grads(op.grad, start, length), weights(op.weight, start, length);
    for_rows(start, length, op.num_classes, [&](const Rows& rows) {
      int64_t x[kLanes];
      T grad[kLanes], weight[kLanes];
      uint8_t costs[kLanes];
      mask.lanes(rows, costs);
      classes.lanes(rows, x);
      check_classes(rows, costs, x, nullptr);
      grads.lanes(rows, grad);
      weights.lanes(rows, weight);
      const LaneStats<T> stats(op.stats, rows);
      const LaneSlopes<T> slopes(stats, op.weight ? weight : nullptr, grad, costs);
      for_tiles(rows, [&](const Tile& tile) {
        T logits[kBlock], e[kBlock], out[kBlock];
        // It prefetches only half a tile ahead, since the output needs room in the cache, too.
        exp_tile(tile, load_tile(op.logits, tile, logits, kMinusInfinity<T>), stats.max(), e, kBlock / 2);
        T* to = target_tile(op.grad_logits, tile, out);
        slopes.write(tile, x, e, nullptr, to);
        store_tile(op.grad_logits, tile, to);
      });
    });
  });
}

BFN_INSTANTIATE(discrete_theta, const DiscreteTheta&);
BFN_INSTANTIATE(discrete_sender, const DiscreteSender&);
BFN_INSTANTIATE(discrete_update, const DiscreteUpdate&);
BFN_INSTANTIATE(discrete_loss, const DiscreteLoss&);
BFN_INSTANTIATE(discrete_loss_backward, const DiscreteLossBackward&);

}  // namespace bfn
