// Turns tensors into the views that the ops take, and makes new tensors.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "../ops/noise.h"
#include "../ops/view.h"

namespace bfn {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;
using Tensors = std::vector<Tensor>;
using Shape = std::vector<int64_t>;
using Doubles = std::optional<std::vector<double>>;
// Arguments of an operator: a tensor, and one that may be missing.
using Given = const Tensor&;
using Maybe = const MaybeTensor&;

// Raises an error unless `holds`. The message is the name of the argument, followed by `what`.
inline void check(bool holds, const char* name, const char* what) {
  if (!holds) throw std::invalid_argument(std::string(name) + what);
}

inline int64_t numel(const Shape& shape) {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

inline Shape shape_of(Given x) { return {x.sizes().begin(), x.sizes().end()}; }

inline Shape with(Shape shape, int64_t last) {
  shape.push_back(last);
  return shape;
}
inline Shape without_last(Shape shape) {
  check(!shape.empty(), "", "there must be a last dimension");
  shape.pop_back();
  return shape;
}

// Returns the member of an enumeration with this number. `last` is the enumeration's last member.
template <class E>
E code(const char* name, int64_t value, E last) {
  if (value < 0 || value > static_cast<int64_t>(last)) {
    throw std::invalid_argument(std::string(name) + " has no meaning for " + std::to_string(value));
  }
  return static_cast<E>(value);
}

// The view of a tensor, broadcast to `shape` and aligned at the last dimension.
View view(const char* name, Given x, const Shape& shape);
inline View view(const char* name, Maybe x, const Shape& shape) { return x ? view(name, *x, shape) : View{}; }
// The view of a tensor, broadcast to `shape`. Dimension 0 of the tensor is dimension `first` of `shape`. A dimension
// that the tensor lacks counts as size 1. Dimensions of the tensor beyond `shape` are read at index 0 only.
View leading_view(const char* name, Given x, const Shape& shape, int64_t first = 0);
// The view of one half of a tensor, number 0 or 1. The tensor has the shape `shape` and a last dimension of size two.
View view_of_half(const char* name, Given x, const Shape& shape, int64_t which);
// The view of a tensor that the op writes into. A lazy clone gets memory of its own first.
View view_of_out(Given out, const Shape& shape);
inline View view_of_out(Maybe out, const Shape& shape) { return out ? view_of_out(*out, shape) : View{}; }
// The view of row scalars, which must have the type of the arithmetic.
inline View view_of_rows(const char* name, Maybe x, const Shape& shape, ScalarType type) {
  check(!x || x->scalar_type() == type, name,
        " must have the type of the arithmetic, float64 where any argument has it");
  return view(name, x, shape);
}

inline bool is_double(Given x) { return x.scalar_type() == ScalarType::Double; }
inline bool is_double(Maybe x) { return x && is_double(*x); }
inline bool is_floating(Given x) {
  return is_double(x) || x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::BFloat16 ||
         x.scalar_type() == ScalarType::Half;
}
// The type of the arithmetic: double if any of these tensors is double, else float. Tensors may be missing.
template <class... X>
ScalarType compute_type(const X&... tensors) {
  return (is_double(tensors) || ...) ? ScalarType::Double : ScalarType::Float;
}

// Calls a kernel for a type, and returns a tuple of the results: compute(type, op, BFN_KERNEL(name), results...).
#define BFN_KERNEL(name) name<float>, name<double>
template <class Op>
using Kernel = void (*)(const Op&);
template <class Op, class... R>
std::tuple<R...> compute(ScalarType type, const Op& op, std::type_identity_t<Kernel<Op>> in_float,
                         std::type_identity_t<Kernel<Op>> in_double, const R&... results) {
  (type == ScalarType::Double ? in_double : in_float)(op);
  return {results...};
}

// New tensors: contiguous, or with the strides of another tensor.
Tensor new_tensor(Given like, const Shape& shape, ScalarType type);
Tensor new_like(Given like, ScalarType type);

// Returns the tensor of an argument. It is an error if the argument is missing.
inline Given given(const char* name, Maybe x) {
  check(x.has_value(), name, " must be given");
  return *x;
}

// A new tensor, contiguous or with the strides of another tensor, and its view. If it is not needed, the tensor is
// empty and the view is null.
struct Output {
  Tensor tensor;
  View view;
};
inline Output viewed(Given made) { return {made, view("output", made, shape_of(made))}; }
inline Output output(Given like, const Shape& shape, ScalarType type, bool needed = true) {
  return needed ? viewed(new_tensor(like, shape, type)) : Output{new_tensor(like, {0}, type), View{}};
}
inline Output output_like(Given like, ScalarType type, bool needed = true) {
  return needed ? viewed(new_like(like, type)) : output(like, {}, type, false);
}
inline Output output_like(Given like, bool needed = true) { return output_like(like, like.scalar_type(), needed); }

Noise noise_of(Maybe seed, Maybe noise, const Shape& shape, Stream stream);

}  // namespace bfn
