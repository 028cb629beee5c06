#include "../ops/discrete.h"

#include "class_steps.h"
#include "loss.h"
#include "noise.h"
#include "row_slopes.h"
#include "soft_loss.h"

namespace bfn {
namespace {

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

}  // namespace

template <class T>
void discrete_theta(const DiscreteTheta& op) {
  if (op.num_classes <= kFewClasses) return theta_of_few_classes<T>(op);
  const Prefetch<T> ahead{&op.logits, &op.out};
  for_row_blocks<T>(op.count, op.num_classes, [&](const Rows& rows, RowScratch<T>& scratch) {
    store_probs(op.out, rows, RowSums<T>(rows, nullptr, scratch, logits_of<T>(op.logits), ahead).rest, scratch);
  });
}

template <class T>
void discrete_sender(const DiscreteSender& op) {
  BadClass bad;
  for_row_blocks<T>(op.count, op.num_classes, [&](const Rows& rows, RowScratch<T>& scratch) {
    SentRows<T> sent(rows, op.alpha, op.spread);
    uint8_t all[kLanes];
    std::fill_n(all, kLanes, uint8_t{1});
    const bool soft = op.x.is_floating();
    if (soft) {
      std::fill_n(sent.share, kLanes, T(1));
    } else {
      load_classes(op.x, rows, all, sent.class_index, &bad);
    }
    const auto messages = [&](const Tile& tile, T* y) {
      T normals[kBlock];
      const auto nothing = [](int64_t) { return T(0); };
      const T* eps = normal_tile(op.noise, tile, normals, 0, 0, Prefetch<T>({&op.out}, tile.start()));
      if (soft) {
        T buffer[kBlock];
        sent.template messages<true>(tile, eps, load_tile(op.x, tile, buffer, T(0)), sent.share, nothing, y);
      } else {
        sent.template messages<false>(tile, eps, nullptr, nullptr, nothing, y);
      }
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
  for_row_blocks<T>(op.count, op.num_classes, [&](const Rows& rows, RowScratch<T>& scratch) {
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
  if (op.x.is_floating()) return soft_loss<T>(op);
  BadClass bad;
  const int64_t count = op.num_classes;
  T factor[kLanes];
  std::fill_n(factor, kLanes, op.grad_logits ? known_scale<T>(op.to) : T(1));
  const Prefetch<T> ahead{&op.logits, &op.grad_logits};
  const auto make = [&] { return RowScratch<T>(count, static_cast<bool>(op.grad_logits)); };
  const auto block = [&](int64_t start, int64_t length, const uint8_t* mask, T* loss, RowScratch<T>& scratch) {
    const RowValues<int64_t> classes(op.x, start, length);
    const RowValues<T> weights(op.weight, start, length);
    for_rows(start, length, count, [&](const Rows& rows) {
      uint8_t costs[kLanes];
      if (!mask_lanes(rows, mask, start, costs)) return save_zeros<T>(op, rows);
      int64_t x[kLanes];
      classes.lanes(rows, x);
      check_classes(rows, costs, x, &bad);
      const RowSums<T, SumMode::kExactWithSquares> sums(rows, x, scratch, logits_of<T>(op.logits), ahead);
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
    const bool soft = op.x.is_floating();
    const RowValues<int64_t> classes(soft ? View{} : op.x, start, length);
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
        exp_tile(tile, logits_of<T>(op.logits)(tile, logits), stats.max(), e, Prefetch<T>({&op.logits}, -kBlock / 2));
        T* to = target_tile(op.grad_logits, tile, out);
        if (soft) {
          write_soft_slopes<T>(op.x, tile, stats, op.weight ? weight : nullptr, grad, costs, e, nullptr, to);
        } else {
          slopes.write(tile, x, e, nullptr, to);
        }
        store_tile(op.grad_logits, tile, to);
      });
    });
  });
}

template <class T>
void discrete_entropy(const LossOf<DiscreteEntropy>& op) {
  const View &logits = op.inputs[0], &gradient = op.gradients[0];
  const T factor = gradient ? known_scale<T>(op.to) : T(1);
  const Prefetch<T> ahead{&logits, &gradient};
  const auto make = [&] { return RowScratch<T>(op.num_classes); };
  const auto block = [&](int64_t start, int64_t length, const uint8_t* mask, T* loss, RowScratch<T>& scratch) {
    for_rows(start, length, op.num_classes, [&](const Rows& rows) {
      uint8_t costs[kLanes];
      mask_lanes(rows, mask, start, costs);
      const RowSums<T> row(rows, nullptr, scratch, logits_of<T>(logits), ahead);
      double small[kLanes] = {}, mean[kLanes] = {};
      for_tiles(rows, [&](const Tile& tile) {
        T buffer[kBlock], rest[kBlock], terms[kBlock];
        const T *z = logits_of<T>(logits)(tile, buffer), *of_tile = scratch.e_of(tile);
        const T* scale = scratch.sums_of(tile).scale;
        for_numbers(tile, [&](int64_t i, int32_t, auto j) {
          const T e = of_tile[i] * scale[j];
          rest[i] = is_small(e) ? e : T(0);
          terms[i] = entropy_term(e, row.top[j] - z[i]);
        });
        add_sums(tile, rest, small);
        add_sums(tile, terms, mean);
      });
      T inverse[kLanes], mean_d[kLanes];
      for (int64_t j = 0; j < kLanes; ++j) {
        inverse[j] = static_cast<T>(1 / row.rest[j]);
        mean_d[j] = static_cast<T>(mean[j] / row.rest[j]);
        const T entropy = log_total(static_cast<T>(row.rest[j]), static_cast<T>(small[j])) + mean_d[j];
        if (j < rows.count) loss[rows.first - start + j] = entropy;
      }
      if (!gradient) return;
      scratch.store(gradient, rows, [&](const Tile& tile, const T* e, const T* scale, T* out) {
        T buffer[kBlock];
        const T* z = logits_of<T>(logits)(tile, buffer);
        for_numbers(tile, [&](int64_t i, int32_t, auto j) {
          const T slope = factor * entropy_slope(e[i] * scale[j] * inverse[j], row.top[j] - z[i], mean_d[j]);
          out[i] = costs[j] ? slope : T(0);
        });
      });
    });
  };
  reduce_losses<T>(op.to, row_width(op.num_classes), make, block);
  if (gradient) store_unit_scale<T>(op.to);
}

BFN_INSTANTIATE(discrete_theta, const DiscreteTheta&);
BFN_INSTANTIATE(discrete_sender, const DiscreteSender&);
BFN_INSTANTIATE(discrete_update, const DiscreteUpdate&);
BFN_INSTANTIATE(discrete_loss, const DiscreteLoss&);
BFN_INSTANTIATE(discrete_loss_backward, const DiscreteLossBackward&);
BFN_INSTANTIATE(discrete_entropy, const LossOf<DiscreteEntropy>&);

}  // namespace bfn
