// Tiles: some tokens by some classes. On a CPU the ops of large vocabularies are composed of calls on tiles
// (bfn_kernels/vocabulary/tiles.py). All numbers are contiguous: one for each token, or a row of `classes` for each
// token.
#pragma once

#include "noise.h"

namespace bfn {

struct TileOfClasses {
  int64_t tokens, classes, first;  // `first` is the first class of the tile
  const int64_t* x;                // the class of each token, which may lie outside the tile
};

// The flow's logits y (185). The normals of a token are the normals that the seed gives for the row `rows`. If top,
// total and kept are null, out = y. Otherwise this is a tile of an online softmax. For each token, `top` becomes the
// largest y of all tiles so far, out = exp(y - top), and `total` becomes the sum of exp(y - top) over all tiles so far.
// `kept` becomes exp(old top - new top), by which a caller multiplies the sums that it made with the old top. If
// `again` is set, top and total are final and only read: out = exp(y - top) / total.
template <class T>
struct FlowTile {
  TileOfClasses tile;
  int64_t num_classes;  // K
  const int64_t *rows, *seed;
  const T *beta, *spread;
  bool again;
  T *top, *total, *kept, *out;
};

// Adds logits to the four sums of each token, which bfn_kernels/vocabulary/sums.py explains: z_x, t, and the sums of
// e_k and of e_k^2.
template <class T>
struct SumsTile {
  TileOfClasses tile;
  const T* logits;
  double* sums;
};

// Overwrites the logits by their gradient. `slopes` has the five numbers of each token that Row.slopes of the same
// module returns.
template <class T>
struct SlopesTile {
  TileOfClasses tile;
  const T* slopes;
  T* logits;
};

// The step z' = keep z + alpha (K p - 1) + spread eps of a state z. A null keep is 1, and a null spread is 0. p is e_x.
// If x is below 0, p is read from `numbers` if `shared` is set, else z' is NaN. If top, total and kept are given, they
// are as in FlowTile, and `numbers` gets exp(z' - top).
template <class T>
struct StepTile {
  TileOfClasses tile;
  int64_t num_classes;  // K
  const int64_t* rows;
  const T *alpha, *spread, *keep;
  Noise noise;  // explicit values have the shape of the tile
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
