#include "../ops/binary.h"

#include "loss.h"
#include "operators.h"
#include "solver.h"

namespace bfn {
namespace {

Tensor sender_sample_new(const Tensor& x, const Tensor& alpha, const Tensor& spread, bool probs,
                         const MaybeTensor& seed, const MaybeTensor& noise, ScalarType dtype) {
  const Shape shape = shape_of(x);
  const Output out = output_like(x, dtype);
  const ScalarType type = compute_type({&out.tensor});
  const BinarySender op{
      .count = numel(shape),
      .x = view("x", x, shape),
      .alpha = view_of_rows("alpha", alpha, shape, type),
      .spread = view_of_rows("spread", spread, shape, type),
      .probs = probs,
      .noise = noise_of(seed, noise, shape, kSender),
      .out = out.view,
  };
  with_compute_type(type, [&](auto t) { binary_sender<decltype(t)>(op); });
  return out.tensor;
}

void step_out(const Tensor& output_logits, const Tensor& state, const MaybeTensor& keep, const Tensor& take,
              const MaybeTensor& std, const MaybeTensor& previous, const MaybeTensor& extrapolation,
              const MaybeTensor& logit_scale, const MaybeTensor& unconditional, const MaybeTensor& unconditional_scale,
              int64_t choice, const MaybeTensor& known, const MaybeTensor& known_mask, const MaybeTensor& draw_noise,
              const MaybeTensor& seed, const MaybeTensor& noise, Tensor out, const MaybeTensor& theta_out,
              const MaybeTensor& predicted_out) {
  const Shape shape = shape_of(state);
  const ScalarType type = compute_type({&output_logits, &state, get(previous), get(unconditional)});
  const Choice chosen = code("choice", choice, Choice::kMean);
  const BinaryUpdate op{
      .count = numel(shape),
      .output_logits = view("output_logits", output_logits, shape),
      .state = view("state", state, shape),
      .alpha = view_of_rows("take", take, shape, type),
      .spread = view_of_rows("std", std, shape, type),
      .choice = chosen,
      .known = view("known", known, shape),
      .known_mask = view("known_mask", known_mask, shape),
      .noise = std ? noise_of(seed, noise, shape, kSender) : Noise{},
      .draw = chosen == Choice::kSample ? noise_of(seed, draw_noise, shape, kClass) : Noise{},
      .out = view_of_out(out, shape),
      .theta = theta_out ? view_of_out(*theta_out, shape) : View{},
      .solver = solver_of(keep, previous, extrapolation, predicted_out, shape, shape, type),
      .guidance = guidance_of(logit_scale, unconditional, unconditional_scale, shape, shape, type),
  };
  with_compute_type(type, [&](auto t) { binary_update<decltype(t)>(op); });
}

// The loss, its scale and the saved gradient.
using LossAndSaved = std::tuple<Tensor, Tensor, Tensor>;

LossAndSaved loss_new(const Tensor& x, const Tensor& logits, const MaybeTensor& weight, const MaybeTensor& mask,
                      int64_t reduction, bool need_logits) {
  const Shape shape = shape_of(x);
  const ScalarType type = compute_type({&logits});
  const Reduced to = reduced(x, mask, reduction, type);
  const Output grad_logits = output_like(logits, type, need_logits);
  const BinaryLoss op{
      .x = view("x", x, shape),
      .logits = view("logits", logits, shape),
      .weight = view_of_rows("weight", weight, shape, type),
      .grad_logits = grad_logits.view,
      .to = to.to,
  };
  with_compute_type(type, [&](auto t) { binary_loss<decltype(t)>(op); });
  return {to.loss, to.scale, grad_logits.tensor};
}

LossAndSaved discrete_time_loss_new(const Tensor& x, const Tensor& logits, const Tensor& alpha, int64_t n_steps,
                                    int64_t receiver, const Doubles& nodes, const Doubles& node_weights,
                                    int64_t n_samples, const MaybeTensor& seed, const MaybeTensor& noise,
                                    const MaybeTensor& mask, int64_t reduction, bool need_logits) {
  const Shape shape = shape_of(x);
  const ScalarType type = compute_type({&logits});
  const Reduced to = reduced(x, mask, reduction, type);
  const Output grad_logits = output_like(logits, type, need_logits);
  const BinaryNStep op{
      .n_steps = n_steps,
      .receiver = code("receiver", receiver, Receiver::kFactorised),
      .draws = draws_of(nodes, node_weights, n_samples, seed, noise, shape),
      .x = view("x", x, shape),
      .logits = view("logits", logits, shape),
      .alpha = view_of_rows("alpha", alpha, shape, type),
      .grad_logits = grad_logits.view,
      .to = to.to,
  };
  with_compute_type(type, [&](auto t) { binary_nstep<decltype(t)>(op); });
  return {to.loss, to.scale, grad_logits.tensor};
}

}  // namespace
}  // namespace bfn

BFN_OPERATORS(m) {
  bfn::add<&bfn::sender_sample_new>(m, "binary_sender_sample");
  bfn::add_both<&bfn::step_out, 1, 2>(m, "binary_step", "binary_step_out");
  bfn::add<&bfn::loss_new>(m, "binary_loss");
  bfn::add<&bfn::discrete_time_loss_new>(m, "binary_discrete_time_loss");
}
