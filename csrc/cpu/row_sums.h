// Sums of e = exp(z - top) over the classes of a row, where `top` is the largest logit of the row.
#pragma once

#include <limits>
#include <vector>

#include "rows.h"

namespace bfn {

// Finds the largest number in each lane of each set. g++ vectorises this loop only if it is in a separate function and
// if g++ knows that there is at least one step.
template <class T>
[[gnu::noinline]] void max_steps(int64_t sets, int64_t steps, const T* __restrict z, T* __restrict top) {
  if (steps < 1) return;
  for (int64_t set = 0; set < sets; ++set) {
    for (int64_t j = 0; j < kLanes; ++j) {
      T most = std::numeric_limits<T>::lowest();  // not -inf, since -inf - -inf is NaN
      for (int64_t s = 0; s < steps; ++s) {
        const T number = z[(set * steps + s) * kLanes + j];
        most = number > most ? number : most;
      }
      top[set * kLanes + j] = most;
    }
  }
}

// Sums e over the steps of each set, lane by lane. With kSquares it also sums e^2. The sums are in double, so that they
// stay precise for many classes.
template <bool kSquares, class T>
[[gnu::noinline]] void sum_steps(int64_t sets, int64_t steps, const T* __restrict e, double* __restrict sums,
                                 double* __restrict squares = nullptr) {
  if (steps < 1) return;
  for (int64_t set = 0; set < sets; ++set) {
    for (int64_t j = 0; j < kLanes; ++j) {
      double sum = 0, square = 0;
      for (int64_t s = 0; s < steps; ++s) {
        const double value = e[(set * steps + s) * kLanes + j];
        sum += value;
        if (kSquares) square += value * value;
      }
      sums[set * kLanes + j] = sum;
      if (kSquares) squares[set * kLanes + j] = square;
    }
  }
}

// Reduces the 16 lanes of each row to one number with f. First it reduces each row to four numbers. Then it transposes
// these numbers, so that the last two reductions work on all rows at once.
template <class T, class F>
void join_lanes(const Rows& rows, const T* lanes, T (&out)[kLanes], F&& f) {
  T fours[4 * kLanes], transposed[4 * kLanes], joined[kLanes];
  for (int64_t row = 0; row < rows.count; ++row) {
    const T* const lane = lanes + row * kLanes;
    for (int64_t j = 0; j < 4; ++j) fours[row * 4 + j] = f(f(lane[j], lane[j + 4]), f(lane[j + 8], lane[j + 12]));
  }
  if (rows.count == 1) {
    std::fill_n(out, kLanes, f(f(fours[0], fours[1]), f(fours[2], fours[3])));
    return;
  }
  rows_to_lanes(4, fours, transposed);
  for (int64_t j = 0; j < kLanes; ++j) {
    joined[j] = f(f(transposed[j], transposed[kLanes + j]), f(transposed[2 * kLanes + j], transposed[3 * kLanes + j]));
  }
  copy_lanes(rows, joined, out);
}

// Finds the largest number of each row of a tile.
template <class T>
void max_tile(const Tile& tile, const T* z, T (&top)[kLanes]) {
  if (!tile.rows.lanes_are_classes) return max_steps(1, tile.steps, z, top);
  T lanes[kLanes * kLanes];
  max_steps(tile.rows.count, tile.steps, z, lanes);
  join_lanes(tile.rows, lanes, top, [](T a, T b) { return b > a ? b : a; });
}

// Sums e over each row of a tile. With kSquares it also sums e^2.
template <bool kSquares, class T>
void sum_tile(const Tile& tile, const T* e, double (&sums)[kLanes], double (&squares)[kLanes]) {
  if (!tile.rows.lanes_are_classes) return sum_steps<kSquares>(1, tile.steps, e, sums, squares);
  double sum[kLanes * kLanes], square[kLanes * kLanes];
  sum_steps<kSquares>(tile.rows.count, tile.steps, e, sum, square);
  const auto plus = [](double a, double b) { return a + b; };
  join_lanes(tile.rows, sum, sums, plus);
  if (kSquares) join_lanes(tile.rows, square, squares, plus);
}

// If all lanes belong to one row, replaces each lane by the sum of the lanes.
inline void sum_lanes(const Rows& rows, double (&lanes)[kLanes]) {
  if (!rows.lanes_are_classes) return;
  double sum = 0;
  for (const double value : lanes) sum += value;
  std::fill_n(lanes, kLanes, sum);
}

// exp(logit - top). With kExact the rounding error of logit - top is corrected.
template <bool kExact, class T>
T exp_of(T logit, T top) {
  return kExact ? exp_difference(logit, top) : exp_term(logit - top);
}

// Writes e = exp(z - top) of some sets. It prefetches the numbers of `ahead` from `next` on, which the caller will read
// or write next. The hardware prefetches only up to the end of a page of 4 KiB.
template <bool kExact, class T>
[[gnu::noinline]] void exp_steps(int64_t sets, int64_t steps, const T* __restrict z, const T* __restrict top,
                                 T* __restrict e, const Prefetch<T>& ahead = {}, int64_t next = 0) {
  for (int64_t set = 0; set < sets; ++set) {
    for (int64_t i = set * steps * kLanes; i < (set + 1) * steps * kLanes; i += kLanes) {
      ahead.run(next + i, kLanes);
      for (int64_t j = 0; j < kLanes; ++j) e[i + j] = exp_of<kExact>(z[i + j], top[set * kLanes + j]);
    }
  }
}

// Writes e = exp(z - top) of rows whose lanes are classes. Each row has `pitch` numbers, and one top.
template <bool kExact, class T>
[[gnu::noinline]] void exp_rows(int64_t count, int64_t pitch, const T* __restrict z, const T* __restrict top,
                                T* __restrict e, const Prefetch<T>& ahead = {}, int64_t next = 0) {
  for (int64_t j = 0; j < count; ++j) {
    const T most = top[j];
    for (int64_t i = j * pitch; i < (j + 1) * pitch; i += kLanes) {
      ahead.run(next + i, kLanes);
      for (int64_t lane = 0; lane < kLanes; ++lane) e[i + lane] = exp_of<kExact>(z[i + lane], most);
    }
  }
}

template <bool kExact = true, class T>
void exp_tile(const Tile& tile, const T* z, const T (&top)[kLanes], T* e, const Prefetch<T>& ahead = {}) {
  if (tile.rows.lanes_are_classes) {
    exp_rows<kExact>(tile.rows.count, tile.pitch(), z, top, e, ahead, tile.end());
  } else {
    exp_steps<kExact>(1, tile.steps, z, top, e, ahead, tile.end());
  }
}

// Multiplies each e by the factor of its row.
template <class T>
[[gnu::noinline]] void scale_tile(const Tile& tile, const T* __restrict e, const T* __restrict factor,
                                  T* __restrict out) {
  for_numbers(tile, [&](int64_t i, int32_t, auto j) { out[i] = e[i] * factor[j]; });
}

// The softmax of sets of 16 rows, whose lanes are rows.
template <class T>
void softmax_steps(int64_t sets, int64_t steps, const T* __restrict z, T* __restrict out) {
  T top[kBlock], e[kBlock];
  double sums[kBlock];
  max_steps(sets, steps, z, top);
  exp_steps<true>(sets, steps, z, top, e);
  sum_steps<false>(sets, steps, e, sums);
  for (int64_t set = 0; set < sets; ++set) {
    T inverse[kLanes];
    for (int64_t j = 0; j < kLanes; ++j) inverse[j] = static_cast<T>(1 / sums[set * kLanes + j]);
    for (int64_t i = set * steps * kLanes; i < (set + 1) * steps * kLanes; i += kLanes) {
      for (int64_t j = 0; j < kLanes; ++j) out[i + j] = e[i + j] * inverse[j];
    }
  }
}

// Computes kSums sums over whole rows. f(tile, sums) writes the sums over the steps of a tile, lane by lane. If the
// lanes are classes, `rows` must be a single row (for_single_rows). Every lane then gets the sum over the whole row.
template <size_t kSums, class F>
void sum_rows(const Rows& rows, double (&total)[kSums][kLanes], F&& f) {
  for (double (&lanes)[kLanes] : total) std::fill_n(lanes, kLanes, 0.0);
  for_tiles(rows, [&](const Tile& tile) {
    double sums[kSums][kLanes];
    f(tile, sums);
    for (size_t which = 0; which < kSums; ++which) {
      sum_lanes(rows, sums[which]);
      for (int64_t j = 0; j < kLanes; ++j) total[which][j] += sums[which][j];
    }
  });
}

// How a row is summed. kRounded uses the faster exp_term, which does not correct the rounding error of z - top. This is
// precise enough for a random draw, or if the logits have just been rounded. kExactWithSquares also sums e^2.
enum class SumMode { kRounded, kExact, kExactWithSquares };

// The sums of e_k = exp(z_k - top) over the classes of a tile, where `top` is the largest logit of the tile. Class x is
// left out of the sums: its e is set to 0, and its logit is copied to z_x.
template <class T>
struct TileSums {
  T top[kLanes], scale[kLanes];  // e times `scale` is exp(z - top of the whole row)
  double rest[kLanes], square[kLanes];

