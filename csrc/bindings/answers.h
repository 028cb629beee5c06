// Python asks an extension for the types of its operators and for its last refusal. This file has the answers.
#pragma once

#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "tensors.h"

namespace bfn {

// The last refusal of an operator in this thread. From torch 2.15 on, torch forgets the type of an exception: it makes
// a RuntimeError of every one.
enum class Refused { kNothing, kValue, kIndex };
struct Refusal {
  Refused kind = Refused::kNothing;
  std::string what;
};
inline thread_local Refusal last_refusal;

// The operators with the types of their arguments and results, one a line, as torch names the types of a schema. torch
// does not compare a function with the schema that Python declares, and would call a function of other sources with
// arguments that it misreads; bfn_kernels/operators.py compares them.
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
inline std::string name_of(Type<void>) { return ""; }

inline std::string joined(const std::vector<std::string>& names) {
  std::string all;
  for (const std::string& name : names) all += (all.empty() ? "" : ", ") + name;
  return all;
}

template <class... T>
std::string name_of(Type<std::tuple<T...>>) {
  return joined({name_of(Type<std::remove_cvref_t<T>>())...});
}

}  // namespace bfn
