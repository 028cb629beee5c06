// Seeded or explicit noise, a run at a time.
#pragma once

#include "../ops/noise.h"
#include "parallel.h"
#include "view.h"

namespace bfn {

constexpr int64_t kLanes = 16;  // groups made at a time, so that compilers use SIMD

// 4 * groups normals; `out` has room for whole multiples of kLanes groups.
template <class T>
void fill_normals(T* out, int64_t groups, uint64_t seed, uint64_t first_group, uint32_t stream, uint32_t draw) {
  uint32_t words[4][kLanes];
  T normals[4][kLanes];
  for (int64_t done = 0; done < groups; done += kLanes) {
    for (int64_t i = 0; i < kLanes; ++i) {
      const Words w = philox(seed, first_group + done + i, stream, draw);
      words[0][i] = w.w0;
      words[1][i] = w.w1;
      words[2][i] = w.w2;
      words[3][i] = w.w3;
    }
    for (int64_t i = 0; i < kLanes; ++i) box_muller(words[0][i], words[1][i], normals[0][i], normals[1][i]);
    for (int64_t i = 0; i < kLanes; ++i) box_muller(words[2][i], words[3][i], normals[2][i], normals[3][i]);
    for (int64_t i = 0; i < kLanes; ++i) {
      for (int j = 0; j < 4; ++j) out[4 * (done + i) + j] = normals[j][i];
    }
  }
}

constexpr int64_t Noise::room(int64_t length) {
  const int64_t groups = (length + 3) / 4 + 1;
  return (groups + kLanes - 1) / kLanes * kLanes * 4;
}

// Normals of elementwise data, [start, start + length); `buffer` has room(length).
template <class T>
const T* Noise::normals(int64_t start, int64_t length, T* buffer, uint32_t draw, int64_t draw_stride) const {
  if (explicit_values) return load(explicit_values, draw * draw_stride + start, length, buffer);
  const int64_t skip = start % 4;
  fill_normals(buffer, (skip + length + 3) / 4, static_cast<uint64_t>(*seed), static_cast<uint64_t>(start / 4), stream,
               draw);
  return buffer + skip;
}

// Normals of a row of classes.
template <class T>
const T* Noise::row_normals(int64_t row, int64_t num_classes, T* buffer, uint32_t draw, int64_t draw_stride) const {
  if (explicit_values) return load(explicit_values, draw * draw_stride + row * num_classes, num_classes, buffer);
  const int64_t groups = (num_classes + 3) / 4;
  fill_normals(buffer, groups, static_cast<uint64_t>(*seed), static_cast<uint64_t>(row * groups), stream, draw);
  return buffer;
}

// The uniform that draws a class: row r takes word r % 4 of group r / 4.
template <class T>
T Noise::uniform(int64_t row) const {
  T value;
  if (explicit_values) return *load(explicit_values, row, 1, &value);
  const Words w = philox(static_cast<uint64_t>(*seed), static_cast<uint64_t>(row / 4), kClass, 0);
  const uint32_t words[4] = {w.w0, w.w1, w.w2, w.w3};
  return static_cast<T>(unit(words[row % 4]));
}

}  // namespace bfn
