#include "../ops/discrete.h"

#include "loss.h"
#include "numbers.h"
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

// Of a flow, or of a message.
View accuracy_of(const Numbers& numbers) { return numbers.of({RowNumber::kBeta, RowNumber::kAccuracy}); }
View spread_of(const Numbers& numbers) { return numbers.of({RowNumber::kBetaSpread, RowNumber::kSpread}); }

Tensor sender_new(const Tensor& x, const Tensors& rows, int64_t which, const Doubles& by, int64_t num_classes,
                  bool probs, const MaybeTensor& seed, const MaybeTensor& noise, ScalarType dtype) {
  const Shape lead = shape_of(x), shape = with(lead, check_classes(num_classes));
  Tensor out = new_tensor(x, shape, dtype);
  const ScalarType type = compute_type({&out});
  const Numbers numbers(rows, which, by, lead, type);
  BadClass bad;
  const DiscreteSender op{numel(lead),
                          num_classes,
                          view("x", x, lead),
                          accuracy_of(numbers),
                          spread_of(numbers),
                          probs,
                          noise_of(seed, noise, shape, kSender),
                          view("out", out, shape),
                          &bad};
  with_compute_type(type, [&](auto t) { discrete_sender<decltype(t)>(op); });
  refuse(bad, "x", num_classes);
  return out;
}

void update_out(const Tensor& output_logits, const Tensor& state, const Tensors& rows, int64_t which, const Doubles& by,
                int64_t choice, const MaybeTensor& known, const MaybeTensor& known_mask, const MaybeTensor& seed,
                const MaybeTensor& noise, const MaybeTensor& draw_noise, Tensor out) {
  const int64_t num_classes = classes_of(state);
  const Shape shape = shape_of(state), lead = lead_of(state);
  const ScalarType type = compute_type({&output_logits, &state});
  const Numbers numbers(rows, which, by, lead, type);
  BadClass bad;
  DiscreteUpdate op{numel(lead),
                    num_classes,
                    view("output_logits", output_logits, shape),
                    view("state", state, shape),
                    accuracy_of(numbers),
                    spread_of(numbers),
                    code("choice", choice, DiscreteChoice::kMean),
                    view("known", known, lead),
                    view("known_mask", known_mask, lead),
                    noise_of(seed, noise, shape, kSender),
                    {},
                    view_of_out(out, shape),
                    &bad};
  if (op.choice == DiscreteChoice::kSample) op.draw = noise_of(seed, draw_noise, lead, kClass);
  with_compute_type(type, [&](auto t) { discrete_update<decltype(t)>(op); });
  refuse(bad, "known", num_classes);
}

Tensor update_new(const Tensor& output_logits, const Tensor& state, const Tensors& rows, int64_t which,
                  const Doubles& by, int64_t choice, const MaybeTensor& known, const MaybeTensor& known_mask,
                  const MaybeTensor& seed, const MaybeTensor& noise, const MaybeTensor& draw_noise) {
  Tensor out = new_like(state);
  update_out(output_logits, state, rows, which, by, choice, known, known_mask, seed, noise, draw_noise, out);
  return out;
}

std::tuple<Tensor, Tensor, Tensor> loss_new(const Tensor& x, const Tensor& logits, const Tensors& rows, int64_t which,
                                            const Doubles& by, const MaybeTensor& mask, int64_t reduction,
                                            bool need_logits) {
  const Shape lead = shape_of(x), four = with(lead, kRowStats);
  const ScalarType type = compute_type({&logits});
  const Numbers numbers(rows, which, by, lead, type);
  const Reduced to = reduced(x, mask, reduction, type);
  Tensor stats = new_tensor(logits, need_logits ? four : Shape{0}, type);
  BadClass bad;
  const DiscreteLoss op{classes_of(logits),
                        view("x", x, lead),
                        view("logits", logits, with(lead, classes_of(logits))),
                        numbers.of({RowNumber::kRate}),
                        need_logits ? view("stats", stats, four) : View{},
                        to.to,
                        &bad};
  with_compute_type(type, [&](auto t) { discrete_loss<decltype(t)>(op); });
  refuse(bad, "x", op.num_classes);
  return {to.loss, to.scale, stats};
}

