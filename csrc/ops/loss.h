// How the losses of variables are reduced, and where the result goes.
#pragma once

#include "view.h"

namespace bfn {

enum class Reduction : int64_t { kNone, kBatch, kSum, kMean };

struct LossTarget {
  Reduction reduction;
  int64_t batch, per_batch;
  View mask;                  // 0 where a variable costs nothing; a null view leaves none out
  View loss;                  // per variable, `[batch]` or one number
  View scale;                 // one number, by which gradients of the reduced loss are multiplied
  void* workspace = nullptr;  // loss_workspace() bytes
};

// Bytes of scratch memory that the reduction needs; each implementation of the ops defines it.
int64_t loss_workspace(const LossTarget& to);

}  // namespace bfn
