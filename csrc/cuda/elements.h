// How a thread reads and writes the elements of a view. If they are contiguous and aligned, it reads several at once.
// Otherwise it reads them one by one, with any strides and types.
#pragma once

#include <type_traits>

#include "../ops/view.h"
#include "device.h"

namespace bfn {

// Divides numbers below 2^63 by a multiplication and a shift (Granlund and Montgomery 1994). If the divisor is 0, the
// result is 0.
struct Divisor {
  uint64_t factor = 0;
  uint32_t shift = 0, nonzero = 0;  // `nonzero` is 0 if the divisor is 0

  Divisor() = default;
  explicit Divisor(int64_t by) : nonzero(by != 0) {
    if (!nonzero) return;
    while (shift < 63 && (int64_t{1} << shift) < by) ++shift;
    const uint64_t excess = (uint64_t{1} << shift) - static_cast<uint64_t>(by);
    factor = static_cast<uint64_t>((static_cast<unsigned __int128>(excess) << 64) / static_cast<uint64_t>(by)) + 1;
  }
  __device__ int64_t divide(int64_t x) const {
    const uint64_t n = static_cast<uint64_t>(x);
    const uint64_t high = static_cast<uint64_t>((static_cast<unsigned __int128>(n) * factor) >> 64);
    return nonzero ? static_cast<int64_t>((high + n) >> shift) : 0;
  }
};

// The offset in memory of element `index` of a view. Divisions are in 32 bits if the numbers fit, since this is faster.
__device__ inline int64_t offset_of(const View& view, int64_t index) {
  int64_t offset = 0;
  if (view.dims == 0) return 0;
#pragma unroll 1  // unrolled, the loop would hold the sizes and strides of four dimensions in registers
  for (int d = view.dims - 1; d > 0; --d) {
    const int64_t size = view.size[d];
    const int64_t rest = index <= INT32_MAX && size <= INT32_MAX
                             ? static_cast<uint32_t>(index) / static_cast<uint32_t>(size)
                             : index / size;
    offset += (index - rest * size) * view.stride[d];
    index = rest;
  }
  return offset + index * view.stride[0];
}

// The function is not inlined, since it has many callers, and reading a view of any strides and type is slow anyway.
template <class T>
BFN_NOINLINE __device__ T read_any(const View& view, int64_t index) {
  const int64_t offset = offset_of(view, index);
  switch (view.dtype) {
    case DType::kFloat:
      return static_cast<T>(static_cast<const float*>(view.data)[offset]);
    case DType::kDouble:
      return static_cast<T>(static_cast<const double*>(view.data)[offset]);
    case DType::kBFloat16:
      return static_cast<T>(widen(static_cast<const BFloat16*>(view.data)[offset]));
    case DType::kHalf:
      return static_cast<T>(widen(static_cast<const Half*>(view.data)[offset]));
    case DType::kInt64:
      return static_cast<T>(static_cast<const int64_t*>(view.data)[offset]);
    case DType::kInt32:
      return static_cast<T>(static_cast<const int32_t*>(view.data)[offset]);
    case DType::kUInt8:
      return static_cast<T>(static_cast<const uint8_t*>(view.data)[offset]);
  }
  return T(0);
}

template <class T>
__device__ T read(const View& view, int64_t index, T missing = T(0)) {
  return view ? read_any<T>(view, index) : missing;
}

// Like `read`, for a view with one number for each row of classes. It makes no function call in the usual case: the
// numbers have the type T, and each row has a number, or `size[1]` consecutive rows share one. For the division in 32
// bits, the row and `size[1]` must be at most 2^31 - 1. Otherwise `read` is called.
template <class T>
__device__ __forceinline__ T read_row(const View& view, int64_t row, T missing = T(0)) {
  const T* data = static_cast<const T*>(view.data);
  const bool each = view.dims == 1;
  const bool repeated = view.dims == 2 && view.stride[1] == 0 && (row | view.size[1]) <= INT32_MAX;
  if (view.dtype != dtype_of<T>() || !(each || repeated)) return read<T>(view, row, missing);
  return data[(each ? row : static_cast<uint32_t>(row) / static_cast<uint32_t>(view.size[1])) * view.stride[0]];
}

template <class T>
BFN_NOINLINE __device__ void write(const View& view, int64_t index, T x) {
  const int64_t offset = offset_of(view, index);
  switch (view.dtype) {
    case DType::kDouble:
      static_cast<double*>(view.data)[offset] = static_cast<double>(x);
      break;
    case DType::kBFloat16:
      narrow(static_cast<float>(x), static_cast<BFloat16*>(view.data)[offset]);
      break;
    case DType::kHalf:
      narrow(static_cast<float>(x), static_cast<Half*>(view.data)[offset]);
      break;
    default:
      static_cast<float*>(view.data)[offset] = static_cast<float>(x);
  }
}

template <class T>
__device__ __forceinline__ void write_row(const View& view, int64_t row, T x) {
  if (view.dtype == dtype_of<T>() && view.dims == 1) {
    static_cast<T*>(view.data)[row * view.stride[0]] = x;
  } else {
    write(view, row, x);
  }
}

// A type of `kBytes` bytes, which the compiler reads and writes with one instruction. The elements of an array would be
// read and written one by one.
template <size_t kBytes>
struct VectorType;
template <>
struct VectorType<4> {
  using type = unsigned;
};
template <>
struct VectorType<8> {
  using type = uint2;
};
template <>
struct VectorType<16> {
  using type = uint4;
};

// Reads elements with one instruction.
template <class S, int kCount>
__device__ __forceinline__ void load_vector(const S* from, S (&x)[kCount]) {
  const auto vector = *reinterpret_cast<const typename VectorType<sizeof(x)>::type*>(from);
  std::memcpy(x, &vector, sizeof(x));
}

// Writes elements with one instruction.
template <class S, int kCount>
__device__ __forceinline__ void store_vector(S* to, const S (&x)[kCount]) {
  typename VectorType<sizeof(x)>::type vector;
  std::memcpy(&vector, x, sizeof(x));
  __stwb(reinterpret_cast<decltype(vector)*>(to), vector);  // in a branch, `=` would become several instructions
}

// Reads one element, or several by vectors of 16 bytes, and converts them to float.
template <class S, int kCount>
__device__ __forceinline__ void load_widened(const S* from, float (&x)[kCount]) {
  if constexpr (kCount == 1) x[0] = widen(*from);
  constexpr int kEach = 16 / sizeof(S);
#pragma unroll
  for (int i = 0; i < kCount / kEach; ++i) {
    S each[kEach];
    load_vector(from + i * kEach, each);
#pragma unroll
    for (int j = 0; j < kEach; ++j) x[i * kEach + j] = widen(each[j]);
  }
}

// Writes one float, or several by vectors of 16 bytes, in the narrower type S.
template <class S, int kCount>
__device__ __forceinline__ void store_narrowed(S* to, const float (&x)[kCount]) {
  if constexpr (kCount == 1) narrow(x[0], *to);
  constexpr int kEach = 16 / sizeof(S);
#pragma unroll
  for (int i = 0; i < kCount / kEach; ++i) {
    S each[kEach];
#pragma unroll
    for (int j = 0; j < kEach; ++j) narrow(x[i * kEach + j], each[j]);
    store_vector(to + i * kEach, each);
  }
}

}  // namespace bfn
