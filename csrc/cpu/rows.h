// Rows of classes in lanes. A lane is one of the 16 numbers that SIMD instructions work on at a time. Rows have one of
// two layouts, and the same loop works on both. The logits z[row][class] lie in memory line after line:
//
//   Few classes: a lane is a row.                       Many classes, here 40: the lanes are classes of a row.
//
//              lane 0    lane 1   ...  lane 15                           lane 0    lane 1   ...  lane 15
//   step 0     z[0][0]   z[1][0]  ...  z[15][0]          row 0, step 0   z[0][0]   z[0][1]  ...  z[0][15]
//   step 1     z[0][1]   z[1][1]  ...  z[15][1]          row 0, step 1   z[0][16]  z[0][17] ...  z[0][31]
//   ...                                                  row 0, step 2   z[0][32]  z[0][33] ...  padding
//   step K-1   z[0][K-1] z[1][K-1] ... z[15][K-1]        row 1, step 0   z[1][0]   z[1][1]  ...  z[1][15]
//
// - A step is one line: a number in each lane.
// - A set is all steps that are summed together, lane by lane. With few classes it has the steps of 16 rows, and with
//   many classes the steps of one row.
// - A tile is what fits a buffer of kBlock numbers. With few classes it is one set. With many classes it is the sets of
//   up to 16 rows or, if a row is longer than the buffer, a section of one row.
// - A block is the rows that a thread works on at a time (parallel.h): about as many as fit a buffer, and at least one.
#pragma once

#include "../ops/discrete.h"
#include "bad_class.h"
#include "noise.h"

