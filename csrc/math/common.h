// Definitions that all formulas use. They compile for the host and, with nvcc, for the GPU. They need neither torch nor
// the CUDA runtime.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#if defined(__CUDACC__)
#define BFN_HD __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define BFN_HD inline __attribute__((always_inline))  // compilers do not vectorise a loop that calls a function
#else
#define BFN_HD inline
#endif
// For a large function that is rarely called. If it were inlined on a GPU, its caller would need more registers.
#if defined(__CUDACC__)
#define BFN_HD_APART __host__ __device__ __noinline__
#else
#define BFN_HD_APART BFN_HD
#endif

namespace bfn {

// The value of a function of a normal distribution, and its derivatives by the mean and the std.
template <class T>
struct WithGradient {
  T value, by_mean, by_std;
};

template <class T>
constexpr T kNaN = std::numeric_limits<T>::quiet_NaN();
template <class T>
constexpr T kMinusInfinity = -std::numeric_limits<T>::infinity();

template <class To, class From>
BFN_HD To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast keeps the size");
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

// The larger of x and `low`. If x is NaN, the result is NaN, since every comparison with NaN is false.
template <class T>
BFN_HD T at_least(T x, T low) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  if constexpr (std::is_same_v<T, float>) {
    float larger;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(x), "f"(low));
    return larger;
  }
#endif
  return x < low ? low : x;
}

// The smaller of x and `high`. NaN stays NaN.
template <class T>
BFN_HD T at_most(T x, T high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  if constexpr (std::is_same_v<T, float>) {
    float smaller;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(smaller) : "f"(x), "f"(high));
    return smaller;
  }
#endif
  return x > high ? high : x;
}

template <class T>
BFN_HD T clamp(T x, T low, T high) {
  return at_most(at_least(x, low), high);
}

// Whether to compute what only variables with this condition need. On a GPU a warp skips it if no lane needs it. On a
// CPU it is computed for all variables, since compilers vectorise only loops without branches.
BFN_HD bool needed([[maybe_unused]] bool condition) {
#if defined(__CUDA_ARCH__)
  return condition;
#else
  return true;
#endif
}

template <class T>
BFN_HD T square(T x) {
  return x * x;
}

// a b + c. On a GPU the result is always rounded only once. Otherwise the compiler would decide in each kernel whether
// to fuse the two operations, and kernels for different layouts would give different bits.
BFN_HD float fused(float a, float b, float c) {
#if defined(__CUDA_ARCH__) || defined(BFN_CUDA_ON_HOST)
  return ::fmaf(a, b, c);
#else
  return a * b + c;
#endif
}
BFN_HD double fused(double a, double b, double c) {
#if defined(__CUDA_ARCH__) || defined(BFN_CUDA_ON_HOST)
  return ::fma(a, b, c);
#else
  return a * b + c;
#endif
}

}  // namespace bfn
