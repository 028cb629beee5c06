// Ops of large vocabularies on a CPU. They work on one tile at a time, which is some tokens by some classes
// (bfn_kernels/vocabulary/tiles.py). All arrays are contiguous. An array has one number for each token, or a row of
// `classes` numbers for each token. Numbers in parentheses are equations of Graves et al. 2023 (arXiv 2308.07037).
#pragma once

#include "noise.h"

namespace bfn {

struct TileOfClasses {
  int64_t tokens, classes, first;  // the tile has the classes from `first` on
  const int64_t* x;                // the class of each token, which may lie outside the tile
};

// The logits y of a sample of the flow (185). The normals of a token depend on the seed and on the token's row, which
// is in `rows`. If top, total and kept are null, out = y.
//
// Otherwise the tile is one step of an online softmax over a token's classes. `top` becomes the largest y of all tiles
// so far, out = exp(y - top), and `total` becomes the sum of exp(y - top) over all tiles so far. `kept` becomes exp(old
// top - new top): the caller multiplies by it each sum that it computed with the old top. If `again` is set, top and
// total are final, and are only read: out = exp(y - top) / total.
template <class T>
struct FlowTile {
  TileOfClasses tile;
  int64_t num_classes;  // K
  const int64_t *rows, *seed;
  const T *beta, *spread;  // of each token: beta(t) and sqrt(K beta(t))
  bool again;
  T *top, *total, *kept, *out;
};

// Adds the logits of a tile to the four numbers of each token in `sums`: z_x, t, and the sums of e_k and of e_k^2.
// bfn_kernels/vocabulary/sums.py defines them.
template <class T>
struct SumsTile {
  TileOfClasses tile;
  const T* logits;
  double* sums;
};

// Overwrites the logits by their gradients. `slopes` has five numbers for each token: the result of Row.slopes of
// bfn_kernels/vocabulary/sums.py.
template <class T>
struct SlopesTile {
  TileOfClasses tile;
  const T* slopes;
  T* logits;
};

// Updates a state z to z' = keep z + alpha (K p - 1) + spread eps. A null `keep` stands for 1, and a null `spread` for
// 0. If x is a class, p is its one-hot vector. If x is below 0 and `shared` is set, p is read from `numbers`. If x is
// below 0 and `shared` is not set, z' is NaN. If top, total and kept are not null, they are updated as in FlowTile, and
// `numbers` receives exp(z' - top).
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
