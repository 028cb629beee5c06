// The operators of binary and of discrete data, which share most of their code. Logits, states and messages of discrete
// data have a last dimension for the classes. The classes x do not have it.
#include "../ops/binary.h"
#include "../ops/discrete.h"
#include "operators.h"
#include "records.h"

namespace bfn::bindings {
namespace {

int64_t classes_of(Given logits) {
  const int64_t num_classes = logits.dim() == 0 ? 0 : logits.size(logits.dim() - 1);
  check(num_classes >= 2, "", "there must be at least 2 classes");
#ifdef BFN_CUDA
  check(num_classes <= INT32_MAX, "", "the CUDA kernels support at most 2147483647 classes");
#endif
  return num_classes;
}

// The shape of the variables. Soft data, which are floating-point, have a last dimension for the classes.
Shape variables(Given x) { return is_floating(x) ? without_last(shape_of(x)) : shape_of(x); }

// An op of discrete data has a field for K.
template <class Op>
constexpr bool kHasClasses = requires(Op op) { op.num_classes; };

template <class Op, Kernel<Op> in_float, Kernel<Op> in_double>
auto sender_sample(Given x, Given alpha, Given spread, bool probs, const Noise& noise, const Output& out) {
  const Shape rows = variables(x);
  const ScalarType type = compute_type(out.tensor);
  Op op{
      .count = numel(rows),
      .x = view("x", x, is_floating(x) ? shape_of(out.tensor) : rows),
      .alpha = view_of_rows("alpha", alpha, rows, type),
      .spread = view_of_rows("spread", spread, rows, type),
      .probs = probs,
      .noise = noise.over(shape_of(out.tensor), kSender),
      .out = out.view,
  };
  if constexpr (kHasClasses<Op>) op.num_classes = classes_of(out.tensor);
  return compute(type, op, in_float, in_double, out.tensor);
}

// The fields that the steps of both families have.
template <class Op>
Op step_of(Given state, const Solver& solver, const Guidance& guidance, const Sent& sent, const Noise& noise, Given out,
           Maybe theta_out, Maybe predicted_out, ScalarType type) {
  const Shape shape = shape_of(state), rows = kHasClasses<Op> ? without_last(shape) : shape;
  const bool soft = kHasClasses<Op> && sent.known && is_floating(*sent.known);
  return {
      .count = numel(rows),
      .state = view("state", state, shape),
      .solver = solver.over(rows, shape, type, predicted_out),
      .guidance = guidance.over(rows, shape, type),
      .sent = sent.over(rows, noise.seed, kClass, soft ? shape : rows),
      .noise = noise.over(shape, kSender, solver.std.has_value()),
      .out = view_of_out(out, shape),
      .theta = view_of_out(theta_out, shape),
  };
}

auto binary_step(Given output_logits, Given state, const Solver& solver, const Guidance& guidance, const Sent& sent,
                 const Noise& noise, const Out& to, Maybe theta_out, Maybe predicted_out) {
  const ScalarType type = compute_type(output_logits, state, solver.previous, guidance.unconditional);
  const Tensor out = to.or_like(state);
  auto op = step_of<BinaryUpdate>(state, solver, guidance, sent, noise, out, theta_out, predicted_out, type);
  op.output_logits = view("output_logits", output_logits, shape_of(state));
  return compute(type, op, BFN_KERNEL(binary_update), out);
}

auto discrete_step(const ClassLogits& output, Given state, const Solver& solver, const Guidance& guidance,
                   const Score& score, const Sent& sent, const Noise& noise, const Out& to, Maybe theta_out,
                   Maybe predicted_out) {
  const ScalarType type = compute_type(output.logits, state, solver.previous, guidance.unconditional, score.score);
  const Tensor out = to.or_like(state);
  auto op = step_of<DiscreteUpdate>(state, solver, guidance, sent, noise, out, theta_out, predicted_out, type);
  op.num_classes = classes_of(state);
  op.output_logits = output.over(shape_of(state));
  op.score = score.over(without_last(shape_of(state)), shape_of(state), type);
  return compute(type, op, BFN_KERNEL(discrete_update), out);
}

// The logits that the bindings of a family take. `over` turns them into the logits of the op.
template <class Op>
using LogitsOf = std::conditional_t<kHasClasses<Op>, ClassLogits, Tensor>;
Given tensor_of(Given logits) { return logits; }
Given tensor_of(const ClassLogits& output) { return output.logits; }
View over(Given logits, const Shape& shape) { return view("logits", logits, shape); }
bfn::ClassLogits over(const ClassLogits& output, const Shape& shape) { return output.over(shape); }

// The kernels of discrete data write a contiguous gradient.
template <class Op, Kernel<Op> in_float, Kernel<Op> in_double>
auto discrete_time_loss(Given x, const LogitsOf<Op>& output, Given alpha, int64_t n_steps, int64_t receiver,
                        const Draws& draws, const LossTarget& target, bool need_logits) {
  Given logits = tensor_of(output);
  const Shape rows = shape_of(x), shape = kHasClasses<Op> ? with(rows, classes_of(logits)) : rows;
  const ScalarType type = compute_type(logits);
  const Reduced to = target.over(x, rows, type);
  const Output grad =
      kHasClasses<Op> ? bfn::output(logits, shape, type, need_logits) : output_like(logits, type, need_logits);
  Op op{
      .n_steps = n_steps,
      .receiver = code("receiver", receiver, Receiver::kFactorised),
      .draws = draws.over(shape),
      .x = view("x", x, rows),
      .logits = over(output, shape),
      .alpha = view_of_rows("alpha", alpha, rows, type),
      .grad_logits = grad.view,
      .to = to.to,
  };
  if constexpr (kHasClasses<Op>) op.num_classes = classes_of(logits);
  return compute(type, op, in_float, in_double, to.loss, to.scale, grad.tensor);
}

auto binary_sender_sample_new(Given x, Given alpha, Given spread, bool probs, const Noise& noise, ScalarType dtype) {
  const Output out = output_like(x, dtype);
  return sender_sample<BinarySender, BFN_KERNEL(binary_sender)>(x, alpha, spread, probs, noise, out);
}

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

auto discrete_sender_sample_new(Given x, Given alpha, Given spread, int64_t num_classes, bool probs, const Noise& noise,
                                ScalarType dtype) {
  check(num_classes >= 2, "num_classes", " must be at least 2");
  const Output out = output(x, with(variables(x), num_classes), dtype);
  return sender_sample<DiscreteSender, BFN_KERNEL(discrete_sender)>(x, alpha, spread, probs, noise, out);
}

// L_inf if there is a weight, else -ln p_x. Saves the gradient if `in_forward` is set, else the numbers of each row
// from which the backward pass computes it.
auto discrete_loss_new(Given x, const ClassLogits& output, Maybe weight, const LossTarget& target, bool in_forward,
                       bool need_logits) {
#ifdef BFN_CUDA
  if (in_forward) throw std::invalid_argument("in_forward must be False: only a CPU makes the gradient with the loss");
#endif
  Given logits = output.logits;
  const Shape rows = variables(x), shape = with(rows, classes_of(logits));
  const ScalarType type = compute_type(logits);
  const Output saved = in_forward ? output_like(logits, type, need_logits)
                                  : bfn::output(logits, with(rows, kRowStats), type, need_logits);
  const Reduced to = target.over(x, rows, type);
  const DiscreteLoss op{
      .num_classes = classes_of(logits),
      .x = view("x", x, is_floating(x) ? shape : rows),
      .logits = output.over(shape),
      .weight = view_of_rows("weight", weight, rows, type),
      .stats = in_forward ? View{} : saved.view,
      .grad_logits = in_forward ? saved.view : View{},
      .to = to.to,
  };
  return compute(type, op, BFN_KERNEL(discrete_loss), to.loss, to.scale, saved.tensor);
}

auto loss_backward_new(Given grad, Given scale, Given x, const ClassLogits& output, Maybe weight, Maybe mask,
                       Given stats) {
  Given logits = output.logits;
  const Shape lead = variables(x), shape = with(lead, classes_of(logits));
  const ScalarType type = compute_type(logits);
  const Tensor grad_loss = scaled(grad, scale);
  const Output grad_logits = output_like(logits);
  const DiscreteLossBackward op{
      .count = numel(lead),
      .num_classes = classes_of(logits),
      .grad = leading_view("grad", grad_loss, lead),
      .x = view("x", x, is_floating(x) ? shape : lead),
      .logits = output.over(shape),
      .weight = view_of_rows("weight", weight, lead, type),
      .mask = view("mask", mask, lead),
      .stats = view("stats", stats, with(lead, kRowStats)),
      .grad_logits = grad_logits.view,
  };
  return compute(type, op, BFN_KERNEL(discrete_loss_backward), grad_logits.tensor);
}

BFN_OPERATORS(m) {
  add<&binary_sender_sample_new>(m, "binary_sender_sample");
  add<&binary_step, 3>(m, "binary_step");
  add<&discrete_time_loss<BinaryNStep, BFN_KERNEL(binary_nstep)>>(m, "binary_discrete_time_loss");
  add<&theta_new>(m, "discrete_theta");
  add<&discrete_sender_sample_new>(m, "discrete_sender_sample");
  add<&discrete_step, 3>(m, "discrete_step");
  add<&discrete_loss_new>(m, "discrete_loss");
  add<&loss_backward_new>(m, "discrete_loss_backward");
  add<&discrete_time_loss<DiscreteNStep, BFN_KERNEL(discrete_nstep)>>(m, "discrete_discrete_time_loss");
}

}  // namespace
}  // namespace bfn::bindings