  template <SumMode kMode>
  void compute(const Tile& tile, const T* z, const int64_t* x, T* e, T (&z_x)[kLanes], const Prefetch<T>& ahead) {
    max_tile(tile, z, top);
    exp_tile<kMode != SumMode::kRounded>(tile, z, top, e, ahead);
    where_in_tile(tile, x, [&](int64_t j, int64_t i) {
      set_lanes(tile.rows, j, z_x, z[i]);
      e[i] = 0;
    });
    sum_tile<kMode == SumMode::kExactWithSquares>(tile, e, rest, square);
  }
};

// The numbers of a row that are stored between two passes over its tiles: the sums of each tile and, with `keep_e`, e
// of all classes. Without `keep_e`, the buffer `e` has room for only one tile.
template <class T>
struct RowScratch {
  bool keep_e;
  std::vector<TileSums<T>> tiles;
  std::vector<T> e;

  explicit RowScratch(int64_t num_classes, bool keep_all_e = true)
      : keep_e(keep_all_e),
        tiles((num_classes + kBlock - 1) / kBlock),
        e(keep_e ? tiles.size() * kBlock : static_cast<size_t>(kBlock)) {}

  const TileSums<T>& sums_of(const Tile& tile) const { return tiles[tile.first / kBlock]; }
  const T* e_of(const Tile& tile) const { return e.data() + tile.first; }

