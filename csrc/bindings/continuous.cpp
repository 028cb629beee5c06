#include "../ops/continuous.h"

#include "loss.h"
#include "numbers.h"
#include "operators.h"

namespace bfn {
namespace {

void gaussian_step_out(const Tensor& state, const MaybeTensor& data, const Tensors& rows, int64_t which,
                       const Doubles& by, const MaybeTensor& seed, const MaybeTensor& noise, Tensor out) {
  const Shape shape = shape_of(state);
  const ScalarType type = compute_type({&state, get(data)});
  const Numbers numbers(rows, which, by, shape, type);
  GaussianStep op{numel(shape),
                  view("state", state, shape),
                  numbers.of({RowNumber::kGamma, RowNumber::kKeep}),
                  view("data", data, shape),
                  numbers.of({RowNumber::kTake}),
                  numbers.of({RowNumber::kFlowStd, RowNumber::kUpdateStd, RowNumber::kSenderStd}),
                  {},
                  view_of_out(out, shape)};
  if (!data && op.b) std::swap(op.a, op.b);  // the backward pass of the data: its number scales the state
  if (op.std) op.noise = noise_of(seed, noise, shape, kSender);
  with_compute_type(type, [&](auto t) { gaussian_step<decltype(t)>(op); });
}

Tensor gaussian_step_new(const Tensor& state, const MaybeTensor& data, const Tensors& rows, int64_t which,
                         const Doubles& by, const MaybeTensor& seed, const MaybeTensor& noise) {
  Tensor out = new_like(state);
  gaussian_step_out(state, data, rows, which, by, seed, noise, out);
  return out;
}

Prediction prediction_of(const Tensor& prediction, const MaybeTensor& mean, const Numbers& numbers, double low,
                         double high) {
  const Shape shape = shape_of(prediction);
  return {view("prediction", prediction, shape),
          view("mean", mean, shape),
          numbers.of({RowNumber::kMeanScale}),
          numbers.of({RowNumber::kNoiseScale}),
          low,
          high};
}

View weight_of(const Numbers& numbers) {
  return numbers.of({RowNumber::kRate, RowNumber::kAlpha, RowNumber::kHalfPrecision});
}

// A gradient's tensor, empty where it is not needed, and its view.
struct Gradient {
  Tensor tensor;
  View out;

