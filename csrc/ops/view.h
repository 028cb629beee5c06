// A view of a tensor that is broadcast to the shape of the data. It may have any type of DType and any strides.
#pragma once

#include "../math/common.h"

// Instantiates a function for the two compute types.
#define BFN_INSTANTIATE(function, ...)        \
  template void function<float>(__VA_ARGS__); \
  template void function<double>(__VA_ARGS__)

namespace bfn {

enum class DType { kFloat, kDouble, kBFloat16, kHalf, kInt64, kInt32, kUInt8 };

template <class T>
constexpr DType dtype_of();
template <>
constexpr DType dtype_of<float>() {
  return DType::kFloat;
}
template <>
constexpr DType dtype_of<double>() {
  return DType::kDouble;
}
template <>
constexpr DType dtype_of<int64_t>() {
  return DType::kInt64;
}
template <>
constexpr DType dtype_of<uint8_t>() {
  return DType::kUInt8;
}

constexpr int kMaxDims = 16;

// The order of the dimensions is their order in the data's shape, not their order in memory. Dimensions of size 1 are
// left out. Neighbouring dimensions that are contiguous are merged into one. A stride counts numbers, not bytes. It is
// 0 in a dimension along which the tensor is broadcast.
struct View {
  void* data = nullptr;  // null if the argument was not passed
  DType dtype = DType::kFloat;
  int dims = 0;
  int64_t size[kMaxDims], stride[kMaxDims];

  BFN_HD explicit operator bool() const { return data != nullptr; }
  BFN_HD bool is_floating() const { return data && dtype <= DType::kHalf; }
  BFN_HD bool contiguous() const { return dims == 0 || (dims == 1 && stride[0] == 1); }
};

}  // namespace bfn
