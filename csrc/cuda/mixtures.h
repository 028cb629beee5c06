// The ops of discretised data if the output distribution is a mixture of normals.
#pragma once

#include <algorithm>

#include "../ops/discretised.h"
#include "loss.h"

namespace bfn {

// A block of kTileThreads threads handles a tile of variables at a time. A tile has at most kTileSize components, and
// at most one variable for each thread. From 32 variables on, their number is a multiple of 32, which fills warps.
constexpr int kTileThreads = 128, kTileSize = 8 * kTileThreads;
static_assert(kMaxComponents <= kTileSize, "a tile holds all components of a variable");

inline int64_t variables_of_tile(const NetworkOutput& from, int size = kTileSize) {
  const int64_t most = std::min<int64_t>(kTileThreads, size / from.components);
  return most < 32 ? most : most / 32 * 32;
}

// A chunk consists of whole tiles. If tiles are small, a chunk has several, since a block adds the losses of its
// threads once per chunk.
inline int64_t variables_of_chunk(const NetworkOutput& from) {
  const int64_t variables = variables_of_tile(from);
  return variables * (kThreads / variables);
}

template <class T>
void mixture_expected_value(const DiscretisedExpectedValue& op);
template <class T>
void mixture_choose(const Choose& op);
template <class T>
void mixture_update(const DiscretisedUpdate& op);
// Launches the kernel of L_inf or of the reconstruction loss, whose chunks have a multiple of variables_of_chunk. The
// caller must then call finish_losses.
template <class T>
void mixture_loss(const DiscretisedLoss& op, const Chunks& chunks);
// Launches the kernel of L_n. The caller must then call finish_losses.
template <class T>
void mixture_nstep_loss(const DiscretisedLoss& op, const Chunks& chunks);

}  // namespace bfn