  // Fills a view. make(tile, e, scale, out) computes the numbers of a tile from the stored e and the tile's scale.
  template <class F>
  void store(const View& to, const Rows& rows, F&& make) const {
    for_tiles(rows, [&](const Tile& tile) {
      T buffer[kBlock];
      T* out = target_tile(to, tile, buffer);
      make(tile, e_of(tile), sums_of(tile).scale, out);
      store_tile(to, tile, out);
    });
  }
};

// Calls f(rows, scratch) for all rows, on several threads. Each thread has its own scratch memory.
template <class T, class F>
void for_row_blocks(int64_t count, int64_t num_classes, F&& f) {
  const auto make = [num_classes] { return RowScratch<T>(num_classes); };
  for_blocks(count, row_width(num_classes), make, [&](int64_t start, int64_t length, RowScratch<T>& scratch) {
    for_rows(start, length, num_classes, [&](const Rows& rows) { f(rows, scratch); });
  });
}

// The sums over all classes of a row but x. If x is null, or -1 for a row, no class is left out.
template <class T, SumMode kMode = SumMode::kExact>
struct RowSums {
  T top[kLanes], z_x[kLanes] = {}, e_x[kLanes] = {};
  double rest[kLanes], square[kLanes];

  // `logits(tile, buffer)` returns the logits of a tile. `ahead` are tensors of which the next tile will be read or
  // written.
  template <class F>
  RowSums(const Rows& rows, const int64_t* x, RowScratch<T>& scratch, F&& logits, const Prefetch<T>& ahead = {}) {
    int64_t count = 0;
    for_tiles(rows, [&](const Tile& tile) {
      T buffer[kBlock];
      const T* z = logits(tile, buffer);
      T* e = scratch.e.data() + (scratch.keep_e ? tile.first : 0);
      scratch.tiles[count++].template compute<kMode>(tile, z, x, e, z_x, ahead);
    });
    join(scratch.tiles.data(), count);
    for (int64_t j = 0; x && j < kLanes; ++j) e_x[j] = x[j] < 0 ? T(0) : exp_difference(z_x[j], top[j]);
  }
  double total(int64_t j) const { return e_x[j] + rest[j]; }
  RowStats<T> stats(int64_t j, double complement) const {
    return row_stats(top[j], e_x[j], rest[j], square[j], complement);
  }

