// Masks and reduces the losses of variables. Each block sums a chunk of variables, whose size does not depend on the
// device. A second kernel adds the sums of the chunks in order, so that every run gives the same bits.
#pragma once

#include <algorithm>

#include "../ops/loss.h"
#include "access.h"

namespace bfn {

struct PartialSum {
  double sum;
  int64_t count;
};

// The losses are summed in parts: a part for each batch element, or one part in all. row: the losses of a part. size:
// the losses of a chunk. pieces: the chunks of a part. blocks: all chunks.
struct Chunks {
  int64_t row, size, pieces, blocks;
};

// The size of a chunk is a multiple of `align`, the number of variables that threads work on together. There are about
// 2^10 chunks, of at most 2^15 variables each.
inline Chunks chunks_of(const LossTarget& to, int64_t align) {
  const bool by_batch = to.reduction == Reduction::kBatch;
  const int64_t all = to.batch * to.per_batch, rows = by_batch ? to.batch : 1, row = by_batch ? to.per_batch : all;
  const int64_t size = align * std::clamp<int64_t>(ceil_div(all, 1024 * align), 1, 32768 / align);
  const int64_t pieces = ceil_div(row, size);
  return {row, size, pieces, rows * pieces};
}

struct Range {
  int64_t begin, end;
};

// Returns the variables of this block.
__device__ inline Range range_of(const Chunks& chunks) {
  const uint32_t pieces = static_cast<uint32_t>(chunks.pieces), piece = blockIdx.x % pieces;
  const int64_t first = blockIdx.x / pieces * chunks.row, begin = first + int64_t{piece} * chunks.size;
  return {begin, piece + 1 == pieces ? first + chunks.row : begin + chunks.size};
}

// Writes the sum of a block to the partial sums or, if a part has only this chunk, to the loss itself.
template <class T>
__device__ void finish_block(const LossTarget& to, const Chunks& chunks, double sum, int32_t count) {
  if (to.reduction == Reduction::kNone) return;
  sum = block_sum(sum);
  if (to.reduction == Reduction::kMean && to.mask) count = block_sum(count);
  if (threadIdx.x != 0) return;
  if (to.reduction == Reduction::kBatch && chunks.pieces == 1) {
    static_cast<T*>(to.loss.data)[blockIdx.x] = static_cast<T>(sum);
  } else {
    static_cast<PartialSum*>(to.workspace)[blockIdx.x] = {sum, count};
  }
}

// The sum and the count of a thread's losses.
struct LossSum {
  double sum = 0;
  int32_t count = 0;

  // Adds the losses of a pack. Where the mask is 0, a loss counts as 0.
  template <class At>
  __device__ void add(const LossTarget& to, const At& at, const bool (&on)[At::kCount],
                      typename At::Compute (&loss)[At::kCount]) {
    typename At::Compute of_pack = 0;
#pragma unroll
    for (int j = 0; j < At::kCount; ++j) {
      loss[j] = on[j] ? loss[j] : 0;
      of_pack += loss[j];
      count += on[j];
    }
    sum += of_pack;
    if (to.reduction == Reduction::kNone) at.store_own(to.loss, loss);
  }
};

// Calls f(at, on, loss) for the packs of the block's chunk. f writes the losses of a pack.
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

// Does the same in rounds (for_rounds): calls f(at, there, on, loss).
template <class At, class F>
__device__ void reduce_losses_in_rounds(const LossTarget& to, const Chunks& chunks, const RowMap& rows, F&& f) {
  const Range range = range_of(chunks);
  LossSum sum;
  for_rounds<At>(range.begin, range.end, threadIdx.x, blockDim.x, rows, [&](auto at, bool there) {
    typename At::Compute loss[At::kCount];
    bool on[At::kCount];
    at.mask(to.mask, on);
    f(at, there, on, loss);
    if (there) sum.add(to, at, on, loss);
  });
  finish_block<typename At::Compute>(to, chunks, sum.sum, sum.count);
}

// Launches the kernel that adds the partial sums and writes the loss and its scale.
template <class T>
void finish_losses(const LossTarget& to, const Chunks& chunks);

}  // namespace bfn
