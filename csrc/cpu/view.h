// Reads and writes views in the compute type T. Contiguous numbers of type T are read without a copy.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "../math/float16.h"
#include "../ops/view.h"
#include "parallel.h"

namespace bfn {

// Calls f with `data` as a pointer to the type that `dtype` names.
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

// Splits the numbers [start, start + length) into runs. Within a run the stride is constant. Calls f(offset, stride,
// position, count) for each run. `offset` is the place of the run's first number in memory, and `position` is the index
// of this number in [0, length).
template <class F>
void for_runs(const View& view, int64_t start, int64_t length, F&& f) {
  if (view.dims == 0) return f(int64_t{0}, int64_t{0}, int64_t{0}, length);
  const int inner = view.dims - 1;
  int64_t place[kMaxDims], offset = 0;
  for (int d = inner; d >= 0; --d) {
    place[d] = start % view.size[d];
    start /= view.size[d];
    offset += place[d] * view.stride[d];
  }
  for (int64_t done = 0; done < length;) {
    const int64_t run = std::min(length - done, view.size[inner] - place[inner]);
    f(offset, view.stride[inner], done, run);
    done += run;
    place[inner] += run;
    offset += run * view.stride[inner];
    for (int d = inner; d > 0 && place[d] == view.size[d]; --d) {
      offset += view.stride[d - 1] - view.size[d] * view.stride[d];
      place[d] = 0;
      ++place[d - 1];
    }
  }
}

// Whether the view's numbers have the type T and are contiguous.
template <class T>
bool in_place(const View& view) {
  return view.dtype == dtype_of<T>() && view.contiguous();
}

// Prefetches numbers of up to three views that will be read or written soon. A loop that first computes something else
// calls run() now and then, so that the processor fetches the numbers from memory during the computation. Addresses are
// integers, since they may lie before or behind a view's numbers, where a pointer would be undefined.
template <class T>
struct Prefetch {
  uintptr_t from[3] = {};

  Prefetch() = default;
  Prefetch(std::initializer_list<const View*> views, int64_t start = 0) {
    int64_t count = 0;
    for (const View* view : views) {
      if (*view && in_place<T>(*view)) from[count++] = reinterpret_cast<uintptr_t>(view->data) + start * sizeof(T);
    }
  }
  void run(int64_t first, int64_t count) const {
#if defined(__GNUC__)
    for (const uintptr_t numbers : from) {
      for (int64_t i = first; numbers && i < first + count; i += 64 / sizeof(T)) {
        __builtin_prefetch(reinterpret_cast<const void*>(numbers + i * sizeof(T)));
      }
    }
#endif
  }
};

// Copies `rows` numbers to `to`, each of them `times` times in a row. kTimes is `times` if it is small, so that the
// compiler knows it and vectorises the loop, and 0 otherwise.
template <int64_t kTimes, class T, class E>
void repeat_rows(const E* from, int64_t stride, int64_t times, int64_t rows, T* to) {
  if constexpr (kTimes > 0) {
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < kTimes; ++j) to[i * kTimes + j] = static_cast<T>(from[i * stride]);
    }
  } else {
    for (int64_t i = 0; i < rows; ++i) {
      const T value = static_cast<T>(from[i * stride]);
      T* const row = to + i * times;
      if (times < kLanes && (rows - i) * times >= kLanes) {
        for (int64_t j = 0; j < kLanes; ++j) row[j] = value;  // the next rows overwrite the numbers beyond `times`
      } else {
        std::fill_n(row, times, value);
      }
    }
  }
}

// Reads the numbers [start, start + length) of a view with two dimensions. The last dimension has stride 0, so that
// each number is repeated.
template <class T, class E>
void load_repeated(const View& view, const E* data, int64_t start, int64_t length, T* to) {
  const int64_t times = view.size[1], stride = view.stride[0], skip = start % times;
  const E* from = data + start / times * stride;
  if (skip) {
    const int64_t head = std::min(times - skip, length);
    std::fill_n(to, head, static_cast<T>(*from));
    to += head;
    length -= head;
    from += stride;
  }
  const int64_t rows = length / times, tail = length % times;
  switch (times) {
    case 2:
      repeat_rows<2>(from, stride, times, rows, to);
      break;
    case 3:
      repeat_rows<3>(from, stride, times, rows, to);
      break;
    case 4:
      repeat_rows<4>(from, stride, times, rows, to);
      break;
    default:
      repeat_rows<0>(from, stride, times, rows, to);
  }
  if (tail) std::fill_n(to + rows * times, tail, static_cast<T>(from[rows * stride]));
}

// Returns a pointer to the numbers [start, start + length). They are copied to `buffer` unless they can be read in
// place. If the view is null, all of them are `missing`.
template <class T>
const T* load(const View& view, int64_t start, int64_t length, T* buffer, T missing = T(0)) {
  if (!view) {
    std::fill_n(buffer, length, missing);
    return buffer;
  }
  if (in_place<T>(view)) return static_cast<const T*>(view.data) + start;
  with_type(view.dtype, view.data, [&](const auto* data) {
    if (view.dims == 2 && view.stride[1] == 0) return load_repeated(view, data, start, length, buffer);
    for_runs(view, start, length, [&](int64_t offset, int64_t stride, int64_t at, int64_t run) {
      if (stride == 0) {
        std::fill_n(buffer + at, run, static_cast<T>(data[offset]));
      } else if (stride == 1) {
        for (int64_t i = 0; i < run; ++i) buffer[at + i] = static_cast<T>(data[offset + i]);
      } else if (stride == 2) {  // one of two stacked tensors; the compiler vectorises a constant stride
        for (int64_t i = 0; i < run; ++i) buffer[at + i] = static_cast<T>(data[offset + 2 * i]);
      } else {
        for (int64_t i = 0; i < run; ++i) buffer[at + i] = static_cast<T>(data[offset + i * stride]);
      }
    });
  });
  return buffer;
}

// Copies a number to `to` if its mask is not 0. The masks of the numbers are [start, start + length) of `mask`.
template <class T>
void overwrite(const View& mask, int64_t start, int64_t length, const T* numbers, T* to) {
  uint8_t buffer[kBlock];
  const uint8_t* is_set = load(mask, start, length, buffer);
  for (int64_t i = 0; i < length; ++i) to[i] = is_set[i] ? numbers[i] : to[i];
}

// Returns a pointer to which the caller writes the numbers from `start` on, before it calls `store`. It is the tensor's
// own memory if the tensor is contiguous and has the type T. Otherwise it is `buffer`.
template <class T>
T* target(const View& view, int64_t start, T* buffer) {
  return in_place<T>(view) ? static_cast<T*>(view.data) + start : buffer;
}

// Stores numbers in the type of the view. If `target` returned the tensor's own memory, nothing is left to do.
template <class T>
void store(const View& view, int64_t start, int64_t length, const T* from) {
  if (in_place<T>(view) && from == static_cast<T*>(view.data) + start) return;
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

// Stores the numbers of two views. If the views are two stacked tensors, one loop writes both.
template <class T>
void store_pair(const View& first, const View& second, int64_t start, int64_t length, const T* a, const T* b) {
  const auto is_stacked = [](const View& view) {
    return view.dtype == dtype_of<T>() && view.dims == 1 && view.stride[0] == 2;
  };
  if (is_stacked(first) && is_stacked(second) && static_cast<T*>(second.data) == static_cast<T*>(first.data) + 1) {
    T* const out = static_cast<T*>(first.data) + 2 * start;
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
