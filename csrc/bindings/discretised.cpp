#include "../ops/discretised.h"

#include "loss.h"
#include "numbers.h"
#include "operators.h"

namespace bfn {
namespace {

constexpr int64_t kMaxComponents = 1024;

// Of a mixture, predictions and logits have a last dimension of their own.
NetworkOutput network_output(const Shape& shape, const Tensor& prediction, const Tensor& log_std,
                             const MaybeTensor& mixture_logits, const MaybeTensor& mean, const Numbers& numbers,
                             int64_t parametrisation, int64_t num_bins, bool clip) {
  if (num_bins < 2) throw std::invalid_argument("num_bins must be at least 2");
  const int64_t components = mixture_logits ? mixture_logits->size(mixture_logits->dim() - 1) : 1;
  if (components < 1 || components > kMaxComponents) {
    throw std::invalid_argument("mixture_logits must be of 1 to 1024 components, got " + std::to_string(components));
  }
  const Shape each = mixture_logits ? with(shape, components) : shape;
  return {code("parametrisation", parametrisation, Parametrisation::kNoise),
          components,
          view("pred_mean", prediction, each),
          view("pred_log_std", log_std, each),
          view("mixture_logits", mixture_logits, each),
          view("mean", mean, shape),
          numbers.of({RowNumber::kMeanScale}),
          numbers.of({RowNumber::kNoiseScale}),
          num_bins,
          clip};
}

// Normals that are given themselves.
NetworkOutput normals_of(const Shape& shape, const Tensor& mean, const Tensor& std, const MaybeTensor& mixture_logits,
                         int64_t num_bins, bool clip) {
  const Tensors none;
  return network_output(shape, mean, std, mixture_logits, {}, {none, 0, {}, shape, ScalarType::Float}, 0, num_bins,
                        clip);
}

// Without the components.
Shape data_shape(const Tensor& prediction, const MaybeTensor& mixture_logits) {
  Shape shape = shape_of(prediction);
  if (mixture_logits) shape.pop_back();
  return shape;
}

Tensor one_each(const Tensor& prediction, const MaybeTensor& mixture_logits) {
  if (!mixture_logits) return new_like(prediction);
  return new_tensor(prediction, data_shape(prediction, mixture_logits), prediction.scalar_type());
}

// The gradients in the arithmetic's type, empty where not needed.
struct Gradients {
  Tensor by_prediction, by_log_std, by_mixture_logits;
  NetworkGradients out;

