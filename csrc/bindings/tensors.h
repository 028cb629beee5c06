// Tensors as the views that the ops take.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <initializer_list>
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

// Refuses an argument, unless this holds. The message is the name of the argument and `what`.
inline void check(bool holds, const char* name, const char* what) {
  if (!holds) throw std::invalid_argument(std::string(name) + what);
}

inline int64_t numel(const Shape& shape) {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

inline Shape shape_of(const Tensor& x) { return {x.sizes().begin(), x.sizes().end()}; }

inline Shape with(Shape shape, int64_t last) {
  shape.push_back(last);
  return shape;
}
inline Shape without_last(Shape shape) {
  shape.pop_back();
  return shape;
}

// The member of an enumeration with this number; `last` is its last one.
template <class E>
E code(const char* name, int64_t value, E last) {
  if (value < 0 || value > static_cast<int64_t>(last)) {
    throw std::invalid_argument(std::string(name) + " has no meaning for " + std::to_string(value));
  }
  return static_cast<E>(value);
}

// The tensor broadcast to `shape`, aligned at the last dimension.
View view(const char* name, const Tensor& x, const Shape& shape);
View view(const char* name, const MaybeTensor& x, const Shape& shape);
// One half, number 0 or 1, of a tensor that has the dimensions of `shape` and a last dimension of two.
View view_of_half(const char* name, const Tensor& x, const Shape& shape, int64_t which);
// The view of a tensor that the caller gave to be written into: a lazy clone gets memory of its own first.
View view_of_out(const Tensor& out, const Shape& shape);
View view_of_out(const MaybeTensor& out, const Shape& shape);
// The view of row scalars, which must have the type of the arithmetic.
View view_of_rows(const char* name, const MaybeTensor& x, const Shape& shape, ScalarType type);
// The tensor broadcast to `shape`, aligned at the first dimension.
View leading_view(const char* name, const Tensor& x, const Shape& shape);

ScalarType compute_type(std::initializer_list<const Tensor*> tensors);
inline const Tensor* get(const MaybeTensor& x) { return x ? &*x : nullptr; }

// Calls f with a float or a double.
template <class F>
void with_compute_type(ScalarType type, F&& f) {
  if (type == ScalarType::Double) return f(double{});
  f(float{});
}

// Calls a kernel in that type: compute(type, op, BFN_KERNEL(name)).
#define BFN_KERNEL(name) name<float>, name<double>
template <class Op>
using Kernel = void (*)(const Op&);
template <class Op>
void compute(ScalarType type, const Op& op, std::type_identity_t<Kernel<Op>> in_float,
             std::type_identity_t<Kernel<Op>> in_double) {
  (type == ScalarType::Double ? in_double : in_float)(op);
}

// Fresh tensors: contiguous, or with the strides of another.
Tensor new_tensor(const Tensor& like, const Shape& shape, ScalarType type);
Tensor new_like(const Tensor& like, ScalarType type);
inline Tensor new_like(const Tensor& like) { return new_like(like, like.scalar_type()); }

// The tensor of an argument that this operator cannot do without.
inline const Tensor& given(const char* name, const MaybeTensor& x) {
  check(x.has_value(), name, " must be given");
  return *x;
}

// A fresh tensor, contiguous or like another, and its view. If it is not needed, the tensor is empty and the view null.
struct Output {
  Tensor tensor;
  View view;
};
Output output(const Tensor& like, const Shape& shape, ScalarType type, bool needed = true);
Output output_like(const Tensor& like, ScalarType type, bool needed = true);
inline Output output_like(const Tensor& like, bool needed = true) {
  return output_like(like, like.scalar_type(), needed);
}

Noise noise_of(const MaybeTensor& seed, const MaybeTensor& noise, const Shape& shape, Stream stream);

}  // namespace bfn
