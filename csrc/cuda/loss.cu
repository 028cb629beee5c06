#include "loss.h"

namespace bfn {
namespace {

// Each block adds the partial sums of one group.
template <class T>
__global__ void finish_kernel(const __grid_constant__ LossTarget to, int64_t per_group, int64_t variables) {
  const PartialSum* partial = static_cast<const PartialSum*>(to.workspace) + blockIdx.x * per_group;
  double sum = 0;
  int64_t count = 0;
  for (int64_t i = threadIdx.x; i < per_group; i += blockDim.x) {
    sum += partial[i].sum;
    count += partial[i].count;
  }
  sum = block_sum(sum);
  count = to.mask ? block_sum(count) : variables;
  if (threadIdx.x != 0) return;
  const double divisor = to.reduction == Reduction::kMean && count > 0 ? static_cast<double>(count) : 1.0;
  if (to.reduction != Reduction::kNone) static_cast<T*>(to.loss.data)[blockIdx.x] = static_cast<T>(sum / divisor);
  if (blockIdx.x == 0) *static_cast<T*>(to.scale.data) = static_cast<T>(1 / divisor);
}

}  // namespace

int64_t loss_workspace(const LossTarget& to) {
  if (to.reduction == Reduction::kNone) return 0;
  return chunks_of(to, 1).blocks * static_cast<int64_t>(sizeof(PartialSum));
}

template <class T>
void finish_losses(const LossTarget& to, const Chunks& chunks) {
  // If each batch element was summed by one block, only the scale is missing. A batch element without variables has no
  // chunks, and its sum of 0 is written here.
  const bool by_batch = to.reduction == Reduction::kBatch, summed = by_batch && chunks.per_group == 1;
  LossTarget target = to;
  if (summed) target.reduction = Reduction::kNone;
  const int64_t per_group = target.reduction == Reduction::kNone ? 0 : chunks.per_group;
  launch(&finish_kernel<T>, by_batch && !summed ? to.batch : 1, per_group > 32 ? kThreads : 32, target, per_group,
         to.batch * to.per_batch);
}

BFN_INSTANTIATE(finish_losses, const LossTarget&, const Chunks&);

}  // namespace bfn
