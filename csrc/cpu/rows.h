// Rows of classes, 16 lanes at a time. Where rows have few classes the lanes are rows, else they are classes of one
// row; the loops over a tile, and over numbers per lane, are the same.
#pragma once

#include <limits>
#include <vector>

#include "../math/discrete.h"
#include "bad_class.h"
#include "noise.h"

namespace bfn {

constexpr int64_t kFewClasses = kBlock / kLanes;

// The rows that are worked on at a time: up to 16 of few classes, or one.
struct Rows {
  int64_t first, count, num_classes;

  bool one() const { return num_classes > kFewClasses; }
};

// All classes of the rows, or those of one row from `first` on. A step is a class of each row, or 16 classes of one;
// lane j of step s is at 16 s + j.
struct Tile {
  Rows rows;
  int64_t first, classes, steps;

  int64_t padded() const { return steps * kLanes; }
  int64_t start() const { return rows.first * rows.num_classes + first; }
};

template <class F>
void for_rows(int64_t start, int64_t length, int64_t num_classes, F&& f) {
  const int64_t most = num_classes > kFewClasses ? 1 : kLanes;
  for (int64_t i = 0; i < length; i += most) f(Rows{start + i, std::min(most, length - i), num_classes});
}

// Calls f(rows, scratch) for all rows; make() gives each thread its scratch.
template <class M, class F>
void for_row_blocks(int64_t count, int64_t num_classes, M&& make, F&& f) {
  for_blocks(count, num_classes, make, [&](int64_t start, int64_t length, auto& scratch) {
    for_rows(start, length, num_classes, [&](const Rows& rows) { f(rows, scratch); });
  });
}

template <class F>
void for_row_blocks(int64_t count, int64_t num_classes, F&& f) {
  for_row_blocks(count, num_classes, [] { return NoScratch{}; }, [&](const Rows& rows, NoScratch) { f(rows); });
}

template <class F>
void for_tiles(const Rows& rows, F&& f) {
  if (!rows.one()) return f(Tile{rows, 0, rows.num_classes, rows.num_classes});
  for (int64_t first = 0; first < rows.num_classes; first += kBlock) {
    const int64_t classes = std::min(kBlock, rows.num_classes - first);
    f(Tile{rows, first, classes, (classes + kLanes - 1) / kLanes});
  }
}

// Calls f(i, s, j) for each number i of a tile, which is at step s in lane j.
template <class F>
void for_numbers(const Tile& tile, F&& f) {
  for (int64_t s = 0; s < tile.steps; ++s) {
    for (int64_t j = 0; j < kLanes; ++j) f(s * kLanes + j, static_cast<int32_t>(s), j);
  }
}

// Fills the lanes behind the end of a row.
template <class T>
void pad_tile(const Tile& tile, T* numbers, T pad) {
  if (tile.rows.one()) std::fill(numbers + tile.classes, numbers + tile.padded(), pad);
}

// The numbers of a tile; `buffer` holds them where they cannot be read in place.
template <class T>
const T* load_tile(const View& view, const Tile& tile, T* buffer, T pad, int64_t offset = 0) {
  const Rows& rows = tile.rows;
  const int64_t start = offset + tile.start();
  if (rows.one()) {
    const T* from = load(view, start, tile.classes, buffer);
    if (tile.classes == tile.padded()) return from;
    if (from != buffer) std::copy_n(from, tile.classes, buffer);
    pad_tile(tile, buffer, pad);
    return buffer;
  }
  T staging[kBlock];
  const T* from = load(view, start, rows.count * tile.classes, staging);
  for (int64_t j = 0; j < kLanes; ++j) {
    const T* row = from + std::min(j, rows.count - 1) * tile.classes;
    for (int64_t s = 0; s < tile.steps; ++s) buffer[s * kLanes + j] = row[s];
  }
  return buffer;
}

template <class T>
Ahead<T> ahead_of(std::initializer_list<const View*> views, const Tile& tile) {
  return {views, tile.start()};
}

template <class T>
void store_tile(const View& view, const Tile& tile, const T* from) {
  const Rows& rows = tile.rows;
  const int64_t start = tile.start();
  if (rows.one()) return store(view, start, tile.classes, from);
  T staging[kBlock];
  T* to = target(view, start, staging);
  for (int64_t j = 0; j < rows.count; ++j) {
    for (int64_t s = 0; s < tile.steps; ++s) to[j * tile.classes + s] = from[s * kLanes + j];
  }
  store(view, start, rows.count * tile.classes, to);
}

// Where to write a tile: in place if that can be, else `buffer`, which `store_tile` then writes.
template <class T>
T* target_tile(const View& view, const Tile& tile, T* buffer) {
  if (!tile.rows.one() || tile.classes != tile.padded()) return buffer;
  return target(view, tile.start(), buffer);
}

// Numbers of rows, one for each lane.
template <class T>
void load_lanes(const View& view, const Rows& rows, T (&out)[kLanes], T missing = T(0)) {
  T buffer[kLanes];
  const T* from = load(view, rows.first, rows.count, buffer, missing);
  for (int64_t j = 0; j < kLanes; ++j) out[j] = from[std::min(j, rows.count - 1)];
}

// Reads a mask that points to the first row, 1 where there is none; returns whether any of the rows costs something.
inline bool mask_lanes(const Rows& rows, const uint8_t* mask, uint8_t (&costs)[kLanes]) {
  for (int64_t j = 0; j < kLanes; ++j) costs[j] = mask ? mask[std::min(j, rows.count - 1)] : 1;
  return std::any_of(costs, costs + kLanes, [](uint8_t cost) { return cost != 0; });
}

inline constexpr int64_t kNoClass[kLanes] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};

