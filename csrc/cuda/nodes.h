// The nodes of a quadrature and their weights, in a form in which they are passed to a kernel.
#pragma once

#include "../ops/noise.h"

namespace bfn {

constexpr int kMaxNodes = 128;  // the public functions refuse more nodes

template <class T>
struct Nodes {
  T at[kMaxNodes], weight[kMaxNodes];

  explicit Nodes(const Draws& draws) : at{}, weight{} {
    for (int64_t i = 0; i < draws.num_nodes && i < kMaxNodes; ++i) {
      at[i] = static_cast<T>(draws.nodes[i]);
      weight[i] = static_cast<T>(draws.node_weights[i]);
    }
  }
};

}  // namespace bfn
