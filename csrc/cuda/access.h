// How a thread reads and writes a pack, which is some neighbouring variables. If all data is contiguous and aligned, a
// pack has four or eight variables, which are read by a few wide instructions. Otherwise a pack has one variable, with
// any strides and types. The two classes of access, Dense and General, have the same methods.
#pragma once

#include "../ops/loss.h"
#include "../ops/noise.h"
#include "elements.h"

namespace bfn {

// Returns the seed of the noise, or 0 if the noise has no seed.
__device__ __forceinline__ int64_t seed_of(const Noise& from) { return from.seed ? *from.seed : 0; }

// Makes the normal of one variable.
template <class T>
__device__ __forceinline__ T one_normal(int64_t seed, int64_t index, uint32_t stream, uint32_t draw) {
  const Words w = philox(static_cast<uint64_t>(seed), static_cast<uint64_t>(index / 4), stream, draw);
  const bool later = index & 2;
  T first, second;
  box_muller(later ? w.w2 : w.w0, later ? w.w3 : w.w1, first, second);
  return index & 1 ? second : first;
}

// Reads or makes the uniform number that draws the class or the mixture component of a row.
template <class T>
__device__ T one_uniform(const Noise& from, int64_t seed, int64_t row) {
  if (from.explicit_values) return read<T>(from.explicit_values, row);
  return unit_of_row<T>(static_cast<uint64_t>(seed), row, from.stream);
}

// Makes the normals of kCount variables. Their Philox groups start at `group`.
template <class T, int kCount>
__device__ __forceinline__ void normals(int64_t seed, uint64_t group, uint32_t stream, uint32_t draw,
                                        T (&eps)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; i += 4) {
    const Words w = philox(static_cast<uint64_t>(seed), group + i / 4, stream, draw);
    box_muller(w.w0, w.w1, eps[i], eps[i + 1]);
    box_muller(w.w2, w.w3, eps[i + 2], eps[i + 3]);
  }
}

// Makes the words of kCount variables from number `start` on. If kCount is above 1, a group of Philox starts there.
template <int kCount>
__device__ __forceinline__ void words(int64_t seed, int64_t start, uint32_t stream, uint32_t (&word)[kCount]) {
  if constexpr (kCount == 1) {
    word[0] = word_of_row(static_cast<uint64_t>(seed), start, stream);
  } else {
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      const Words w = philox(static_cast<uint64_t>(seed), static_cast<uint64_t>(start / 4 + i / 4), stream, 0);
      word[i] = w.w0;
      word[i + 1] = w.w1;
      word[i + 2] = w.w2;
      word[i + 3] = w.w3;
    }
  }
}

// Access to one variable at a time. Its views may have any types and strides.
template <class T>
struct General {
  using Compute = T;                // the compute type
  using One = General;              // the access to one variable
  static constexpr int kCount = 1;  // the number of variables in a pack
  int64_t start, row;               // the pack's first variable, and the row whose row scalars the pack uses

  __device__ void data(const View& view, T (&x)[1], T missing = T(0)) const { x[0] = read(view, start, missing); }
  __device__ void network(const View& view, T (&x)[1]) const { data(view, x); }
  __device__ T one_of_network(const View& view) const { return read_any<T>(view, start); }  // the view is not null
  __device__ void rows(const View& view, T (&x)[1], T missing = T(0)) const { data(view, x, missing); }
  __device__ void mask(const View& view, bool (&on)[1]) const { on[0] = read<int>(view, start, 1) != 0; }
  template <class F>
  __device__ void each_class(const View& view, F&& f) const {
    f(0, read<int64_t>(view, start));
  }
  __device__ void store_data(const View& view, const T (&x)[1]) const { write(view, start, x[0]); }
  __device__ void store_network(const View& view, const T (&x)[1]) const { store_data(view, x); }
  __device__ void store_compute(const View& view, const T (&x)[1]) const { store_data(view, x); }

