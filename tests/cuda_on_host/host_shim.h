// Runs CUDA kernels on the CPU, for tests. Each thread of a block is a fiber, and blocks run one after the other. The
// shim finds barriers and warp operations that some of their threads do not reach, and lanes that a mask leaves out.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>

namespace host_shim {

struct Index {
  unsigned x;
};

Index thread_index();
Index block_index();
Index block_size();
Index grid_size();

void launch(const std::function<void()>& kernel, int64_t blocks, int threads);
// __syncthreads. Returns whether any thread of the block voted true.
bool sync_block(int line, bool vote = false);
// Waits for the other lanes of the mask. Returns the values that the lanes passed, indexed by lane.
const uint64_t* exchange(unsigned mask, uint64_t value, int line);
// Ends the process if a shuffle reads a lane that the mask leaves out.
void check_source(unsigned mask, unsigned source, int line);
unsigned lane();

template <class T>
T shuffle(unsigned mask, T value, unsigned source, int line) {
  static_assert(sizeof(T) <= sizeof(uint64_t), "a lane passes at most 8 bytes");
  uint64_t word = 0;
  std::memcpy(&word, &value, sizeof(T));
  const uint64_t* words = exchange(mask, word, line);
  check_source(mask, source, line);
  std::memcpy(&value, &words[source], sizeof(T));
  return value;
}

}  // namespace host_shim

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
template <class T>
void __stwb(T* to, T value) {
  *to = value;
}

#define __global__
#define __device__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __shared__ static

#define threadIdx (::host_shim::thread_index())
#define blockIdx (::host_shim::block_index())
#define blockDim (::host_shim::block_size())
#define gridDim (::host_shim::grid_size())

inline void __syncthreads(int line = __builtin_LINE()) { host_shim::sync_block(line); }
inline int __syncthreads_or(int vote, int line = __builtin_LINE()) { return host_shim::sync_block(line, vote != 0); }
inline void __syncwarp(unsigned mask = ~0u, int line = __builtin_LINE()) { host_shim::exchange(mask, 0, line); }

inline int __clz(int x) { return __builtin_clz(x); }

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, int line = __builtin_LINE()) {
  const unsigned first = host_shim::lane() & ~(width - 1u);
  return host_shim::shuffle(mask, value, first | (source & (width - 1u)), line);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int other, int width = 32, int line = __builtin_LINE()) {
  const unsigned lane = host_shim::lane(), source = lane ^ other, end = (lane & ~(width - 1u)) + width;
  return host_shim::shuffle(mask, value, source < end ? source : lane, line);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, int line = __builtin_LINE()) {
  const unsigned lane = host_shim::lane(), within = lane & (width - 1u);
  return host_shim::shuffle(mask, value, within < delta ? lane : lane - delta, line);
}
