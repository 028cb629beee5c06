// The numbers of each row that a loss saves for its backward pass, and the gradient that is computed from them.
#pragma once

#include "row_sums.h"

namespace bfn {

// The RowStats of up to 16 rows. Each field is stored in lanes.
template <class T>
class LaneStats {
 public:
  LaneStats() = default;
  LaneStats(const View& view, const Rows& rows) {
    T buffer[kLanes * kRowStats] = {};
    const T* from = load(view, rows.first * kRowStats, rows.count * kRowStats, buffer);
    if (rows.count < kLanes) from = std::copy_n(from, rows.count * kRowStats, buffer) - rows.count * kRowStats;
    deinterleave_quarters(kLanes, from, fields_[0]);
    if (rows.count < kLanes) {
      for (T(&field)[kLanes] : fields_) std::fill(field + rows.count, field + kLanes, field[rows.count - 1]);
    }
  }

  void set(int64_t j, const RowStats<T>& row) {
    fields_[0][j] = row.max;
    fields_[1][j] = row.x;
    fields_[2][j] = row.rest;
    fields_[3][j] = row.quadratic;
  }
  RowStats<T> at(int64_t j) const { return {fields_[0][j], fields_[1][j], fields_[2][j], fields_[3][j]}; }
  const T (&max() const)[kLanes] { return fields_[0]; }

  // Stores the RowStats of each row. A row whose loss does not count gets zeros.
  void store_where(const uint8_t (&costs)[kLanes], const View& view, const Rows& rows) const {
    T stored[kRowStats][kLanes], staging[kLanes * kRowStats];
    for (int64_t c = 0; c < kRowStats; ++c) {
      for (int64_t j = 0; j < kLanes; ++j) stored[c][j] = costs[j] ? fields_[c][j] : T(0);
    }
    T* to = rows.count < kLanes ? staging : target(view, rows.first * kRowStats, staging);
    interleave_quarters(kLanes, stored[0], to);
    store(view, rows.first * kRowStats, rows.count * kRowStats, to);
  }

 private:
  T fields_[kRowStats][kLanes];
};

// The derivatives of the losses of up to 16 rows. Each number is stored in lanes.
template <class T>
class LaneSlopes {
 public:
  // The loss is weight times squared_distance or, if `weight` is null, -ln p_x. The derivatives are multiplied by
  // `factor`.
  LaneSlopes(const LaneStats<T>& stats, const T* weight, const T* factor, const uint8_t (&costs)[kLanes]) {
    T weighted[kLanes];
    for (int64_t j = 0; j < kLanes; ++j) weighted[j] = factor[j] * (weight ? weight[j] : T(1));
    if (weight) {
      fill(stats, weighted, [](const RowStats<T>& row, T by) { return squared_distance_slopes(row, by); });
    } else {
      fill(stats, weighted, [](const RowStats<T>& row, T by) { return cross_entropy_slopes(row, by); });
    }
    std::copy_n(costs, kLanes, costs_);
  }

  // Writes the gradient of a tile. If `scale` is not null, e is multiplied by it. If a row's loss does not count, its
  // gradient is 0, even if its logits are NaN.
  void write(const Tile& tile, const int64_t* x, const T* e, const T* scale, T* out) const {
    T scale_or_one[kLanes];
    for (int64_t j = 0; j < kLanes; ++j) scale_or_one[j] = scale ? scale[j] : T(1);
    write_others(tile, e, scale_or_one, slope_, level_, origin_, out);
    where_in_tile(tile, x, [&](int64_t j, int64_t i) { out[i] = grad_x_[j]; });
    if (std::all_of(costs_, costs_ + kLanes, [](uint8_t cost) { return cost != 0; })) return;
    clear_masked(tile, costs_, out);
  }

 private:
  // The compiler vectorises this loop only if it knows that `out` is not `costs`.
  [[gnu::noinline]] static void clear_masked(const Tile& tile, const uint8_t* __restrict costs, T* __restrict out) {
    for_numbers(tile, [&](int64_t i, int32_t, auto j) { out[i] = costs[j] ? out[i] : T(0); });
  }

  [[gnu::noinline]] static void write_others(const Tile& tile, const T* __restrict e, const T* __restrict scale,
                                             const T* __restrict slope, const T* __restrict level,
                                             const T* __restrict origin, T* __restrict out) {
    for_numbers(tile, [&](int64_t i, int32_t, auto j) {
      out[i] = RowSlopes<T>{T(0), slope[j], level[j], origin[j]}.by_other(e[i] * scale[j]);
    });
  }

  template <class F>
  void fill(const LaneStats<T>& stats, const T (&factor)[kLanes], F&& slopes_of) {
    for (int64_t j = 0; j < kLanes; ++j) {
      const RowSlopes<T> row = slopes_of(stats.at(j), factor[j]);
      grad_x_[j] = row.grad_x;
      slope_[j] = row.slope;
      level_[j] = row.level;
      origin_[j] = row.origin;
    }
  }

  T grad_x_[kLanes], slope_[kLanes], level_[kLanes], origin_[kLanes];
  uint8_t costs_[kLanes];
};

}  // namespace bfn
