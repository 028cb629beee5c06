// Where the losses of variables go.
#pragma once

#include "view.h"

namespace bfn {

enum class Reduction : int64_t { kNone, kBatch, kSum, kMean };

struct LossTarget {
  Reduction reduction;
  int64_t batch, per_batch;
  View mask;                  // 0 where a variable costs nothing
  View loss;                  // per variable, `[batch]` or one number
  View scale;                 // one number: what gradients of the reduced loss are to be multiplied by
  void* workspace = nullptr;  // loss_workspace() bytes
};

// What the reduction needs beside its result; each implementation of the ops defines it.
int64_t loss_workspace(const LossTarget& to);

}  // namespace bfn
