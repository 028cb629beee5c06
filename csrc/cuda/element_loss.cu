#include "../ops/element_loss.h"

#include <utility>

#include "access.h"
#include "loss.h"

namespace bfn {
namespace {

template <Kind kKind, class At, class T>
__device__ __forceinline__ void load_input(const At& at, const View& view, double missing, T (&x)[At::kCount]) {
  if constexpr (kKind == kSign) {
    at.each_class(view, [&](int j, auto c) { x[j] = binary_sign<T>(c); });
  } else if constexpr (kKind == kNetwork) {
    at.network(view, x);
  } else if constexpr (kKind == kData) {
    at.data(view, x, static_cast<T>(missing));
  } else if constexpr (kKind == kRow) {
    at.rows(view, x, static_cast<T>(missing));
  } else {
#pragma unroll
    for (int j = 0; j < At::kCount; ++j) x[j] = static_cast<T>(missing);
  }
}

void lay_out(Layout& layout, const View& view, Kind kind) {
  kind == kSign      ? layout.classes(view)
  : kind == kNetwork ? layout.network(view)
  : kind == kData    ? layout.data(view)
  : kind == kRow     ? layout.rows(view)
                     : layout;
}

// I are the numbers of the tensors.
template <class At, class Loss, int kVariant, size_t... I>
__global__ void __launch_bounds__(kThreads, sizeof(typename At::Compute) == sizeof(double) ? Loss::kBlocksInDouble
                                            : At::kCount == 4                              ? Loss::kBlocksOfFour
                                                                                           : 2)
    element_loss_kernel(const __grid_constant__ LossOf<Loss> op, const __grid_constant__ RowMap rows,
                        const typename Loss::template Term<typename At::Compute, kVariant> term, const Chunks chunks) {
  using T = typename At::Compute;
  reduce_losses<At>(op.to, chunks, rows, [&](auto at, const auto& on, auto& loss) {
    constexpr int kCount = decltype(at)::kCount;
    T in[kTensors<Loss>][kCount], slopes[kSlopes<Loss>][kCount];
    (load_input<kTensor<Loss, I>.kind_in(kVariant)>(at, op.inputs[I], kTensor<Loss, I>.missing, in[I]), ...);
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const auto cost = term(T(1), in[I][j]...);
      loss[j] = cost.value;
#pragma unroll
      for (int k = 0; k < kSlopes<Loss>; ++k) slopes[k][j] = on[j] ? cost.slopes[k] : T(0);
    }
#pragma unroll
    for (int k = 0; k < kSlopes<Loss>; ++k) {
      if (op.gradients[k]) at.store_compute(op.gradients[k], slopes[k]);
    }
  });
}

template <class T, class Loss, int kVariant, size_t... I>
void launch_loss(const LossOf<Loss>& op, std::index_sequence<I...>) {
  Layout layout = Layout().bytes(op.to.mask).losses(op.to);
  (lay_out(layout, op.inputs[I], kTensor<Loss, I>.kind_in(kVariant)), ...);
  const auto run = [&](auto tag) {
    using At = typename decltype(tag)::type;
    const Chunks chunks = chunks_of(op.to, int64_t{kThreads} * At::kCount);
    const typename Loss::template Term<T, kVariant> term(op.numbers);
    launch(&element_loss_kernel<At, Loss, kVariant, I...>, chunks.blocks, kThreads, op, layout.row_map(), term, chunks);
    finish_losses<T>(op.to, chunks);
  };
  if constexpr (((kTensor<Loss, I>.kind == kNetwork) || ...)) {
    with_network_access<T>(layout, run);
  } else {
    with_access<T>(layout, run);
  }
}

template <class T, class Loss>
void element_loss(const LossOf<Loss>& op) {
  with_variant(op, [&](auto variant) {
    launch_loss<T, Loss, decltype(variant)::value>(op, std::make_index_sequence<kTensors<Loss>>());
  });
}

}  // namespace

BFN_ELEMENT_LOSSES(BFN_DEFINE_LOSS)

}  // namespace bfn