  __device__ void noise(const Noise& from, int64_t seed, T (&eps)[1], uint32_t draw = 0,
                        int64_t draw_stride = 0) const {
    eps[0] = from.explicit_values ? read<T>(from.explicit_values, draw * draw_stride + start)
                                  : one_normal<T>(seed, start, from.stream, draw);
  }
  __device__ void uniforms(const Noise& from, int64_t seed, T (&u)[1]) const {
    u[0] = one_uniform<T>(from, seed, start);
  }
};

// Access to contiguous data of type S and contiguous network outputs of type N. A row scalar may have one number for
// all variables, for each row of variables, or for each variable. The noise is made from the seed.
template <class S, class N, int count = sizeof(S) + sizeof(N) == 8 ? 4 : 8>
struct Dense {
  using Compute = float;
  using One = Dense<S, N, 1>;
  static constexpr int kCount = count;
  int64_t start, row;

  __device__ void data(const View& view, float (&x)[kCount], float missing = 0) const { load<S>(view, x, missing); }
  __device__ void network(const View& view, float (&x)[kCount]) const { load<N>(view, x, 0); }
  __device__ float one_of_network(const View& view) const { return widen(static_cast<const N*>(view.data)[start]); }
  __device__ void rows(const View& view, float (&x)[kCount], float missing = 0) const {
    if (view.dims == 1 && view.stride[0] == 1) {
      load<float>(view, x, missing);
    } else {
      const float value = view ? static_cast<const float*>(view.data)[view.dims == 2 ? row : 0] : missing;
#pragma unroll
      for (int j = 0; j < kCount; ++j) x[j] = value;
    }
  }
  __device__ void mask(const View& view, bool (&on)[kCount]) const {
    if constexpr (kCount == 1) {
      on[0] = !view || static_cast<const uint8_t*>(view.data)[start];
    } else {
      uint32_t words[kCount / 4];
#pragma unroll
      for (int i = 0; i < kCount / 4; ++i) {
        words[i] = view ? reinterpret_cast<const uint32_t*>(static_cast<const uint8_t*>(view.data) + start)[i] : ~0u;
      }
#pragma unroll
      for (int j = 0; j < kCount; ++j) on[j] = (words[j / 4] >> (8 * (j % 4)) & 255) != 0;
    }
  }
  // Calls f(j, x) for each variable j of the pack. x is the variable's class. It has the integer type of the view.
  template <class F>
  __device__ void each_class(const View& view, F&& f) const {
    if (view.dtype == DType::kInt64) return each_of<int64_t>(view, f);
    if (view.dtype == DType::kInt32) return each_of<int32_t>(view, f);
    each_of<uint8_t>(view, f);
  }
  __device__ void store_data(const View& view, const float (&x)[kCount]) const { store<S>(view, x); }
  __device__ void store_network(const View& view, const float (&x)[kCount]) const { store<N>(view, x); }
  __device__ void store_compute(const View& view, const float (&x)[kCount]) const { store<float>(view, x); }

  __device__ void noise(const Noise& from, int64_t seed, float (&eps)[kCount], uint32_t draw = 0, int64_t = 0) const {
    if constexpr (kCount == 1) {
      eps[0] = one_normal<float>(seed, start, from.stream, draw);
    } else {
      normals(seed, static_cast<uint64_t>(start / 4), from.stream, draw, eps);
    }
  }
  __device__ void uniforms(const Noise& from, int64_t seed, float (&u)[kCount]) const {
    if constexpr (kCount == 1) {
      u[0] = one_uniform<float>(from, seed, start);
    } else {
      uint32_t word[kCount];
      words(seed, start, from.stream, word);
#pragma unroll
      for (int j = 0; j < kCount; ++j) u[j] = unit(word[j]);
    }
  }

