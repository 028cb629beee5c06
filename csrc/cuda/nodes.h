// The nodes of a quadrature, as a parameter of a kernel.
#pragma once

#include <cstdint>

namespace bfn {

constexpr int kMaxNodes = 128;  // bfn_kernels/arguments.py refuses more

template <class T>
struct Nodes {
  T at[kMaxNodes], weight[kMaxNodes];

  Nodes(const double* nodes, const double* weights, int64_t count) : at{}, weight{} {
    for (int64_t i = 0; i < count && i < kMaxNodes; ++i) {
      at[i] = static_cast<T>(nodes[i]);
      weight[i] = static_cast<T>(weights[i]);
    }
  }
};

}  // namespace bfn