  Gradients(const Tensor& like, ScalarType type, bool need_prediction, bool need_log_std, bool need_mixture_logits)
      : by_prediction(saved_gradient(like, type, need_prediction)),
        by_log_std(saved_gradient(like, type, need_log_std)),
        by_mixture_logits(saved_gradient(like, type, need_mixture_logits)) {
    const Shape shape = shape_of(like);
    if (need_prediction) out.by_prediction = view("gradient", by_prediction, shape);
    if (need_log_std) out.by_log_std = view("gradient", by_log_std, shape);
    if (need_mixture_logits) out.by_mixture_logits = view("gradient", by_mixture_logits, shape);
  }
};

std::tuple<Tensor, Tensor, Tensor, Tensor> expected_value_new(const Tensor& mean, const Tensor& std,
                                                              const MaybeTensor& mixture_logits, int64_t num_bins,
                                                              bool clip, bool need_mean, bool need_std,
                                                              bool need_mixture_logits) {
  const Shape shape = data_shape(mean, mixture_logits);
  const ScalarType type = compute_type({&mean, &std, get(mixture_logits)});
  Tensor out = one_each(mean, mixture_logits);
  const Gradients by(mean, type, need_mean, need_std, need_mixture_logits);
  const DiscretisedExpectedValue op{numel(shape), normals_of(shape, mean, std, mixture_logits, num_bins, clip),
                                    view("out", out, shape), by.out};
  with_compute_type(type, [&](auto t) { expected_value<decltype(t)>(op); });
  return {out, by.by_prediction, by.by_log_std, by.by_mixture_logits};
}

Tensor choose_new(const Tensor& mean, const Tensor& std, const MaybeTensor& mixture_logits, int64_t num_bins,
                  int64_t choice, const MaybeTensor& seed, const MaybeTensor& noise,
                  const MaybeTensor& component_noise) {
  const Shape shape = data_shape(mean, mixture_logits);
  Tensor out = one_each(mean, mixture_logits);
  Choose op{numel(shape),
            normals_of(shape, mean, std, mixture_logits, num_bins, true),
            code("choice", choice, Choice::kMean),
            {},
            {},
            view("out", out, shape)};
  if (op.choice == Choice::kSample) op.draw = noise_of(seed, noise, shape, kOutput);
  if (op.choice == Choice::kSample && mixture_logits) op.component = noise_of(seed, component_noise, shape, kComponent);
  with_compute_type(compute_type({&mean, &std, get(mixture_logits)}), [&](auto t) { choose<decltype(t)>(op); });
  return out;
}

void update_out(const Tensor& prediction, const Tensor& log_std, const MaybeTensor& mixture_logits, const Tensor& mean,
                const Tensors& flow, int64_t flow_which, const Doubles& flow_by, int64_t parametrisation,
                int64_t num_bins, int64_t choice, const Tensors& rows, int64_t which, const Doubles& by,
                const MaybeTensor& known, const MaybeTensor& known_mask, const MaybeTensor& seed,
                const MaybeTensor& noise, const MaybeTensor& draw_noise, const MaybeTensor& component_noise,
                Tensor out) {
  const Shape shape = shape_of(mean);
  const ScalarType type = compute_type({&prediction, &log_std, get(mixture_logits), &mean});
  const Numbers of_flow(flow, flow_which, flow_by, shape, type), numbers(rows, which, by, shape, type);
  DiscretisedUpdate op{
      numel(shape),
      network_output(shape, prediction, log_std, mixture_logits, mean, of_flow, parametrisation, num_bins, true),
      code("choice", choice, Choice::kMean),
      view("mean", mean, shape),
      numbers.of({RowNumber::kKeep}),
      numbers.of({RowNumber::kTake}),
      numbers.of({RowNumber::kUpdateStd}),
      view("known", known, shape),
      view("known_mask", known_mask, shape),
      noise_of(seed, noise, shape, kSender),
      {},
      {},
      view_of_out(out, shape)};
  if (op.choice == Choice::kSample) op.draw = noise_of(seed, draw_noise, shape, kOutput);
  if (op.choice == Choice::kSample && mixture_logits) op.component = noise_of(seed, component_noise, shape, kComponent);
  with_compute_type(type, [&](auto t) { discretised_update<decltype(t)>(op); });
}

Tensor update_new(const Tensor& prediction, const Tensor& log_std, const MaybeTensor& mixture_logits,
                  const Tensor& mean, const Tensors& flow, int64_t flow_which, const Doubles& flow_by,
                  int64_t parametrisation, int64_t num_bins, int64_t choice, const Tensors& rows, int64_t which,
                  const Doubles& by, const MaybeTensor& known, const MaybeTensor& known_mask, const MaybeTensor& seed,
                  const MaybeTensor& noise, const MaybeTensor& draw_noise, const MaybeTensor& component_noise) {
  Tensor out = new_like(mean);
  update_out(prediction, log_std, mixture_logits, mean, flow, flow_which, flow_by, parametrisation, num_bins, choice,
             rows, which, by, known, known_mask, seed, noise, draw_noise, component_noise, out);
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> loss_new(
    const Tensor& x, const Tensor& prediction, const Tensor& log_std, const MaybeTensor& mixture_logits,
    const MaybeTensor& mean, const Tensors& rows, int64_t which, const Doubles& by, int64_t parametrisation,
    int64_t num_bins, bool clip, int64_t n_steps, int64_t n_samples, const Doubles& nodes, const Doubles& node_weights,
    const MaybeTensor& seed, const MaybeTensor& noise, const MaybeTensor& mask, int64_t reduction, bool need_prediction,
    bool need_log_std, bool need_mixture_logits) {
  const Shape shape = shape_of(x);
  const ScalarType type = compute_type({&x, &prediction, &log_std, get(mixture_logits), get(mean)});
  const Numbers numbers(rows, which, by, shape, type);
  check_nodes(nodes, node_weights, n_samples);
  const Reduced to = reduced(x, mask, reduction, type);
  const Gradients gradients(prediction, type, need_prediction, need_log_std, need_mixture_logits);
  const DiscretisedLoss op{
      view("x", x, shape),
      network_output(shape, prediction, log_std, mixture_logits, mean, numbers, parametrisation, num_bins, clip),
      numbers.of({RowNumber::kRate}),
      numbers.of({RowNumber::kAlpha}),
      n_steps,
      n_samples,
      nodes.data(),
      node_weights.data(),
      static_cast<int64_t>(nodes.size()),
      monte_carlo_noise(seed, noise, shape, n_samples),
      gradients.out,
      to.to};
  with_compute_type(type, [&](auto t) { discretised_loss<decltype(t)>(op); });
  return {to.loss, to.scale, gradients.by_prediction, gradients.by_log_std, gradients.by_mixture_logits};
}

}  // namespace
}  // namespace bfn

#define BFN_NETWORK "Tensor prediction, Tensor log_std, Tensor? mixture_logits, Tensor"
#define BFN_UPDATE                                                                                                  \
  BFN_NETWORK                                                                                                       \
  " mean, Tensor[] flow, int flow_which, float[] flow_by, int parametrisation, int num_bins, int choice, " BFN_ROWS \
  ", Tensor? known, Tensor? known_mask, Tensor? seed, Tensor? noise, Tensor? draw_noise, Tensor? component_noise"

BFN_SCHEMAS(m) {
  m.def(
      "expected_value(Tensor mean, Tensor std, Tensor? mixture_logits, int num_bins, bool clip, bool need_mean, "
      "bool need_std, bool need_mixture_logits) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "discretised_choose(Tensor mean, Tensor std, Tensor? mixture_logits, int num_bins, int choice, Tensor? seed, "
      "Tensor? noise, Tensor? component_noise) -> Tensor");
  m.def("discretised_update(" BFN_UPDATE ") -> Tensor");
  m.def("discretised_update_out(" BFN_UPDATE ", Tensor(a!) out) -> ()");
  m.def("discretised_loss(Tensor x, " BFN_NETWORK "? mean, " BFN_ROWS
        ", int parametrisation, int num_bins, bool clip, int n_steps, int n_samples, float[] nodes, "
        "float[] node_weights, Tensor? seed, Tensor? noise, Tensor? mask, int reduction, bool need_prediction, "
        "bool need_log_std, bool need_mixture_logits) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
}

BFN_OPERATORS(m) {
  bfn::add<&bfn::expected_value_new>(m, "expected_value");
  bfn::add<&bfn::choose_new>(m, "discretised_choose");
  bfn::add<&bfn::update_new>(m, "discretised_update");
  bfn::add<&bfn::update_out>(m, "discretised_update_out");
  bfn::add<&bfn::loss_new>(m, "discretised_loss");
}
