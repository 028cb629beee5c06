// The functions of CUDA that the kernels use. If the compiler is not nvcc, host_shim.h replaces them
// (tests/cuda_on_host).
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>
#define BFN_NOINLINE __noinline__
#else
#include "host_shim.h"
#define BFN_NOINLINE
#endif

#include "../math/float16.h"

namespace bfn {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 2048;  // the most blocks of a kernel that loops: a few waves on the largest GPUs

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

#if defined(__CUDACC__)
// Returns torch's current stream on the current device. The bindings define this function.
void* current_stream();

template <class... P, class... A>
void launch(void (*kernel)(P...), int64_t blocks, int threads, const A&... arguments) {
  if (blocks <= 0) return;
  if (blocks > INT32_MAX) throw std::runtime_error("CUDA: a kernel launch can have at most 2147483647 blocks");
  kernel<<<static_cast<unsigned>(blocks), threads, 0, static_cast<cudaStream_t>(current_stream())>>>(arguments...);
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
}
#else
template <class... P, class... A>
void launch(void (*kernel)(P...), int64_t blocks, int threads, const A&... arguments) {
  if (blocks > 0) host_shim::launch([&] { kernel(arguments...); }, blocks, threads);
}
#endif

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(BFloat16 x) { return x; }
#if defined(__CUDACC__)
__device__ __forceinline__ float widen(Half x) { return __half2float(bit_cast<__half>(x.bits)); }
__device__ __forceinline__ void narrow(float x, BFloat16& to) { to = bit_cast<BFloat16>(__float2bfloat16_rn(x)); }
__device__ __forceinline__ void narrow(float x, Half& to) { to = bit_cast<Half>(__float2half_rn(x)); }
#else
inline float widen(Half x) { return x; }
inline void narrow(float x, BFloat16& to) { to = BFloat16(x); }
inline void narrow(float x, Half& to) { to = Half(x); }
#endif
__device__ __forceinline__ void narrow(float x, float& to) { to = x; }

constexpr unsigned kWholeWarp = 0xffffffffu;

}  // namespace bfn
