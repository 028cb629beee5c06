#include "../ops/continuous.h"

#include "operators.h"
#include "records.h"

namespace bfn {
namespace {

void gaussian_step_out(const Tensor& state, const MaybeTensor& state_scale, const MaybeTensor& data,
                       const MaybeTensor& data_scale, const MaybeTensor& noise_scale, const MaybeTensor& seed,
                       const MaybeTensor& noise, Tensor out) {
  const Shape shape = shape_of(state);
  const ScalarType type = compute_type({&state, get(data)});
  const GaussianStep op{
      .count = numel(shape),
      .state = view("state", state, shape),
      .state_scale = view_of_rows("state_scale", state_scale, shape, type),
      .data = view("data", data, shape),
      .data_scale = view_of_rows("data_scale", data_scale, shape, type),
      .noise_scale = view_of_rows("noise_scale", noise_scale, shape, type),
      .noise = noise_scale ? noise_of(seed, noise, shape, kSender) : Noise{},
      .out = view_of_out(out, shape),
  };
  compute(type, op, BFN_KERNEL(gaussian_step));
}

Prediction predicted(const Tensor& prediction, const MaybeTensor& mean, const MaybeTensor& mean_scale,
                     const MaybeTensor& noise_scale, double low, double high, const Shape& shape, ScalarType type) {
  return {
      .prediction = view("prediction", prediction, shape),
      .mean = view("mean", mean, shape),
      .mean_scale = view_of_rows("mean_scale", mean_scale, shape, type),
      .noise_scale = view_of_rows("noise_scale", noise_scale, shape, type),
      .low = low,
      .high = high,
  };
}

void step_out(const Tensor& prediction, const MaybeTensor& mean, const MaybeTensor& mean_scale,
              const MaybeTensor& noise_scale, double low, double high, const MaybeTensor& keep, const Tensor& take,
              const MaybeTensor& std, const MaybeTensor& previous, const MaybeTensor& extrapolation,
              const MaybeTensor& known, const MaybeTensor& known_mask, const MaybeTensor& seed,
              const MaybeTensor& noise, Tensor out, const MaybeTensor& predicted_out) {
  const Shape shape = shape_of(given("mean", mean));
  const ScalarType type = compute_type({&prediction, get(mean), get(previous)});
  const ContinuousUpdate op{
      .count = numel(shape),
      .from = predicted(prediction, mean, mean_scale, noise_scale, low, high, shape, type),
      .keep = view_of_rows("keep", keep, shape, type),
      .take = view_of_rows("take", take, shape, type),
      .noise_scale = view_of_rows("std", std, shape, type),
      .known = view("known", known, shape),
      .known_mask = view("known_mask", known_mask, shape),
      .noise = std ? noise_of(seed, noise, shape, kSender) : Noise{},
      .out = view_of_out(out, shape),
      .solver = solver_of({}, previous, extrapolation, predicted_out, shape, shape, type),
  };
  compute(type, op, BFN_KERNEL(continuous_update));
}

Tensor predict_data_new(const Tensor& prediction, const MaybeTensor& mean, const MaybeTensor& mean_scale,
                        const MaybeTensor& noise_scale, double low, double high) {
  const Shape shape = shape_of(prediction);
  const ScalarType type = compute_type({&prediction, get(mean)});
  const Output out = output_like(prediction);
  const Prediction from = predicted(prediction, mean, mean_scale, noise_scale, low, high, shape, type);
  const PredictData op{.count = numel(shape), .from = from, .out = out.view};
  compute(type, op, BFN_KERNEL(predict_data));
  return out.tensor;
}

std::tuple<Tensor, Tensor> predict_data_backward_new(const Tensor& grad, const Tensor& prediction,
                                                     const MaybeTensor& mean, const MaybeTensor& mean_scale,
                                                     const MaybeTensor& noise_scale, double low, double high,
                                                     bool want_prediction, bool want_mean) {
  const Shape shape = shape_of(prediction);
  const ScalarType type = compute_type({&prediction, get(mean)});
  const Output grad_prediction = output_like(prediction, want_prediction);
  const Output grad_mean = output_like(mean ? *mean : prediction, want_mean);
  const PredictDataBackward op{
      .count = numel(shape),
      .grad = view("grad", grad, shape),
      .from = predicted(prediction, mean, mean_scale, noise_scale, low, high, shape, type),
      .grad_prediction = grad_prediction.view,
      .grad_mean = grad_mean.view,
  };
  compute(type, op, BFN_KERNEL(predict_data_backward));
  return {grad_prediction.tensor, grad_mean.tensor};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> squared_loss_new(
    const Tensor& x, const Tensor& prediction, const MaybeTensor& mean, const MaybeTensor& mean_scale,
    const MaybeTensor& noise_scale, double low, double high, const Tensor& weight, const MaybeTensor& offset,
    const MaybeTensor& mask, int64_t reduction, bool need_x, bool need_prediction, bool need_mean) {
  const Shape shape = shape_of(x);
  const ScalarType type = compute_type({&x, &prediction, get(mean)});
  const Reduced to = reduced(x, mask, reduction, type);
  const Output grad_x = output_like(x, type, need_x), grad_prediction = output_like(prediction, type, need_prediction);
  const Output grad_mean = output_like(mean ? *mean : x, type, need_mean);
  const SquaredLoss op{
      .x = view("x", x, shape),
      .from = predicted(prediction, mean, mean_scale, noise_scale, low, high, shape, type),
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

}  // namespace
}  // namespace bfn

BFN_OPERATORS(m) {
  bfn::add_both<&bfn::gaussian_step_out, 0>(m, "continuous_gaussian_step", "continuous_gaussian_step_out");
  bfn::add_both<&bfn::step_out, 1, 1>(m, "continuous_step", "continuous_step_out");
  bfn::add<&bfn::predict_data_new>(m, "continuous_predict_data");
  bfn::add<&bfn::predict_data_backward_new>(m, "continuous_predict_data_backward");
  bfn::add<&bfn::squared_loss_new>(m, "continuous_squared_loss");
}
