#include "../ops/schedules.h"

#include "numbers.h"
#include "operators.h"

namespace bfn {
namespace {

std::string written(const Shape& shape) {
  std::string text;
  for (const int64_t size : shape) text += (text.empty() ? "" : ", ") + std::to_string(size);
  return "(" + text + (shape.size() == 1 ? ",)" : ")");
}

// Joins the dimensions of `value`, which lead those of the data, into those of the rows.
void join(const char* name, Shape& rows, const Tensor& value, const Shape& data) {
  const auto sizes = value.sizes();
  for (size_t d = 0; d < sizes.size(); ++d) {
    if (sizes[d] == 1) continue;
    if (d >= rows.size() || sizes[d] != data[d]) {
      throw std::invalid_argument(std::string(name) + " must be a scalar or have the shape of a leading part of " +
                                  written(data) + ", got " + written(shape_of(value)));
    }
    rows[d] = sizes[d];
  }
}

int64_t size_of(int64_t set) {
  int64_t size = 0;
  for (; set; set &= set - 1) ++size;
  return size;
}

Tensor row_numbers_new(const Tensor& value, const MaybeTensor& rho, int64_t which, const Doubles& by,
                       const Shape& shape, ScalarType type) {
  return row_numbers_of(rho ? Tensors{value, *rho} : Tensors{value}, which, by, shape, type);
}

}  // namespace

Tensor row_numbers_of(const Tensors& rows, int64_t which, const Doubles& by, const Shape& shape, ScalarType type) {
  if (by.size() != 5 || rows.empty() || rows.size() > 2) {
    throw std::invalid_argument("rows are made by five numbers, of one tensor or two");
  }
  constexpr ScheduleKind kLast = ScheduleKind::kLogarithmicAccuracy;
  const int64_t kind = inside(by[0], 0.0, static_cast<double>(kLast)) ? static_cast<int64_t>(by[0]) : -1;
  if (type != ScalarType::Float && type != ScalarType::Double) {
    throw std::invalid_argument("rows must be made in float32 or float64");
  }
  const Schedule schedule{code("schedule", kind, kLast), by[1], by[2]};
  const Tensor& value = rows[0];
  const Tensor* rho = rows.size() > 1 ? &rows[1] : nullptr;
  Shape sizes(shape.size(), 1);
  join(schedule.kind == ScheduleKind::kNone ? "alpha" : "t", sizes, value, shape);
  if (rho) join("precision", sizes, *rho, shape);
  RowNumbers op{numel(sizes),
                leading_view("rows", value, sizes),
                rho ? leading_view("precision", *rho, sizes) : View{},
                {schedule, by[3], by[4]}};
  for (int64_t k = 0; k <= static_cast<int64_t>(RowNumber::kSpread); ++k) {
    if (!(which >> k & 1)) continue;
    if (op.wanted == kMaxRowNumbers) throw std::invalid_argument("too many numbers of a row");
    op.which[op.wanted++] = static_cast<RowNumber>(k);
  }
  Shape each = sizes;
  each.insert(each.begin(), op.wanted);
  const Tensor out = new_tensor(value, each, type);
  for (int k = 0; k < op.wanted; ++k) op.out[k] = view_of_part("rows", out, k, sizes);
  with_compute_type(type, [&](auto t) { row_numbers<decltype(t)>(op); });
  return out;
}

void Numbers::check(ScalarType type) const {
  if (which_ < 0 || which_ >> (static_cast<int64_t>(RowNumber::kSpread) + 1)) {
    throw std::invalid_argument("which has bits of no number of a row");
  }
  if (!made_ && static_cast<int64_t>(given_.size()) != size_of(which_)) {
    throw std::invalid_argument("rows must be as many numbers as which has bits");
  }
  for (const Tensor& row : given_) {
    if (!made_ && row.scalar_type() != type) {
      throw std::invalid_argument("rows must have the type of the arithmetic, float64 where any argument has it");
    }
  }
}

View Numbers::of(std::initializer_list<RowNumber> wanted) const {
  for (const RowNumber number : wanted) {
    const int64_t bit = int64_t{1} << static_cast<int64_t>(number);
    if (!(which_ & bit)) continue;
    const int64_t place = size_of(which_ & (bit - 1));
    if (made_) return view_of_part("rows", *made_, place, shape_);
    return view("rows", given_[place], shape_);
  }
  return {};
}

}  // namespace bfn

BFN_SCHEMAS(m) {
  m.def("row_numbers(Tensor value, Tensor? rho, int which, float[] by, int[] shape, ScalarType dtype) -> Tensor");
}

BFN_OPERATORS(m) { bfn::add<&bfn::row_numbers_new>(m, "row_numbers"); }
