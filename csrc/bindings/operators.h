// How a family's bindings become the code of the operators that bfn_kernels/<family>/operators.py declares. The
// bindings are the same for every implementation of the ops, each of which is linked into a library of its own: the
// CPU's by default, CUDA's with BFN_CUDA and, for tests, CUDA's kernels run on the CPU, in a namespace of their own.
#pragma once

#include <torch/csrc/stable/library.h>

#include <stdexcept>
#include <tuple>
#include <utility>

#include "refusals.h"
#include "signatures.h"
#include "tensors.h"
#ifdef BFN_CUDA
#include <torch/csrc/stable/accelerator.h>
#endif

#ifndef BFN_NAMESPACE
#define BFN_NAMESPACE bfn_kernels
#endif

#ifdef BFN_CUDA
#define BFN_OPERATORS(m) BFN_EXPANDED(STABLE_TORCH_LIBRARY_IMPL, BFN_NAMESPACE, CUDA, m)
#else
#define BFN_OPERATORS(m) BFN_EXPANDED(STABLE_TORCH_LIBRARY_IMPL, BFN_NAMESPACE, CPU, m)
#endif
#define BFN_EXPANDED(macro, ...) macro(__VA_ARGS__)

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

// The functional form of an operator that writes into its last argument: that is a new tensor, like argument number
// kLike. What the operator may write into beside it, kBeside tensors behind it, is not given.
template <auto out_form, size_t kLike, size_t kBeside, class Arguments, class Numbers>
struct Functional;
template <auto out_form, size_t kLike, size_t kBeside, class... A, size_t... number>
struct Functional<out_form, kLike, kBeside, std::tuple<A...>, std::index_sequence<number...>> {
  static Tensor call(std::tuple_element_t<number, std::tuple<A...>>... inputs) {
    const MaybeTensor like = std::get<kLike>(std::tie(inputs...));
    Tensor out = new_like(given("the state", like));
    if constexpr (kBeside == 2) {
      out_form(inputs..., out, {}, {});
    } else if constexpr (kBeside == 1) {
      out_form(inputs..., out, {});
    } else {
      out_form(inputs..., out);
    }
    return out;
  }
};

template <auto out_form, size_t kLike, size_t kBeside = 0>
void add_both(torch::stable::detail::StableLibrary& library, const char* name, const char* out_name) {
  [&]<class... A>(void (*)(A...)) {
    using Inputs = std::make_index_sequence<sizeof...(A) - 1 - kBeside>;
    add<&Functional<out_form, kLike, kBeside, std::tuple<A...>, Inputs>::call>(library, name);
  }(out_form);
  add<out_form>(library, out_name);
}

}  // namespace bfn
