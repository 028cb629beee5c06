#include "../ops/discrete.h"

#include "loss.h"
#include "noise.h"
#include "row_sums.h"

namespace bfn {
namespace {

// What each lane's row sends: one class, or the distribution p_k = e_k share where that share is above 0. A row that
// has neither sends NaN.
template <class T>
struct Sent {
  int64_t one[kLanes];
  T share[kLanes] = {}, beta[kLanes], spread[kLanes];

  Sent(const Rows& rows, const View& beta_view, const View& spread_view) {
    load_lanes(beta_view, rows, beta);
    load_lanes(spread_view, rows, spread);
    std::fill_n(one, kLanes, -1);
  }

  // Writes onto(i) + y_i for a tile. Without kShared no row sends a distribution, and e and scale are not looked at.
  template <bool kShared, class Onto>
  void messages(const Tile& tile, const T* __restrict eps, const T* __restrict e, const T* scale, Onto onto,
                T* __restrict y) const {
    const ClassAt sent(tile, one);
    const T classes = static_cast<T>(tile.rows.num_classes);
    T poison[kLanes], by[kLanes];
    for (int64_t j = 0; j < kLanes; ++j) {
      poison[j] = one[j] < 0 && !(share[j] > T(0)) ? kNaN<T> : T(0);
      by[j] = kShared ? share[j] * scale[j] : T(0);
    }
    for_numbers(tile, [&](int64_t i, int32_t k, auto j) {
      T p = k == sent.at[j] ? T(1) : T(0);
      if (kShared) p = by[j] > T(0) ? e[i] * by[j] : p;
      y[i] = onto(i) + (message(p, beta[j], spread[j], eps[i], classes) + poison[j]);
    });
  }
};

// The last class of a row with p_k > 0 takes a draw that no cumulative probability exceeds.
template <class T>
int64_t last_class(const Rows& rows, const RowScratch<T>& scratch, int64_t j) {
  int64_t last = 0, t = 0;
  for_tiles(rows, [&](const Tile& tile) {
    const T* e = scratch.e.data() + tile.first;
    const T scale = scratch.tiles[t++].scale[j];
    for (int64_t k = 0; k < tile.classes; ++k) {
      if (scale * e[tile.at(j, k)] > T(0)) last = tile.first + k;
    }
  });
  return last;
}

// The first class of row j whose cumulative e exceeds `most`, where lanes are classes. The search goes by tiles, by
// steps, then within a step.
template <class T>
int64_t draw_across(const Rows& rows, int64_t j, const RowScratch<T>& scratch, double most) {
  double before = 0;
  int64_t found = -1, t = 0;
  for_tiles(rows, [&](const Tile& tile) {
    const double scale = scratch.tiles[t].scale[j], sum = scale * scratch.tiles[t].rest[j];
    ++t;
    if (found < 0 && before + sum > most) {
      const T* e = scratch.e.data() + tile.first + j * tile.pitch();
      int64_t s = 0;
      for (; s + 1 < tile.steps; ++s) {
        double step = 0;
        for (int64_t lane = 0; lane < kLanes; ++lane) step += e[s * kLanes + lane];
        if (before + scale * step > most) break;
        before += scale * step;
      }
      found = s * kLanes;
      for (; found + 1 < tile.classes && !((before += scale * e[found]) > most); ++found) continue;
      found += tile.first;
    }
    before += sum;
  });
  return found;
}

// Draws the first k of each row whose cumulative probability exceeds u; if none does, the last k with p_k > 0. It is -1
// where p is NaN, as it is where logits are NaN or infinite, or all of them -inf.
template <class T>
void draw_classes(const Rows& rows, const double (&sums)[kLanes], const RowScratch<T>& scratch,
                  const T (&uniform)[kLanes], int64_t (&drawn)[kLanes]) {
  double most[kLanes];
  for (int64_t j = 0; j < kLanes; ++j) most[j] = uniform[j] * sums[j];
  if (rows.across) {
    for (int64_t j = 0; j < rows.count; ++j) set_lanes(rows, j, drawn, draw_across(rows, j, scratch, most[j]));
  } else {
    double sum[kLanes] = {};
    int32_t passed[kLanes] = {};
    for (int64_t s = 0; s < rows.num_classes; ++s) {
      for (int64_t j = 0; j < kLanes; ++j) sum[j] += scratch.e[s * kLanes + j];
      for (int64_t j = 0; j < kLanes; ++j) passed[j] += sum[j] > most[j] ? 0 : 1;
    }
    for (int64_t j = 0; j < kLanes; ++j) drawn[j] = passed[j] < rows.num_classes ? passed[j] : -1;
  }
  for (int64_t j = 0; j < rows.count; ++j) {
    if (drawn[j] < 0) drawn[j] = last_class(rows, scratch, j);
    if (!(sums[j] > 0)) drawn[j] = -1;
  }
}

// The probabilities of rows whose e_k, by tiles and their scales, are in the scratch.
template <class T>
void store_probs(const View& out, const Rows& rows, const RowSums<T>& sums, RowScratch<T>& scratch) {
  scratch.store(out, rows, [&](const Tile& tile, const T* e, const T* scale, T* p) {
    T by[kLanes];
    for (int64_t j = 0; j < kLanes; ++j) by[j] = static_cast<T>(1 / sums.rest[j]) * scale[j];
    scale_tile(tile, e, by, p);
  });
}

// Decides what the network's rows send; the e of distributions are left in the scratch.
template <class T>
void choose(const DiscreteUpdate& op, const Rows& rows, RowScratch<T>& scratch, Sent<T>& sent) {
  const auto logits = logits_of<T>(op.output_logits);
  if (op.choice == Choice::kMode) return find_modes<T>(rows, logits, sent.one);
  if (op.choice == Choice::kMean) {
    const RowSums<T> sums(rows, nullptr, scratch, logits);
    for (int64_t j = 0; j < kLanes; ++j) sent.share[j] = static_cast<T>(1 / sums.rest[j]);
  } else {
    const RowSums<T, Wanted::kDraw> sums(rows, nullptr, scratch, logits);
    T uniform[kLanes];
    uniform_lanes(op.draw, rows, uniform);
    draw_classes(rows, sums.rest, scratch, uniform, sent.one);
  }
}

}  // namespace

template <class T>
void discrete_theta(const DiscreteTheta& op) {
  const auto make = [&] { return RowScratch<T>(op.num_classes); };
  for_row_blocks(op.count, op.num_classes, make, [&](const Rows& rows, RowScratch<T>& scratch) {
    store_probs(op.out, rows, RowSums<T>(rows, nullptr, scratch, logits_of<T>(op.logits)), scratch);
  });
}

template <class T>
void discrete_sender(const DiscreteSender& op) {
  BadClass bad;
  const auto make = [&] { return RowScratch<T>(op.num_classes); };
  for_row_blocks(op.count, op.num_classes, make, [&](const Rows& rows, RowScratch<T>& scratch) {
    Sent<T> sent(rows, op.alpha, op.spread);
    uint8_t all[kLanes];
    mask_lanes(rows, nullptr, all);
    load_classes(op.x, rows, all, sent.one, &bad);
    const auto messages = [&](const Tile& tile, T* y) {
      T normals[kBlock];
      const auto nothing = [](int64_t) { return T(0); };
      sent.template messages<false>(tile, normal_tile(op.noise, tile, normals, 0, 0, ahead_of<T>({&op.out}, tile)),
                                    nullptr, nullptr, nothing, y);
      pad_tile(tile, y, kMinusInfinity<T>);
      return y;
    };
    if (op.probs) {
      store_probs(op.out, rows, RowSums<T>(rows, nullptr, scratch, messages), scratch);
    } else {
      for_tiles(rows, [&](const Tile& tile) {
        T y[kBlock];
        store_tile(op.out, tile, messages(tile, y));
      });
    }
  });
  bad.refuse("x", op.num_classes);
}

template <class T>
void discrete_update(const DiscreteUpdate& op) {
  BadClass bad;
  const auto make = [&] { return RowScratch<T>(op.num_classes); };
  for_row_blocks(op.count, op.num_classes, make, [&](const Rows& rows, RowScratch<T>& scratch) {
    Sent<T> sent(rows, op.alpha, op.spread);
    uint8_t known[kLanes] = {};
    if (op.known) load_lanes(op.known_mask, rows, known);
    if (std::count(known, known + kLanes, 0) > 0) choose(op, rows, scratch, sent);
    if (op.known) {
      int64_t x[kLanes];
      load_classes(op.known, rows, known, x, &bad);
      for (int64_t j = 0; j < kLanes; ++j) {
        sent.one[j] = known[j] ? x[j] : sent.one[j];
        sent.share[j] = known[j] ? T(0) : sent.share[j];
      }
    }
    const bool shared = std::any_of(sent.share, sent.share + kLanes, [](T share) { return !(share == T(0)); });
    int64_t t = 0;
    // The e of a tile are read before sums over its new state take their place.
    const auto update = [&](const Tile& tile, T* new_state) -> const T* {
      T normals[kBlock], buffer[kBlock];
      const T* eps = normal_tile(op.noise, tile, normals, 0, 0, ahead_of<T>({&op.state, &op.out, &op.theta}, tile));
      T* out = target_tile(op.out, tile, new_state);
      const T* __restrict state = load_tile(op.state, tile, buffer, T(0));
      if (state == out) {
        std::copy_n(state, tile.numbers(), buffer);
        state = buffer;
      }
      const auto onto = [state](int64_t i) { return state[i]; };
      const T *e = scratch.e.data() + tile.first, *scale = scratch.tiles[t++].scale;
      if (shared) {
        sent.template messages<true>(tile, eps, e, scale, onto, out);
      } else {
        sent.template messages<false>(tile, eps, e, scale, onto, out);
      }
      store_tile(op.out, tile, out);
      if (op.out.dtype != dtype_of<T>()) return load_tile(op.out, tile, new_state, kMinusInfinity<T>);
      pad_tile(tile, out, kMinusInfinity<T>);
      return out;
    };
    if (op.theta) {
      store_probs(op.theta, rows, RowSums<T>(rows, nullptr, scratch, update), scratch);
    } else {
      for_tiles(rows, [&](const Tile& tile) {
        T new_state[kBlock];
        update(tile, new_state);
      });
    }
  });
  bad.refuse("known", op.num_classes);
}

template <class T>
void discrete_loss(const DiscreteLoss& op) {
  BadClass bad;
  const int64_t count = op.num_classes;
  const auto make = [&] { return RowScratch<T>(count, false); };
  reduce_losses<T>(op.to, row_width(count), make,
                   [&](int64_t start, int64_t length, const uint8_t* mask, T* loss, auto& scratch) {
                     for_rows(start, length, count, [&](const Rows& rows) {
                       int64_t x[kLanes];
                       T weight[kLanes], stats[kLanes * kRowStats] = {};
                       uint8_t costs[kLanes];
                       const auto save = [&] {
                         if (op.stats) store(op.stats, rows.first * kRowStats, rows.count * kRowStats, stats);
                       };
                       if (!mask_lanes(rows, mask ? mask + rows.first - start : nullptr, costs)) return save();
                       load_classes(op.x, rows, costs, x, &bad);
                       const RowSums<T, Wanted::kSquares> sums(rows, x, scratch, logits_of<T>(op.logits));
                       double spread[kLanes] = {};
                       if (op.weight) sums.spreads(rows, x, logits_of<T>(op.logits), spread);
                       load_lanes(op.weight, rows, weight);
                       T moment[kLanes], cost[kLanes];
                       for (int64_t j = 0; j < kLanes;
                            ++j) {  // the lanes are SIMD, since no branch predictor foresees which row is wrong
                         const RowStats<T> row = sums.stats(j, spread[j]);
                         moment[j] = row.moment;
                         cost[j] = weight[j] * squared_distance(row);
                       }
                       for (int64_t j = 0; j < rows.count; ++j) {
                         const RowStats<T> row{sums.top[j], sums.e_x[j], static_cast<T>(sums.rest[j]), moment[j]};
                         if (!op.weight) cost[j] = cross_entropy(row, sums.z_x[j]);
                         loss[rows.first - start + j] = x[j] < 0 ? kNaN<T> : cost[j];
                         if (costs[j]) std::memcpy(stats + j * kRowStats, &row, sizeof(row));
                       }
                       save();
                     });
                   });
  bad.refuse("x", op.num_classes);
}

template <class T>
void discrete_loss_backward(const DiscreteLossBackward& op) {
  for_row_blocks(op.count, op.num_classes, [&](const Rows& rows) {
    int64_t x[kLanes];
    T grad[kLanes], weight[kLanes], buffer[kLanes * kRowStats];
    uint8_t costs[kLanes];
    load_lanes(op.mask, rows, costs, uint8_t{1});
    load_classes(op.x, rows, costs, x, nullptr);
    load_lanes(op.grad, rows, grad);
    load_lanes(op.weight, rows, weight);
    const T* stats = load(op.stats, rows.first * kRowStats, rows.count * kRowStats, buffer);
    T top[kLanes], grad_x[kLanes], slope[kLanes], level[kLanes], origin[kLanes];
    int32_t looked_at[kLanes];
    for (int64_t j = 0; j < kLanes; ++j) {
      RowStats<T> row;
      std::memcpy(&row, stats + std::min(j, rows.count - 1) * kRowStats, sizeof(row));
      const RowSlopes<T> slopes =
          op.weight ? squared_distance_slopes(row, grad[j] * weight[j]) : cross_entropy_slopes(row, grad[j]);
      top[j] = row.max;
      grad_x[j] = slopes.grad_x;
      slope[j] = slopes.slope;
      level[j] = slopes.level;
      origin[j] = slopes.origin;
      looked_at[j] = costs[j];  // a row that costs nothing has no gradient, whatever its logits
    }
    for_tiles(rows, [&](const Tile& tile) {
      T logits[kBlock], e[kBlock], out[kBlock];
      // only half a tile is asked for ahead, since the output's lines come in between
      exp_tile(tile, load_tile(op.logits, tile, logits, kMinusInfinity<T>), top, e, kBlock / 2);
      T* __restrict by = target_tile(op.grad_logits, tile, out);
      const ClassAt at(tile, x);
      for_numbers(tile, [&](int64_t i, int32_t k, auto j) {
        const RowSlopes<T> slopes{grad_x[j], slope[j], level[j], origin[j]};
        const T any = k == at.at[j] ? slopes.grad_x : slopes.by_other(e[i]);
        by[i] = looked_at[j] != 0 ? any : T(0);
      });
      store_tile(op.grad_logits, tile, by);
    });
  });
}

BFN_INSTANTIATE(discrete_theta, const DiscreteTheta&);
BFN_INSTANTIATE(discrete_sender, const DiscreteSender&);
BFN_INSTANTIATE(discrete_update, const DiscreteUpdate&);
BFN_INSTANTIATE(discrete_loss, const DiscreteLoss&);
BFN_INSTANTIATE(discrete_loss_backward, const DiscreteLossBackward&);

}  // namespace bfn
