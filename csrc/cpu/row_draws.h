// Picks a class for each row from its logits: the likeliest class, or a draw from their softmax p.
#pragma once

#include "row_sums.h"

namespace bfn {

// Finds the class with the largest logit of each row. Of several such classes it takes the first. The class is -1 if p
// is NaN: if a logit is NaN or +inf, or if all logits are -inf.
template <class T, class F>
void find_modes(const Rows& rows, F&& logits, int64_t (&mode)[kLanes]) {
  T top[kLanes];
  int32_t poisoned[kLanes] = {};
  std::fill_n(mode, kLanes, 0);
  std::fill_n(top, kLanes, kMinusInfinity<T>);
  for_tiles(rows, [&](const Tile& tile) {
    T buffer[kBlock];
    const T* numbers = logits(tile, buffer);
    for (int64_t row = 0; row < (rows.lanes_are_classes ? rows.count : 1); ++row) {
      const T* z = numbers + row * tile.pitch();
      int32_t step[kLanes] = {}, nan[kLanes] = {};
      T most[kLanes];
      std::fill_n(most, kLanes, kMinusInfinity<T>);
      for (int32_t s = 0; s < tile.steps; ++s) {
        for (int64_t j = 0; j < kLanes; ++j) {
          const T number = z[s * kLanes + j];
          step[j] = number > most[j] ? s : step[j];
          most[j] = number > most[j] ? number : most[j];
          nan[j] |= number != number ? 1 : 0;
        }
      }
      for (int64_t j = 0; j < kLanes; ++j) {
        const int64_t to = rows.lanes_are_classes ? row : j,
                      k = rows.lanes_are_classes ? tile.first + step[j] * kLanes + j : step[j];
        poisoned[to] |= nan[j];
        if (most[j] > top[to] || (most[j] == top[to] && k < mode[to])) {
          top[to] = most[j];
          mode[to] = k;
        }
      }
    }
  });
  for (int64_t j = 0; j < kLanes; ++j) {
    const int64_t from = std::min(j, rows.count - 1);
    mode[j] = poisoned[from] || !(top[from] - top[from] == T(0)) ? -1 : mode[from];
  }
}

// Finds the last class of row j with p_k > 0. This class is drawn if no cumulative probability exceeds the uniform
// number, because of rounding.
template <class T>
int64_t last_class(const Rows& rows, const RowScratch<T>& scratch, int64_t j) {
  int64_t last = 0;
  for_tiles(rows, [&](const Tile& tile) {
    const T* e = scratch.e_of(tile);
    const T scale = scratch.sums_of(tile).scale[j];
    for (int64_t k = 0; k < tile.classes; ++k) {
      if (scale * e[tile.at(j, k)] > T(0)) last = tile.first + k;
    }
  });
  return last;
}

// Finds the first class of row j at which the running sum of scale * e exceeds `threshold`. Returns -1 if the sum over
// all tiles does not. Requires rows.lanes_are_classes. The function first finds the tile, then the step in the tile,
// then the class. If, because of rounding, no sum over classes in this tile exceeds `threshold`, the class is the
// tile's last one.
template <class T>
int64_t draw_from_row(const Rows& rows, int64_t j, const RowScratch<T>& scratch, double threshold) {
  double before = 0;
  int64_t found = -1;
  for_tiles(rows, [&](const Tile& tile) {
    const double scale = scratch.sums_of(tile).scale[j], sum = scale * scratch.sums_of(tile).rest[j];
    if (found < 0 && before + sum > threshold) {
      const T* e = scratch.e_of(tile) + j * tile.pitch();
      int64_t s = 0;
      for (; s + 1 < tile.steps; ++s) {
        double parts[4] = {};
        for (int64_t lane = 0; lane < kLanes; ++lane) parts[lane % 4] += e[s * kLanes + lane];
        const double step = scale * ((parts[0] + parts[1]) + (parts[2] + parts[3]));
        if (before + step > threshold) break;
        before += step;
      }
      found = s * kLanes;
      for (; found + 1 < tile.classes && !((before += scale * e[found]) > threshold); ++found) continue;
      found += tile.first;
    }
    before += sum;
  });
  return found;
}

// Draws the first class of each row whose cumulative probability exceeds the uniform number. If there is none, it draws
// the last class with p_k > 0. The class is -1 if p is NaN: if a logit is NaN or +inf, or if all logits are -inf.
template <class T>
void draw_classes(const Rows& rows, const double (&sums)[kLanes], const RowScratch<T>& scratch,
                  const T (&uniform)[kLanes], int64_t (&drawn)[kLanes]) {
  double threshold[kLanes];
  for (int64_t j = 0; j < kLanes; ++j) threshold[j] = uniform[j] * sums[j];
  const int64_t pitch = row_width(rows.num_classes);
  if (rows.lanes_are_classes && kLanes * pitch > kBlock) {
    for (int64_t j = 0; j < rows.count; ++j) set_lanes(rows, j, drawn, draw_from_row(rows, j, scratch, threshold[j]));
  } else {
    T transposed[kBlock];
    const T* e = scratch.e.data();
    if (rows.lanes_are_classes) {
      rows_to_lanes(pitch, e, transposed);
      e = transposed;
    }
    double sum[kLanes] = {};
    int32_t passed[kLanes] = {};
    for (int64_t s = 0; s < rows.num_classes; ++s) {
      for (int64_t j = 0; j < kLanes; ++j) sum[j] += e[s * kLanes + j];
      for (int64_t j = 0; j < kLanes; ++j) passed[j] += sum[j] > threshold[j] ? 0 : 1;
    }
    for (int64_t j = 0; j < kLanes; ++j) drawn[j] = passed[j] < rows.num_classes ? passed[j] : -1;
  }
  for (int64_t j = 0; j < rows.count; ++j) {
    if (drawn[j] < 0) drawn[j] = last_class(rows, scratch, j);
    if (!(sums[j] > 0)) drawn[j] = -1;
  }
}

}  // namespace bfn