  // Computes the sums of e (1 - e). They are usually the sums of e minus the sums of e^2. But if one e is 1 and the
  // others are tiny, this difference has lost the others. Such a row is then summed once more, term by term.
  template <class F>
  void complement_sums(const Rows& rows, const int64_t* x, F&& logits, double (&complement)[kLanes]) const {
    constexpr double kLost = std::numeric_limits<double>::epsilon() / std::numeric_limits<T>::epsilon();
    int32_t lost[kLanes], any = 0;
    for (int64_t j = 0; j < kLanes; ++j) {
      complement[j] = rest[j] - square[j];
      lost[j] = rest[j] >= 1 && rest[j] < 1 + kLost;
      any |= lost[j];
    }
    if (!any || rows.num_classes == 2) return;  // of two classes, the sum has one term: it is exact
    double sums[kLanes] = {};
    for_tiles(rows, [&](const Tile& tile) {
      T buffer[kBlock], e[kBlock];
      exp_tile(tile, logits(tile, buffer), top, e);
      where_in_tile(tile, x, [&](int64_t, int64_t i) { e[i] = 0; });
      for_numbers(tile, [&](int64_t i, int32_t, auto j) { sums[j] += static_cast<double>(e[i]) * (1 - e[i]); });
    });
    for (int64_t j = 0; j < kLanes; ++j) complement[j] = lost[j] ? sums[std::min(j, rows.count - 1)] : complement[j];
  }

 private:
  // Scales the sums of each tile to the top of the whole row, and adds them.
  void join(TileSums<T>* tiles, int64_t count) {
    std::copy_n(tiles[0].top, kLanes, top);
    std::copy_n(tiles[0].rest, kLanes, rest);
    if (kMode == SumMode::kExactWithSquares) std::copy_n(tiles[0].square, kLanes, square);
    std::fill_n(tiles[0].scale, kLanes, T(1));
    if (count == 1) return;
    for (int64_t t = 1; t < count; ++t) {
      for (int64_t j = 0; j < kLanes; ++j) top[j] = std::max(top[j], tiles[t].top[j]);
    }
    std::fill_n(rest, kLanes, 0.0);
    std::fill_n(square, kLanes, 0.0);
    for (int64_t t = 0; t < count; ++t) {
      for (int64_t j = 0; j < kLanes; ++j) {
        const T scale = exp_difference(tiles[t].top[j], top[j]);
        tiles[t].scale[j] = scale;
        rest[j] += scale * tiles[t].rest[j];
        if (kMode == SumMode::kExactWithSquares) square[j] += static_cast<double>(scale) * scale * tiles[t].square[j];
      }
    }
  }
};

}  // namespace bfn
