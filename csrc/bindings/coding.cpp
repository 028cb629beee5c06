#include "../ops/coding.h"

#include "../math/coding.h"
#include "operators.h"

namespace bfn {
namespace {

const int64_t* numbers(const char* name, Given x, int64_t count) {
  const bool fits = x.scalar_type() == ScalarType::Long && x.is_contiguous() && x.numel() == count;
  check(fits, name, " must be contiguous and int64, and have as many numbers as the op reads");
  return static_cast<const int64_t*>(x.const_data_ptr());
}

View integers(const char* name, Maybe x, const Shape& shape) {
  check(!x || x->scalar_type() == ScalarType::Long, name, " must be int64");
  return view(name, x, shape);
}

struct Results {
  Tensor cell, start, frequency;

  explicit Results(Given given)
      : cell(new_tensor(given, shape_of(given), ScalarType::Long)),
        start(new_tensor(given, shape_of(given), ScalarType::Long)),
        frequency(new_tensor(given, shape_of(given), ScalarType::Long)) {}

  Coded of(Given given, bool find) const {
    const auto memory = [](Given x) { return static_cast<int64_t*>(x.mutable_data_ptr()); };
    return {.count = numel(shape_of(given)),
            .find = find,
            .given = integers("given", given, shape_of(given)),
            .cell = memory(cell),
            .start = memory(start),
            .frequency = memory(frequency)};
  }
  std::tuple<Tensor, Tensor, Tensor> all() const { return {cell, start, frequency}; }
};

auto lattice_intervals_new(Given given, bool find, Given offset, Given step, int64_t cells, int64_t components,
                           int64_t shift, Maybe weight, Maybe edge, Maybe width, Given table) {
  const Shape shape = shape_of(given);
  check(cells >= 1 && cells < int64_t{1} << kPrecision, "cells", " must be from 1 to 2^24 - 1");
  check(components == 1 || (components == 2 && weight && !edge) || (components > 1 && !weight && edge && width),
        "components", " must be 1, or 2 with a weight, or more with the edge and the width of bins");
  check(shift >= 0, "shift", " must not be below 0");
  const Results results(given);
  lattice_intervals({.coded = results.of(given, find),
                     .cells = cells,
                     .components = components,
                     .shift = shift,
                     .table = numbers("table", table, kTableSize),
                     .offset = integers("offset", offset, shape),
                     .step = integers("step", step, shape),
                     .weight = integers("weight", weight, shape),
                     .edge = integers("edge", edge, shape),
                     .width = integers("width", width, shape)});
  return results.all();
}

auto class_intervals_new(Given given, bool find, Given weights) {
  const Shape shape = shape_of(given);
  check(weights.dim() > 0, "weights", " must have a dimension of classes");
  const int64_t classes = weights.size(weights.dim() - 1);
  check(classes >= 1 && classes < int64_t{1} << kPrecision, "weights", " must be of 1 to 2^24 - 1 classes");
  const Results results(given);
  class_intervals({.coded = results.of(given, find),
                   .classes = classes,
                   .weights = numbers("weights", weights, numel(shape) * classes)});
  return results.all();
}

}  // namespace
}  // namespace bfn

BFN_OPERATORS(m) {
  bfn::add<&bfn::lattice_intervals_new>(m, "common_lattice_intervals");
  bfn::add<&bfn::class_intervals_new>(m, "common_class_intervals");
}