Tensor loss_backward_new(const Tensor& grad, const Tensor& scale, const Tensor& x, const Tensor& logits,
                         const Tensors& rows, int64_t which, const Doubles& by, const MaybeTensor& mask,
                         const Tensor& stats) {
  const Shape lead = shape_of(x), shape = with(lead, classes_of(logits));
  const ScalarType type = compute_type({&logits});
  const Tensor by_loss = scaled(grad, scale);
  const Numbers numbers(rows, which, by, lead, type);
  Tensor by_logits = new_like(logits);
  const DiscreteLossBackward op{numel(lead),
                                classes_of(logits),
                                leading_view("grad", by_loss, lead),
                                view("x", x, lead),
                                view("logits", logits, shape),
                                numbers.of({RowNumber::kRate}),
                                view("mask", mask, lead),
                                view("stats", stats, with(lead, kRowStats)),
                                view("gradient", by_logits, shape)};
  with_compute_type(type, [&](auto t) { discrete_loss_backward<decltype(t)>(op); });
  return by_logits;
}

std::tuple<Tensor, Tensor, Tensor> nstep_new(const Tensor& x, const Tensor& logits, const Tensors& rows, int64_t which,
                                             const Doubles& by, int64_t n_steps, int64_t receiver, int64_t n_samples,
                                             const Doubles& nodes, const Doubles& node_weights, const MaybeTensor& seed,
                                             const MaybeTensor& noise, const MaybeTensor& mask, int64_t reduction,
                                             bool need_logits) {
  const Shape lead = shape_of(x), shape = with(lead, classes_of(logits));
  const ScalarType type = compute_type({&logits});
  const Numbers numbers(rows, which, by, lead, type);
  check_nodes(nodes, node_weights, n_samples);
  const Reduced to = reduced(x, mask, reduction, type);
  Tensor by_logits = saved_gradient(logits, type, need_logits);
  BadClass bad;
  const DiscreteNStep op{classes_of(logits),
                         n_steps,
                         n_samples,
                         code("receiver", receiver, Receiver::kFactorised),
                         nodes.data(),
                         node_weights.data(),
                         static_cast<int64_t>(nodes.size()),
                         view("x", x, lead),
                         view("logits", logits, shape),
                         numbers.of({RowNumber::kAlpha}),
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

#define BFN_UPDATE                                                  \
  "Tensor output_logits, Tensor state, " BFN_ROWS                   \
  ", int choice, Tensor? known, Tensor? known_mask, Tensor? seed, " \
  "Tensor? noise, Tensor? draw_noise"

BFN_SCHEMAS(m) {
  m.def("discrete_sender(Tensor x, " BFN_ROWS
        ", int num_classes, bool probs, Tensor? seed, Tensor? noise, ScalarType dtype) -> Tensor");
  m.def("discrete_update(" BFN_UPDATE ") -> Tensor");
  m.def("discrete_update_out(" BFN_UPDATE ", Tensor(a!) out) -> ()");
  m.def("discrete_loss(Tensor x, Tensor logits, " BFN_ROWS
        ", Tensor? mask, int reduction, bool need_logits) -> (Tensor, Tensor, Tensor)");
  m.def("discrete_loss_backward(Tensor grad, Tensor scale, Tensor x, Tensor logits, " BFN_ROWS
        ", Tensor? mask, Tensor stats) -> Tensor");
  m.def("discrete_nstep(Tensor x, Tensor logits, " BFN_ROWS
        ", int n_steps, int receiver, int n_samples, float[] nodes, float[] node_weights, Tensor? seed, "
        "Tensor? noise, Tensor? mask, int reduction, bool need_logits) -> (Tensor, Tensor, Tensor)");
}

BFN_OPERATORS(m) {
  bfn::add<&bfn::sender_new>(m, "discrete_sender");
  bfn::add<&bfn::update_new>(m, "discrete_update");
  bfn::add<&bfn::update_out>(m, "discrete_update_out");
  bfn::add<&bfn::loss_new>(m, "discrete_loss");
  bfn::add<&bfn::loss_backward_new>(m, "discrete_loss_backward");
  bfn::add<&bfn::nstep_new>(m, "discrete_nstep");
}
