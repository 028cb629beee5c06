#include "../ops/discrete.h"

#include "classes.h"

namespace bfn::bindings {
namespace {

auto theta_new(Given logits) {
  const Shape shape = shape_of(logits);
  const Output out = output_like(logits);
  const DiscreteTheta op{
      .count = numel(without_last(shape)),
      .num_classes = classes_of(logits),
      .logits = view("logits", logits, shape),
      .out = out.view,
  };
  return compute(compute_type(logits), op, BFN_KERNEL(discrete_theta), out.tensor);
}

auto sender_sample_new(Given x, Given alpha, Given spread, int64_t num_classes, bool probs, const Noise& noise,
                       ScalarType dtype) {
  check(num_classes >= 2, "num_classes", " must be at least 2");
  const Output out = output(x, with(shape_of(x), num_classes), dtype);
  return sender_sample<DiscreteSender, BFN_KERNEL(discrete_sender)>(x, alpha, spread, probs, noise, out);
}

// Saves the gradient if `in_forward` is set, else the numbers of each row from which the backward pass computes it.
auto loss_new(Given x, Given logits, Maybe weight, const LossTarget& to, bool in_forward, bool need_logits) {
#ifdef BFN_CUDA
  if (in_forward) throw std::invalid_argument("in_forward must be False: only a CPU makes the gradient with the loss");
#endif
  const ScalarType type = compute_type(logits);
  const Output saved = in_forward ? output_like(logits, type, need_logits)
                                  : output(logits, with(shape_of(x), kRowStats), type, need_logits);
  const auto to_save = in_forward ? &DiscreteLoss::grad_logits : &DiscreteLoss::stats;
  return loss<DiscreteLoss, BFN_KERNEL(discrete_loss)>(x, logits, weight, to, saved, to_save);
}

auto loss_backward_new(Given grad, Given scale, Given x, Given logits, Maybe weight, Maybe mask, Given stats) {
  const Shape lead = shape_of(x), shape = with(lead, classes_of(logits));
  const ScalarType type = compute_type(logits);
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
  return compute(type, op, BFN_KERNEL(discrete_loss_backward), grad_logits.tensor);
}

BFN_OPERATORS(m) {
  add<&theta_new>(m, "discrete_theta");
  add<&sender_sample_new>(m, "discrete_sender_sample");
  add<&step<DiscreteUpdate, BFN_KERNEL(discrete_update)>, 3>(m, "discrete_step");
  add<&loss_new>(m, "discrete_loss");
  add<&loss_backward_new>(m, "discrete_loss_backward");
  add<&discrete_time_loss<DiscreteNStep, BFN_KERNEL(discrete_nstep)>>(m, "discrete_discrete_time_loss");
}

}  // namespace
}  // namespace bfn::bindings