// Reads the rows' classes. A class is -1 where it is not wanted, or out of range, which `bad` remembers if given.
inline void load_classes(const View& view, const Rows& rows, const uint8_t (&wanted)[kLanes], int64_t (&x)[kLanes],
                         BadClass* bad) {
  load_lanes(view, rows, x);
  for (int64_t j = 0; j < kLanes; ++j) {
    const bool valid = is_class(x[j], rows.num_classes);
    if (wanted[j] && !valid && bad) bad->take(x[j]);
    if (!wanted[j] || !valid) x[j] = -1;
  }
}

template <class T>
auto logits_of(const View& view) {
  return [&view](const Tile& tile, T* buffer) { return load_tile(view, tile, buffer, kMinusInfinity<T>); };
}

// The step at which each lane meets class x of its row, -1 where it does not.
struct StepOf {
  int32_t at[kLanes];

  StepOf(const Tile& tile, const int64_t (&x)[kLanes]) {
    for (int64_t j = 0; j < kLanes; ++j) {
      const int64_t k = x[j] - tile.first;
      const bool met = !tile.rows.one() || (k >= 0 && k < tile.classes && k % kLanes == j);
      at[j] = static_cast<int32_t>(!met ? -1 : tile.rows.one() ? k / kLanes : k);
    }
  }
};

// Calls f(j, s) for each lane j that meets class x, at step s.
template <class F>
void where_met(const StepOf& x, F&& f) {
  for (int64_t j = 0; j < kLanes; ++j) {
    if (x.at[j] >= 0) f(j, x.at[j]);
  }
}

// Sets a number that lane j has found: where the lanes are one row, all of them get it.
template <class T>
void set_lanes(const Rows& rows, int64_t j, T (&lanes)[kLanes], T value) {
  if (rows.one()) {
    std::fill_n(lanes, kLanes, value);
  } else {
    lanes[j] = value;
  }
}

// Where the lanes are one row, the sum over them goes to all of them.
inline void sum_lanes(const Rows& rows, double (&lanes)[kLanes]) {
  if (!rows.one()) return;
  double sum = 0;
  for (const double value : lanes) sum += value;
  std::fill_n(lanes, kLanes, sum);
}

template <class T>
void max_lanes(const Rows& rows, T (&lanes)[kLanes]) {
  if (rows.one()) std::fill_n(lanes, kLanes, *std::max_element(lanes, lanes + kLanes));
}

// Normals of the classes of a tile.
template <class T>
const T* normal_tile(const Noise& noise, const Tile& tile, T* buffer, uint32_t draw = 0, int64_t draw_stride = 0,
                     const Ahead<T>& ahead = {}) {
  if (noise.explicit_values) return load_tile(noise.explicit_values, tile, buffer, T(0), draw * draw_stride);
  const int64_t per_row = (tile.rows.num_classes + 3) / 4;
  const uint64_t group = static_cast<uint64_t>(tile.rows.first * per_row + tile.first / 4);
  if (tile.rows.one()) {
    fill_normals(buffer, (tile.classes + 3) / 4, key_of(noise), group, noise.stream, draw, ahead);
  } else {
    for_sets(per_row, [&](int64_t g, auto size) {
      T normals[4][size * kLanes];
      fill_lanes<size>(normals, key_of(noise), group + g, per_row, 1, noise.stream, draw);
      for (int k = 0; k < 4 * size; ++k) {
        std::copy_n(normals[k % 4] + k / 4 * kLanes, kLanes, buffer + (4 * g + k) * kLanes);
      }
    });
  }
  return buffer;
}

// The uniforms that draw the rows' classes: row r takes word r % 4 of group r / 4.
template <class T>
void uniform_lanes(const Noise& noise, const Rows& rows, T (&out)[kLanes]) {
  if (noise.explicit_values) return load_lanes(noise.explicit_values, rows, out);
  uint32_t words[4][kLanes];
  const int64_t first = rows.first / 4;
  fill_words<1>(words, key_of(noise), static_cast<uint64_t>(first), 1, 0, noise.stream, 0);
  for (int64_t j = 0; j < kLanes; ++j) {
    const int64_t row = rows.first + std::min(j, rows.count - 1);
    out[j] = static_cast<T>(unit(words[row % 4][row / 4 - first]));
  }
}