 private:
  template <class X, class F>
  __device__ void each_of(const View& view, F&& f) const {
    struct alignas(sizeof(X) * kCount < 16 ? sizeof(X) * kCount : 16) Pack {
      X each[kCount];
    };
    const Pack pack = *reinterpret_cast<const Pack*>(static_cast<const X*>(view.data) + start);
#pragma unroll
    for (int j = 0; j < kCount; ++j) f(j, pack.each[j]);
  }
  template <class X>
  __device__ void load(const View& view, float (&x)[kCount], float missing) const {
    if (view) {
      load_widened(static_cast<const X*>(view.data) + start, x);
    } else {
#pragma unroll
      for (int j = 0; j < kCount; ++j) x[j] = missing;
    }
  }
  template <class X>
  __device__ void store(const View& view, const float (&x)[kCount]) const {
    store_narrowed(static_cast<X*>(view.data) + start, x);
  }
};

// Replaces x by the known values where the mask is not 0. Without known values, x stays as it is.
template <class At, class T, int kCount>
__device__ __forceinline__ void replace_known(const At& at, const View& known, const View& mask, T (&x)[kCount]) {
  if (!known) return;
  T values[kCount];
  bool is_known[kCount];
  at.data(known, values);
  at.mask(mask, is_known);
#pragma unroll
  for (int j = 0; j < kCount; ++j) x[j] = is_known[j] ? values[j] : x[j];
}

// Which row a variable of contiguous data belongs to. `length` consecutive variables form a row, and share their row
// scalars.
struct RowMap {
  Divisor length;
};

// Calls f(at) for the packs of [begin, end) that one of `size` threads handles. `rank` is the index of this thread.
// `begin` must be a multiple of At::kCount. The variables behind the last whole pack are passed to f one by one, as
// At::One.
template <class At, class F>
__device__ void for_packs(int64_t begin, int64_t end, int64_t rank, int64_t size, const RowMap& rows, F&& f) {
  int64_t start = begin + rank * At::kCount;
#pragma unroll 1
  for (; start + At::kCount <= end; start += size * At::kCount) f(At{start, rows.length.divide(start)});
  if constexpr (At::kCount > 1) {
#pragma unroll 1
    for (start = end - (end - begin) % At::kCount + rank; start < end; start += size) {
      f(typename At::One{start, rows.length.divide(start)});
    }
  }
}

// Calls f(at, active) for the packs of [begin, end). Every thread of a block makes the same number of calls, so that f
// may synchronise the block. All packs must be whole. If a thread has no pack in the last round, `at` is the last pack,
// and `active` is false.
template <class At, class F>
__device__ void for_rounds(int64_t begin, int64_t end, int64_t rank, int64_t size, const RowMap& rows, F&& f) {
  const int64_t in_block = int64_t{threadIdx.x} * At::kCount;
#pragma unroll 1
  for (int64_t first = begin + rank * At::kCount - in_block; first < end; first += size * At::kCount) {
    const bool active = first + in_block < end;
    const int64_t start = active ? first + in_block : end - At::kCount;
    f(At{start, rows.length.divide(start)}, active);
  }
}

// for_packs over all threads of the grid.
template <class At, class F>
__device__ void for_grid(int64_t count, const RowMap& rows, F&& f) {
  for_packs<At>(0, count, int64_t{blockIdx.x} * blockDim.x + threadIdx.x, int64_t{gridDim.x} * blockDim.x, rows, f);
}

// for_rounds over all threads of the grid.
template <class At, class F>
__device__ void for_grid_in_rounds(int64_t count, const RowMap& rows, F&& f) {
  for_rounds<At>(0, count, int64_t{blockIdx.x} * blockDim.x + threadIdx.x, int64_t{gridDim.x} * blockDim.x, rows, f);
}

// The number of blocks in the grid of a kernel for `count` variables.
template <class At>
int64_t grid_for(int64_t count) {
  const int64_t blocks = ceil_div(count, int64_t{kThreads} * At::kCount);
  return blocks < kMaxBlocks ? blocks : kMaxBlocks;
}

