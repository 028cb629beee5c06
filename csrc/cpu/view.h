// Views hand out runs of numbers in the arithmetic's type; contiguous numbers of that type come without a copy.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <initializer_list>

#include "../ops/view.h"

namespace bfn {

struct BFloat16 {
  uint16_t bits;
  operator float() const { return bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
  BFloat16() = default;
  explicit BFloat16(float x) {
    const uint32_t u = bit_cast<uint32_t>(x);
    bits = x != x ? 0x7FC0 : static_cast<uint16_t>((u + 0x7FFF + ((u >> 16) & 1)) >> 16);
  }
  explicit BFloat16(double x) : BFloat16(static_cast<float>(x)) {}
};

// By bits and selections alone: compilers convert _Float16 one number at a time.
struct Half {
  uint16_t bits;
  operator float() const {
    constexpr uint32_t kExponent = 0x7C00u << 13, kRebias = (127 - 15) << 23;
    constexpr float kLeastNormal = 6.103515625e-5f;
    const uint32_t magnitude = (bits & 0x7FFFu) << 13, exponent = magnitude & kExponent;
    const uint32_t subnormal = bit_cast<uint32_t>(bit_cast<float>(magnitude + kRebias + (1 << 23)) - kLeastNormal);
    const uint32_t normal = magnitude + kRebias + (exponent == kExponent ? kRebias : 0);  // infinity and NaN as such
    return bit_cast<float>((exponent == 0 ? subnormal : normal) | (bits & 0x8000u) << 16);
  }
  Half() = default;
  explicit Half(float x) {
    constexpr uint32_t kInfinity = 0x7F800000, kTooLarge = (127 + 16) << 23, kNormal = (127 - 14) << 23;
    const uint32_t u = bit_cast<uint32_t>(x), magnitude = u & 0x7FFFFFFF;
    const uint32_t normal = (magnitude - ((127 - 15) << 23) + 0xFFF + ((magnitude >> 13) & 1)) >> 13;
    const uint32_t subnormal = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) & 0x7FFFFF;  // the sum rounds it
    const uint32_t special = magnitude > kInfinity ? 0x7E00 : 0x7C00;
    const uint32_t finite = magnitude < kNormal ? subnormal : normal;
    bits = static_cast<uint16_t>((magnitude >= kTooLarge ? special : finite) | (u >> 16 & 0x8000));
  }
  explicit Half(double x) : Half(static_cast<float>(x)) {}
};

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

// Calls f with a pointer of the element type.
template <class F>
void with_type(DType dtype, void* data, F&& f) {
  switch (dtype) {
    case DType::kFloat:
      return f(static_cast<float*>(data));
    case DType::kDouble:
      return f(static_cast<double*>(data));
    case DType::kBFloat16:
      return f(static_cast<BFloat16*>(data));
    case DType::kHalf:
      return f(static_cast<Half*>(data));
    case DType::kInt64:
      return f(static_cast<int64_t*>(data));
    case DType::kInt32:
      return f(static_cast<int32_t*>(data));
    case DType::kUInt8:
      return f(static_cast<uint8_t*>(data));
  }
}

// f(offset of the run's first element, stride, position in the run, length) for the straight runs of [start, +length).
template <class F>
void for_runs(const View& view, int64_t start, int64_t length, F&& f) {
  if (view.dims == 0) return f(int64_t{0}, int64_t{0}, int64_t{0}, length);
  const int inner = view.dims - 1;
  for (int64_t done = 0; done < length;) {
    int64_t rest = (start + done) / view.size[inner], offset = 0;
    const int64_t at = (start + done) % view.size[inner], run = std::min(length - done, view.size[inner] - at);
    for (int d = inner - 1; d >= 0; --d) {
      offset += rest % view.size[d] * view.stride[d];
      rest /= view.size[d];
    }
    f(offset + at * view.stride[inner], view.stride[inner], done, run);
    done += run;
  }
}

// Whether runs of the view are numbers of this type side by side.
template <class T>
bool in_place(const View& view) {
  return view.dtype == dtype_of<T>() && view.dims == 1 && view.stride[0] == 1;
}

// Numbers that are wanted once something else is done, which asks for them bit by bit: memory is brought meanwhile.
template <class T>
struct Ahead {
  const T* from[3] = {};

  Ahead() = default;
  Ahead(std::initializer_list<const View*> views, int64_t start) {
    int64_t count = 0;
    for (const View* view : views) {
      if (*view && in_place<T>(*view)) from[count++] = static_cast<const T*>(view->data) + start;
    }
  }
  void ask(int64_t first, int64_t count) const {
#if defined(__GNUC__)
    for (const T* numbers : from) {
      for (int64_t i = first; numbers && i < first + count; i += 64 / sizeof(T)) __builtin_prefetch(numbers + i);
    }
#endif
  }
};

// The numbers [start, start + length); `buffer` holds them where they cannot be read in place. A null view reads as
// `missing`.
template <class T>
const T* load(const View& view, int64_t start, int64_t length, T* buffer, T missing = T(0)) {
  if (!view) {
    std::fill_n(buffer, length, missing);
    return buffer;
  }
  if (in_place<T>(view)) {
    return static_cast<const T*>(view.data) + start;
  }
  with_type(view.dtype, view.data, [&](const auto* data) {
    for_runs(view, start, length, [&](int64_t offset, int64_t stride, int64_t at, int64_t run) {
      if (stride == 0) {
        std::fill_n(buffer + at, run, static_cast<T>(data[offset]));
      } else if (stride == 1) {
        for (int64_t i = 0; i < run; ++i) buffer[at + i] = static_cast<T>(data[offset + i]);
      } else {
        for (int64_t i = 0; i < run; ++i) buffer[at + i] = static_cast<T>(data[offset + i * stride]);
      }
    });
  });
  return buffer;
}

// Where to write [start, ...): in place if that can be, else `buffer`, which `store` then writes.
template <class T>
T* target(const View& view, int64_t start, T* buffer) {
  if (view.dtype == dtype_of<T>() && view.contiguous()) return static_cast<T*>(view.data) + start;
  return buffer;
}

template <class T>
void store(const View& view, int64_t start, int64_t length, const T* from) {
  if (view.dtype == dtype_of<T>() && view.contiguous() && from == static_cast<T*>(view.data) + start) return;
  with_type(view.dtype, view.data, [&](auto* data) {
    using Element = std::remove_reference_t<decltype(*data)>;
    for_runs(view, start, length, [&](int64_t offset, int64_t stride, int64_t at, int64_t run) {
      if (stride == 1) {
        for (int64_t i = 0; i < run; ++i) data[offset + i] = static_cast<Element>(from[at + i]);
      } else {
        for (int64_t i = 0; i < run; ++i) data[offset + i * stride] = static_cast<Element>(from[at + i]);
      }
    });
  });
}

}  // namespace bfn
