#include "../ops/discrete.h"

#include "loss.h"
#include "operators.h"

namespace bfn {
namespace {

void refuse(const BadClass& bad, const char* name, int64_t num_classes) {
  if (bad.found) {
    throw std::out_of_range(std::string(name) + " must hold classes in [0, " + std::to_string(num_classes) + "), got " +
                            std::to_string(bad.value));
  }
}

int64_t check_classes(int64_t num_classes) {
  if (num_classes < 2) throw std::invalid_argument("there must be at least 2 classes");
  return num_classes;
}

int64_t classes_of(const Tensor& logits) {
  return check_classes(logits.dim() == 0 ? 0 : logits.size(logits.dim() - 1));
}

Shape lead_of(const Tensor& logits) {
  Shape shape = shape_of(logits);
  shape.pop_back();
  return shape;
}

Tensor theta_new(const Tensor& logits) {
  const Shape shape = shape_of(logits);
  Tensor out = new_like(logits);
  const DiscreteTheta op{
      .count = numel(lead_of(logits)),
      .num_classes = classes_of(logits),
      .logits = view("logits", logits, shape),
      .out = view("out", out, shape),
  };
  with_compute_type(compute_type({&logits}), [&](auto t) { discrete_theta<decltype(t)>(op); });
  return out;
}

Tensor sender_sample_new(const Tensor& x, const Tensor& alpha, const Tensor& spread, int64_t num_classes, bool probs,
                         const MaybeTensor& seed, const MaybeTensor& noise, ScalarType dtype) {
  const Shape lead = shape_of(x), shape = with(lead, check_classes(num_classes));
  Tensor out = new_tensor(x, shape, dtype);
  const ScalarType type = compute_type({&out});
  BadClass bad;
  const DiscreteSender op{
      .count = numel(lead),
      .num_classes = num_classes,
      .x = view("x", x, lead),
      .alpha = view_of_rows("alpha", alpha, lead, type),
      .spread = view_of_rows("spread", spread, lead, type),
      .probs = probs,
      .noise = noise_of(seed, noise, shape, kSender),
      .out = view("out", out, shape),
      .bad = &bad,
  };
  with_compute_type(type, [&](auto t) { discrete_sender<decltype(t)>(op); });
  refuse(bad, "x", num_classes);
  return out;
}

void update_sample_out(const Tensor& output_logits, const Tensor& state, const Tensor& alpha, const Tensor& spread,
                       int64_t choice, const MaybeTensor& known, const MaybeTensor& known_mask, const MaybeTensor& seed,
                       const MaybeTensor& noise, const MaybeTensor& draw_noise, Tensor out) {
  const Shape shape = shape_of(state), lead = lead_of(state);
  const ScalarType type = compute_type({&output_logits, &state});
  const DiscreteChoice chosen = code("choice", choice, DiscreteChoice::kMean);
  BadClass bad;
  const DiscreteUpdate op{
      .count = numel(lead),
      .num_classes = classes_of(state),
      .output_logits = view("output_logits", output_logits, shape),
      .state = view("state", state, shape),
      .alpha = view_of_rows("alpha", alpha, lead, type),
      .spread = view_of_rows("spread", spread, lead, type),
      .choice = chosen,
      .known = view("known", known, lead),
      .known_mask = view("known_mask", known_mask, lead),
      .noise = noise_of(seed, noise, shape, kSender),
      .draw = chosen == DiscreteChoice::kSample ? noise_of(seed, draw_noise, lead, kClass) : Noise{},
      .out = view_of_out(out, shape),
      .bad = &bad,
  };
  with_compute_type(type, [&](auto t) { discrete_update<decltype(t)>(op); });
  refuse(bad, "known", op.num_classes);
}

Tensor update_sample_new(const Tensor& output_logits, const Tensor& state, const Tensor& alpha, const Tensor& spread,
                         int64_t choice, const MaybeTensor& known, const MaybeTensor& known_mask,
                         const MaybeTensor& seed, const MaybeTensor& noise, const MaybeTensor& draw_noise) {
  Tensor out = new_like(state);
  update_sample_out(output_logits, state, alpha, spread, choice, known, known_mask, seed, noise, draw_noise, out);
  return out;
}

using LossAndSaved = std::tuple<Tensor, Tensor, Tensor>;

LossAndSaved loss_new(const Tensor& x, const Tensor& logits, const MaybeTensor& weight, const MaybeTensor& mask,
                      int64_t reduction, bool need_logits) {
  const Shape lead = shape_of(x), four = with(lead, kRowStats);
  const ScalarType type = compute_type({&logits});
  const Reduced to = reduced(x, mask, reduction, type);
  Tensor stats = new_tensor(logits, need_logits ? four : Shape{0}, type);
  BadClass bad;
  const DiscreteLoss op{
      .num_classes = classes_of(logits),
      .x = view("x", x, lead),
      .logits = view("logits", logits, with(lead, classes_of(logits))),
      .weight = view_of_rows("weight", weight, lead, type),
      .stats = need_logits ? view("stats", stats, four) : View{},
      .to = to.to,
      .bad = &bad,
  };
  with_compute_type(type, [&](auto t) { discrete_loss<decltype(t)>(op); });
  refuse(bad, "x", op.num_classes);
  return {to.loss, to.scale, stats};
}

LossAndSaved continuous_time_loss_new(const Tensor& x, const Tensor& logits, const Tensor& weight,
                                      const MaybeTensor& mask, int64_t reduction, bool need_logits) {
  return loss_new(x, logits, weight, mask, reduction, need_logits);
}

LossAndSaved reconstruction_loss_new(const Tensor& x, const Tensor& logits, const MaybeTensor& mask, int64_t reduction,
                                     bool need_logits) {
  return loss_new(x, logits, {}, mask, reduction, need_logits);
}

Tensor loss_backward_new(const Tensor& grad, const Tensor& scale, const Tensor& x, const Tensor& logits,
                         const MaybeTensor& weight, const MaybeTensor& mask, const Tensor& stats) {
  const Shape lead = shape_of(x), shape = with(lead, classes_of(logits));
  const ScalarType type = compute_type({&logits});
  const Tensor grad_loss = scaled(grad, scale);
  Tensor grad_logits = new_like(logits);
  const DiscreteLossBackward op{
      .count = numel(lead),
      .num_classes = classes_of(logits),
      .grad = leading_view("grad", grad_loss, lead),
      .x = view("x", x, lead),
      .logits = view("logits", logits, shape),
      .weight = view_of_rows("weight", weight, lead, type),
      .mask = view("mask", mask, lead),
      .stats = view("stats", stats, with(lead, kRowStats)),
      .grad_logits = view("gradient", grad_logits, shape),
  };
  with_compute_type(type, [&](auto t) { discrete_loss_backward<decltype(t)>(op); });
  return grad_logits;
}

LossAndSaved discrete_time_loss_new(const Tensor& x, const Tensor& logits, const Tensor& alpha, int64_t n_steps,
                                    int64_t receiver, const Doubles& nodes, const Doubles& node_weights,
                                    int64_t n_samples, const MaybeTensor& seed, const MaybeTensor& noise,
                                    const MaybeTensor& mask, int64_t reduction, bool need_logits) {
  const Shape lead = shape_of(x), shape = with(lead, classes_of(logits));
  const ScalarType type = compute_type({&logits});
  check_nodes(nodes, node_weights, n_samples);
  const Reduced to = reduced(x, mask, reduction, type);
  Tensor grad_logits = saved_gradient(logits, type, need_logits);
  BadClass bad;
  const DiscreteNStep op{
      .num_classes = classes_of(logits),
      .n_steps = n_steps,
      .n_samples = n_samples,
      .receiver = code("receiver", receiver, Receiver::kFactorised),
      .nodes = nodes.data(),
      .node_weights = node_weights.data(),
      .num_nodes = static_cast<int64_t>(nodes.size()),
      .x = view("x", x, lead),
      .logits = view("logits", logits, shape),
      .alpha = view_of_rows("alpha", alpha, lead, type),
      .noise = monte_carlo_noise(seed, noise, shape, n_samples),
      .grad_logits = need_logits ? view("gradient", grad_logits, shape) : View{},
      .to = to.to,
      .bad = &bad,
  };
  with_compute_type(type, [&](auto t) { discrete_nstep<decltype(t)>(op); });
  refuse(bad, "x", op.num_classes);
  return {to.loss, to.scale, grad_logits};
}

}  // namespace
}  // namespace bfn

BFN_OPERATORS(m) {
  bfn::add<&bfn::theta_new>(m, "discrete_theta");
  bfn::add<&bfn::sender_sample_new>(m, "discrete_sender_sample");
  bfn::add<&bfn::update_sample_new>(m, "discrete_update_sample");
  bfn::add<&bfn::update_sample_out>(m, "discrete_update_sample_out");
  bfn::add<&bfn::continuous_time_loss_new>(m, "discrete_continuous_time_loss");
  bfn::add<&bfn::reconstruction_loss_new>(m, "discrete_reconstruction_loss");
  bfn::add<&bfn::loss_backward_new>(m, "discrete_loss_backward");
  bfn::add<&bfn::discrete_time_loss_new>(m, "discrete_discrete_time_loss");
}
