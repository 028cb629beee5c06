// These functions turn arguments that belong together into the structs of csrc/ops, for all families. The records of
// bfn_kernels/records.py have the same fields.
#pragma once

#include "../ops/loss.h"
#include "../ops/solver.h"
#include "tensors.h"

namespace bfn {

// The draws or nodes of an expectation over data of this shape; explicit noise has one draw per leading index.
Draws draws_of(const Doubles& nodes, const Doubles& node_weights, int64_t n_samples, const MaybeTensor& seed,
               const MaybeTensor& noise, Shape shape);

// The loss and scale that a reduction of `x`-shaped losses makes, and their views.
struct Reduced {
  Tensor loss, scale;
  MaybeTensor workspace;
  LossTarget to;
};
Reduced reduced(const Tensor& x, const MaybeTensor& mask, int64_t reduction, ScalarType type);

// The gradient of the result, which has the shape of a leading part of the variables', times its scale.
Tensor scaled(const Tensor& grad, const MaybeTensor& scale);

// `rows` is the shape that row scalars broadcast to, `shape` that of the state.
inline Solver solver_of(const MaybeTensor& state_scale, const MaybeTensor& previous, const MaybeTensor& extrapolation,
                        const MaybeTensor& predicted_out, const Shape& rows, const Shape& shape, ScalarType type) {
  check(previous.has_value() == extrapolation.has_value(), "previous and extrapolation", " must be given together");
  return {
      .on = state_scale || previous || predicted_out,
      .state_scale = view_of_rows("state_scale", state_scale, rows, type),
      .previous = view("previous", previous, shape),
      .extrapolation = view_of_rows("extrapolation", extrapolation, rows, type),
      .prediction = view_of_out(predicted_out, shape),
  };
}

inline Guidance guidance_of(const MaybeTensor& logit_scale, const MaybeTensor& unconditional,
                            const MaybeTensor& unconditional_scale, const Shape& rows, const Shape& shape,
                            ScalarType type) {
  check(unconditional.has_value() == unconditional_scale.has_value(), "unconditional and unconditional_scale",
        " must be given together");
  return {
      .logit_scale = view_of_rows("logit_scale", logit_scale, rows, type),
      .unconditional = view("unconditional", unconditional, shape),
      .unconditional_scale = view_of_rows("unconditional_scale", unconditional_scale, rows, type),
  };
}

}  // namespace bfn
