// Tiles of some tokens by some classes, of which the ops of large vocabularies are composed on a CPU
// (bfn_kernels/vocabulary/tiles.py). Numbers lie side by side: one for each token, or a row of `classes` of them.
#pragma once

#include "noise.h"

namespace bfn {

struct TileOfClasses {
  int64_t tokens, classes, first;  // the number of its first class
  const int64_t* x;                // the class of each token, which may be none of the tile's
};

// The flow's logits y (185) where top, total and kept are null: the normals of a token are those of the row `rows` of
// the seed. With these, a tile of an online softmax. For each token, `top` becomes the largest y of all tiles so far,
// out = exp(y - top), and `total` becomes the sum of exp(y - top) over all tiles so far. `kept` becomes
// exp(old top - new top), by which a caller multiplies the sums that it made with the old top. If `again` is set, top
// and total are final and only read: out = exp(y - top) / total.
template <class T>
struct FlowTile {
  TileOfClasses tile;
  int64_t num_classes;  // K
  const int64_t *rows, *seed;
  const T *beta, *spread;
  bool again;
  T *top, *total, *kept, *out;
};

// Adds logits to the sums of each token, four numbers of which bfn_kernels/vocabulary/sums.py says the meaning: z_x, t,
// and the sums of e_k and of e_k^2.
template <class T>
struct SumsTile {
  TileOfClasses tile;
  const T* logits;
  double* sums;
};

// Writes the gradient in the place of the logits, by the five numbers of each token that Row.slopes of the same module
// makes.
template <class T>
struct SlopesTile {
  TileOfClasses tile;
  const T* slopes;
  T* logits;
};

// The step z' = keep z + alpha (K p - 1) + spread eps of a state z. p is e_x or, of tokens whose x is below 0, in
// `numbers` where it is `shared`; else their z' is NaN. Null keep and spread are 1 and 0. With top, total and kept,
// which are as above, `numbers` gets exp(z' - top).
template <class T>
struct StepTile {
  TileOfClasses tile;
  int64_t num_classes;  // K
  const int64_t* rows;
  const T *alpha, *spread, *keep;
  Noise noise;  // explicit values are those of the tile
  View state, out;
  bool shared;
  T *top, *total, *kept, *numbers;
};

template <class T>
void flow_tile(const FlowTile<T>& op);
template <class T>
void sums_tile(const SumsTile<T>& op);
template <class T>
void slopes_tile(const SlopesTile<T>& op);
template <class T>
void step_tile(const StepTile<T>& op);

}  // namespace bfn
