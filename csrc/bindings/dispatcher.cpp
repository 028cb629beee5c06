#include "dispatcher.h"

#include <torch/csrc/stable/ops.h>

#ifndef BFN_CUDA
#include "pages.h"
#endif

namespace bfn::dispatcher {
namespace {

Tensor make(const Tensor& like, Sizes sizes, Sizes strides, ScalarType type);

Tensor described(const Handle& x, void* data, std::shared_ptr<void> keeper) {
#ifdef BFN_CUDA
  const bool is_here = x.is_cuda();
#else
  const bool is_here = x.is_cpu();
#endif
  return {data, x.sizes(), x.strides(), x.scalar_type(), is_here, make, x.get(), std::move(keeper)};
}

Tensor kept(Handle made) {
  auto keeper = std::make_shared<Handle>(std::move(made));
  return described(*keeper, keeper->mutable_data_ptr(), keeper);
}

// By the shim itself, since the way through the dispatcher costs more than a small tensor. Large ones lie in huge pages
// where the system has them.
Tensor make(const Tensor& like, Sizes sizes, Sizes strides, ScalarType type) {
  const auto dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
#ifndef BFN_CUDA
  const size_t bytes = aoti_torch_dtype_element_size(dtype) * static_cast<size_t>(numel(sizes));
  if (void* const pages = take_pages(bytes)) {
    const torch::stable::Device device(torch::headeronly::DeviceType::CPU);
    return kept(torch::stable::from_blob(pages, sizes, strides, device, type,
                                         [bytes](void* left) { leave_pages(left, bytes); }));
  }
#endif
  const auto source = static_cast<AtenTensorHandle>(like.source());
  int32_t device_type, device_index;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(source, &device_type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(source, &device_index));
  AtenTensorHandle made;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(),
                                                         strides.data(), dtype, device_type, device_index, &made));
  return kept(Handle(made));
}

}  // namespace

template <>
Tensor from_torch<Tensor>(const Handle& x) {
  return described(x, const_cast<void*>(x.const_data_ptr()), nullptr);
}

// A lazy clone gets memory of its own where it is to be written into.
template <>
Out from_torch<Out>(const Handle& x) {
  return {described(x, x.mutable_data_ptr(), nullptr)};
}

template <>
MaybeTensor from_torch<MaybeTensor>(const std::optional<Handle>& x) {
  if (!x) return std::nullopt;
  return from_torch<Tensor>(*x);
}

template <>
Tensors from_torch<Tensors>(const std::vector<Handle>& x) {
  Tensors tensors;
  tensors.reserve(x.size());
  for (const Handle& each : x) tensors.push_back(from_torch<Tensor>(each));
  return tensors;
}

Handle to_torch(const Tensor& made) { return *static_cast<const Handle*>(made.keeper()); }

}  // namespace bfn::dispatcher
