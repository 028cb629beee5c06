// Masks and reduces the losses of variables. Each block of variables is summed, and then the sums of the blocks are
// added in order. The blocks do not depend on the number of threads, and so the bits of the result do not, either.
#pragma once

#include <atomic>
#include <vector>

#include "../ops/loss.h"
#include "parallel.h"
#include "range_check.h"
#include "view.h"

namespace bfn {

// The sum of x. It is divided into many partial sums, since in a single sum each addition would wait for the previous
// one.
template <class T>
double sum_of(const T* x, int64_t length) {
  constexpr int64_t kSums = 2 * kLanes;
  double sums[kSums] = {};
  const int64_t whole = length / kSums * kSums;
  for (int64_t i = 0; i < whole; i += kSums) {
    for (int64_t j = 0; j < kSums; ++j) sums[j] += x[i + j];
  }
  for (int64_t i = whole; i < length; ++i) sums[i - whole] += x[i];
  double sum = 0;
  for (const double lane : sums) sum += lane;
  return sum;
}

// The number of losses that count.
inline int64_t counted(const LossTarget& to) {
  const int64_t all = to.batch * to.per_batch;
  if (!to.mask) return all;
  std::atomic<int64_t> count{0};
  for_range(all, kGrain, [&](int64_t begin, int64_t end) {
    uint8_t buffer[kBlock];
    int64_t found = 0;
    for (int64_t start = begin; start < end; start += kBlock) {
      const int64_t length = std::min(kBlock, end - start);
      const uint8_t* mask = load(to.mask, start, length, buffer);
      for (int64_t i = 0; i < length; ++i) found += mask[i] != 0;
    }
    count += found;
  });
  return count;
}

// Returns the number by which the sum of the losses is divided.
inline double divisor_of(const LossTarget& to) {
  return to.reduction == Reduction::kMean ? static_cast<double>(std::max<int64_t>(1, counted(to))) : 1.0;
}

// Returns the factor by which the sum of the losses is multiplied. The forward pass multiplies the gradients by this
// factor, and store_unit_scale stores a scale of 1 for the backward pass.
template <class T>
T known_scale(const LossTarget& to) {
  return static_cast<T>(1 / divisor_of(to));
}

// Stores the scale of gradients that were already multiplied by known_scale.
template <class T>
void store_unit_scale(const LossTarget& to) {
  const T one = 1;
  store(to.scale, 0, 1, &one);
}

// Calls f(start, length, mask, loss, scratch) for each block of variables. f writes the loss of each variable of the
// block. If a variable's mask is 0, its loss is ignored. `mask` is null if there is no mask. A variable has `width`
// numbers, and a block about kBlock numbers. make() makes the scratch memory of a thread. The losses are summed in
// groups: with Reduction::kBatch each batch element is a group, and otherwise all losses are one group.
template <class T, class M, class F>
void reduce_losses(const LossTarget& to, int64_t width, M&& make, F&& f) {
  const int64_t size = block_size(width);
  const bool by_batch = to.reduction == Reduction::kBatch;
  const int64_t groups = by_batch ? to.batch : 1, group_size = by_batch ? to.per_batch : to.batch * to.per_batch;
  const int64_t blocks_per_group = (group_size + size - 1) / size, blocks = groups * blocks_per_group;
  std::vector<double> sums(to.reduction == Reduction::kNone ? 0 : blocks);
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, width * std::min(group_size, size)));
  for_range(blocks, grain, [&](int64_t begin, int64_t end) {
    T buffer[kBlock];
    uint8_t mask_buffer[kBlock];
    auto scratch = make();
    for (int64_t block = begin; block < end; ++block) {
      const int64_t index = block % blocks_per_group, start = block / blocks_per_group * group_size + index * size;
      const int64_t length = std::min(size, group_size - index * size);
      const uint8_t* mask = to.mask ? load(to.mask, start, length, mask_buffer) : nullptr;
      f(start, length, mask, buffer, scratch);
      for (int64_t i = 0; mask && i < length; ++i) buffer[i] = mask[i] ? buffer[i] : T(0);
      if (to.reduction == Reduction::kNone) {
        store(to.loss, start, length, buffer);
        continue;
      }
      sums[block] = sum_of(buffer, length);
    }
  });
  const double divisor = divisor_of(to);
  for (int64_t group = 0; to.reduction != Reduction::kNone && group < groups; ++group) {
    double sum = 0;
    for (int64_t block = 0; block < blocks_per_group; ++block) sum += sums[group * blocks_per_group + block];
    const T value = static_cast<T>(sum / divisor);
    store(to.loss, group, 1, &value);
  }
  const T scale = static_cast<T>(1 / divisor);
  store(to.scale, 0, 1, &scale);
}

// The gradients of a block's variables, which the forward pass saves. The caller writes them to `out`, and then calls
// write(). write() sets the gradient of a variable to 0 if its mask is 0. If the view is null, nothing is saved.
template <class T>
struct SavedGradient {
  const View& to;
  int64_t start, length;
  const uint8_t* mask;
  T buffer[kBlock];
  T* out;

  SavedGradient(const View& view, int64_t first, int64_t count, const uint8_t* mask_or_null)
      : to(view), start(first), length(count), mask(mask_or_null), out(view ? target(view, first, buffer) : buffer) {}
  void write() {
    if (!to) return;
    for (int64_t i = 0; mask && i < length; ++i) out[i] = mask[i] ? out[i] : T(0);
    store(to, start, length, out);
  }
};

}  // namespace bfn
