// A team of threads shares a row of classes. It is some lanes of a warp, or a whole block. A reduction returns the same
// result to each thread of the team. The order of its operations depends only on the number of threads.
#pragma once

#include "device.h"

namespace bfn {

struct Add {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};

// The larger of two numbers. It is NaN if either number is NaN.
struct Larger {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return b <= a ? a : (a != a ? a : b);
  }
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  __device__ float operator()(float a, float b) const {
    float larger;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(a), "f"(b));
    return larger;
  }
#endif
};

struct Smaller {
  __device__ int operator()(int a, int b) const { return b < a ? b : a; }
};

// The logarithm to base 2 of a power of two.
__device__ inline int log_of(int power) { return 31 - __clz(power); }

// `size` lanes of a warp. `size` is a power of two up to 32, so that shifts and masks replace divisions.
struct WarpTeam {
  int size, rank;
  unsigned lanes;  // the lanes of the team, as a mask

  __device__ explicit WarpTeam(int team_size) : size(team_size), rank(threadIdx.x & (team_size - 1)) {
    const unsigned first = threadIdx.x % 32 - rank;
    lanes = (size == 32 ? kWholeWarp : (1u << size) - 1) << first;
  }
  // The number of teams in a block, and the index of this team in its block.
  __device__ int per_block() const { return blockDim.x >> log_of(size); }
  __device__ int index() const { return threadIdx.x >> log_of(size); }

  template <class T, class F>
  __device__ T reduce(T x, T, F combine) const {
    for (int step = size / 2; step > 0; step /= 2) x = combine(x, __shfl_xor_sync(lanes, x, step));
    return x;
  }
  // Returns the sum of x over all threads of a lower rank.
  template <class T>
  __device__ T sum_before(T x) const {
    for (int step = 1; step < size; step *= 2) {
      const T lower = __shfl_up_sync(lanes, x, step, size);
      if (rank >= step) x += lower;
    }
    const T before = __shfl_up_sync(lanes, x, 1, size);
    return rank == 0 ? T(0) : before;
  }
};

// All threads of a block. Their number is a power of two.
struct BlockTeam {
  int size, rank;

  __device__ explicit BlockTeam(int) : size(blockDim.x), rank(threadIdx.x) {}
  __device__ int per_block() const { return 1; }
  __device__ int index() const { return 0; }

  template <class T, class F>
  __device__ T reduce(T x, T neutral, F combine) const {
    __shared__ T of_warp[32];
    const int lane = threadIdx.x % 32, warps = blockDim.x / 32;  // unsigned, since a signed division takes longer
#pragma unroll
    for (int step = 16; step > 0; step /= 2) x = combine(x, __shfl_xor_sync(kWholeWarp, x, step));
    __syncthreads();  // other threads may still read the result of an earlier reduction
    if (lane == 0) of_warp[threadIdx.x / 32] = x;
    __syncthreads();
    x = lane < warps ? of_warp[lane] : neutral;
#pragma unroll
    for (int step = 16; step > 0; step /= 2) x = combine(x, __shfl_xor_sync(kWholeWarp, x, step));
    return x;
  }
  template <class T>
  __device__ T sum_before(T x) const {
    __shared__ T of_warp[32];
    const int lane = threadIdx.x % 32, warp_of_thread = threadIdx.x / 32;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const T lower = __shfl_up_sync(kWholeWarp, x, step);
      if (lane >= step) x += lower;
    }
    __syncthreads();
    if (lane == 31) of_warp[warp_of_thread] = x;
    __syncthreads();
    T before = __shfl_up_sync(kWholeWarp, x, 1);
    if (lane == 0) before = T(0);
    for (int warp = 0; warp < warp_of_thread; ++warp) before += of_warp[warp];
    return before;
  }
};

// Returns the sum over all threads of the block to each thread.
template <class T>
__device__ T block_sum(T x) {
  return BlockTeam(0).reduce(x, T(0), Add());
}

}  // namespace bfn