namespace bfn {

// With more classes than this, the lanes of for_rows are classes. Transposing rows into lanes would then cost more than
// the padding at the end of each row.
constexpr int64_t kFewClasses = 32;
static_assert(kFewClasses >= kLanes);  // copy_rows relies on it

// Up to 16 consecutive rows, which are processed together.
struct Rows {
  int64_t first, count, num_classes;
  bool lanes_are_classes;  // whether the lanes are classes of one row; otherwise they are rows
};

inline int64_t round_up_to_lanes(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

// A tile: all classes of some rows, or `classes` classes of one long row, from class `first` on.
struct Tile {
  Rows rows;
  int64_t first, classes, steps;  // `steps` is the number of steps of each set

  int64_t pitch() const { return steps * kLanes; }  // the distance between rows in the buffer, if lanes are classes
  int64_t numbers() const { return (rows.lanes_are_classes ? rows.count : 1) * pitch(); }
  // Where class `first` + k of row j lies in the buffer.
  int64_t at(int64_t j, int64_t k) const { return rows.lanes_are_classes ? j * pitch() + k : k * kLanes + j; }
  // Where the tile begins in the tensor.
  int64_t start() const { return rows.first * rows.num_classes + first; }
  // Where the next tile begins.
  int64_t end() const { return start() + rows.count * classes; }
};

// Calls f(rows) for all rows. Each call gets as many rows as fit a tile.
template <class F>
void for_rows(int64_t start, int64_t length, int64_t num_classes, F&& f) {
  const bool lanes_are_classes = num_classes > kFewClasses;
  const int64_t fit = lanes_are_classes ? std::max<int64_t>(1, kBlock / round_up_to_lanes(num_classes)) : kLanes;
  const int64_t most = std::min(kLanes, fit);
  for (int64_t i = 0; i < length; i += most)
    f(Rows{start + i, std::min(most, length - i), num_classes, lanes_are_classes});
}

// Calls f(rows) for all rows. The lanes are classes only if the classes of 16 rows do not fit a buffer. Each call then
// gets one row, to which all lanes belong.
template <class F>
void for_single_rows(int64_t start, int64_t length, int64_t num_classes, F&& f) {
  const bool lanes_are_classes = num_classes > kBlock / kLanes;
  const int64_t most = lanes_are_classes ? 1 : kLanes;
  for (int64_t i = 0; i < length; i += most)
    f(Rows{start + i, std::min(most, length - i), num_classes, lanes_are_classes});
}

// The number of elements of a row in a tile, with its padding.
inline int64_t row_width(int64_t num_classes) {
  return num_classes > kFewClasses ? round_up_to_lanes(num_classes) : num_classes;
}

// Calls f(tile) for all tiles of some rows.
template <class F>
void for_tiles(const Rows& rows, F&& f) {
  if (!rows.lanes_are_classes) return f(Tile{rows, 0, rows.num_classes, rows.num_classes});
  for (int64_t first = 0; first < rows.num_classes; first += kBlock) {
    const int64_t classes = std::min(kBlock, rows.num_classes - first);
    f(Tile{rows, first, classes, round_up_to_lanes(classes) / kLanes});
  }
}

// The index of the row to which all 16 lanes of a step belong.
struct SameRow {
  int64_t row;

  operator int64_t() const { return row; }
};

// Calls f(i, k, j) for each number of a tile. i is the number's place in the buffer, k its class in the tile, and j its
// row. The type of j differs between the two layouts. So the compiler makes a separate function of f for each layout.
// Each function has only one caller, and is inlined.
template <class F>
[[gnu::always_inline]] inline void for_numbers(const Tile& tile, F&& f) {
  if (tile.rows.lanes_are_classes) {
    for (int64_t j = 0; j < tile.rows.count; ++j) {
      for (int64_t s = 0; s < tile.steps; ++s) {
        for (int64_t k = s * kLanes; k < (s + 1) * kLanes; ++k) {
          f(j * tile.pitch() + k, static_cast<int32_t>(k), SameRow{j});
        }
      }
    }
    return;
  }
  for (int64_t k = 0; k < tile.steps; ++k) {
    for (int64_t j = 0; j < kLanes; ++j) f(k * kLanes + j, static_cast<int32_t>(k), j);
  }
}

// Fills the padding of each row with `pad`.
template <class T>
void pad_tile(const Tile& tile, T* numbers, T pad) {
  for (int64_t j = 0; tile.rows.lanes_are_classes && j < tile.rows.count; ++j) {
    std::fill(numbers + j * tile.pitch() + tile.classes, numbers + (j + 1) * tile.pitch(), pad);
  }
}

// Interleaves the four quarters of `from`. Two calls transpose 16 rows into lanes. The compiler vectorises this loop
// only if it is in a separate function.
template <class T>
[[gnu::noinline]] void interleave_quarters(int64_t quarter, const T* __restrict from, T* __restrict to) {
  for (int64_t i = 0; i < quarter; ++i) {
    for (int64_t q = 0; q < 4; ++q) to[4 * i + q] = from[q * quarter + i];
  }
}

// The inverse of interleave_quarters.
template <class T>
[[gnu::noinline]] void deinterleave_quarters(int64_t quarter, const T* __restrict from, T* __restrict to) {
  for (int64_t i = 0; i < quarter; ++i) {
    for (int64_t q = 0; q < 4; ++q) to[q * quarter + i] = from[4 * i + q];
  }
}

// Transposes 16 rows of `classes` numbers: row j becomes lane j.
template <class T>
void rows_to_lanes(int64_t classes, const T* from, T* to) {
  T halfway[kBlock];
  interleave_quarters(4 * classes, from, halfway);
  interleave_quarters(4 * classes, halfway, to);
}

// The inverse of rows_to_lanes: lane j becomes row j.
template <class T>
void lanes_to_rows(int64_t classes, const T* from, T* to) {
  T halfway[kBlock];
  deinterleave_quarters(4 * classes, from, halfway);
  deinterleave_quarters(4 * classes, halfway, to);
}

// Copies rows of `classes` numbers to another distance between rows. The last step of each row ends with its last
// class, so that it overlaps the step before. Fewer than 16 classes are the end of one long row. std::copy_n would be
// slower.
template <class T>
[[gnu::noinline]] void copy_rows(int64_t count, int64_t classes, const T* __restrict from, int64_t from_pitch,
                                 T* __restrict to, int64_t to_pitch) {
  if (classes < kLanes) std::copy_n(from, classes, to);
  for (int64_t j = 0; classes >= kLanes && j < count; ++j) {
    for (int64_t i = 0; i < classes; i += kLanes) {
      const int64_t k = std::min(i, classes - kLanes);
      for (int64_t lane = 0; lane < kLanes; ++lane) to[j * to_pitch + k + lane] = from[j * from_pitch + k + lane];
    }
  }
}

// Returns a pointer to the numbers of a tile. They are copied to `buffer` unless they can be read in place. If the
// lanes are rows and there are fewer than 16 rows, the remaining lanes repeat the last row.
template <class T>
const T* load_tile(const View& view, const Tile& tile, T* buffer, T pad, int64_t offset = 0) {
  const int64_t start = offset + tile.start(), count = tile.rows.count, classes = tile.classes;
  if (tile.rows.lanes_are_classes && classes == tile.pitch()) return load(view, start, count * classes, buffer);
  T staging[kBlock];
  const T* from = load(view, start, count * classes, staging);
  if (tile.rows.lanes_are_classes) {
    copy_rows(count, classes, from, classes, buffer, tile.pitch());
    pad_tile(tile, buffer, pad);
    return buffer;
  }
  if (count < kLanes) {
    if (from != staging) std::copy_n(from, count * classes, staging);
    from = staging;
    for (int64_t j = count; j < kLanes; ++j) {
      std::copy_n(staging + (count - 1) * classes, classes, staging + j * classes);
    }
  }
  rows_to_lanes(classes, from, buffer);
  return buffer;
}

template <class T>
void store_tile(const View& view, const Tile& tile, const T* from) {
  const int64_t start = tile.start(), count = tile.rows.count, classes = tile.classes;
  if (tile.rows.lanes_are_classes && classes == tile.pitch()) return store(view, start, count * classes, from);
  T staging[kBlock];
  T* to = tile.rows.lanes_are_classes || count == kLanes ? target(view, start, staging) : staging;
  if (tile.rows.lanes_are_classes) {
    copy_rows(count, classes, from, tile.pitch(), to, classes);
  } else {
    lanes_to_rows(classes, from, to);
  }
  store(view, start, count * classes, to);
}

// Returns a pointer to which the caller writes a tile, before it calls `store_tile`. It is the tensor's own memory if
// the tensor has the layout and the type of the tile. Otherwise it is `buffer`.
template <class T>
T* target_tile(const View& view, const Tile& tile, T* buffer) {
  if (!tile.rows.lanes_are_classes || tile.classes != tile.pitch()) return buffer;
  return target(view, tile.start(), buffer);
}

// Copies one number of each row, so that out[j] belongs to row j in both layouts. If there are fewer than 16 rows, the
// remaining numbers repeat the last row's number.
template <class T>
void copy_lanes(const Rows& rows, const T* from, T (&out)[kLanes]) {
  if (rows.count == kLanes) {
    std::copy_n(from, kLanes, out);
  } else {
    for (int64_t j = 0; j < kLanes; ++j) out[j] = from[std::min(j, rows.count - 1)];
  }
}

template <class T>
void load_lanes(const View& view, const Rows& rows, T (&out)[kLanes], T missing = T(0)) {
  T buffer[kLanes];
  copy_lanes(rows, load(view, rows.first, rows.count, buffer, missing), out);
}

// One number for each row of a block. The constructor reads all of them.
template <class T>
class RowValues {
 public:
  RowValues(const View& view, int64_t start, int64_t length, T missing = T(0))
      : start_(start), from_(load(view, start, length, buffer_, missing)) {}

  void lanes(const Rows& rows, T (&out)[kLanes]) const { copy_lanes(rows, from_ + rows.first - start_, out); }

 private:
  T buffer_[kBlock];
  int64_t start_;
  const T* from_;
};

// Copies the masks of the rows to `costs`: whether the loss of each row counts. `mask` points to the mask of row
// `start`. If `mask` is null, all losses count. Returns whether any loss counts.
inline bool mask_lanes(const Rows& rows, const uint8_t* mask, int64_t start, uint8_t (&costs)[kLanes]) {
  if (!mask) {
    std::fill_n(costs, kLanes, uint8_t{1});
    return true;
  }
  copy_lanes(rows, mask + rows.first - start, costs);
  return std::any_of(costs, costs + kLanes, [](uint8_t cost) { return cost != 0; });
}

// Sets the class of a row to -1 if it is not wanted or is out of range. If `bad` is not null, it records a wanted class
// that is out of range.
inline void check_classes(const Rows& rows, const uint8_t (&wanted)[kLanes], int64_t (&x)[kLanes], BadClass* bad) {
  int64_t any_bad = 0;
  for (int64_t j = 0; j < kLanes; ++j) any_bad |= wanted[j] && !is_class(x[j], rows.num_classes) ? 1 : 0;
  for (int64_t j = 0; any_bad && bad && j < kLanes; ++j) {
    if (wanted[j] && !is_class(x[j], rows.num_classes)) bad->record(x[j]);
  }
  for (int64_t j = 0; j < kLanes; ++j) x[j] = wanted[j] && is_class(x[j], rows.num_classes) ? x[j] : -1;
}

inline void load_classes(const View& view, const Rows& rows, const uint8_t (&wanted)[kLanes], int64_t (&x)[kLanes],
                         BadClass* bad) {
  load_lanes(view, rows, x);
  check_classes(rows, wanted, x, bad);
}

// Returns a function that reads the logits of a tile.
template <class T>
auto logits_of(const View& view) {
  return [&view](const Tile& tile, T* buffer) { return load_tile(view, tile, buffer, kMinusInfinity<T>); };
}

// Writes the logits of a tile to `buffer`, and -infinity where the class mask is 0. The logits may be in the buffer.
template <class T>
[[gnu::noinline]] const T* mask_tile(const View& class_mask, const Tile& tile, const T* z, T* buffer) {
  uint8_t masks[kBlock];
  const uint8_t* __restrict is_on = load_tile(class_mask, tile, masks, uint8_t{0});
  if (z != buffer) std::copy_n(z, tile.numbers(), buffer);
  for_numbers(tile, [&](int64_t i, int32_t, auto) { buffer[i] = is_on[i] ? buffer[i] : kMinusInfinity<T>; });
  return buffer;
}

template <class T>
auto logits_of(const ClassLogits& logits) {
  return [&logits](const Tile& tile, T* buffer) {
    const T* z = load_tile(logits, tile, buffer, kMinusInfinity<T>);
    return logits.class_mask ? mask_tile(logits.class_mask, tile, z, buffer) : z;
  };
}

// For each row, the index of its class x among the classes of the tile, or -1 if x is not in the tile.
struct ClassInTile {
  int32_t at[kLanes];

  ClassInTile(const Tile& tile, const int64_t (&x)[kLanes]) {
    for (int64_t j = 0; j < kLanes; ++j) {
      const int64_t k = x[j] - tile.first;
      at[j] = x[j] >= tile.first && k < tile.classes ? static_cast<int32_t>(k) : -1;
    }
  }
};

// Calls f(j, i) for each row j whose class x lies in the tile. i is the place of this class in the buffer. If x is
// null, f is not called.
template <class F>
void where_in_tile(const Tile& tile, const int64_t* x, F&& f) {
  const int64_t count = !x ? 0 : tile.rows.lanes_are_classes ? tile.rows.count : kLanes;
  for (int64_t j = 0; j < count; ++j) {
    const int64_t k = x[j] - tile.first;
    if (x[j] >= tile.first && k < tile.classes) f(j, tile.at(j, k));
  }
}

// Sets the number of row j. If j is the last row, the remaining lanes repeat it.
template <class T>
void set_lanes(const Rows& rows, int64_t j, T (&lanes)[kLanes], T value) {
  lanes[j] = value;
  if (j + 1 >= rows.count) std::fill(lanes + j, lanes + kLanes, value);
}

// Returns one normal for each number of a tile.
template <class T>
const T* normal_tile(const Noise& noise, const Tile& tile, T* buffer, uint32_t draw = 0, int64_t draw_stride = 0,
                     const Prefetch<T>& prefetch = {}) {
  if (noise.explicit_values) return load_tile(noise.explicit_values, tile, buffer, T(0), draw * draw_stride);
  const int64_t per_row = (tile.rows.num_classes + 3) / 4;
  const uint64_t group = static_cast<uint64_t>(tile.rows.first * per_row + tile.first / 4);
  if (tile.rows.lanes_are_classes) {
    const int64_t groups = (tile.classes + 3) / 4, room = 4 * groups;
    fill_normals(buffer, tile.rows.count * groups, seed_of(noise), group, noise.stream, draw, prefetch);
    for (int64_t j = tile.rows.count - 1; j > 0 && room < tile.pitch(); --j) {
      std::memmove(buffer + j * tile.pitch(), buffer + j * room, room * sizeof(T));
    }
  } else {
    for_sets(per_row, [&](int64_t g, auto size) {
      T normals[4][size * kLanes];
      fill_lanes<size>(normals, seed_of(noise), group + g, per_row, 1, noise.stream, draw);
      for (int k = 0; k < 4 * size; ++k) {
        std::copy_n(normals[k % 4] + k / 4 * kLanes, kLanes, buffer + (4 * g + k) * kLanes);
      }
    });
  }
  return buffer;
}

// Returns the normals of a step, or zeros if the step has no noise.
template <class T>
const T* normals_or_zeros(const Noise& noise, const Tile& tile, T* buffer, const Prefetch<T>& prefetch) {
  if (noise.any()) return normal_tile(noise, tile, buffer, 0, 0, prefetch);
  std::fill_n(buffer, tile.numbers(), T(0));
  return buffer;
}

}  // namespace bfn
