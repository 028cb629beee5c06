#include "../ops/discrete.h"

#include "target.h"
#include "tensors.h"

namespace bfn {
namespace {

void refuse(const BadClass& bad, const char* name, int64_t num_classes) {
  if (bad.found) {
    throw std::out_of_range(std::string(name) + " must hold classes in [0, " + std::to_string(num_classes) + "), got " +
                            std::to_string(bad.value));
  }
}

int64_t classes_of(const Tensor& logits) { return logits.size(logits.dim() - 1); }

Shape rows_of(const Tensor& logits) {
  Shape shape = shape_of(logits);
  shape.pop_back();
  return shape;
}

Tensor sender_new(const Tensor& x, const Tensor& beta, const Tensor& spread, int64_t num_classes, bool probs,
                  const MaybeTensor& seed, const MaybeTensor& noise, ScalarType dtype) {
  const Shape rows = shape_of(x), shape = with(rows, num_classes);
  Tensor out = new_tensor(x, shape, dtype);
  BadClass bad;
  const DiscreteSender op{numel(rows),
                          num_classes,
                          view("x", x, rows),
                          view("beta", beta, rows),
                          view("spread", spread, rows),
                          probs,
                          noise_of(seed, noise, shape, kSender),
                          view("out", out, shape),
                          &bad};
  with_compute_type(compute_type({&out}), [&](auto t) { discrete_sender<decltype(t)>(op); });
  refuse(bad, "x", num_classes);
  return out;
}

void update_out(const Tensor& output_logits, const Tensor& state, const Tensor& beta, const Tensor& spread,
                int64_t choice, const MaybeTensor& known, const MaybeTensor& known_mask, const MaybeTensor& seed,
                const MaybeTensor& noise, const MaybeTensor& draw_noise, Tensor out) {
  const Shape shape = shape_of(state), rows = rows_of(state);
  BadClass bad;
  DiscreteUpdate op{numel(rows),
                    classes_of(state),
                    view("output_logits", output_logits, shape),
                    view("state", state, shape),
                    view("beta", beta, rows),
                    view("spread", spread, rows),
                    static_cast<DiscreteChoice>(choice),
                    view("known", known, rows),
                    view("known_mask", known_mask, rows),
                    noise_of(seed, noise, shape, kSender),
                    {},
                    view("out", out, shape),
                    &bad};
  if (op.choice == DiscreteChoice::kSample) op.draw = noise_of(seed, draw_noise, rows, kClass);
  with_compute_type(compute_type({&output_logits, &state}), [&](auto t) { discrete_update<decltype(t)>(op); });
  refuse(bad, "known", op.num_classes);
}

Tensor update_new(const Tensor& output_logits, const Tensor& state, const Tensor& beta, const Tensor& spread,
                  int64_t choice, const MaybeTensor& known, const MaybeTensor& known_mask, const MaybeTensor& seed,
                  const MaybeTensor& noise, const MaybeTensor& draw_noise) {
  Tensor out = new_like(state);
  update_out(output_logits, state, beta, spread, choice, known, known_mask, seed, noise, draw_noise, out);
  return out;
}

std::tuple<Tensor, Tensor, Tensor> loss_new(const Tensor& x, const Tensor& logits, const MaybeTensor& weight,
                                            const MaybeTensor& mask, int64_t reduction, bool need_logits) {
  const Shape rows = shape_of(x), four = with(rows, kRowStats);
  const ScalarType type = compute_type({&logits});
  const Reduced to = reduced(x, mask, reduction, type);
  Tensor stats = new_tensor(logits, need_logits ? four : Shape{0}, type);
  BadClass bad;
  const DiscreteLoss op{classes_of(logits),
                        view("x", x, rows),
                        view("logits", logits, with(rows, classes_of(logits))),
                        view("weight", weight, rows),
                        need_logits ? view("stats", stats, four) : View{},
                        to.to,
                        &bad};
  with_compute_type(type, [&](auto t) { discrete_loss<decltype(t)>(op); });
  refuse(bad, "x", op.num_classes);
  return {to.loss, to.scale, stats};
}

Tensor loss_backward_new(const Tensor& grad, const Tensor& x, const Tensor& logits, const MaybeTensor& weight,
                         const MaybeTensor& mask, const Tensor& stats) {
  const Shape rows = shape_of(x), shape = with(rows, classes_of(logits));
  Tensor by_logits = new_like(logits);
  const DiscreteLossBackward op{numel(rows),
                                classes_of(logits),
                                view("grad", grad, rows),
                                view("x", x, rows),
                                view("logits", logits, shape),
                                view("weight", weight, rows),
                                view("mask", mask, rows),
                                view("stats", stats, with(rows, kRowStats)),
                                view("gradient", by_logits, shape)};
  with_compute_type(compute_type({&logits}), [&](auto t) { discrete_loss_backward<decltype(t)>(op); });
  return by_logits;
}

std::tuple<Tensor, Tensor, Tensor> nstep_new(const Tensor& x, const Tensor& logits, const Tensor& alpha,
                                             int64_t n_steps, int64_t receiver, int64_t n_samples,
                                             std::vector<double> nodes, std::vector<double> node_weights,
                                             const MaybeTensor& seed, const MaybeTensor& noise, const MaybeTensor& mask,
                                             int64_t reduction, bool need_logits) {
  const Shape rows = shape_of(x), shape = with(rows, classes_of(logits));
  const ScalarType type = compute_type({&logits});
  const Reduced to = reduced(x, mask, reduction, type);
  Tensor by_logits = saved_gradient(logits, type, need_logits);
  BadClass bad;
  const DiscreteNStep op{classes_of(logits),
                         n_steps,
                         n_samples,
                         static_cast<Receiver>(receiver),
                         nodes.data(),
                         node_weights.data(),
                         static_cast<int64_t>(nodes.size()),
                         view("x", x, rows),
                         view("logits", logits, shape),
                         view("alpha", alpha, rows),
                         monte_carlo_noise(seed, noise, shape, n_samples),
                         need_logits ? view("gradient", by_logits, shape) : View{},
                         to.to,
                         &bad};
  with_compute_type(type, [&](auto t) { discrete_nstep<decltype(t)>(op); });
  refuse(bad, "x", op.num_classes);
  return {to.loss, to.scale, by_logits};
}

}  // namespace
}  // namespace bfn

