// How a family's bindings become the code of the operators that bfn_kernels/<family>/operators.py declares. The
// bindings are the same for every implementation of the ops, each of which is linked into a library of its own: the
// CPU's by default, CUDA's with BFN_CUDA and, for tests, CUDA's kernels run on the CPU, in a namespace of their own.
#pragma once

#include <torch/csrc/stable/library.h>

#include <array>
#include <numeric>
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

// The arguments that a parameter of a binding stands for: the fields of a record, or one.
template <class P>
auto fields_of(const P& parameter) {
  if constexpr (requires { parameter.fields(); }) {
    return parameter.fields();
  } else {
    return std::tie(parameter);
  }
}
template <class P>
using FieldsOf = decltype(fields_of(std::declval<const P&>()));

// The parameter that the arguments from number kFirst on make.
template <class P, size_t kFirst, class Arguments>
decltype(auto) parameter_of(const Arguments& arguments) {
  if constexpr (std::is_same_v<FieldsOf<P>, std::tuple<const P&>>) {
    return std::get<kFirst>(arguments);
  } else {
    return [&]<size_t... i>(std::index_sequence<i...>) {
      return P{std::get<kFirst + i>(arguments)...};
    }(std::make_index_sequence<std::tuple_size_v<FieldsOf<P>>>());
  }
}

// The binding f as torch calls it, without records. It runs on the device of its first argument, a tensor.
template <auto f, class Parameters, class Arguments>
struct Flat;
template <auto f, class... P, class... A>
struct Flat<f, std::tuple<P...>, std::tuple<A...>> {
  static auto call(A... arguments) {
    const auto all = std::tie(arguments...);
#ifdef BFN_CUDA
    const torch::stable::accelerator::DeviceGuard guard(std::get<0>(all).get_device_index());
#endif
    try {
      return [&]<size_t... i>(std::index_sequence<i...>) {
        return f(parameter_of<P, first(i)>(all)...);
      }(std::index_sequence_for<P...>());
    } catch (const std::invalid_argument& error) {
      last_refusal = {Refused::kValue, error.what()};
      throw;
    } catch (const std::out_of_range& error) {
      last_refusal = {Refused::kIndex, error.what()};
      throw;
    }
  }

 private:
  // The number of the first argument of parameter number `which`.
  static constexpr size_t first(size_t which) {
    constexpr size_t kCounts[] = {std::tuple_size_v<FieldsOf<P>>...};
    return std::accumulate(kCounts, kCounts + which, size_t{0});
  }
};

template <auto f>
void add(torch::stable::detail::StableLibrary& library, const char* name) {
  [&]<class R, class... P>(R (*)(P...)) {
    using Arguments = decltype(std::tuple_cat(std::declval<FieldsOf<std::remove_cvref_t<P>>>()...));
    using Called = Flat<f, std::tuple<std::remove_cvref_t<P>...>, Arguments>;
    signatures += name + signature(&Called::call) + "\n";
    library.impl(name, TORCH_BOX(&Called::call));
  }(f);
}

// The state of a step, which is a parameter or in a record.
template <class P>
const Tensor& state_of(const P& parameter) {
  if constexpr (requires { parameter.state(); }) {
    return parameter.state();
  } else {
    return parameter;
  }
}

// The functional form of a step that writes into an argument `out`: it makes that tensor like the state, which
// parameter number kState is or has. The kBeside tensors that follow `out` are not given.
template <auto out_form, size_t kState, size_t kBeside, class... P>
Tensor functional(P... inputs) {
  const Tensor out = new_like(state_of(std::get<kState>(std::tie(inputs...))));
  [&]<size_t... beside>(std::index_sequence<beside...>) {
    out_form(inputs..., out, std::array<MaybeTensor, kBeside>()[beside]...);
  }(std::make_index_sequence<kBeside>());
  return out;
}

template <auto out_form, size_t kState, size_t kBeside = 0>
void add_both(torch::stable::detail::StableLibrary& library, const char* name, const char* out_name) {
  [&]<class... P>(void (*)(P...)) {
    [&]<size_t... input>(std::index_sequence<input...>) {
      using All = std::tuple<P...>;
      add<&functional<out_form, kState, kBeside, std::tuple_element_t<input, All>...>>(library, name);
    }(std::make_index_sequence<sizeof...(P) - 1 - kBeside>());
  }(out_form);
  add<out_form>(library, out_name);
}

}  // namespace bfn
