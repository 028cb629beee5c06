// How a family's bindings become the code of the operators that bfn_kernels/<family>/operators.py declares. The
// bindings are the same for every implementation of the ops, each of which is linked into a library of its own: the
// CPU's by default, CUDA's with BFN_CUDA and, for tests, CUDA's kernels run on the CPU, in a namespace of their own.
#pragma once

#include <torch/csrc/stable/library.h>

#include <array>
#include <stdexcept>
#include <tuple>
#include <utility>

#include "answers.h"
#include "tensors.h"
#ifdef BFN_CUDA
#include <torch/csrc/stable/accelerator.h>
#define BFN_OPERATORS(m) BFN_EXPANDED(STABLE_TORCH_LIBRARY_IMPL, BFN_NAMESPACE, CUDA, m)
#else
#define BFN_OPERATORS(m) BFN_EXPANDED(STABLE_TORCH_LIBRARY_IMPL, BFN_NAMESPACE, CPU, m)
#endif
#define BFN_EXPANDED(macro, ...) macro(__VA_ARGS__)

#ifndef BFN_NAMESPACE
#define BFN_NAMESPACE bfn_kernels
#endif

namespace bfn {

// The operator f as torch calls it. Its first argument is a tensor, and it runs on that tensor's device.
template <auto f>
void boxed(StableIValue* stack, uint64_t num_arguments, uint64_t num_results) {
#ifdef BFN_CUDA
  int32_t index = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(torch::stable::detail::to<AtenTensorHandle>(stack[0]), &index));
  const torch::stable::accelerator::DeviceGuard guard(index);
#endif
  try {
    (TORCH_BOX(f))(stack, num_arguments, num_results);
  } catch (const std::invalid_argument& error) {
    last_refusal = {Refused::kValue, error.what()};
    throw;
  } catch (const std::out_of_range& error) {
    last_refusal = {Refused::kIndex, error.what()};
    throw;
  }
}

template <auto f>
void add(torch::stable::detail::StableLibrary& library, const char* name) {
  signatures += name + signature(f) + "\n";
  library.impl(name, &boxed<f>);
}

// The functional form of an operator that writes into an argument `out`: it makes that tensor like argument number
// kLike. The kBeside tensors that follow `out` are not given.
template <auto out_form, size_t kLike, size_t kBeside, class... A>
Tensor functional(A... inputs) {
  const MaybeTensor like = std::get<kLike>(std::tie(inputs...));
  const Tensor out = new_like(given("the state", like));
  [&]<size_t... beside>(std::index_sequence<beside...>) {
    out_form(inputs..., out, std::array<MaybeTensor, kBeside>()[beside]...);
  }(std::make_index_sequence<kBeside>());
  return out;
}

template <auto out_form, size_t kLike, size_t kBeside = 0>
void add_both(torch::stable::detail::StableLibrary& library, const char* name, const char* out_name) {
  [&]<class... A>(void (*)(A...)) {
    [&]<size_t... input>(std::index_sequence<input...>) {
      using All = std::tuple<A...>;
      add<&functional<out_form, kLike, kBeside, std::tuple_element_t<input, All>...>>(library, name);
    }(std::make_index_sequence<sizeof...(A) - 1 - kBeside>());
  }(out_form);
  add<out_form>(library, out_name);
}

}  // namespace bfn
