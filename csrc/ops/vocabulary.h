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

// Messages y = alpha (K p - 1) + spread eps about the tokens (185), and the state z' = keep z + y after them. Without a
// state, z' is y, the logits of a sample of a flow. A null `keep` stands for 1, and a null `spread` for 0. The normals
// eps of a token depend on the seed and on the token's row, which is in `rows`. Explicit normals have the shape of the
// tile. If x is a class, p is its one-hot vector. If x is below 0, p is read from `numbers` if `shared` is set;
// otherwise z' is NaN.
//
// `out` receives z', which is rounded to the type of `out`. If `out` is null, `numbers` receives z'. If top, total and
// kept are null, nothing else is written.
//
// Otherwise the tile is one step of an online softmax over a token's classes. `top` becomes the largest z' of all tiles
// so far, `numbers` receives exp(z' - top), and `total` becomes the sum of exp(z' - top) over all tiles so far. `kept`
// becomes exp(old top - new top): the caller multiplies by it each sum that it computed with the old top. If `again` is
// set, top and total are final, and are only read: `numbers` receives exp(z' - top) / total.
template <class T>
struct StepTile {
  TileOfClasses tile;
  int64_t num_classes;  // K
  const int64_t* rows;
  const T *alpha, *spread, *keep;
  Noise noise;
  View state, out;
  bool shared, again;
  T *top, *total, *kept, *numbers;
};

template <class T>
void sums_tile(const SumsTile<T>& op);
template <class T>
void slopes_tile(const SlopesTile<T>& op);
template <class T>
void step_tile(const StepTile<T>& op);

}  // namespace bfn