// The largest number of each lane over the steps of a tile. There is at least one step: where g++ knows that, the lanes
// become SIMD. Each such loop is a function of its own, since joined ones do not.
template <class T>
[[gnu::noinline]] void max_steps(int64_t steps, const T* __restrict z, T* __restrict top) {
  if (steps < 1) return;
  for (int64_t j = 0; j < kLanes; ++j) {
    T most = std::numeric_limits<T>::lowest();  // not -inf, since -inf - -inf is NaN
    for (int64_t s = 0; s < steps; ++s) most = z[s * kLanes + j] > most ? z[s * kLanes + j] : most;
    top[j] = most;
  }
}

// e = exp(z - top). Each step prefetches the logits that lie `ahead` numbers further, which are wanted next: the
// hardware does not look beyond 4 KiB.
template <bool kExact = true, class T>
[[gnu::noinline]] void exp_steps(int64_t steps, const T* __restrict z, const T* __restrict top, T* __restrict e,
                                 int64_t ahead = kBlock) {
  for (int64_t s = 0; s < steps; ++s) {
#if defined(__GNUC__)
    __builtin_prefetch(z + s * kLanes + ahead);
#endif
    for (int64_t j = 0; j < kLanes; ++j) {
      const T logit = z[s * kLanes + j];
      e[s * kLanes + j] = kExact ? exp_difference(logit, top[j]) : exp_term(logit - top[j]);
    }
  }
}

// Sums of e and, where they are wanted, of e^2: in double, so that the number of classes does not cost precision.
template <bool kSquares, class T>
[[gnu::noinline]] void sum_steps(int64_t steps, const T* __restrict e, double* __restrict sums,
                                 double* __restrict squares = nullptr) {
  if (steps < 1) return;
  for (int64_t j = 0; j < kLanes; ++j) {
    double sum = 0, square = 0;
    for (int64_t s = 0; s < steps; ++s) {
      const double value = e[s * kLanes + j];
      sum += value;
      if (kSquares) square += value * value;
    }
    sums[j] = sum;
    if (kSquares) squares[j] = square;
  }
}

// What the sums of a row are for. For a draw exp_term serves, since there the rounding of z - top does no harm.
enum class Wanted { kDraw, kSums, kSquares };

// A tile's e_k = exp(z_k - top), by the tile's own top, and their sums without the class x, whose e becomes 0.
template <class T>
struct TileSums {
  T top[kLanes], scale[kLanes];  // e times `scale` is by the row's top
  double rest[kLanes], square[kLanes];

  template <Wanted wanted>
  void take(const Tile& tile, const T* z, const StepOf& x, T* e) {
    max_steps(tile.steps, z, top);
    max_lanes(tile.rows, top);
    exp_steps<wanted != Wanted::kDraw>(tile.steps, z, top, e);
    where_met(x, [&](int64_t j, int64_t s) { e[s * kLanes + j] = 0; });
    sum_steps<wanted == Wanted::kSquares>(tile.steps, e, rest, square);
    sum_lanes(tile.rows, rest);
    if (wanted == Wanted::kSquares) sum_lanes(tile.rows, square);
  }
};

// Numbers that are kept between the sweeps over a row's tiles. With `keep_e` the e of all tiles are, too.
template <class T>
struct RowScratch {
  bool keep_e;
  std::vector<TileSums<T>> tiles;
  std::vector<T> e;

  explicit RowScratch(int64_t num_classes, bool keep_all_e = true)
      : keep_e(keep_all_e),
        tiles((num_classes + kBlock - 1) / kBlock),
        e(keep_e ? tiles.size() * kBlock : static_cast<size_t>(kBlock)) {}

  // Writes a view, whose numbers make(tile, e, scale, out) makes of those that are kept.
  template <class F>
  void store(const View& to, const Rows& rows, F&& make) const {
    int64_t t = 0;
    for_tiles(rows, [&](const Tile& tile) {
      T out[kBlock];
      make(tile, e.data() + tile.first, tiles[t++].scale, out);
      store_tile(to, tile, out);
    });
  }
};

// Sums over whole rows, by lane, without the class x; with x = -1 over all classes.
template <class T, Wanted wanted = Wanted::kSums>
struct RowSums {
  T top[kLanes], z_x[kLanes] = {}, e_x[kLanes];
  double rest[kLanes] = {}, square[kLanes] = {};

