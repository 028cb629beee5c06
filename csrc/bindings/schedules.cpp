#include "../cpu/schedules.h"

#include "target.h"
#include "tensors.h"

namespace bfn {
namespace {

// Joins the dimensions of `value`, which lead those of the data, into those of the rows.
void join(Shape& rows, const Tensor& value, const Shape& data) {
  if (value.scalar_type() != ScalarType::Float && value.scalar_type() != ScalarType::Double) {
    throw std::invalid_argument("rows must be float32 or float64");
  }
  const auto sizes = value.sizes();
  for (size_t d = 0; d < sizes.size(); ++d) {
    if (sizes[d] == 1) continue;
    if (d >= rows.size() || sizes[d] != data[d]) throw std::invalid_argument("rows do not fit the data");
    rows[d] = sizes[d];
  }
}

std::vector<Tensor> row_numbers_new(const Tensor& value, const MaybeTensor& rho, Shape shape, int64_t schedule,
                                    double parameter, int64_t num_classes, int64_t n_steps, double scale, int64_t which,
                                    ScalarType dtype) {
  Shape rows(shape.size(), 1);
  join(rows, value, shape);
  if (rho) join(rows, *rho, shape);
  const Schedule by{static_cast<ScheduleKind>(schedule), parameter, static_cast<double>(num_classes)};
  const bool timed = by.kind != ScheduleKind::kNone;
  std::atomic<bool> bad{false};
  RowNumbers op{numel(rows),
                leading_view("value", value, rows),
                rho ? leading_view("rho", *rho, rows) : View{},
                timed ? 1 : std::numeric_limits<double>::infinity(),
                {by, static_cast<double>(n_steps), scale},
                0,
                {},
                {},
                &bad};
  std::vector<Tensor> out;
  out.reserve(kMaxRowNumbers);
  for (int64_t k = 0; which >> k; ++k) {
    if (!(which >> k & 1)) continue;
    if (op.wanted == kMaxRowNumbers) throw std::invalid_argument("too many numbers of a row");
    out.push_back(new_tensor(value, rows, dtype));
    op.which[op.wanted] = static_cast<RowNumber>(k);
    op.out[op.wanted++] = view("out", out.back(), rows);
  }
  with_compute_type(dtype, [&](auto t) { row_numbers<decltype(t)>(op); });
  if (bad) throw std::invalid_argument("a number of a row is out of range");
  return out;
}

}  // namespace
}  // namespace bfn

BFN_SCHEMAS(m) {
  m.def(
      "row_numbers(Tensor value, Tensor? rho, int[] shape, int schedule, float parameter, int num_classes, "
      "int n_steps, float scale, int which, ScalarType dtype) -> Tensor[]");
}

BFN_OPERATORS(m) { m.impl("row_numbers", BFN_BOX(&bfn::row_numbers_new)); }
