// The losses of discrete data for soft data x (SoftStats): w ||x - p||^2, or the cross entropy of x and p.
#pragma once

#include "loss.h"
#include "row_slopes.h"

namespace bfn {

// Sums over up to 16 rows, from which SoftStats and the losses are computed. Sums over k leave out class m.
struct SoftSums {
  double rest[kLanes] = {}, x_m[kLanes] = {};          // the sum of p_k, and x_m
  double squares[kLanes] = {}, products[kLanes] = {};  // the sums of d_k^2 and of p_k d_k
  double x[kLanes] = {}, costs[kLanes] = {};           // the sums of x_k and of x_k (max - z_k) over all classes
};

// Adds the sums of a tile. `numbers` has a number for each class of the tile.
template <class T>
void add_sums(const Tile& tile, const T* numbers, double (&sums)[kLanes], double (*squares)[kLanes] = nullptr) {
  double tile_sums[kLanes], tile_squares[kLanes] = {};
  sum_tile<true>(tile, numbers, tile_sums, tile_squares);
  for (int64_t j = 0; j < kLanes; ++j) {
    sums[j] += tile_sums[j];
    if (squares) (*squares)[j] += tile_squares[j];
  }
}

// `row` has the sums of e, which are in the scratch memory.
template <class T>
SoftSums soft_sums(const DiscreteLoss& op, const Rows& rows, const RowSums<T>& row, const RowScratch<T>& scratch) {
  SoftSums sums;
  for_tiles(rows, [&](const Tile& tile) {
    T x_buffer[kBlock], z_buffer[kBlock], share[kBlock], distance[kBlock], mine[kBlock], by[kLanes];
    const T *x = load_tile(op.x, tile, x_buffer, T(0)), *e = scratch.e_of(tile);
    for (int64_t j = 0; j < kLanes; ++j) by[j] = scratch.sums_of(tile).scale[j] * static_cast<T>(1 / row.rest[j]);
    for_numbers(tile, [&](int64_t i, int32_t, auto j) {
      const T p = e[i] * by[j];
      const bool is_m = p > T(0.5);
      share[i] = is_m ? T(0) : p;
      distance[i] = is_m ? T(0) : x[i] - p;
      mine[i] = is_m ? x[i] : T(0);
    });
    double unused[kLanes] = {};
    add_sums(tile, share, sums.rest);
    add_sums(tile, mine, sums.x_m);
    add_sums(tile, distance, unused, &sums.squares);
    for_numbers(tile, [&](int64_t i, int32_t, auto) { share[i] *= distance[i]; });
    add_sums(tile, share, sums.products);
    if (op.weight) return;
    const T* z = logits_of<T>(op.logits)(tile, z_buffer);
    for_numbers(tile,
                [&](int64_t i, int32_t, auto j) { distance[i] = x[i] == T(0) ? T(0) : x[i] * (row.top[j] - z[i]); });
    add_sums(tile, x, sums.x);
    add_sums(tile, distance, sums.costs);
  });
  return sums;
}

// Writes the gradient of a tile. If `scale` is not null, e is multiplied by it. If a row's loss does not count, its
// gradient is 0.
template <class T>
void write_soft_slopes(const View& x_view, const Tile& tile, const LaneStats<T>& stats, const T* weight,
                       const T* factor, const uint8_t (&costs)[kLanes], const T* e, const T* scale, T* out) {
  T buffer[kBlock];
  SoftSlopes<T> slopes[kLanes];
  for (int64_t j = 0; j < kLanes; ++j) {
    const RowStats<T> row = stats.at(j);
    slopes[j] = SoftSlopes<T>({row.max, row.x, row.rest, row.quadratic}, factor[j] * (weight ? weight[j] : T(1)),
                              weight != nullptr);
  }
  const T* x = load_tile(x_view, tile, buffer, T(0));
  for_numbers(tile, [&](int64_t i, int32_t, auto j) {
    out[i] = costs[j] ? slopes[j].by(x[i], e[i] * (scale ? scale[j] : T(1))) : T(0);
  });
}

template <class T>
void soft_loss(const DiscreteLoss& op) {
  const int64_t count = op.num_classes;
  T factor[kLanes];
  std::fill_n(factor, kLanes, op.grad_logits ? known_scale<T>(op.to) : T(1));
  const auto make = [&] { return RowScratch<T>(count); };
  const auto block = [&](int64_t start, int64_t length, const uint8_t* mask, T* loss, RowScratch<T>& scratch) {
    for_rows(start, length, count, [&](const Rows& rows) {
      uint8_t costs[kLanes];
      mask_lanes(rows, mask, start, costs);
      T weight[kLanes];
      load_lanes(op.weight, rows, weight);
      const RowSums<T> row(rows, nullptr, scratch, logits_of<T>(op.logits), {&op.logits, &op.x, &op.grad_logits});
      const SoftSums sums = soft_sums(op, rows, row, scratch);
      LaneStats<T> stats;
      for (int64_t j = 0; j < kLanes; ++j) {
        SoftStats<T> soft{row.top[j], T(0), static_cast<T>(sums.rest[j] * row.rest[j]), static_cast<T>(sums.x[j])};
        T cost = soft.others * soft.log_total() + static_cast<T>(sums.costs[j]);
        if (op.weight) {
          const T distance = soft.likeliest_distance(static_cast<T>(sums.x_m[j]));
          soft.own = distance / soft.total();
          soft.others = static_cast<T>(sums.products[j]);
          cost = weight[j] * (static_cast<T>(sums.squares[j]) + square(distance));
        }
        stats.set(j, {soft.max, soft.own, soft.rest, soft.others});
        if (j < rows.count) loss[rows.first - start + j] = cost;
      }
      if (op.stats) stats.store_where(costs, op.stats, rows);
      if (op.grad_logits) {
        scratch.store(op.grad_logits, rows, [&](const Tile& tile, const T* e, const T* scale, T* out) {
          write_soft_slopes<T>(op.x, tile, stats, op.weight ? weight : nullptr, factor, costs, e, scale, out);
        });
      }
    });
  };
  reduce_losses<T>(op.to, row_width(count), make, block);
  if (op.grad_logits) store_unit_scale<T>(op.to);
}

}  // namespace bfn
