// Masks and reduces the losses of variables. Each block sums a chunk of variables. The size of a chunk does not depend
// on the device. If a result is the sum of several chunks, a second kernel adds their sums in a fixed order. So every
// run gives the same bits.
#pragma once

#include <algorithm>

#include "../ops/loss.h"
#include "access.h"
#include "team.h"

namespace bfn {

struct PartialSum {
  double sum;
  int64_t count;  // of losses; only for Reduction::kMean with a mask
};

// How the variables are divided. With Reduction::kBatch, each batch element is a group, whose losses are summed.
// Otherwise all variables are one group. A group consists of chunks, and each block of the grid sums one chunk.
struct Chunks {
  int64_t group_size, size;   // variables in a group, and in a chunk; the last chunk of a group may have fewer
  int64_t per_group, blocks;  // chunks in a group, and in all groups
};

// The size of a chunk is a multiple of `align`, the number of variables that a block works on at a time. It is the
// least size with which all variables together fill at most 2^10 chunks, but at most 2^15, rounded up. So there are
// never more chunks than with an `align` of 1, for which loss_workspace makes room.
inline Chunks chunks_of(const LossTarget& to, int64_t align) {
  const bool by_batch = to.reduction == Reduction::kBatch;
  const int64_t all = to.batch * to.per_batch, groups = by_batch ? to.batch : 1;
  const int64_t group_size = by_batch ? to.per_batch : all;
  const int64_t size = align * std::clamp<int64_t>(ceil_div(all, 1024 * align), 1, ceil_div(32768, align));
  const int64_t per_group = ceil_div(group_size, size);
  return {group_size, size, per_group, groups * per_group};
}

struct Range {
  int64_t begin, end;
};

// Returns the variables of this block's chunk.
__device__ inline Range range_of(const Chunks& chunks) {
  const uint32_t per_group = static_cast<uint32_t>(chunks.per_group);
  const uint32_t group = gridDim.x == per_group ? 0 : blockIdx.x / per_group;  // usually without a division
  const uint32_t index = blockIdx.x - group * per_group;
  const int64_t first = group * chunks.group_size, begin = first + int64_t{index} * chunks.size;
  return {begin, index + 1 == per_group ? first + chunks.group_size : begin + chunks.size};
}

// Writes the sum of a block's chunk. If the chunk is a whole batch element, the sum is the loss. Otherwise it is a
// partial sum. With Reduction::kNone the function writes nothing.
template <class T>
__device__ void finish_block(const LossTarget& to, const Chunks& chunks, double sum, int32_t count) {
  if (to.reduction == Reduction::kNone) return;
  sum = block_sum(sum);
  if (to.reduction == Reduction::kMean && to.mask) count = block_sum(count);
  if (threadIdx.x != 0) return;
  if (to.reduction == Reduction::kBatch && chunks.per_group == 1) {
    static_cast<T*>(to.loss.data)[blockIdx.x] = static_cast<T>(sum);
  } else {
    static_cast<PartialSum*>(to.workspace)[blockIdx.x] = {sum, count};
  }
}

// The sum of a thread's losses, and the number of losses that count.
struct LossSum {
  double sum = 0;
  int32_t count = 0;

  // Adds the losses of a pack. A loss whose mask is 0 is replaced by 0. With Reduction::kNone the losses are also
  // written.
  template <class At>
  __device__ void add(const LossTarget& to, const At& at, const bool (&on)[At::kCount],
                      typename At::Compute (&loss)[At::kCount]) {
    typename At::Compute of_pack = 0;
    if (to.mask) {
#pragma unroll
      for (int j = 0; j < At::kCount; ++j) {
        loss[j] = on[j] ? loss[j] : 0;
        count += on[j];
      }
    }
#pragma unroll
    for (int j = 0; j < At::kCount; ++j) of_pack += loss[j];
    sum += of_pack;
    if (to.reduction == Reduction::kNone) at.store_compute(to.loss, loss);
  }
};

// Calls f(at, on, loss) for the packs of the block's chunk. `on` is the mask of the pack. f writes the pack's losses to
// `loss`.
template <class At, class F>
__device__ void reduce_losses(const LossTarget& to, const Chunks& chunks, const RowMap& rows, F&& f) {
  const Range range = range_of(chunks);
  LossSum sum;
  for_packs<At>(range.begin, range.end, threadIdx.x, blockDim.x, rows, [&](auto at) {
    constexpr int kCount = decltype(at)::kCount;
    typename At::Compute loss[kCount];
    bool on[kCount];
    at.mask(to.mask, on);
    f(at, on, loss);
    sum.add(to, at, on, loss);
  });
  finish_block<typename At::Compute>(to, chunks, sum.sum, sum.count);
}

// Like reduce_losses, but calls f(at, active, on, loss) in rounds, as for_rounds does.
template <class At, class F>
__device__ void reduce_losses_in_rounds(const LossTarget& to, const Chunks& chunks, const RowMap& rows, F&& f) {
  const Range range = range_of(chunks);
  LossSum sum;
  for_rounds<At>(range.begin, range.end, threadIdx.x, blockDim.x, rows, [&](auto at, bool active) {
    typename At::Compute loss[At::kCount];
    bool on[At::kCount];
    at.mask(to.mask, on);
    f(at, active, on, loss);
    if (active) sum.add(to, at, on, loss);
  });
  finish_block<typename At::Compute>(to, chunks, sum.sum, sum.count);
}

// Launches a kernel that adds the partial sums, writes the loss unless it is complete, and writes to.scale.
template <class T>
void finish_losses(const LossTarget& to, const Chunks& chunks);

}  // namespace bfn
