#include "loss.h"

namespace bfn {
namespace {

template <class T>
__global__ void finish_kernel(const __grid_constant__ LossTarget to, int64_t pieces, int64_t variables) {
  const PartialSum* partial = static_cast<const PartialSum*>(to.workspace) + blockIdx.x * pieces;
  double sum = 0;
  int64_t count = 0;
  for (int64_t i = threadIdx.x; i < pieces; i += blockDim.x) {
    sum += partial[i].sum;
    count += partial[i].count;
  }
  sum = block_sum(sum);
  count = to.mask ? block_sum(count) : variables;
  if (threadIdx.x != 0) return;
  const double by = to.reduction == Reduction::kMean && count > 0 ? static_cast<double>(count) : 1.0;
  if (to.reduction != Reduction::kNone) static_cast<T*>(to.loss.data)[blockIdx.x] = static_cast<T>(sum / by);
  if (blockIdx.x == 0) *static_cast<T*>(to.scale.data) = static_cast<T>(1 / by);
}

}  // namespace

int64_t loss_workspace(const LossTarget& to) {
  if (to.reduction == Reduction::kNone) return 0;
  return chunks_of(to, 1).blocks * static_cast<int64_t>(sizeof(PartialSum));
}

template <class T>
void finish_losses(const LossTarget& to, const Chunks& chunks) {
  // Batch elements without variables have a sum of 0. If one block summed each batch element, only the scale is
  // missing.
  const bool by_batch = to.reduction == Reduction::kBatch, summed = by_batch && chunks.pieces == 1;
  LossTarget target = to;
  if (summed) target.reduction = Reduction::kNone;
  const int64_t pieces = target.reduction == Reduction::kNone ? 0 : chunks.pieces;
  launch(&finish_kernel<T>, by_batch && !summed ? to.batch : 1, pieces > 32 ? kThreads : 32, target, pieces,
         to.batch * to.per_batch);
}

BFN_INSTANTIATE(finish_losses, const LossTarget&, const Chunks&);

}  // namespace bfn
