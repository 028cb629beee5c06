// Noise of rows. Each row has its own seed.
#pragma once

#include "view.h"

namespace bfn {

// Makes the noise of `width` consecutive variables for each row, and for each of `draws` draws. The first variable of
// row r has the number first[r], and its key is seed[r].
struct RowNoise {
  int64_t rows, width, draws;
  const int64_t *seed, *first;
  uint32_t stream;
  void* out;  // [draws, rows, width]
};

template <class T>
void row_normals(const RowNoise& op);
void row_words(const RowNoise& op);  // words as int64
// The uniforms that draw angles, [draws, 2, rows, width] in float. A draw is a proposal, and the first one has number
// 0.
void row_angles(const RowNoise& op);

}  // namespace bfn
