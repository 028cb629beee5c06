#include "../ops/discrete.h"

#include "loss.h"
#include "operators.h"
#include "solver.h"

namespace bfn {
namespace {

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
  const Output out = output_like(logits);
  const DiscreteTheta op{
      .count = numel(lead_of(logits)),
      .num_classes = classes_of(logits),
      .logits = view("logits", logits, shape),
      .out = out.view,
  };
  with_compute_type(compute_type({&logits}), [&](auto t) { discrete_theta<decltype(t)>(op); });
  return out.tensor;
}

Tensor sender_sample_new(const Tensor& x, const Tensor& alpha, const Tensor& spread, int64_t num_classes, bool probs,
                         const MaybeTensor& seed, const MaybeTensor& noise, ScalarType dtype) {
  const Shape lead = shape_of(x), shape = with(lead, check_classes(num_classes));
  const Output out = output(x, shape, dtype);
  const ScalarType type = compute_type({&out.tensor});
  const DiscreteSender op{
      .count = numel(lead),
      .num_classes = num_classes,
      .x = view("x", x, lead),
      .alpha = view_of_rows("alpha", alpha, lead, type),
      .spread = view_of_rows("spread", spread, lead, type),
      .probs = probs,
      .noise = noise_of(seed, noise, shape, kSender),
      .out = out.view,
  };
  with_compute_type(type, [&](auto t) { discrete_sender<decltype(t)>(op); });
  return out.tensor;
}

void step_out(const Tensor& output_logits, const Tensor& state, const MaybeTensor& keep, const Tensor& take,
              const MaybeTensor& std, const MaybeTensor& previous, const MaybeTensor& extrapolation,
              const MaybeTensor& logit_scale, const MaybeTensor& unconditional, const MaybeTensor& unconditional_scale,
              int64_t choice, const MaybeTensor& known, const MaybeTensor& known_mask, const MaybeTensor& draw_noise,
              const MaybeTensor& seed, const MaybeTensor& noise, Tensor out, const MaybeTensor& theta_out,
              const MaybeTensor& predicted_out) {
  const Shape shape = shape_of(state), lead = lead_of(state);
  const ScalarType type = compute_type({&output_logits, &state, get(previous), get(unconditional)});
  const Choice chosen = code("choice", choice, Choice::kMean);
  const DiscreteUpdate op{
      .count = numel(lead),
      .num_classes = classes_of(state),
      .output_logits = view("output_logits", output_logits, shape),
      .state = view("state", state, shape),
      .alpha = view_of_rows("take", take, lead, type),
      .spread = view_of_rows("std", std, lead, type),
      .choice = chosen,
      .known = view("known", known, lead),
      .known_mask = view("known_mask", known_mask, lead),
      .noise = std ? noise_of(seed, noise, shape, kSender) : Noise{},
      .draw = chosen == Choice::kSample ? noise_of(seed, draw_noise, lead, kClass) : Noise{},
      .out = view_of_out(out, shape),
      .theta = theta_out ? view_of_out(*theta_out, shape) : View{},
      .solver = solver_of(keep, previous, extrapolation, predicted_out, lead, shape, type),
      .guidance = guidance_of(logit_scale, unconditional, unconditional_scale, lead, shape, type),
  };
  with_compute_type(type, [&](auto t) { discrete_update<decltype(t)>(op); });
}

using LossAndSaved = std::tuple<Tensor, Tensor, Tensor>;

// Saves the gradient of each variable's loss, or else numbers of each row that the backward pass makes it of.
LossAndSaved loss_new(const Tensor& x, const Tensor& logits, const MaybeTensor& weight, const MaybeTensor& mask,
                      int64_t reduction, bool in_forward, bool need_logits) {
#ifdef BFN_CUDA
  if (in_forward) throw std::invalid_argument("in_forward must be False: only a CPU makes the gradient with the loss");
#endif
  const Shape lead = shape_of(x);
  const ScalarType type = compute_type({&logits});
  const Reduced to = reduced(x, mask, reduction, type);
  const Output saved =
      in_forward ? output_like(logits, type, need_logits) : output(logits, with(lead, kRowStats), type, need_logits);
  const DiscreteLoss op{
      .num_classes = classes_of(logits),
      .x = view("x", x, lead),
      .logits = view("logits", logits, with(lead, classes_of(logits))),
      .weight = view_of_rows("weight", weight, lead, type),
      .stats = in_forward ? View{} : saved.view,
      .grad_logits = in_forward ? saved.view : View{},
      .to = to.to,
  };
  with_compute_type(type, [&](auto t) { discrete_loss<decltype(t)>(op); });
  return {to.loss, to.scale, saved.tensor};
}

Tensor loss_backward_new(const Tensor& grad, const Tensor& scale, const Tensor& x, const Tensor& logits,
                         const MaybeTensor& weight, const MaybeTensor& mask, const Tensor& stats) {
  const Shape lead = shape_of(x), shape = with(lead, classes_of(logits));
  const ScalarType type = compute_type({&logits});
  const Tensor grad_loss = scaled(grad, scale);
  const Output grad_logits = output_like(logits);
  const DiscreteLossBackward op{
      .count = numel(lead),
      .num_classes = classes_of(logits),
      .grad = leading_view("grad", grad_loss, lead),
      .x = view("x", x, lead),
      .logits = view("logits", logits, shape),
      .weight = view_of_rows("weight", weight, lead, type),
      .mask = view("mask", mask, lead),
      .stats = view("stats", stats, with(lead, kRowStats)),
      .grad_logits = grad_logits.view,
  };
  with_compute_type(type, [&](auto t) { discrete_loss_backward<decltype(t)>(op); });
  return grad_logits.tensor;
}

LossAndSaved discrete_time_loss_new(const Tensor& x, const Tensor& logits, const Tensor& alpha, int64_t n_steps,
                                    int64_t receiver, const Doubles& nodes, const Doubles& node_weights,
                                    int64_t n_samples, const MaybeTensor& seed, const MaybeTensor& noise,
                                    const MaybeTensor& mask, int64_t reduction, bool need_logits) {
  const Shape lead = shape_of(x), shape = with(lead, classes_of(logits));
  const ScalarType type = compute_type({&logits});
  const Reduced to = reduced(x, mask, reduction, type);
  const Output grad_logits = output(logits, shape, type, need_logits);
  const DiscreteNStep op{
      .num_classes = classes_of(logits),
      .n_steps = n_steps,
      .receiver = code("receiver", receiver, Receiver::kFactorised),
      .draws = draws_of(nodes, node_weights, n_samples, seed, noise, shape),
      .x = view("x", x, lead),
      .logits = view("logits", logits, shape),
      .alpha = view_of_rows("alpha", alpha, lead, type),
      .grad_logits = grad_logits.view,
      .to = to.to,
  };
  with_compute_type(type, [&](auto t) { discrete_nstep<decltype(t)>(op); });
  return {to.loss, to.scale, grad_logits.tensor};
}

}  // namespace
}  // namespace bfn

BFN_OPERATORS(m) {
  bfn::add<&bfn::theta_new>(m, "discrete_theta");
  bfn::add<&bfn::sender_sample_new>(m, "discrete_sender_sample");
  bfn::add_both<&bfn::step_out, 1, 2>(m, "discrete_step", "discrete_step_out");
  bfn::add<&bfn::loss_new>(m, "discrete_loss");
  bfn::add<&bfn::loss_backward_new>(m, "discrete_loss_backward");
  bfn::add<&bfn::discrete_time_loss_new>(m, "discrete_discrete_time_loss");
}
