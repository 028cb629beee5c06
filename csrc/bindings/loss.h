// What the losses of all families return and take back.
#pragma once

#include "../ops/loss.h"
#include "tensors.h"

namespace bfn {

// The loss and scale that a reduction of `x`-shaped losses makes, and their views.
struct Reduced {
  Tensor loss, scale;
  MaybeTensor workspace;
  LossTarget to;
};
Reduced reduced(const Tensor& x, const MaybeTensor& mask, int64_t reduction, ScalarType type);

// The gradient of the result, which has the shape of a leading part of the variables', times its scale.
Tensor scaled(const Tensor& grad, const MaybeTensor& scale);

}  // namespace bfn
