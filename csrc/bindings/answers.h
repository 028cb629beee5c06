// What Python asks of an extension: the types of its operators, and the last error of a call.
#pragma once

#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "tensors.h"

namespace bfn {

// The last exception of an operator in this thread. From version 2.15 on, torch turns every exception into a
// RuntimeError, so Python reads the original type here.
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

}  // namespace bfn
