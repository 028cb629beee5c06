// Registers the bindings of a family as the code of the operators that bfn_kernels/<family>/operators.py declares. The
// same bindings serve three libraries: the CPU kernels, the CUDA kernels (BFN_CUDA) and, for tests, the CUDA kernels
// run on the CPU, in another namespace.
#pragma once

#include <torch/csrc/stable/library.h>

#include <cstddef>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "tensors.h"
#ifdef BFN_CUDA
#include <torch/csrc/stable/accelerator.h>
#define BFN_DEVICE CUDA
#else
#define BFN_DEVICE CPU
#endif
#define BFN_OPERATORS(m) BFN_EXPANDED(STABLE_TORCH_LIBRARY_IMPL, BFN_NAMESPACE, BFN_DEVICE, m)
#define BFN_EXPANDED(macro, ...) macro(__VA_ARGS__)

#ifndef BFN_NAMESPACE
#define BFN_NAMESPACE bfn_kernels
#endif

namespace bfn {

// The last invalid_argument or out_of_range of an operator in this thread. From version 2.15 on, torch turns every
// exception into a RuntimeError, so Python reads the original type here.
enum class Refused { kNothing, kValue, kIndex };
inline thread_local std::pair<Refused, std::string> last_refusal;

// The types of the arguments and results of all operators, one operator a line, in the words of torch's schemas. torch
// does not compare a C++ function with the schema that Python declares. If the extension was built from other sources,
// the function would misread its arguments. So bfn_kernels/extensions.py compares the types.
inline std::string signatures;

template <class T>
using Type = std::type_identity<T>;

inline std::string name_of(Type<Tensor>) { return "Tensor"; }
inline std::string name_of(Type<MaybeTensor>) { return "Optional[Tensor]"; }
inline std::string name_of(Type<Tensors>) { return "List[Tensor]"; }
inline std::string name_of(Type<Doubles>) { return "Optional[List[float]]"; }
inline std::string name_of(Type<Shape>) { return "List[int]"; }
inline std::string name_of(Type<int64_t>) { return "int"; }
inline std::string name_of(Type<ScalarType>) { return "int"; }
inline std::string name_of(Type<double>) { return "float"; }
inline std::string name_of(Type<bool>) { return "bool"; }

inline std::string joined(const std::vector<std::string>& names) {
  std::string all;
  for (const std::string& name : names) all += (all.empty() ? "" : ", ") + name;
  return all;
}

template <class... T>
std::string name_of(Type<std::tuple<T...>>) {
  return joined({name_of(Type<std::remove_cvref_t<T>>())...});
}

// The tensor that a step writes its result into. If a caller gave none, the binding makes it.
struct Out {
  MaybeTensor tensor;
  std::tuple<Given> fields() const;  // what torch passes

  Tensor or_like(Given state) const { return tensor ? *tensor : new_like(state, state.scalar_type()); }
};

// What torch passes for one parameter of a binding: the fields of a record or a tuple, or a single argument.
template <class... F>
auto fields_of(const std::tuple<F...>& parameter) {
  return parameter;
}
template <class P>
auto fields_of(const P& parameter) {
  if constexpr (requires { parameter.fields(); }) {
    return parameter.fields();
  } else {
    return std::tie(parameter);
  }
}
template <class P>
using FieldsOf = decltype(fields_of(std::declval<const std::remove_cvref_t<P>&>()));

// Makes a parameter of a binding from torch's next arguments. If no arguments are left, the parameter is empty.
template <class P, class... F>
P taken(StableIValue*& next, const StableIValue* end, Type<std::tuple<F...>>) {
  if (next == end) return P{};
  if (end - next < static_cast<std::ptrdiff_t>(sizeof...(F))) throw std::runtime_error("too few arguments");
  const StableIValue* const first = std::exchange(next, next + sizeof...(F));
  return [&]<size_t... I>(std::index_sequence<I...>) {
    return P{torch::stable::detail::to<std::remove_cvref_t<F>>(first[I])...};
  }(std::index_sequence_for<F...>());
}

// The binding f as torch calls it. The first argument is a tensor, and the operator runs on the device of this tensor.
// f returns a tuple of its results.
template <auto f>
void boxed(StableIValue* stack, uint64_t num_arguments, uint64_t num_results) {
#ifdef BFN_CUDA
  int32_t index = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(torch::stable::detail::to<AtenTensorHandle>(stack[0]), &index));
  const torch::stable::accelerator::DeviceGuard guard(index);
#endif
  try {
    [&]<class R, class... P>(R (*)(P...)) {
      StableIValue* next = stack;
      const std::tuple<std::remove_cvref_t<P>...> parameters{
          taken<std::remove_cvref_t<P>>(next, stack + num_arguments, Type<FieldsOf<P>>())...};
      if (next != stack + num_arguments) throw std::runtime_error("too many arguments");
      const R results = std::apply(f, parameters);
      const auto put = [&](const auto&... each) { ((*stack++ = torch::stable::detail::from(each)), ...); };
      if (num_results > 0) std::apply(put, results);
    }(f);
  } catch (const std::invalid_argument& error) {
    last_refusal = {Refused::kValue, error.what()};
    throw;
  } catch (const std::out_of_range& error) {
    last_refusal = {Refused::kIndex, error.what()};
    throw;
  }
}

// Registers the binding f as an operator. If the operator writes into its last kOuts parameters, these are arguments of
// a variant `<name>_out` only, which returns nothing.
template <auto f, size_t kOuts = 0>
void add(torch::stable::detail::StableLibrary& library, const std::string& name) {
  [&]<class R, class... P>(R (*)(P...)) {
    const auto add_form = [&](const std::string& form, size_t passed, const std::string& results) {
      std::vector<std::string> types{name_of(Type<FieldsOf<P>>())...};
      types.resize(passed);
      signatures += form + "(" + joined(types) + ") -> (" + results + ")\n";
      library.impl(form.c_str(), &boxed<f>);
    };
    add_form(name, sizeof...(P) - kOuts, name_of(Type<R>()));
    if (kOuts > 0) add_form(name + "_out", sizeof...(P), "");
  }(f);
}

}  // namespace bfn
