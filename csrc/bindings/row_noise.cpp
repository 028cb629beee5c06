#ifndef BFN_CUDA
#include "../ops/row_noise.h"

#include "operators.h"

namespace bfn {
namespace {

const int64_t* numbers(const char* name, Given x) {
  const bool fits = x.scalar_type() == ScalarType::Long && x.dim() == 1 && x.is_contiguous();
  check(fits, name, " must be contiguous, int64 and have shape [R]");
  return static_cast<const int64_t*>(x.const_data_ptr());
}

Shape checked(const Shape& shape) {
  for (const int64_t size : shape) check(size >= 0, "width and draws", " must not be below 0");
  return shape;
}

// Returns the struct for kernels that write into `out`.
RowNoise noise_of_rows(Given seed, Given first, int64_t width, int64_t stream, int64_t draws, Given out) {
  check(first.numel() == seed.numel(), "first", " must have a number for each seed");
  return {.rows = seed.numel(),
          .width = width,
          .draws = draws,
          .seed = numbers("seed", seed),
          .first = numbers("first", first),
          .stream = static_cast<uint32_t>(stream),
          .out = out.mutable_data_ptr()};
}

// Returns noise [draws, rows, width]: normals in a floating-point type, or words as int64.
auto row_noise_new(Given seed, Given first, int64_t width, int64_t stream, int64_t draws, ScalarType type) {
  const bool words = type == ScalarType::Long;
  check(words || type == ScalarType::Float || type == ScalarType::Double, "dtype",
        " must be int64, float32 or float64");
  const Tensor out = new_tensor(seed, checked({draws, seed.numel(), width}), type);
  const RowNoise op = noise_of_rows(seed, first, width, stream, draws, out);
  if (!words) return compute(type, op, BFN_KERNEL(row_normals), out);
  row_words(op);
  return std::tuple(out);
}

// Returns the uniforms [draws, 2, rows, width] that draw angles.
auto row_angles_new(Given seed, Given first, int64_t width, int64_t draws) {
  check(draws > 0, "count", " must be at least 1");
  const Tensor out = new_tensor(seed, checked({draws, 2, seed.numel(), width}), ScalarType::Float);
  row_angles(noise_of_rows(seed, first, width, kAngle, draws, out));
  return std::tuple(out);
}

}  // namespace
}  // namespace bfn

BFN_OPERATORS(m) {
  bfn::add<&bfn::row_noise_new>(m, "common_row_noise");
  bfn::add<&bfn::row_angles_new>(m, "common_row_angles");
}
#endif