// Chooses the access. The host passes each view of an op to the method for its kind. dense() then returns whether all
// views allow Dense.
class Layout {
 public:
  Layout& data(const View& view) { return dense_of(view, data_type_); }
  Layout& network(const View& view) { return dense_of(view, network_type_); }
  Layout& rows(const View& view) {
    if (!view || constant(view)) return *this;
    dense_ &= view.dtype == DType::kFloat;
    if (view.dims == 2 && view.stride[0] == 1 && view.stride[1] == 0) {
      dense_ &= row_length_ == 0 || row_length_ == view.size[1];
      row_length_ = view.size[1];
    } else {
      dense_ &= contiguous(view) && aligned(view, 16);
    }
    return *this;
  }
  Layout& bytes(const View& view) {
    dense_ &= !view || (contiguous(view) && aligned(view, 4));
    return *this;
  }
  Layout& classes(const View& view) {
    dense_ &= !view || (contiguous(view) && aligned(view, 16));
    return *this;
  }
  Layout& noise(const Noise& noise) {
    dense_ &= !noise.explicit_values;
    return *this;
  }
  // A view that only kernels with the general access read.
  Layout& rare(const View& view) {
    dense_ &= !view;
    return *this;
  }
  // The view of classes, or of soft data, which only these kernels read.
  Layout& soft(const View& view) {
    dense_ &= !view.is_floating();
    return *this;
  }
  Layout& whole_packs(int64_t count) {
    dense_ &= count % kMultiple == 0;
    return *this;
  }
  // If the losses of each batch element are summed separately, each batch element must begin with a new pack.
  Layout& losses(const LossTarget& to) {
    dense_ &= to.reduction != Reduction::kBatch || to.per_batch % kMultiple == 0;
    return *this;
  }

  bool dense() const { return dense_ && row_length_ % kMultiple == 0; }
  DType data_type() const { return data_type_ == kUnknown ? network_type_ : data_type_; }
  DType network_type() const { return network_type_; }
  RowMap row_map() const { return {Divisor(row_length_)}; }

 private:
  static bool contiguous(const View& view) { return view.dims == 1 && view.stride[0] == 1; }
  static bool constant(const View& view) { return view.dims == 0 || (view.dims == 1 && view.stride[0] == 0); }
  static bool aligned(const View& view, uintptr_t to) { return reinterpret_cast<uintptr_t>(view.data) % to == 0; }

  Layout& dense_of(const View& view, DType& type) {
    if (!view) return *this;
    dense_ &= contiguous(view) && aligned(view, 16) && (type == kUnknown || type == view.dtype);
    type = view.dtype;
    return *this;
  }

  static constexpr DType kUnknown = DType::kInt64;  // no tensor of data has this type
  static constexpr int64_t kMultiple = 8;           // a multiple of every At::kCount
  int64_t row_length_ = 0;
  bool dense_ = true;
  DType data_type_ = kUnknown, network_type_ = kUnknown;
};

// Passes a type to a generic lambda.
template <class At>
struct Tag {
  using type = At;
};

// Calls f(Tag<At>). At is the access for data and network outputs of the same type.
template <class T, class F>
void with_access(const Layout& layout, F&& f) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (layout.dense() && layout.data_type() == DType::kFloat) return f(Tag<Dense<float, float>>{});
    if (layout.dense() && layout.data_type() == DType::kBFloat16) return f(Tag<Dense<BFloat16, BFloat16>>{});
    if (layout.dense() && layout.data_type() == DType::kHalf) return f(Tag<Dense<Half, Half>>{});
  }
  f(Tag<General<T>>{});
}

// Calls f(Tag<At>). At is the access for data of one type, and for network outputs of the same type or, as under
// autocast, of a narrower type.
template <class T, class F>
void with_network_access(const Layout& layout, F&& f) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (layout.dense() && layout.data_type() == DType::kFloat) {
      if (layout.network_type() == DType::kBFloat16) return f(Tag<Dense<float, BFloat16>>{});
      if (layout.network_type() == DType::kHalf) return f(Tag<Dense<float, Half>>{});
    }
    if (layout.data_type() == layout.network_type()) return with_access<T>(layout, f);
  }
  f(Tag<General<T>>{});
}

}  // namespace bfn
