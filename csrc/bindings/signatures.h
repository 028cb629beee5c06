// The operators of this library with the types of their arguments and results, one a line, as torch names the types of
// a schema. torch does not compare a function with the schema that Python declares, and would call one of other sources
// with arguments that it misreads; bfn_kernels/operators.py compares them.
#pragma once

#include <string>
#include <tuple>
#include <type_traits>

#include "tensors.h"

namespace bfn {

inline std::string signatures;

template <class T>
inline constexpr const char* kTypeName = nullptr;
template <>
inline constexpr const char* kTypeName<Tensor> = "Tensor";
template <>
inline constexpr const char* kTypeName<MaybeTensor> = "Optional[Tensor]";
template <>
inline constexpr const char* kTypeName<Tensors> = "List[Tensor]";
template <>
inline constexpr const char* kTypeName<Doubles> = "Optional[List[float]]";
template <>
inline constexpr const char* kTypeName<Shape> = "List[int]";
template <>
inline constexpr const char* kTypeName<int64_t> = "int";
template <>
inline constexpr const char* kTypeName<ScalarType> = "int";
template <>
inline constexpr const char* kTypeName<double> = "float";
template <>
inline constexpr const char* kTypeName<bool> = "bool";

template <class... T>
std::string type_names(std::type_identity<std::tuple<T...>>) {
  static_assert(((kTypeName<T> != nullptr) && ...), "a type that has no name here");
  std::string names;
  ((names += (names.empty() ? "" : ", ") + std::string(kTypeName<T>)), ...);
  return "(" + names + ")";
}

template <class T>
struct Results : std::type_identity<std::tuple<T>> {};
template <>
struct Results<void> : std::type_identity<std::tuple<>> {};
template <class... T>
struct Results<std::tuple<T...>> : std::type_identity<std::tuple<T...>> {};

template <class R, class... A>
std::string signature(R (*)(A...)) {
  using Arguments = std::tuple<std::remove_cvref_t<A>...>;
  return type_names(std::type_identity<Arguments>{}) + " -> " +
         type_names(std::type_identity<typename Results<R>::type>{});
}

}  // namespace bfn
