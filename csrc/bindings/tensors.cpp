#include "tensors.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <utility>

#ifndef BFN_CUDA
#include "../cpu/pages.h"
#endif

namespace bfn {

#ifdef BFN_CUDA
constexpr const char* kDeviceName = "a CUDA device";
static bool is_here(Given x) { return x.is_cuda(); }
#else
constexpr const char* kDeviceName = "the CPU";
static bool is_here(Given x) { return x.is_cpu(); }
#endif

static DType dtype_of_tensor(const char* name, Given x) {
  static constexpr std::pair<ScalarType, DType> kTypes[] = {
      {ScalarType::Float, DType::kFloat},       {ScalarType::Double, DType::kDouble},
      {ScalarType::BFloat16, DType::kBFloat16}, {ScalarType::Half, DType::kHalf},
      {ScalarType::Long, DType::kInt64},        {ScalarType::Int, DType::kInt32},
      {ScalarType::Byte, DType::kUInt8},        {ScalarType::Bool, DType::kUInt8},
  };
  for (const auto& [type, dtype] : kTypes) {
    if (x.scalar_type() == type) return dtype;
  }
  throw std::invalid_argument(std::string(name) + " has a type that the kernels do not take");
}

View leading_view(const char* name, Given x, const Shape& shape, int64_t first) {
  if (!is_here(x)) throw std::invalid_argument(std::string(name) + " must be on " + kDeviceName);
  check(first >= 0 && shape.size() <= kMaxDims, name, " has too many dimensions");
  View result;
  result.data = const_cast<void*>(x.const_data_ptr());
  static char nothing;
  if (result.data == nullptr) result.data = &nothing;  // an empty tensor must not look like a missing one
  result.dtype = dtype_of_tensor(name, x);
  const auto sizes = x.sizes(), strides = x.strides();
  const int64_t dims = static_cast<int64_t>(shape.size()), end = first + x.dim();
  for (int64_t d = 0; d < dims; ++d) {
    const int64_t size = d < first || d >= end ? 1 : sizes[d - first];
    check(size == shape[d] || size == 1, name, " does not broadcast to the data's shape");
    if (shape[d] == 1) continue;
    const int64_t stride = size == 1 ? 0 : strides[d - first];
    const int last = result.dims - 1;
    if (last >= 0 && result.stride[last] == stride * shape[d]) {
      result.size[last] *= shape[d];
      result.stride[last] = stride;
    } else {
      result.size[result.dims] = shape[d];
      result.stride[result.dims++] = stride;
    }
  }
  return result;
}

View view(const char* name, Given x, const Shape& shape) {
  return leading_view(name, x, shape, static_cast<int64_t>(shape.size()) - x.dim());
}

View view_of_half(const char* name, Given x, const Shape& shape, int64_t which) {
  const int64_t dims = x.dim() - 1;
  check(dims == static_cast<int64_t>(shape.size()) && x.size(dims) == 2, name,
        " must have the dimensions of the data, and then one of size 2");
  View half = leading_view(name, x, shape);
  half.data = static_cast<char*>(half.data) + which * x.stride(dims) * static_cast<int64_t>(x.element_size());
  return half;
}

View view_of_out(Given out, const Shape& shape) {
  View result = view("out", out, shape);
  if (out.numel() > 0) result.data = out.mutable_data_ptr();
  return result;
}

// It calls torch's C function directly, since the dispatcher takes longer than making a small tensor. Large tensors lie
// in huge pages if the system has them.
static Tensor strided(Given like, const Shape& shape, const Shape& strides, ScalarType type) {
  const auto dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
  const size_t bytes = aoti_torch_dtype_element_size(dtype) * static_cast<size_t>(numel(shape));
#ifndef BFN_CUDA
  if (void* const pages = allocate_pages(bytes)) {
    const torch::stable::Device device(torch::headeronly::DeviceType::CPU);
    return torch::stable::from_blob(pages, shape, strides, device, type,
                                    [bytes](void* left) { free_pages(left, bytes); });
  }
#endif
  int32_t device_type, device_index;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  AtenTensorHandle made;
  if (aoti_torch_empty_strided(static_cast<int64_t>(shape.size()), shape.data(), strides.data(), dtype, device_type,
                               device_index, &made) != AOTI_TORCH_SUCCESS) {
    throw std::runtime_error("there is no memory for " + std::to_string(bytes) + " bytes");
  }
  return Tensor(made);
}

static Shape contiguous_strides(const Shape& shape) {
  Shape strides(shape.size());
  int64_t bytes = sizeof(double);  // the widest type
  for (size_t d = shape.size(); d-- > 0;) {
    strides[d] = bytes / static_cast<int64_t>(sizeof(double));
    if (__builtin_mul_overflow(bytes, std::max<int64_t>(shape[d], 1), &bytes)) {
      throw std::runtime_error("the result would have more bytes than can be counted");
    }
  }
  return strides;
}

Tensor new_tensor(Given like, const Shape& shape, ScalarType type) {
  return strided(like, shape, contiguous_strides(shape), type);
}

// The strides are the strides of torch.empty_like, which makes the fake results under torch.compile. The contiguous
// tensor is made first, since its error says what is wrong if there is no memory.
Tensor new_like(Given like, ScalarType type) {
  if (const Tensor made = new_tensor(like, shape_of(like), type); like.strides() == made.strides()) return made;
  const auto strides_of = [](const Tensor& x) { return Shape(x.strides().begin(), x.strides().end()); };
  const Shape strides = strides_of(torch::stable::empty_like(like));
  return strided(like, shape_of(like), strides, type);
}

Noise noise_of(Maybe seed, Maybe noise, const Shape& shape, Stream stream) {
  Noise result;
  result.stream = stream;
  result.explicit_values = view("noise", noise, shape);
  if (noise) return result;
  if (!seed || seed->scalar_type() != ScalarType::Long || seed->numel() != 1 || !is_here(*seed)) {
    throw std::invalid_argument(std::string("seed must hold one int64 on ") + kDeviceName + " where no noise is given");
  }
  result.seed = static_cast<const int64_t*>(seed->const_data_ptr());
  return result;
}

}  // namespace bfn
