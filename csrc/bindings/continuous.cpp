#include "../ops/continuous.h"

#include "operators.h"
#include "records.h"

namespace bfn::bindings {
namespace {

struct Prediction {
  Tensor prediction;
  MaybeTensor mean, mean_scale, noise_scale;
  double low, high;
  auto fields() const { return std::tie(prediction, mean, mean_scale, noise_scale, low, high); }

  bfn::Prediction over(const Shape& shape, ScalarType type) const {
    return {
        .prediction = view("prediction", prediction, shape),
        .mean = view("mean", mean, shape),
        .mean_scale = view_of_rows("mean_scale", mean_scale, shape, type),
        .noise_scale = view_of_rows("noise_scale", noise_scale, shape, type),
        .low = low,
        .high = high,
    };
  }
};

auto gaussian_step_new(Given state, Maybe state_scale, Maybe data, Maybe data_scale, Maybe noise_scale,
                       const Noise& noise, const Out& to) {
  const Shape shape = shape_of(state);
  const ScalarType type = compute_type(state, data);
  const Tensor out = to.or_like(state);
  const GaussianStep op{
      .count = numel(shape),
      .state = view("state", state, shape),
      .state_scale = view_of_rows("state_scale", state_scale, shape, type),
      .data = view("data", data, shape),
      .data_scale = view_of_rows("data_scale", data_scale, shape, type),
      .noise_scale = view_of_rows("noise_scale", noise_scale, shape, type),
      .noise = noise.over(shape, kSender, noise_scale.has_value()),
      .out = view_of_out(out, shape),
  };
  return compute(type, op, BFN_KERNEL(gaussian_step), out);
}

auto step(const Prediction& network, const Solver& solver, Maybe known, Maybe known_mask, const Noise& noise,
          const Out& to, Maybe predicted_out) {
  Given mean = given("mean", network.mean);
  const Shape shape = shape_of(mean);
  const ScalarType type = compute_type(network.prediction, mean, solver.previous);
  const Tensor out = to.or_like(mean);
  const ContinuousUpdate op{
      .count = numel(shape),
      .from = network.over(shape, type),
      .solver = solver.over(shape, shape, type, predicted_out),
      .known = view("known", known, shape),
      .known_mask = view("known_mask", known_mask, shape),
      .noise = noise.over(shape, kSender, solver.std.has_value()),
      .out = view_of_out(out, shape),
  };
  return compute(type, op, BFN_KERNEL(continuous_update), out);
}

auto predict_data_new(const Prediction& network) {
  const Shape shape = shape_of(network.prediction);
  const ScalarType type = compute_type(network.prediction, network.mean);
  const Output out = output_like(network.prediction);
  const PredictData op{.count = numel(shape), .from = network.over(shape, type), .out = out.view};
  return compute(type, op, BFN_KERNEL(predict_data), out.tensor);
}

auto predict_data_backward_new(Given grad, const Prediction& network, bool want_prediction, bool want_mean) {
  const Shape shape = shape_of(network.prediction);
  const ScalarType type = compute_type(network.prediction, network.mean);
  const Output grad_prediction = output_like(network.prediction, want_prediction);
  const Output grad_mean = output_like(network.mean ? *network.mean : network.prediction, want_mean);
  const PredictDataBackward op{
      .count = numel(shape),
      .grad = view("grad", grad, shape),
      .from = network.over(shape, type),
      .grad_prediction = grad_prediction.view,
      .grad_mean = grad_mean.view,
  };
  return compute(type, op, BFN_KERNEL(predict_data_backward), grad_prediction.tensor, grad_mean.tensor);
}

// Multiplies x by `scale`, a view with the shape of x.
auto times(Given x, const View& scale, const Output& out) {
  const Shape shape = shape_of(x);
  const GaussianStep op{.count = numel(shape), .state = view("x", x, shape), .state_scale = scale, .out = out.view};
  return compute(x.scalar_type(), op, BFN_KERNEL(gaussian_step), out.tensor);
}

// Multiplies the gradient that the forward pass saved by the gradient of the loss. The saved gradient may have several
// numbers for each variable.
auto scaled_gradient_new(Given saved, Given grad, Maybe scale, ScalarType dtype) {
  const Tensor factor = scaled(grad, scale);
  return times(saved, leading_view("grad", factor, shape_of(saved)), output_like(saved, dtype));
}

BFN_OPERATORS(m) {
  add<&scaled_gradient_new>(m, "common_scaled_gradient");
  add<&gaussian_step_new, 1>(m, "continuous_gaussian_step");
  add<&step, 2>(m, "continuous_step");
  add<&predict_data_new>(m, "continuous_predict_data");
  add<&predict_data_backward_new>(m, "continuous_predict_data_backward");
}

}  // namespace

Tensor scaled(Given grad, Maybe scale) {
  if (!scale || grad.dim() > 0) return grad;  // only a mean has a scale other than 1
  return std::get<0>(times(grad, view("scale", scale, {}), output(grad, {}, grad.scalar_type())));
}

}  // namespace bfn::bindings