  Gradient(const Tensor& of, bool needed) : tensor(needed ? new_like(of) : new_tensor(of, {0}, of.scalar_type())) {
    if (needed) out = view("gradient", tensor, shape_of(of));
  }
};

Tensor predict_data_new(const Tensor& prediction, const MaybeTensor& mean, const Tensors& rows, int64_t which,
                        const Doubles& by, double low, double high) {
  const Shape shape = shape_of(prediction);
  const ScalarType type = compute_type({&prediction, get(mean)});
  const Numbers numbers(rows, which, by, shape, type);
  Tensor out = new_like(prediction);
  const PredictData op{numel(shape), prediction_of(prediction, mean, numbers, low, high), view("out", out, shape)};
  with_compute_type(type, [&](auto t) { predict_data<decltype(t)>(op); });
  return out;
}

std::tuple<Tensor, Tensor> predict_data_backward_new(const Tensor& grad, const Tensor& prediction,
                                                     const MaybeTensor& mean, const Tensors& rows, int64_t which,
                                                     const Doubles& by, double low, double high, bool need_prediction,
                                                     bool need_mean) {
  const Shape shape = shape_of(prediction);
  const ScalarType type = compute_type({&prediction, get(mean)});
  const Numbers numbers(rows, which, by, shape, type);
  const Gradient by_prediction(prediction, need_prediction), by_mean(mean ? *mean : prediction, need_mean);
  const PredictDataBackward op{numel(shape), view("grad", grad, shape),
                               prediction_of(prediction, mean, numbers, low, high), by_prediction.out, by_mean.out};
  with_compute_type(type, [&](auto t) { predict_data_backward<decltype(t)>(op); });
  return {by_prediction.tensor, by_mean.tensor};
}

std::tuple<Tensor, Tensor> squared_loss_new(const Tensor& x, const Tensor& prediction, const MaybeTensor& mean,
                                            const Tensors& rows, int64_t which, const Doubles& by, double low,
                                            double high, const MaybeTensor& mask, int64_t reduction) {
  const Shape shape = shape_of(x);
  const ScalarType type = compute_type({&x, &prediction, get(mean)});
  const Numbers numbers(rows, which, by, shape, type);
  const Reduced to = reduced(x, mask, reduction, type);
  const SquaredLoss op{view("x", x, shape), prediction_of(prediction, mean, numbers, low, high), weight_of(numbers),
                       numbers.of({RowNumber::kLogNormaliser}), to.to};
  with_compute_type(type, [&](auto t) { squared_loss<decltype(t)>(op); });
  return {to.loss, to.scale};
}

std::tuple<Tensor, Tensor, Tensor> squared_loss_backward_new(const Tensor& grad, const Tensor& scale, const Tensor& x,
                                                             const Tensor& prediction, const MaybeTensor& mean,
                                                             const Tensors& rows, int64_t which, const Doubles& by,
                                                             double low, double high, const MaybeTensor& mask,
                                                             bool need_x, bool need_prediction, bool need_mean) {
  const Shape shape = shape_of(x);
  const ScalarType type = compute_type({&x, &prediction, get(mean)});
  const Tensor by_loss = scaled(grad, scale);
  const Numbers numbers(rows, which, by, shape, type);
  const Gradient by_x(x, need_x), by_prediction(prediction, need_prediction), by_mean(mean ? *mean : x, need_mean);
  const SquaredLossBackward op{numel(shape),
                               leading_view("grad", by_loss, shape),
                               view("x", x, shape),
                               prediction_of(prediction, mean, numbers, low, high),
                               weight_of(numbers),
                               view("mask", mask, shape),
                               by_x.out,
                               by_prediction.out,
                               by_mean.out};
  with_compute_type(type, [&](auto t) { squared_loss_backward<decltype(t)>(op); });
  return {by_x.tensor, by_prediction.tensor, by_mean.tensor};
}

}  // namespace
}  // namespace bfn

#define BFN_STEP "Tensor state, Tensor? data, " BFN_ROWS ", Tensor? seed, Tensor? noise"
#define BFN_PREDICTION "Tensor prediction, Tensor? mean, " BFN_ROWS ", float low, float high"

BFN_SCHEMAS(m) {
  m.def("gaussian_step(" BFN_STEP ") -> Tensor");
  m.def("gaussian_step_out(" BFN_STEP ", Tensor(a!) out) -> ()");
  m.def("predict_data(" BFN_PREDICTION ") -> Tensor");
  m.def("predict_data_backward(Tensor grad, " BFN_PREDICTION
        ", bool need_prediction, bool need_mean) -> (Tensor, Tensor)");
  m.def("squared_loss(Tensor x, " BFN_PREDICTION ", Tensor? mask, int reduction) -> (Tensor, Tensor)");
  m.def("squared_loss_backward(Tensor grad, Tensor scale, Tensor x, " BFN_PREDICTION
        ", Tensor? mask, bool need_x, bool need_prediction, bool need_mean) -> (Tensor, Tensor, Tensor)");
}

BFN_OPERATORS(m) {
  bfn::add<&bfn::gaussian_step_new>(m, "gaussian_step");
  bfn::add<&bfn::gaussian_step_out>(m, "gaussian_step_out");
  bfn::add<&bfn::predict_data_new>(m, "predict_data");
  bfn::add<&bfn::predict_data_backward_new>(m, "predict_data_backward");
  bfn::add<&bfn::squared_loss_new>(m, "squared_loss");
  bfn::add<&bfn::squared_loss_backward_new>(m, "squared_loss_backward");
}
