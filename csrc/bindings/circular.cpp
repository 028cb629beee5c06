#include "../ops/circular.h"

#include "operators.h"
#include "records.h"

namespace bfn::bindings {
namespace {

auto draw(Given x, Maybe concentration, Maybe step, Maybe table, Given seed, double period, double log_least,
          double log_factor, const Out& mean_out, Maybe drawn_out) {
  const Shape shape = shape_of(x);
  const ScalarType type = compute_type(x);
  const Tensor mean = mean_out.or_like(x);
  const ScalarType wide = is_double(x) ? ScalarType::Double : ScalarType::Float;
  const Output drawn =
      drawn_out ? Output{*drawn_out, view_of_out(drawn_out, shape)} : output_like(x, wide, table.has_value());
  check(concentration.has_value() != table.has_value() && step.has_value() == table.has_value(), "",
        "either concentration or step and table must be given");
  check(!table || (table->dim() == 2 && table->size(1) == kQuantiles && table->is_contiguous() &&
                   table->scalar_type() == ScalarType::Float),
        "table", " must be contiguous float32 quantiles");
  const CircularDraw op{
      .count = numel(shape),
      .x = view("x", x, shape),
      .concentration = view_of_rows("concentration", concentration, shape, type),
      .step = view_of_rows("step", step, shape, type),
      .table = table ? static_cast<const float*>(view("table", *table, shape_of(*table)).data) : nullptr,
      .rows = table ? table->size(0) : 0,
      .noise = noise_of(seed, MaybeTensor{}, shape, kSender),
      .period = period,
      .log = {log_least, log_factor},
      .mean = view_of_out(mean, shape),
      .drawn = drawn.view,
  };
  return compute(type, op, BFN_KERNEL(circular_draw), mean, drawn.tensor);
}

auto step(Given prediction, Given mean, Given concentration, Given alpha, Maybe known, Maybe known_mask, Maybe seed,
          double period, double log_least, double log_factor, const Out& mean_out, Maybe concentration_out,
          Maybe log_out) {
  const Shape shape = shape_of(mean);
  const ScalarType type = compute_type(prediction, mean, concentration);
  const Tensor new_mean = mean_out.or_like(mean);
  const Tensor new_concentration = Out{concentration_out}.or_like(concentration);
  const CircularStep op{
      .count = numel(shape),
      .prediction = view("prediction", prediction, shape),
      .mean = view("mean", mean, shape),
      .concentration = view("concentration", concentration, shape),
      .alpha = view_of_rows("alpha", alpha, shape, type),
      .known = view("known", known, shape),
      .known_mask = view("known_mask", known_mask, shape),
      .seed = seed ? noise_of(seed, MaybeTensor{}, shape, kAngle).seed : nullptr,
      .period = period,
      .log = {log_least, log_factor},
      .new_mean = view_of_out(new_mean, shape),
      .new_concentration = view_of_out(new_concentration, shape),
      .new_log = view_of_out(log_out, shape),
  };
  return compute(type, op, BFN_KERNEL(circular_step), new_mean, new_concentration);
}

auto loss_new(Given x, Given prediction, Maybe concentration, Maybe weight, int64_t cost, double period,
              const LossTarget& target, bool need_prediction, bool need_concentration) {
  const Shape shape = shape_of(x);
  const ScalarType type = compute_type(x, prediction, concentration);
  const CircularCost kind = code("cost", cost, CircularCost::kDensity);
  check(
      concentration.has_value() == (kind == CircularCost::kDensity) && weight.has_value() != concentration.has_value(),
      "", "a density needs a concentration, and another cost needs a weight");
  const Reduced to = target.over(x, type);
  const Output by_prediction = output_like(prediction, type, need_prediction);
  const Output by_weight = output_like(concentration ? *concentration : prediction, type, need_concentration);
  const CircularLoss op{
      .cost = kind,
      .period = period,
      .x = view("x", x, shape),
      .prediction = view("prediction", prediction, shape),
      .weight =
          concentration ? view("concentration", concentration, shape) : view_of_rows("weight", weight, shape, type),
      .grad_prediction = by_prediction.view,
      .grad_weight = by_weight.view,
      .to = to.to,
  };
  return compute(type, op, BFN_KERNEL(circular_loss), to.loss, to.scale, by_prediction.tensor, by_weight.tensor);
}

BFN_OPERATORS(m) {
  add<&draw, 2>(m, "circular_draw");
  add<&step, 3>(m, "circular_step");
  add<&loss_new>(m, "circular_loss");
}

}  // namespace
}  // namespace bfn::bindings
