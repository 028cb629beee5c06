// Rows of classes in lanes: the 16 numbers that SIMD instructions take at a time. There are two layouts, and the loops
// over a tile are the same for both. A tile of logits z[row][class] lies in memory like this, line after line:
//
//   Few classes: a lane is a row.                       Many classes, here 40: the lanes are classes of a row.
//
//              lane 0    lane 1   ...  lane 15                           lane 0    lane 1   ...  lane 15
//   step 0     z[0][0]   z[1][0]  ...  z[15][0]          row 0, step 0   z[0][0]   z[0][1]  ...  z[0][15]
//   step 1     z[0][1]   z[1][1]  ...  z[15][1]          row 0, step 1   z[0][16]  z[0][17] ...  z[0][31]
//   ...                                                  row 0, step 2   z[0][32]  z[0][33] ...  padding
//   step K-1   z[0][K-1] z[1][K-1] ... z[15][K-1]        row 1, step 0   z[1][0]   z[1][1]  ...  z[1][15]
//
// A step is one number in each lane.
// A set is the steps over which a lane adds up: all steps of 16 rows on the left, all steps of one row on the right.
// A tile is what is worked on in a buffer of kBlock numbers: one set on the left; on the right the sets of up to 16
// rows, or a part of a row that is longer than the buffer. The tiles of such a row come one after the other.
// A block is what a thread takes at a time (parallel.h): as many rows as a buffer has room for, and at least one row.
#pragma once

#include "../math/discrete.h"
#include "bad_class.h"
#include "noise.h"

