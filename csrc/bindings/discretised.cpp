#include "../ops/discretised.h"

#include "target.h"
#include "tensors.h"

namespace bfn {
namespace {

constexpr int64_t kMaxComponents = 1024;

// Of a mixture, predictions and logits have a last dimension of their own.
NetworkOutput network_output(const Shape& shape, const Tensor& prediction, const Tensor& log_std,
                             const MaybeTensor& mixture_logits, const MaybeTensor& mean, const MaybeTensor& a,
                             const MaybeTensor& b, int64_t parametrisation, int64_t num_bins, bool clip) {
  if (num_bins < 2) throw std::invalid_argument("num_bins must be at least 2");
  const int64_t components = mixture_logits ? mixture_logits->size(mixture_logits->dim() - 1) : 1;
  if (components < 1 || components > kMaxComponents) {
    throw std::invalid_argument("mixture_logits must be of 1 to 1024 components, got " + std::to_string(components));
  }
  const Shape each = mixture_logits ? with(shape, components) : shape;
  return {static_cast<Parametrisation>(parametrisation),
          components,
          view("pred_mean", prediction, each),
          view("pred_log_std", log_std, each),
          view("mixture_logits", mixture_logits, each),
          view("mean", mean, shape),
          view("a", a, shape),
          view("b", b, shape),
          num_bins,
          clip};
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
  const DiscretisedExpectedValue op{numel(shape),
                                    network_output(shape, mean, std, mixture_logits, {}, {}, {}, 0, num_bins, clip),
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
            network_output(shape, mean, std, mixture_logits, {}, {}, {}, 0, num_bins, true),
            static_cast<Choice>(choice),
            {},
            {},
            view("out", out, shape)};
  if (op.choice == Choice::kSample) op.draw = noise_of(seed, noise, shape, kOutput);
  if (op.choice == Choice::kSample && mixture_logits) op.component = noise_of(seed, component_noise, shape, kComponent);
  with_compute_type(compute_type({&mean, &std, get(mixture_logits)}), [&](auto t) { choose<decltype(t)>(op); });
  return out;
}

void update_out(const Tensor& prediction, const Tensor& log_std, const MaybeTensor& mixture_logits, const Tensor& mean,
                const MaybeTensor& a, const MaybeTensor& b, int64_t parametrisation, int64_t num_bins, int64_t choice,
                const Tensor& keep, const Tensor& take, const Tensor& std, const MaybeTensor& known,
                const MaybeTensor& known_mask, const MaybeTensor& seed, const MaybeTensor& noise,
                const MaybeTensor& draw_noise, const MaybeTensor& component_noise, Tensor out) {
  const Shape shape = shape_of(mean);
  DiscretisedUpdate op{
      numel(shape),
      network_output(shape, prediction, log_std, mixture_logits, mean, a, b, parametrisation, num_bins, true),
      static_cast<Choice>(choice),
      view("mean", mean, shape),
      view("keep", keep, shape),
      view("take", take, shape),
      view("std", std, shape),
      view("known", known, shape),
      view("known_mask", known_mask, shape),
      noise_of(seed, noise, shape, kSender),
      {},
      {},
      view("out", out, shape)};
  if (op.choice == Choice::kSample) op.draw = noise_of(seed, draw_noise, shape, kOutput);
  if (op.choice == Choice::kSample && mixture_logits) op.component = noise_of(seed, component_noise, shape, kComponent);
  with_compute_type(compute_type({&prediction, &log_std, get(mixture_logits), &mean}),
                    [&](auto t) { discretised_update<decltype(t)>(op); });
}

Tensor update_new(const Tensor& prediction, const Tensor& log_std, const MaybeTensor& mixture_logits,
                  const Tensor& mean, const MaybeTensor& a, const MaybeTensor& b, int64_t parametrisation,
                  int64_t num_bins, int64_t choice, const Tensor& keep, const Tensor& take, const Tensor& std,
                  const MaybeTensor& known, const MaybeTensor& known_mask, const MaybeTensor& seed,
                  const MaybeTensor& noise, const MaybeTensor& draw_noise, const MaybeTensor& component_noise) {
  Tensor out = new_like(mean);
  update_out(prediction, log_std, mixture_logits, mean, a, b, parametrisation, num_bins, choice, keep, take, std, known,
             known_mask, seed, noise, draw_noise, component_noise, out);
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> loss_new(
    const Tensor& x, const Tensor& prediction, const Tensor& log_std, const MaybeTensor& mixture_logits,
    const MaybeTensor& mean, const MaybeTensor& a, const MaybeTensor& b, int64_t parametrisation, int64_t num_bins,
    bool clip, const MaybeTensor& weight, const MaybeTensor& alpha, int64_t n_steps, int64_t n_samples,
    std::vector<double> nodes, std::vector<double> node_weights, const MaybeTensor& seed, const MaybeTensor& noise,
    const MaybeTensor& mask, int64_t reduction, bool need_prediction, bool need_log_std, bool need_mixture_logits) {
  const Shape shape = shape_of(x);
  const ScalarType type = compute_type({&x, &prediction, &log_std, get(mixture_logits), get(mean)});
  const Reduced to = reduced(x, mask, reduction, type);
  const Gradients by(prediction, type, need_prediction, need_log_std, need_mixture_logits);
  const DiscretisedLoss op{
      view("x", x, shape),
      network_output(shape, prediction, log_std, mixture_logits, mean, a, b, parametrisation, num_bins, clip),
      view("weight", weight, shape),
      view("alpha", alpha, shape),
      n_steps,
      n_samples,
      nodes.data(),
      node_weights.data(),
      static_cast<int64_t>(nodes.size()),
      monte_carlo_noise(seed, noise, shape, n_samples),
      by.out,
      to.to};
  with_compute_type(type, [&](auto t) { discretised_loss<decltype(t)>(op); });
  return {to.loss, to.scale, by.by_prediction, by.by_log_std, by.by_mixture_logits};
}

}  // namespace
}  // namespace bfn

#define BFN_NETWORK                                                                                 \
  "Tensor prediction, Tensor log_std, Tensor? mixture_logits, Tensor? mean, Tensor? a, Tensor? b, " \
  "int parametrisation, int num_bins"
#define BFN_UPDATE                                                                                               \
  "Tensor prediction, Tensor log_std, Tensor? mixture_logits, Tensor mean, Tensor? a, Tensor? b, "               \
  "int parametrisation, int num_bins, int choice, Tensor keep, Tensor take, Tensor std, Tensor? known, Tensor? " \
  "known_mask, Tensor? seed, "                                                                                   \
  "Tensor? noise, Tensor? draw_noise, Tensor? component_noise"

BFN_SCHEMAS(m) {
  m.def(
      "expected_value(Tensor mean, Tensor std, Tensor? mixture_logits, int num_bins, bool clip, bool need_mean, "
      "bool need_std, bool need_mixture_logits) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "discretised_choose(Tensor mean, Tensor std, Tensor? mixture_logits, int num_bins, int choice, Tensor? seed, "
      "Tensor? noise, Tensor? component_noise) -> Tensor");
  m.def("discretised_update(" BFN_UPDATE ") -> Tensor");
  m.def("discretised_update_out(" BFN_UPDATE ", Tensor(a!) out) -> ()");
  m.def("discretised_loss(Tensor x, " BFN_NETWORK
        ", bool clip, Tensor? weight, Tensor? alpha, int n_steps, int n_samples, float[] nodes, float[] node_weights, "
        "Tensor? seed, Tensor? noise, Tensor? mask, int reduction, bool need_prediction, bool need_log_std, bool "
        "need_mixture_logits) -> "
        "(Tensor, Tensor, Tensor, Tensor, Tensor)");
}

BFN_OPERATORS(m) {
  m.impl("expected_value", BFN_BOX(&bfn::expected_value_new));
  m.impl("discretised_choose", BFN_BOX(&bfn::choose_new));
  m.impl("discretised_update", BFN_BOX(&bfn::update_new));
  m.impl("discretised_update_out", BFN_BOX(&bfn::update_out));
  m.impl("discretised_loss", BFN_BOX(&bfn::loss_new));
}
