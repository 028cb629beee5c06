#include "../ops/binary.h"

#include "classes.h"

namespace bfn::bindings {
namespace {

auto sender_sample_new(Given x, Given alpha, Given spread, bool probs, const Noise& noise, ScalarType dtype) {
  const Output out = output_like(x, dtype);
  return sender_sample<BinarySender, BFN_KERNEL(binary_sender)>(x, alpha, spread, probs, noise, out);
}

auto loss_new(Given x, Given logits, Maybe weight, const LossTarget& to, bool need_logits) {
  const Output saved = output_like(logits, compute_type(logits), need_logits);
  return loss<BinaryLoss, BFN_KERNEL(binary_loss)>(x, logits, weight, to, saved, &BinaryLoss::grad_logits);
}

BFN_OPERATORS(m) {
  add<&sender_sample_new>(m, "binary_sender_sample");
  add<&step<BinaryUpdate, BFN_KERNEL(binary_update)>, 3>(m, "binary_step");
  add<&loss_new>(m, "binary_loss");
  add<&discrete_time_loss<BinaryNStep, BFN_KERNEL(binary_nstep)>>(m, "binary_discrete_time_loss");
}

}  // namespace
}  // namespace bfn::bindings
