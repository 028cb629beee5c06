#include "../ops/circular.h"

#include "operators.h"
#include "records.h"

namespace bfn::bindings {
namespace {

struct Message {
  Tensor alpha;
  MaybeTensor table, known, known_mask, seed, noise, concentration_noise;
  auto fields() const { return std::tie(alpha, table, known, known_mask, seed, noise, concentration_noise); }

  // Explicit noise has two numbers for each proposal, in two dimensions before the dimensions of the data.
  bfn::Noise angle_over(Shape shape) const {
    shape.insert(shape.begin(), {proposals(), 2});
    return seed || noise ? noise_of(seed, noise, shape, kAngle) : bfn::Noise{};
  }
  int64_t proposals() const { return noise && noise->dim() > 0 ? noise->size(0) : 0; }
};

struct Circle {
  double period, log_least, log_factor, certain;
  auto fields() const { return std::tie(period, log_least, log_factor, certain); }
};

auto step(Given sent, Maybe mean, Maybe concentration, const Message& message, const Circle& circle, const Out& out,
          Maybe concentration_out, Maybe log_out) {
  const Shape shape = shape_of(sent);
  const ScalarType type = compute_type(sent, mean, concentration);
  check(mean.has_value() == concentration.has_value(), "mean and concentration", " must be given together");
  const int64_t num_rows = message.table ? message.table->size(0) : 0;
  const View table = view("table", message.table, {num_rows, kQuantiles});
  check(!table || (table.dtype == DType::kFloat && table.contiguous()), "table", " must be contiguous and float32");
  const Tensor new_mean = out.or_like(mean ? *mean : sent);
  // Without `out`, torch passes no outputs at all. With it, `concentration_out` may be missing.
  const Output made = out.tensor      ? Output{new_mean, view_of_out(concentration_out, shape)}
                      : concentration ? output_like(*concentration)
                                      : output_like(sent, type);
  const CircularStep op{
      .count = numel(shape),
      .sent = view("sent", sent, shape),
      .mean = view("mean", mean, shape),
      .concentration = view("concentration", concentration, shape),
      .known = view("known", message.known, shape),
      .known_mask = view("known_mask", message.known_mask, shape),
      .alpha = view_of_rows("alpha", message.alpha, shape, type),
      .table = static_cast<const float*>(table.data),
      .rows = num_rows,
      .normals = table ? noise_of(message.seed, message.concentration_noise, shape, kSender) : bfn::Noise{},
      .angle = message.angle_over(shape),
      .proposals = message.proposals(),
      .period = circle.period,
      .log_least = circle.log_least,
      .log_factor = circle.log_factor,
      .certain = message.known && table ? circle.certain : 0,
      .new_mean = view_of_out(new_mean, shape),
      .new_concentration = made.view,
      .new_log = view_of_out(log_out, shape),
  };
  return compute(type, op, BFN_KERNEL(circular_step), new_mean, made.tensor);
}

BFN_OPERATORS(m) { add<&step, 3>(m, "circular_step"); }

}  // namespace
}  // namespace bfn::bindings
