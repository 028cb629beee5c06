// How the losses of variables are reduced, and where the result is written.
#pragma once

#include "view.h"

namespace bfn {

enum class Reduction : int64_t { kNone, kBatch, kSum, kMean };

struct LossTarget {
  Reduction reduction;
  int64_t batch, per_batch;
  View mask;                  // 0 for a variable whose loss does not count; null if all losses count
  View loss;                  // one number for each variable, for each batch element, or for the whole batch
  View scale;                 // one number, by which the backward pass multiplies the saved gradients
  void* workspace = nullptr;  // scratch memory of loss_workspace() bytes
};

// Returns how many bytes of scratch memory the reduction needs. The CPU and CUDA each define this function.
int64_t loss_workspace(const LossTarget& to);

}  // namespace bfn
