// How kernels access the classes of a row: groups of four classes, and the logits of a network.
#pragma once

#include "../ops/discrete.h"
#include "access.h"

namespace bfn {

// Access to groups of four classes of any type and strides. `first` is the first class of the group. Numbers behind the
// last class of the row are neither read nor written.
template <class T>
struct AnyClasses {
  using Compute = T;
  // Whether kernels read class masks, scores and soft data. Kernels of dense data do not, so that they have no code for
  // these rare arguments. The host chooses the access (Layout::rare and Layout::soft).
  static constexpr bool kReadsRare = true;
  // Whether the threads of a WarpTeam and of a BlockTeam may have many slots. In float, warps have as many slots as for
  // dense data, so that they add in the same order. Blocks always sweep, so that fewer kernels are compiled.
  static constexpr bool kWarpsUseManySlots = sizeof(T) == sizeof(float), kBlocksUseManySlots = false;

  __device__ static T one(const View& view, int64_t row, int count, int64_t k) {
    return read<T>(view, row * count + k);
  }
  __device__ static void load(const View& view, int64_t row, int count, int first, T (&z)[4]) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (first + j < count) z[j] = read<T>(view, row * count + first + j);
    }
  }
  __device__ static void store(const View& view, int64_t row, int count, int first, const T (&z)[4]) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (first + j < count) write(view, row * count + first + j, z[j]);
    }
  }
};

// Access to contiguous classes of type S. If K is a multiple of four, one instruction reads or writes a group.
template <class S>
struct DenseClasses {
  using Compute = float;
  static constexpr bool kReadsRare = false;
  static constexpr bool kWarpsUseManySlots = true, kBlocksUseManySlots = true;

  __device__ static float one(const View& view, int64_t row, int count, int64_t k) {
    return widen(static_cast<const S*>(view.data)[row * count + k]);
  }
  __device__ static void load(const View& view, int64_t row, int count, int first, float (&z)[4]) {
    const S* from = static_cast<const S*>(view.data) + row * count + first;
    if (count % 4 == 0) {
      S four[4];
      load_vector(from, four);
#pragma unroll
      for (int j = 0; j < 4; ++j) z[j] = widen(four[j]);
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (first + j < count) z[j] = widen(from[j]);
      }
    }
  }
  __device__ static void store(const View& view, int64_t row, int count, int first, const float (&z)[4]) {
    S* to = static_cast<S*>(view.data) + row * count + first;
    S four[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) narrow(z[j], four[j]);
    if (count % 4 == 0) {
      store_vector(to, four);
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (first + j < count) to[j] = four[j];
      }
    }
  }
};

// The access to a saved gradient of logits with the access A. It has the strides of the logits, and the type of the
// arithmetic.
template <class A>
struct GradientAccess {
  using type = A;
};
template <class S>
struct GradientAccess<DenseClasses<S>> {
  using type = DenseClasses<float>;
};

// Reads the logits of a group. It applies the class mask and, in a step with guidance, the guidance.
template <class A>
struct Logits {
  using T = typename A::Compute;
  const View* view;
  int64_t row;
  int count;
  const View *class_mask = nullptr, *unconditional = nullptr;
  T scale = 1, unconditional_scale = 0;

  __device__ Logits(const View& logits, int64_t which, int num_classes)
      : view(&logits), row(which), count(num_classes) {}
  __device__ Logits(const ClassLogits& logits, int64_t which, int num_classes)
      : Logits(static_cast<const View&>(logits), which, num_classes) {
    if constexpr (A::kReadsRare) class_mask = &logits.class_mask;
  }
  __device__ void guide(const Guidance& guidance) {
    unconditional = &guidance.unconditional;
    scale = read_row<T>(guidance.logit_scale, row, T(1));
    unconditional_scale = read_row<T>(guidance.unconditional_scale, row);
  }

  __device__ __forceinline__ void operator()(int first, T (&z)[4]) const {
    A::load(*view, row, count, first, z);
    if (A::kReadsRare && class_mask && *class_mask) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (first + j < count && !valid(first + j)) z[j] = kMinusInfinity<T>;
      }
    }
    if (!unconditional) return;
    T other[4] = {};
    if (*unconditional) A::load(*unconditional, row, count, first, other);
#pragma unroll
    for (int j = 0; j < 4; ++j) z[j] = guided(z[j], scale, other[j], unconditional_scale);
  }
  // Reads the logit of class k, without guidance.
  __device__ T one(int64_t k) const {
    if (A::kReadsRare && class_mask && *class_mask && !valid(k)) return kMinusInfinity<T>;
    return A::one(*view, row, count, k);
  }

 private:
  __device__ bool valid(int64_t k) const { return read<int>(*class_mask, row * count + k) != 0; }
};

}  // namespace bfn
