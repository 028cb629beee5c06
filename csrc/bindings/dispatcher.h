// The operators as torch's dispatcher calls them, by torch's stable ABI alone.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#ifdef BFN_CUDA
#include <torch/csrc/stable/accelerator.h>
#endif

#include <tuple>
#include <type_traits>

#include "tensor.h"

namespace bfn::dispatcher {

using Handle = torch::stable::Tensor;

// What torch has for a type of ours.
template <class T>
struct TorchType {
  using type = T;
};
template <>
struct TorchType<Tensor> {
  using type = Handle;
};
template <>
struct TorchType<Out> {
  using type = Handle;
};
template <>
struct TorchType<MaybeTensor> {
  using type = std::optional<Handle>;
};
template <>
struct TorchType<Tensors> {
  using type = std::vector<Handle>;
};

// What an operator takes of type T for a value of torch's.
template <class T>
T from_torch(const typename TorchType<T>::type& value) {
  return value;
}
template <>
Tensor from_torch<Tensor>(const Handle& x);
template <>
Out from_torch<Out>(const Handle& x);
template <>
MaybeTensor from_torch<MaybeTensor>(const std::optional<Handle>& x);
template <>
Tensors from_torch<Tensors>(const std::vector<Handle>& x);

Handle to_torch(const Tensor& made);
template <class... T>
auto to_torch(const std::tuple<T...>& made) {
  return std::apply([](const T&... each) { return std::make_tuple(to_torch(each)...); }, made);
}

template <auto f>
struct Function;

template <class R, class... A, R (*f)(A...)>
struct Function<f> {
  static auto call(const typename TorchType<std::decay_t<A>>::type&... arguments) {
    if constexpr (std::is_void_v<R>) {
      f(from_torch<std::decay_t<A>>(arguments)...);
    } else {
      return to_torch(f(from_torch<std::decay_t<A>>(arguments)...));
    }
  }
};

// Every operator's first argument is a tensor; it runs on that tensor's device.
template <auto f>
void boxed(StableIValue* stack, uint64_t num_arguments, uint64_t num_results) {
#ifdef BFN_CUDA
  int32_t index = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(torch::stable::detail::to<AtenTensorHandle>(stack[0]), &index));
  const torch::stable::accelerator::DeviceGuard guard(index);
#endif
  (TORCH_BOX(&Function<f>::call))(stack, num_arguments, num_results);
}

}  // namespace bfn::dispatcher
