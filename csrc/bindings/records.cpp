#include "records.h"

#include "../ops/continuous.h"
#include "operators.h"

namespace bfn::bindings {

Reduced LossTarget::over(const Tensor& x, ScalarType type) const {
  const Shape shape = shape_of(x);
  check(!shape.empty(), "x", " must have a batch dimension");
  const Reduction by = code("reduction", reduction, Reduction::kMean);
  const int64_t batch = shape[0], per_batch = numel(Shape(shape.begin() + 1, shape.end()));
  const Shape out = by == Reduction::kNone ? shape : by == Reduction::kBatch ? Shape{batch} : Shape{};
  Output loss = output(x, out, type), scale = output(x, {}, type);
  bfn::LossTarget to{
      .reduction = by,
      .batch = batch,
      .per_batch = per_batch,
      .mask = view("mask", mask, shape),
      .loss = loss.view,
      .scale = scale.view,
  };
  MaybeTensor workspace;
  if (const int64_t bytes = loss_workspace(to)) {
    workspace = new_tensor(x, {bytes}, ScalarType::Byte);
    to.workspace = workspace->mutable_data_ptr();
  }
  return {std::move(loss.tensor), std::move(scale.tensor), std::move(workspace), to};
}

// x times the scales, of which there are as many as it has leading dimensions.
static Tensor times(const Tensor& x, const View& scale, const Output& out) {
  const Shape shape = shape_of(x);
  const GaussianStep op{.count = numel(shape), .state = view("x", x, shape), .state_scale = scale, .out = out.view};
  compute(x.scalar_type(), op, BFN_KERNEL(gaussian_step));
  return out.tensor;
}

Tensor scaled(const Tensor& grad, const MaybeTensor& scale) {
  if (!scale || grad.dim() > 0) return grad;  // only a mean has a scale that is not 1
  return times(grad, view("scale", scale, {}), output(grad, {}, grad.scalar_type()));
}

// The gradient that the forward pass saved, which may have several numbers per variable, times that of the loss.
static Tensor scaled_gradient_new(const Tensor& saved, const Tensor& grad, const MaybeTensor& scale, ScalarType dtype) {
  const Tensor factor = scaled(grad, scale);
  return times(saved, leading_view("grad", factor, shape_of(saved)), output_like(saved, dtype));
}

BFN_OPERATORS(m) { add<&scaled_gradient_new>(m, "common_scaled_gradient"); }

}  // namespace bfn::bindings
