// The ops of discretised data if the output distribution is a mixture of normals.
#pragma once

#include <algorithm>

#include "../ops/discretised.h"
#include "loss.h"

namespace bfn {

// A block handles a tile of variables at a time. It has at most kTileSize components, and a variable for each thread.
constexpr int kTileSize = 4 * kThreads;
static_assert(kMaxComponents <= kTileSize, "a tile holds all components of a variable");

inline int64_t variables_of_tile(const NetworkOutput& from, int size = kTileSize) {
  return std::min<int64_t>(kThreads, size / from.components);
}

// A chunk has whole tiles. It has several small ones, so that a block seldom has to add its threads' losses.
inline int64_t variables_of_chunk(const NetworkOutput& from) {
  const int64_t variables = variables_of_tile(from);
  return variables * ceil_div(kThreads, variables);
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
