// What a build of the bindings is for. They are the same for every implementation of the ops, each linked into a
// library of its own: CPU by default; CUDA with BFN_CUDA, beside the CPU's, which defines the schemas; and, for tests,
// CUDA's kernels run on the CPU, as a namespace of their own.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#ifdef BFN_CUDA
#include <torch/csrc/stable/accelerator.h>
#endif

#ifndef BFN_NAMESPACE
#define BFN_NAMESPACE bfn_kernels
#endif

#ifdef BFN_CUDA
#define BFN_SCHEMAS(m) [[maybe_unused]] static void schemas(torch::stable::detail::StableLibrary& m)
#define BFN_OPERATORS(m) BFN_EXPANDED(STABLE_TORCH_LIBRARY_IMPL, BFN_NAMESPACE, CUDA, m)
#else
#define BFN_SCHEMAS(m) BFN_EXPANDED(STABLE_TORCH_LIBRARY_FRAGMENT, BFN_NAMESPACE, m)
#define BFN_OPERATORS(m) BFN_EXPANDED(STABLE_TORCH_LIBRARY_IMPL, BFN_NAMESPACE, CPU, m)
#endif
#define BFN_EXPANDED(macro, ...) macro(__VA_ARGS__)

// Every operator's first argument is a tensor; it runs on that tensor's device.
#define BFN_BOX(f) &bfn::on_device_of_first<TORCH_BOX(f)>

namespace bfn {

#ifdef BFN_CUDA
constexpr const char* kDeviceName = "a CUDA device";
inline bool is_here(const torch::stable::Tensor& x) { return x.is_cuda(); }
#else
constexpr const char* kDeviceName = "the CPU";
inline bool is_here(const torch::stable::Tensor& x) { return x.is_cpu(); }
#endif

template <void (*boxed)(StableIValue*, uint64_t, uint64_t)>
void on_device_of_first(StableIValue* stack, uint64_t num_arguments, uint64_t num_results) {
#ifdef BFN_CUDA
  int32_t index = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(torch::stable::detail::to<AtenTensorHandle>(stack[0]), &index));
  const torch::stable::accelerator::DeviceGuard guard(index);
#endif
  boxed(stack, num_arguments, num_results);
}

}  // namespace bfn