#define BFN_UPDATE                                                                                                  \
  "Tensor output_logits, Tensor state, Tensor beta, Tensor spread, int choice, Tensor? known, Tensor? known_mask, " \
  "Tensor? seed, Tensor? noise, Tensor? draw_noise"

BFN_SCHEMAS(m) {
  m.def(
      "discrete_sender(Tensor x, Tensor beta, Tensor spread, int num_classes, bool probs, Tensor? seed, Tensor? noise, "
      "ScalarType dtype) -> Tensor");
  m.def("discrete_update(" BFN_UPDATE ") -> Tensor");
  m.def("discrete_update_out(" BFN_UPDATE ", Tensor(a!) out) -> ()");
  m.def(
      "discrete_loss(Tensor x, Tensor logits, Tensor? weight, Tensor? mask, int reduction, bool need_logits) -> "
      "(Tensor, Tensor, Tensor)");
  m.def(
      "discrete_loss_backward(Tensor grad, Tensor x, Tensor logits, Tensor? weight, Tensor? mask, Tensor stats) -> "
      "Tensor");
  m.def(
      "discrete_nstep(Tensor x, Tensor logits, Tensor alpha, int n_steps, int receiver, int n_samples, float[] nodes, "
      "float[] node_weights, Tensor? seed, Tensor? noise, Tensor? mask, int reduction, bool need_logits) -> (Tensor, "
      "Tensor, Tensor)");
}

BFN_OPERATORS(m) {
  m.impl("discrete_sender", BFN_BOX(&bfn::sender_new));
  m.impl("discrete_update", BFN_BOX(&bfn::update_new));
  m.impl("discrete_update_out", BFN_BOX(&bfn::update_out));
  m.impl("discrete_loss", BFN_BOX(&bfn::loss_new));
  m.impl("discrete_loss_backward", BFN_BOX(&bfn::loss_backward_new));
  m.impl("discrete_nstep", BFN_BOX(&bfn::nstep_new));
}