namespace bfn {

constexpr int64_t kFewClasses = 32;  // with more, turning rows into lanes costs more than the lanes that a row leaves

// The rows that are worked on at a time.
struct Rows {
  int64_t first, count, num_classes;
  bool across;  // whether lanes are classes of a row
};

inline int64_t whole_lanes(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

// All classes of the rows, or the classes of one long row from `first` on.
struct Tile {
  Rows rows;
  int64_t first, classes, steps;

  int64_t pitch() const { return steps * kLanes; }  // from one row to the next, where lanes are classes
  int64_t numbers() const { return (rows.across ? rows.count : 1) * pitch(); }
  int64_t at(int64_t j, int64_t k) const { return rows.across ? j * pitch() + k : k * kLanes + j; }
  int64_t start() const { return rows.first * rows.num_classes + first; }
};

// Calls f(rows) for all rows, as many at a time as fill a tile.
template <class F>
void for_rows(int64_t start, int64_t length, int64_t num_classes, F&& f) {
  const bool across = num_classes > kFewClasses;
  const int64_t fit = across ? std::max<int64_t>(1, kBlock / whole_lanes(num_classes)) : kLanes;
  const int64_t most = std::min(kLanes, fit);
  for (int64_t i = 0; i < length; i += most) f(Rows{start + i, std::min(most, length - i), num_classes, across});
}

// Calls f(rows), where rows whose lanes are classes come one by one, so that a number of a row is in all lanes.
template <class F>
void for_single_rows(int64_t start, int64_t length, int64_t num_classes, F&& f) {
  const bool across = num_classes > kBlock / kLanes;
  const int64_t most = across ? 1 : kLanes;
  for (int64_t i = 0; i < length; i += most) f(Rows{start + i, std::min(most, length - i), num_classes, across});
}

// The numbers that a row takes in a tile.
inline int64_t row_width(int64_t num_classes) {
  return num_classes > kFewClasses ? whole_lanes(num_classes) : num_classes;
}

// Calls f(rows, scratch) for all rows; make() gives each thread its scratch.
template <class M, class F>
void for_row_blocks(int64_t count, int64_t num_classes, M&& make, F&& f) {
  for_blocks(count, row_width(num_classes), make, [&](int64_t start, int64_t length, auto& scratch) {
    for_rows(start, length, num_classes, [&](const Rows& rows) { f(rows, scratch); });
  });
}

template <class F>
void for_row_blocks(int64_t count, int64_t num_classes, F&& f) {
  for_row_blocks(count, num_classes, [] { return NoScratch{}; }, [&](const Rows& rows, NoScratch) { f(rows); });
}

template <class F>
void for_tiles(const Rows& rows, F&& f) {
  if (!rows.across) return f(Tile{rows, 0, rows.num_classes, rows.num_classes});
  for (int64_t first = 0; first < rows.num_classes; first += kBlock) {
    const int64_t classes = std::min(kBlock, rows.num_classes - first);
    f(Tile{rows, first, classes, whole_lanes(classes) / kLanes});
  }
}

// The row of a number whose row is that of the numbers around it, too.
struct SameRow {
  int64_t row;

  operator int64_t() const { return row; }
};

// Calls f(i, k, j) for each number i of a tile, which is that of its class k in row j. The types of j differ, so that
// there are two functions f, each called at one place: otherwise compilers would not inline them.
template <class F>
[[gnu::always_inline]] inline void for_numbers(const Tile& tile, F&& f) {
  if (tile.rows.across) {
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

// Fills the lanes behind the end of each row.
template <class T>
void pad_tile(const Tile& tile, T* numbers, T pad) {
  for (int64_t j = 0; tile.rows.across && j < tile.rows.count; ++j) {
    std::fill(numbers + j * tile.pitch() + tile.classes, numbers + (j + 1) * tile.pitch(), pad);
  }
}

// One round of the shuffle that turns 16 rows into lanes, two of which do it: the numbers of the four quarters take
// turns. It is a function of its own, so that the numbers become SIMD.
template <class T>
[[gnu::noinline]] void take_turns(int64_t quarter, const T* __restrict from, T* __restrict to) {
  for (int64_t i = 0; i < quarter; ++i) {
    for (int64_t q = 0; q < 4; ++q) to[4 * i + q] = from[q * quarter + i];
  }
}

// Undoes such a round.
template <class T>
[[gnu::noinline]] void take_turns_back(int64_t quarter, const T* __restrict from, T* __restrict to) {
  for (int64_t i = 0; i < quarter; ++i) {
    for (int64_t q = 0; q < 4; ++q) to[q * quarter + i] = from[4 * i + q];
  }
}

// Turns 16 rows into lanes.
template <class T>
void rows_to_lanes(int64_t classes, const T* from, T* to) {
  T halfway[kBlock];
  take_turns(4 * classes, from, halfway);
  take_turns(4 * classes, halfway, to);
}

// Turns them back.
template <class T>
void lanes_to_rows(int64_t classes, const T* from, T* to) {
  T halfway[kBlock];
  take_turns_back(4 * classes, from, halfway);
  take_turns_back(4 * classes, halfway, to);
}

// The numbers of a tile; `buffer` holds them where they cannot be read in place. Lanes beyond the last row repeat it.
template <class T>
const T* load_tile(const View& view, const Tile& tile, T* buffer, T pad, int64_t offset = 0) {
  const int64_t start = offset + tile.start(), count = tile.rows.count, classes = tile.classes;
  if (tile.rows.across) {
    const T* from = load(view, start, count * classes, buffer);
    if (classes == tile.pitch()) return from;
    for (int64_t j = count - 1; j >= 0; --j) {  // from behind, since `from` may be the buffer
      std::memmove(buffer + j * tile.pitch(), from + j * classes, classes * sizeof(T));
    }
    pad_tile(tile, buffer, pad);
    return buffer;
  }
  T staging[kBlock];
  const T* from = load(view, start, count * classes, staging);
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
Ahead<T> ahead_of(std::initializer_list<const View*> views, const Tile& tile) {
  return {views, tile.start()};
}

template <class T>
void store_tile(const View& view, const Tile& tile, const T* from) {
  const int64_t start = tile.start(), count = tile.rows.count, classes = tile.classes;
  if (tile.rows.across && classes == tile.pitch()) return store(view, start, count * classes, from);
  T staging[kBlock];
  T* to = tile.rows.across || count == kLanes ? target(view, start, staging) : staging;
  if (tile.rows.across) {
    for (int64_t j = 0; j < count; ++j) std::copy_n(from + j * tile.pitch(), classes, to + j * classes);
  } else {
    lanes_to_rows(classes, from, to);
  }
  store(view, start, count * classes, to);
}

// Where to write a tile: in place if that can be, else `buffer`, which `store_tile` then writes.
template <class T>
T* target_tile(const View& view, const Tile& tile, T* buffer) {
  if (!tile.rows.across || tile.classes != tile.pitch()) return buffer;
  return target(view, tile.start(), buffer);
}

// Copies numbers of rows, one for each lane; lanes beyond the last row repeat it.
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

// Numbers of the rows of a block, which are read at once.
template <class T>
class RowNumbers {
 public:
  RowNumbers(const View& view, int64_t start, int64_t length, T missing = T(0))
      : start_(start), from_(load(view, start, length, buffer_, missing)) {}

  void lanes(const Rows& rows, T (&out)[kLanes]) const { copy_lanes(rows, from_ + rows.first - start_, out); }

 private:
  T buffer_[kBlock];
  int64_t start_;
  const T* from_;
};

// Reads a mask that points to the first row, 1 where there is none; returns whether any of the rows costs something.
inline bool mask_lanes(const Rows& rows, const uint8_t* mask, uint8_t (&costs)[kLanes]) {
  if (!mask) {
    std::fill_n(costs, kLanes, uint8_t{1});
    return true;
  }
  copy_lanes(rows, mask, costs);
  return std::any_of(costs, costs + kLanes, [](uint8_t cost) { return cost != 0; });
}

// Makes a class -1 where it is not wanted, or out of range, which `bad` remembers if given.
inline void check_classes(const Rows& rows, const uint8_t (&wanted)[kLanes], int64_t (&x)[kLanes], BadClass* bad) {
  int64_t any_bad = 0;
  for (int64_t j = 0; j < kLanes; ++j) any_bad |= wanted[j] && !is_class(x[j], rows.num_classes) ? 1 : 0;
  for (int64_t j = 0; any_bad && bad && j < kLanes; ++j) {
    if (wanted[j] && !is_class(x[j], rows.num_classes)) bad->take(x[j]);
  }
  for (int64_t j = 0; j < kLanes; ++j) x[j] = wanted[j] && is_class(x[j], rows.num_classes) ? x[j] : -1;
}

inline void load_classes(const View& view, const Rows& rows, const uint8_t (&wanted)[kLanes], int64_t (&x)[kLanes],
                         BadClass* bad) {
  load_lanes(view, rows, x);
  check_classes(rows, wanted, x, bad);
}

template <class T>
auto logits_of(const View& view) {
  return [&view](const Tile& tile, T* buffer) { return load_tile(view, tile, buffer, kMinusInfinity<T>); };
}

// Where class x of each row is among the tile's classes, -1 where it is not.
struct ClassAt {
  int32_t at[kLanes];

  ClassAt(const Tile& tile, const int64_t (&x)[kLanes]) {
    for (int64_t j = 0; j < kLanes; ++j) {
      const int64_t k = x[j] - tile.first;
      at[j] = x[j] >= tile.first && k < tile.classes ? static_cast<int32_t>(k) : -1;
    }
  }
};

// Calls f(j, i) for each row j whose class x is number i of the tile. x may be null, where no class is wanted.
template <class F>
void where_met(const Tile& tile, const int64_t* x, F&& f) {
  const int64_t count = !x ? 0 : tile.rows.across ? tile.rows.count : kLanes;
  for (int64_t j = 0; j < count; ++j) {
    const int64_t k = x[j] - tile.first;
    if (x[j] >= tile.first && k < tile.classes) f(j, tile.at(j, k));
  }
}

// Sets a number that was found of row j, in lane j and in lanes that repeat it.
template <class T>
void set_lanes(const Rows& rows, int64_t j, T (&lanes)[kLanes], T value) {
  lanes[j] = value;
  if (j + 1 >= rows.count) std::fill(lanes + j, lanes + kLanes, value);
}

// Normals of the classes of a tile.
template <class T>
const T* normal_tile(const Noise& noise, const Tile& tile, T* buffer, uint32_t draw = 0, int64_t draw_stride = 0,
                     const Ahead<T>& ahead = {}) {
  if (noise.explicit_values) return load_tile(noise.explicit_values, tile, buffer, T(0), draw * draw_stride);
  const int64_t per_row = (tile.rows.num_classes + 3) / 4;
  const uint64_t group = static_cast<uint64_t>(tile.rows.first * per_row + tile.first / 4);
  if (tile.rows.across) {
    const int64_t groups = (tile.classes + 3) / 4, room = 4 * groups;
    fill_normals(buffer, tile.rows.count * groups, key_of(noise), group, noise.stream, draw, ahead);
    for (int64_t j = tile.rows.count - 1; j > 0 && room < tile.pitch(); --j) {
      std::memmove(buffer + j * tile.pitch(), buffer + j * room, room * sizeof(T));
    }
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

// The normals of a step that may have none.
template <class T>
const T* normals_or_zeros(const Noise& noise, const Tile& tile, T* buffer, const Ahead<T>& ahead) {
  if (noise.any()) return normal_tile(noise, tile, buffer, 0, 0, ahead);
  std::fill_n(buffer, tile.numbers(), T(0));
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

}  // namespace bfn
