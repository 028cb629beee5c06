#include "../ops/schedules.h"

#include "../cpu/format.h"
#include "operators.h"

namespace bfn {
namespace {

// Widens the shape `rows` by the dimensions of `value`, which must be leading dimensions of the data.
void join(const char* name, Shape& rows, Given value, const Shape& data) {
  const auto sizes = value.sizes();
  for (size_t d = 0; d < sizes.size(); ++d) {
    if (sizes[d] == 1) continue;
    if (d >= rows.size() || sizes[d] != data[d]) {
      throw std::invalid_argument(std::string(name) + " must be a scalar or have the shape of a leading part of " +
                                  formatted(data) + ", got " + formatted(shape_of(value)));
    }
    rows[d] = sizes[d];
  }
}

auto row_scalars_new(Given value, Maybe rho, int64_t wanted, int64_t kind, double parameter, int64_t num_classes,
                     int64_t n_steps, double scale, double t_min, const Shape& shape, bool wide) {
  const ScalarType type = wide ? ScalarType::Double : ScalarType::Float;
  check(wanted >= 0 && !(wanted >> (static_cast<int64_t>(RowScalar::kSpread) + 1)), "wanted",
        " has a bit that stands for no row scalar");
  const Schedule schedule{code("schedule", kind, ScheduleKind::kLogarithmicAccuracy), parameter,
                          static_cast<double>(num_classes)};
  Shape sizes(shape.size(), 1);
  join(schedule.kind == ScheduleKind::kNone ? "alpha" : "t", sizes, value, shape);
  if (rho) join("precision", sizes, *rho, shape);
  RowScalars op{
      .count = numel(sizes),
      .value = leading_view("value", value, sizes),
      .rho = rho ? leading_view("precision", *rho, sizes) : View{},
      .context = {schedule, static_cast<double>(n_steps), scale, t_min},
  };
  Tensors scalars;
  for (int64_t which = 0; wanted >> which; ++which) {
    if (!(wanted >> which & 1)) continue;
    check(op.wanted < kMaxRowScalars, "wanted", " has more row scalars than one call computes");
    scalars.push_back(new_tensor(value, sizes, type));
    op.which[op.wanted] = static_cast<RowScalar>(which);
    op.out[op.wanted++] = view("scalars", scalars.back(), sizes);
  }
  compute(type, op, BFN_KERNEL(row_scalars));
  return std::tuple(scalars);
}

}  // namespace
}  // namespace bfn

BFN_OPERATORS(m) { bfn::add<&bfn::row_scalars_new>(m, "common_row_scalars"); }
