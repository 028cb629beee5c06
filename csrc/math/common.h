// What every formula needs: it compiles for the host and, under nvcc, for the device. No torch, no CUDA runtime.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define BFN_HD __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define BFN_HD inline __attribute__((always_inline))  // a call within a loop keeps it from SIMD
#else
#define BFN_HD inline
#endif
#if defined(__CUDACC__)  // with registers of its own where it is rare and large
#define BFN_HD_APART __host__ __device__ __noinline__
#else
#define BFN_HD_APART BFN_HD
#endif

namespace bfn {

// Mean, std, and the derivatives by them, of whatever a function of a normal returns.
template <class T>
struct WithGradient {
  T value, by_mean, by_std;
};

template <class To, class From>
BFN_HD To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast keeps the size");
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

// Comparisons written so that NaN goes through.
template <class T>
BFN_HD T clamp(T x, T low, T high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}

template <class T>
BFN_HD bool inside(T x, T low, T high) {
  return x >= low && x <= high;
}

template <class T>
BFN_HD T square(T x) {
  return x * x;
}

}  // namespace bfn
