// In lanes: the numbers of each row that a loss saves for its gradient, and the gradient that is made of them.
#pragma once

#include "row_sums.h"

namespace bfn {

// The RowStats of the rows, in lanes.
template <class T>
class LaneStats {
 public:
  LaneStats() = default;
  LaneStats(const View& view, const Rows& rows) {
    T buffer[kLanes * kRowStats] = {};
    const T* from = load(view, rows.first * kRowStats, rows.count * kRowStats, buffer);
    if (rows.count < kLanes) from = std::copy_n(from, rows.count * kRowStats, buffer) - rows.count * kRowStats;
    take_turns_back(kLanes, from, fields_[0]);
    if (rows.count < kLanes) {
      for (T(&field)[kLanes] : fields_) std::fill(field + rows.count, field + kLanes, field[rows.count - 1]);
    }
  }

  void set(int64_t j, const RowStats<T>& row) {
    fields_[0][j] = row.max;
    fields_[1][j] = row.x;
    fields_[2][j] = row.rest;
    fields_[3][j] = row.moment;
  }
  RowStats<T> at(int64_t j) const { return {fields_[0][j], fields_[1][j], fields_[2][j], fields_[3][j]}; }
  const T (&max() const)[kLanes] { return fields_[0]; }

  // Saves the numbers of each row. Rows that cost nothing get zeros.
  void store_where(const uint8_t (&costs)[kLanes], const View& view, const Rows& rows) const {
    T kept[kRowStats][kLanes], staging[kLanes * kRowStats];
    for (int64_t c = 0; c < kRowStats; ++c) {
      for (int64_t j = 0; j < kLanes; ++j) kept[c][j] = costs[j] ? fields_[c][j] : T(0);
    }
    T* to = rows.count < kLanes ? staging : target(view, rows.first * kRowStats, staging);
    take_turns(kLanes, kept[0], to);
    store(view, rows.first * kRowStats, rows.count * kRowStats, to);
  }

 private:
  T fields_[kRowStats][kLanes];
};

// The derivatives of the rows' losses, in lanes.
template <class T>
class LaneSlopes {
 public:
  // Without a weight the loss is -ln p_x. `factor` multiplies the derivatives.
  LaneSlopes(const LaneStats<T>& stats, const T* weight, const T* factor, const uint8_t (&costs)[kLanes]) {
    T by[kLanes];
    for (int64_t j = 0; j < kLanes; ++j) by[j] = factor[j] * (weight ? weight[j] : T(1));
    if (weight) {
      take(stats, by, [](const RowStats<T>& row, T times) { return squared_distance_slopes(row, times); });
    } else {
      take(stats, by, [](const RowStats<T>& row, T times) { return cross_entropy_slopes(row, times); });
    }
    std::copy_n(costs, kLanes, costs_);
  }

  // Writes the gradient of a tile, whose e are multiplied by `scale` if it is given. The gradient of a row that costs
  // nothing is 0, even if its logits are NaN.
  void write(const Tile& tile, const int64_t* x, const T* e, const T* scale, T* out) const {
    T by[kLanes];
    for (int64_t j = 0; j < kLanes; ++j) by[j] = scale ? scale[j] : T(1);
    write_others(tile, e, by, slope_, level_, origin_, out);
    where_met(tile, x, [&](int64_t j, int64_t i) { out[i] = grad_x_[j]; });
    if (std::all_of(costs_, costs_ + kLanes, [](uint8_t cost) { return cost != 0; })) return;
    for_numbers(tile, [&](int64_t i, int32_t, auto j) { out[i] = costs_[j] ? out[i] : T(0); });
  }

 private:
  [[gnu::noinline]] static void write_others(const Tile& tile, const T* __restrict e, const T* __restrict by,
                                             const T* __restrict slope, const T* __restrict level,
                                             const T* __restrict origin, T* __restrict out) {
    for_numbers(tile, [&](int64_t i, int32_t, auto j) {
      out[i] = RowSlopes<T>{T(0), slope[j], level[j], origin[j]}.by_other(e[i] * by[j]);
    });
  }

  template <class F>
  void take(const LaneStats<T>& stats, const T (&by)[kLanes], F&& slopes_of) {
    for (int64_t j = 0; j < kLanes; ++j) {
      const RowSlopes<T> row = slopes_of(stats.at(j), by[j]);
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
