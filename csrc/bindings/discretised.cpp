#include "../ops/discretised.h"

#include "target.h"
#include "tensors.h"

namespace bfn {
namespace {

NetworkOutput network_output(const Tensor& prediction, const Tensor& log_std, const MaybeTensor& mean,
                             const MaybeTensor& a, const MaybeTensor& b, int64_t parametrisation, int64_t num_bins,
                             bool clip) {
  if (num_bins < 2) throw std::invalid_argument("num_bins must be at least 2");
  const Shape shape = shape_of(prediction);
  return {static_cast<Parametrisation>(parametrisation),
          view("pred_mean", prediction, shape),
          view("pred_log_std", log_std, shape),
          view("mean", mean, shape),
          view("a", a, shape),
          view("b", b, shape),
          num_bins,
          clip};
}

// The two gradients in the arithmetic's type, empty where not needed.
struct Gradients {
  Tensor by_prediction, by_log_std;
  LossGradients out;

  Gradients(const Tensor& like, ScalarType type, bool need_prediction, bool need_log_std)
      : by_prediction(saved_gradient(like, type, need_prediction)),
        by_log_std(saved_gradient(like, type, need_log_std)) {
    if (need_prediction) out.by_prediction = view("gradient", by_prediction, shape_of(like));
    if (need_log_std) out.by_log_std = view("gradient", by_log_std, shape_of(like));
  }
};

std::tuple<Tensor, Tensor, Tensor> expected_value_new(const Tensor& mean, const Tensor& std, int64_t num_bins,
                                                      bool clip, bool need_mean, bool need_std) {
  const Shape shape = shape_of(mean);
  const ScalarType type = compute_type({&mean, &std});
  Tensor out = new_like(mean);
  const Gradients gradients(mean, type, need_mean, need_std);
  const DiscretisedExpectedValue op{numel(shape), network_output(mean, std, {}, {}, {}, 0, num_bins, clip),
                                    view("out", out, shape), gradients.out};
  with_compute_type(type, [&](auto t) { expected_value<decltype(t)>(op); });
  return {out, gradients.by_prediction, gradients.by_log_std};
}

Tensor choose_new(const Tensor& mean, const Tensor& std, int64_t num_bins, int64_t choice, const MaybeTensor& seed,
                  const MaybeTensor& noise) {
  const Shape shape = shape_of(mean);
  Tensor out = new_like(mean);
  Choose op{numel(shape),
            network_output(mean, std, {}, {}, {}, 0, num_bins, true),
            static_cast<Choice>(choice),
            {},
            view("out", out, shape)};
  if (op.choice == Choice::kSample) op.draw = noise_of(seed, noise, shape, kOutput);
  with_compute_type(compute_type({&mean, &std}), [&](auto t) { choose<decltype(t)>(op); });
  return out;
}

void update_out(const Tensor& prediction, const Tensor& log_std, const Tensor& mean, const MaybeTensor& a,
                const MaybeTensor& b, int64_t parametrisation, int64_t num_bins, int64_t choice, const Tensor& keep,
                const Tensor& take, const Tensor& std, const MaybeTensor& known, const MaybeTensor& known_mask,
                const MaybeTensor& seed, const MaybeTensor& noise, const MaybeTensor& draw_noise, Tensor out) {
  const Shape shape = shape_of(mean);
  DiscretisedUpdate op{numel(shape),
                       network_output(prediction, log_std, mean, a, b, parametrisation, num_bins, true),
                       static_cast<Choice>(choice),
                       view("mean", mean, shape),
                       view("keep", keep, shape),
                       view("take", take, shape),
                       view("std", std, shape),
                       view("known", known, shape),
                       view("known_mask", known_mask, shape),
                       noise_of(seed, noise, shape, kSender),
                       {},
                       view("out", out, shape)};
  if (op.choice == Choice::kSample) op.draw = noise_of(seed, draw_noise, shape, kOutput);
  with_compute_type(compute_type({&prediction, &log_std, &mean}), [&](auto t) { discretised_update<decltype(t)>(op); });
}

Tensor update_new(const Tensor& prediction, const Tensor& log_std, const Tensor& mean, const MaybeTensor& a,
                  const MaybeTensor& b, int64_t parametrisation, int64_t num_bins, int64_t choice, const Tensor& keep,
                  const Tensor& take, const Tensor& std, const MaybeTensor& known, const MaybeTensor& known_mask,
                  const MaybeTensor& seed, const MaybeTensor& noise, const MaybeTensor& draw_noise) {
  Tensor out = new_like(mean);
  update_out(prediction, log_std, mean, a, b, parametrisation, num_bins, choice, keep, take, std, known, known_mask,
             seed, noise, draw_noise, out);
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> loss_new(const Tensor& x, const Tensor& prediction, const Tensor& log_std,
                                                    const MaybeTensor& mean, const MaybeTensor& a, const MaybeTensor& b,
                                                    int64_t parametrisation, int64_t num_bins, bool clip,
                                                    const MaybeTensor& weight, const MaybeTensor& alpha,
                                                    int64_t n_steps, int64_t n_samples, std::vector<double> nodes,
                                                    std::vector<double> node_weights, const MaybeTensor& seed,
                                                    const MaybeTensor& noise, const MaybeTensor& mask,
                                                    int64_t reduction, bool need_prediction, bool need_log_std) {
  const Shape shape = shape_of(x);
  const ScalarType type = compute_type({&x, &prediction, &log_std, get(mean)});
  const Reduced to = reduced(x, mask, reduction, type);
  const Gradients gradients(x, type, need_prediction, need_log_std);
  const DiscretisedLoss op{view("x", x, shape),
                           network_output(prediction, log_std, mean, a, b, parametrisation, num_bins, clip),
                           view("weight", weight, shape),
                           view("alpha", alpha, shape),
                           n_steps,
                           n_samples,
                           nodes.data(),
                           node_weights.data(),
                           static_cast<int64_t>(nodes.size()),
                           monte_carlo_noise(seed, noise, shape, n_samples),
                           gradients.out,
                           to.to};
  with_compute_type(type, [&](auto t) { discretised_loss<decltype(t)>(op); });
  return {to.loss, to.scale, gradients.by_prediction, gradients.by_log_std};
}

}  // namespace
}  // namespace bfn

#define BFN_NETWORK \
  "Tensor prediction, Tensor log_std, Tensor? mean, Tensor? a, Tensor? b, int parametrisation, int num_bins"
#define BFN_UPDATE                                                                                            \
  "Tensor prediction, Tensor log_std, Tensor mean, Tensor? a, Tensor? b, int parametrisation, int num_bins, " \
  "int choice, Tensor keep, Tensor take, Tensor std, Tensor? known, Tensor? known_mask, Tensor? seed, "       \
  "Tensor? noise, Tensor? draw_noise"

BFN_SCHEMAS(m) {
  m.def(
      "expected_value(Tensor mean, Tensor std, int num_bins, bool clip, bool need_mean, bool need_std) -> (Tensor, "
      "Tensor, Tensor)");
  m.def("discretised_choose(Tensor mean, Tensor std, int num_bins, int choice, Tensor? seed, Tensor? noise) -> Tensor");
  m.def("discretised_update(" BFN_UPDATE ") -> Tensor");
  m.def("discretised_update_out(" BFN_UPDATE ", Tensor(a!) out) -> ()");
  m.def("discretised_loss(Tensor x, " BFN_NETWORK
        ", bool clip, Tensor? weight, Tensor? alpha, int n_steps, int n_samples, float[] nodes, float[] node_weights, "
        "Tensor? seed, Tensor? noise, Tensor? mask, int reduction, bool need_prediction, bool need_log_std) -> "
        "(Tensor, Tensor, Tensor, Tensor)");
}

BFN_OPERATORS(m) {
  m.impl("expected_value", BFN_BOX(&bfn::expected_value_new));
  m.impl("discretised_choose", BFN_BOX(&bfn::choose_new));
  m.impl("discretised_update", BFN_BOX(&bfn::update_new));
  m.impl("discretised_update_out", BFN_BOX(&bfn::update_out));
  m.impl("discretised_loss", BFN_BOX(&bfn::loss_new));
}
