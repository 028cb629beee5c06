#include "../ops/continuous.h"

#include "operators.h"
#include "records.h"

namespace bfn::bindings {
namespace {

struct Prediction {
  const Tensor& prediction;
  const MaybeTensor &mean, &mean_scale, &noise_scale;
  double low, high;
  auto fields() const { return std::tie(prediction, mean, mean_scale, noise_scale, low, high); }

  const Tensor& state() const { return given("mean", mean); }
  ScalarType type_with(const Tensor* x) const { return compute_type({x, &prediction, get(mean)}); }
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

void gaussian_step_out(const Tensor& state, const MaybeTensor& state_scale, const MaybeTensor& data,
                       const MaybeTensor& data_scale, const MaybeTensor& noise_scale, const Noise& noise,
                       const Tensor& out) {
  const Shape shape = shape_of(state);
  const ScalarType type = compute_type({&state, get(data)});
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
  compute(type, op, BFN_KERNEL(gaussian_step));
}

void step_out(const Prediction& network, const Solver& solver, const MaybeTensor& known, const MaybeTensor& known_mask,
              const Noise& noise, const Tensor& out, const MaybeTensor& predicted_out) {
  const Shape shape = shape_of(network.state());
  const ScalarType type = network.type_with(get(solver.previous));
  const ContinuousUpdate op{
      .count = numel(shape),
      .from = network.over(shape, type),
      .solver = solver.over(shape, shape, type, predicted_out),
      .known = view("known", known, shape),
      .known_mask = view("known_mask", known_mask, shape),
      .noise = noise.over(shape, kSender, solver.std.has_value()),
      .out = view_of_out(out, shape),
  };
  compute(type, op, BFN_KERNEL(continuous_update));
}

Tensor predict_data_new(const Prediction& network) {
  const Shape shape = shape_of(network.prediction);
  const ScalarType type = network.type_with(nullptr);
  const Output out = output_like(network.prediction);
  const PredictData op{.count = numel(shape), .from = network.over(shape, type), .out = out.view};
  compute(type, op, BFN_KERNEL(predict_data));
  return out.tensor;
}

std::tuple<Tensor, Tensor> predict_data_backward_new(const Tensor& grad, const Prediction& network,
                                                     bool want_prediction, bool want_mean) {
  const Shape shape = shape_of(network.prediction);
  const ScalarType type = network.type_with(nullptr);
  const Output grad_prediction = output_like(network.prediction, want_prediction);
  const Output grad_mean = output_like(network.mean ? *network.mean : network.prediction, want_mean);
  const PredictDataBackward op{
      .count = numel(shape),
      .grad = view("grad", grad, shape),
      .from = network.over(shape, type),
      .grad_prediction = grad_prediction.view,
      .grad_mean = grad_mean.view,
  };
  compute(type, op, BFN_KERNEL(predict_data_backward));
  return {grad_prediction.tensor, grad_mean.tensor};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> squared_loss_new(const Tensor& x, const Prediction& network,
                                                                    const Tensor& weight, const MaybeTensor& offset,
                                                                    const LossTarget& target, bool need_x,
                                                                    bool need_prediction, bool need_mean) {
  const Shape shape = shape_of(x);
  const ScalarType type = network.type_with(&x);
  const Reduced to = target.over(x, type);
  const Output grad_x = output_like(x, type, need_x);
  const Output grad_prediction = output_like(network.prediction, type, need_prediction);
  const Output grad_mean = output_like(network.mean ? *network.mean : x, type, need_mean);
  const SquaredLoss op{
      .x = view("x", x, shape),
      .from = network.over(shape, type),
      .weight = view_of_rows("weight", weight, shape, type),
      .offset = view_of_rows("offset", offset, shape, type),
      .grad_x = grad_x.view,
      .grad_prediction = grad_prediction.view,
      .grad_mean = grad_mean.view,
      .to = to.to,
  };
  compute(type, op, BFN_KERNEL(squared_loss));
  return {to.loss, to.scale, grad_x.tensor, grad_prediction.tensor, grad_mean.tensor};
}

BFN_OPERATORS(m) {
  add_both<&gaussian_step_out, 0>(m, "continuous_gaussian_step", "continuous_gaussian_step_out");
  add_both<&step_out, 0, 1>(m, "continuous_step", "continuous_step_out");
  add<&predict_data_new>(m, "continuous_predict_data");
  add<&predict_data_backward_new>(m, "continuous_predict_data_backward");
  add<&squared_loss_new>(m, "continuous_squared_loss");
}

}  // namespace
}  // namespace bfn::bindings
