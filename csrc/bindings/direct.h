// The operators as functions of the extension module, for ordinary tensors on the CPU: the way through the dispatcher
// costs more than the work on a few hundred variables. Tensors are read and made by DLPack's exchange of C structures,
// whose layout is fixed. What is not plain is answered by NotImplemented, and the dispatcher is to be asked instead.
#pragma once

#include <Python.h>

#include <exception>
#include <tuple>
#include <type_traits>
#include <utility>

#include "tensor.h"

namespace bfn::direct {

struct NotPlain {};

// What Python gives for an argument of each type; throws NotPlain.
template <class T>
T given(PyObject* value);
template <>
Tensor given(PyObject* value);
template <>
MaybeTensor given(PyObject* value);
template <>
Tensors given(PyObject* values);
template <>
int64_t given(PyObject* value);
template <>
double given(PyObject* value);
template <>
bool given(PyObject* value);
template <>
ScalarType given(PyObject* value);
template <>
Doubles given(PyObject* values);
template <>
Shape given(PyObject* values);

PyObject* answer(const Tensor& made);
template <class... T, std::size_t... I>
PyObject* answer(const std::tuple<T...>& made, std::index_sequence<I...>) {
  PyObject* const answers = PyTuple_New(sizeof...(T));
  const auto set = [answers](std::size_t place, PyObject* each) {
    return each && PyTuple_SetItem(answers, static_cast<Py_ssize_t>(place), each) == 0;
  };
  if (answers && (set(I, answer(std::get<I>(made))) && ...)) return answers;
  Py_XDECREF(answers);
  return nullptr;
}
template <class... T>
PyObject* answer(const std::tuple<T...>& made) {
  return answer(made, std::index_sequence_for<T...>());
}

PyObject* error(std::exception_ptr thrown);

// Other threads may run meanwhile.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  ~WithoutGil() { PyEval_RestoreThread(state_); }
  WithoutGil(const WithoutGil&) = delete;

 private:
  PyThreadState* state_;
};

template <auto f>
struct Function;

template <class R, class... A, R (*f)(A...)>
struct Function<f> {
  using Result = R;
  using Arguments = std::tuple<std::decay_t<A>...>;

  template <std::size_t... I>
  static Arguments arguments(PyObject* const* values, std::index_sequence<I...>) {
    return Arguments{given<std::tuple_element_t<I, Arguments>>(values[I])...};
  }

  static PyObject* call(PyObject*, PyObject* const* values, Py_ssize_t count) {
    try {
      if (count != sizeof...(A)) throw NotPlain();
      const Arguments plain = arguments(values, std::index_sequence_for<A...>());
      return answer([&] {
        const WithoutGil meanwhile;
        return std::apply(f, plain);
      }());
    } catch (...) {
      return error(std::current_exception());
    }
  }
};

// In the module there is under `name` what takes the arguments of the operator of that name.
void add(const char* name, PyObject* (*function)(PyObject*, PyObject* const*, Py_ssize_t));

// The functions, once the module is there; none beside a torch that does not exchange tensors in this way.
PyMethodDef* functions();

}  // namespace bfn::direct