  // `logits(tile, buffer)` returns a tile's logits.
  template <class F>
  RowSums(const Rows& rows, const int64_t (&x)[kLanes], RowScratch<T>& scratch, F&& logits) {
    int64_t count = 0;
    for_tiles(rows, [&](const Tile& tile) {
      T buffer[kBlock];
      const T* z = logits(tile, buffer);
      const StepOf step(tile, x);
      scratch.tiles[count++].template take<wanted>(tile, z, step, scratch.e.data() + (scratch.keep_e ? tile.first : 0));
      where_met(step, [&](int64_t j, int64_t s) { set_lanes(rows, j, z_x, z[s * kLanes + j]); });
    });
    std::copy_n(scratch.tiles[0].top, kLanes, top);
    for (int64_t t = 1; t < count; ++t) {
      for (int64_t j = 0; j < kLanes; ++j) top[j] = std::max(top[j], scratch.tiles[t].top[j]);
    }
    for (int64_t t = 0; t < count; ++t) {
      TileSums<T>& tile = scratch.tiles[t];
      for (int64_t j = 0; j < kLanes; ++j) {
        tile.scale[j] = exp_difference(tile.top[j], top[j]);
        rest[j] += tile.scale[j] * tile.rest[j];
        if (wanted == Wanted::kSquares)
          square[j] += static_cast<double>(tile.scale[j]) * tile.scale[j] * tile.square[j];
      }
    }
    for (int64_t j = 0; j < kLanes; ++j) e_x[j] = x[j] < 0 ? T(0) : exp_difference(z_x[j], top[j]);
  }
  double total(int64_t j) const { return e_x[j] + rest[j]; }
  RowStats<T> stats(int64_t j, double spread) const { return row_stats(top[j], e_x[j], rest[j], square[j], spread); }

  // Sums of e (1 - e). Where little stands beside an e of 1, the difference of the sums has lost it: then the row is
  // summed once more.
  template <class F>
  void spreads(const Rows& rows, const int64_t (&x)[kLanes], F&& logits, double (&spread)[kLanes]) const {
    constexpr double kLost = std::numeric_limits<double>::epsilon() / std::numeric_limits<T>::epsilon();
    int32_t lost[kLanes], any = 0;
    for (int64_t j = 0; j < kLanes; ++j) {
      spread[j] = rest[j] - square[j];
      lost[j] = rest[j] >= 1 && rest[j] < 1 + kLost;
      any |= lost[j];
    }
    if (!any) return;
    double sums[kLanes] = {};
    for_tiles(rows, [&](const Tile& tile) {
      T buffer[kBlock], e[kBlock];
      exp_steps(tile.steps, logits(tile, buffer), top, e);
      where_met(StepOf(tile, x), [&](int64_t j, int64_t s) { e[s * kLanes + j] = 0; });
      for_numbers(tile, [&](int64_t i, int32_t, int64_t j) { sums[j] += static_cast<double>(e[i]) * (1 - e[i]); });
    });
    sum_lanes(rows, sums);
    for (int64_t j = 0; j < kLanes; ++j) spread[j] = lost[j] ? sums[j] : spread[j];
  }
};

// The first class of each row with the largest number; -1 where p is NaN, as it is where numbers are NaN or infinite,
// or all of them -inf.
template <class T, class F>
void find_modes(const Rows& rows, F&& logits, int64_t (&mode)[kLanes]) {
  T top[kLanes];
  int32_t poisoned[kLanes] = {};
  std::fill_n(mode, kLanes, 0);
  std::fill_n(top, kLanes, kMinusInfinity<T>);
  for_tiles(rows, [&](const Tile& tile) {
    T buffer[kBlock];
    const T* z = logits(tile, buffer);
    int32_t step[kLanes] = {};
    T most[kLanes];
    std::fill_n(most, kLanes, kMinusInfinity<T>);
    for_numbers(tile, [&](int64_t i, int32_t s, int64_t j) {
      step[j] = z[i] > most[j] ? s : step[j];
      most[j] = z[i] > most[j] ? z[i] : most[j];
      poisoned[j] |= z[i] != z[i] ? 1 : 0;
    });
    for (int64_t j = 0; j < kLanes; ++j) {
      const int64_t to = rows.one() ? 0 : j, k = rows.one() ? tile.first + step[j] * kLanes + j : step[j];
      if (most[j] > top[to] || (most[j] == top[to] && k < mode[to])) {
        top[to] = most[j];
        mode[to] = k;
      }
    }
  });
  if (rows.one()) {
    std::fill_n(poisoned, kLanes, std::any_of(poisoned, poisoned + kLanes, [](int32_t nan) { return nan != 0; }));
    std::fill_n(mode, kLanes, mode[0]);
    std::fill_n(top, kLanes, top[0]);
  }
  for (int64_t j = 0; j < kLanes; ++j) {
    if (poisoned[j] || !(top[j] - top[j] == T(0))) mode[j] = -1;
  }
}

}  // namespace bfn
