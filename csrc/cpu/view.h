// Views give runs of numbers in the arithmetic's type; contiguous numbers of that type are read without a copy.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <initializer_list>

#include "../math/float16.h"
#include "../ops/view.h"

namespace bfn {

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

// Calls f(offset of the first element, stride, position in [0, length), count) for each straight run of the numbers
// [start, start + length).
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

// Whether the view's numbers are of this type and lie side by side.
template <class T>
bool in_place(const View& view) {
  return view.dtype == dtype_of<T>() && view.dims == 1 && view.stride[0] == 1;
}

// Numbers that are wanted once something else is done: that asks for them bit by bit, so that memory is fetched
// meanwhile.
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

// Reads the numbers [start, start + length); `buffer` holds them where they cannot be read in place. A null view reads
// as `missing`.
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
      } else if (stride == 2) {  // half of a stacked pair; SIMD takes a stride that the compiler knows
        for (int64_t i = 0; i < run; ++i) buffer[at + i] = static_cast<T>(data[offset + 2 * i]);
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

// Stores numbers for two views, together where these are the halves of a stacked tensor.
template <class T>
void store_pair(const View& first, const View& second, int64_t start, int64_t length, const T* a, const T* b) {
  const auto is_half = [](const View& view) {
    return view.dtype == dtype_of<T>() && view.dims == 1 && view.stride[0] == 2;
  };
  T* const out = static_cast<T*>(first.data) + 2 * start;
  if (is_half(first) && is_half(second) && static_cast<T*>(second.data) == static_cast<T*>(first.data) + 1) {
    for (int64_t i = 0; i < length; ++i) {
      out[2 * i] = a[i];
      out[2 * i + 1] = b[i];
    }
    return;
  }
  if (first) store(first, start, length, a);
  if (second) store(second, start, length, b);
}

}  // namespace bfn
