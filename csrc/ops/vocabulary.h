// A tile is some tokens by some classes. On a CPU the ops of large vocabularies are composed of calls on tiles
// (bfn_kernels/vocabulary/tiles.py). All arrays are contiguous. They have one number for each token, or a row of
// `classes` numbers for each token.
#pragma once

#include "noise.h"

namespace bfn {

struct TileOfClasses {
  int64_t tokens, classes, first;  // `first` is the first class of the tile
  const int64_t* x;                // the class of each token, which may lie outside the tile
};

// The flow's logits y (185). `rows` has the row of each token, which, with the seed, gives the token's normals. If top,
// total and kept are null, out = y.
//
// Otherwise this is a tile of an online softmax over a token's classes. `top` becomes the largest y of all tiles so
// far, out = exp(y - top), and `total` becomes the sum of exp(y - top) over all tiles so far. `kept` becomes exp(old
// top - new top). A caller multiplies by it the sums that it made with the old top. If `again` is set, top and total
// are final and only read: out = exp(y - top) / total.
template <class T>
struct FlowTile {
  TileOfClasses tile;
  int64_t num_classes;  // K
  const int64_t *rows, *seed;
  const T *beta, *spread;
  bool again;
  T *top, *total, *kept, *out;
};

// Adds logits to the four sums of each token: z_x, t, and the sums of e_k and of e_k^2. bfn_kernels/vocabulary/sums.py
// explains them.
template <class T>
struct SumsTile {
  TileOfClasses tile;
  const T* logits;
  double* sums;
};

// Overwrites the logits by their gradient. `slopes` has five numbers for each token, which Row.slopes of
// bfn_kernels/vocabulary/sums.py returns.
template <class T>
struct SlopesTile {
  TileOfClasses tile;
  const T* slopes;
  T* logits;
};

// The step z' = keep z + alpha (K p - 1) + spread eps of a state z. A null keep stands for 1, and a null spread for 0.
// p is e_x. If x is below 0, p is read from `numbers` if `shared` is set, and else z' is NaN. If top, total and kept
// are not null, they are updated as in FlowTile, and `numbers` gets exp(z' - top).
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
