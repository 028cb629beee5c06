// How the losses of variables are reduced, and where the result goes.
#pragma once

#include "view.h"

namespace bfn {

enum class Reduction : int64_t { kNone, kBatch, kSum, kMean };

struct LossTarget {
  Reduction reduction;
  int64_t batch, per_batch;
  View mask;                  // 0 for a variable without a cost; null if all variables have one
  View loss;                  // one number for each variable, one for each batch element, or one in all
  View scale;                 // one number: the gradients of the reduced loss are multiplied by it
  void* workspace = nullptr;  // scratch memory of loss_workspace() bytes
};

// Returns the bytes of scratch memory that the reduction needs. Each implementation of the ops defines this function.
int64_t loss_workspace(const LossTarget& to);

}  // namespace bfn
