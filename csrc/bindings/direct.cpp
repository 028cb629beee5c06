#include "direct.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>

#include "../ops/view.h"
#include "dlpack.h"
#include "pages.h"

namespace bfn::direct {
namespace {

const dlpack::Exchange* exchange;
PyObject *tensor_type, *parameter_type, *is_neg;

struct Type {
  const char* name;
  ScalarType type;
  dlpack::Code code;
  uint8_t bits;
  PyObject* dtype;
};

Type types[] = {
    {"float32", ScalarType::Float, dlpack::kFloat, 32, nullptr},
    {"float64", ScalarType::Double, dlpack::kFloat, 64, nullptr},
    {"bfloat16", ScalarType::BFloat16, dlpack::kBfloat, 16, nullptr},
    {"float16", ScalarType::Half, dlpack::kFloat, 16, nullptr},
    {"int64", ScalarType::Long, dlpack::kInt, 64, nullptr},
    {"int32", ScalarType::Int, dlpack::kInt, 32, nullptr},
    {"uint8", ScalarType::Byte, dlpack::kUInt, 8, nullptr},
    {"bool", ScalarType::Bool, dlpack::kBool, 8, nullptr},
};

template <class F>
const Type& type_where(F&& f) {
  for (const Type& type : types) {
    if (f(type)) return type;
  }
  throw NotPlain();
}

constexpr std::size_t kAlignment = 64;

// A result, which is Python's once it has been answered.
struct Made {
  dlpack::Managed managed;
  int64_t sizes[kMaxDims + 1], strides[kMaxDims + 1];
  void* data = nullptr;
  std::size_t bytes;
  bool in_pages = false;

  ~Made() { in_pages ? leave_pages(data, bytes) : std::free(data); }
};

struct Keeper {
  std::unique_ptr<Made> made;
};

void allocate(Made& made) {
  made.data = take_pages(made.bytes);
  made.in_pages = made.data != nullptr;
  if (made.in_pages) return;
  const std::size_t at_least_one = (made.bytes / kAlignment + 1) * kAlignment;
  made.data = std::aligned_alloc(kAlignment, at_least_one);
  if (!made.data) throw std::runtime_error("there is no memory for " + std::to_string(made.bytes) + " bytes");
}

Tensor make(const Tensor&, Sizes sizes, Sizes strides, ScalarType scalar_type) {
  const Type& type = type_where([&](const Type& each) { return each.type == scalar_type; });
  auto keeper = std::make_shared<Keeper>();
  keeper->made.reset(new Made);
  Made& made = *keeper->made;
  made.bytes = type.bits / 8 * static_cast<std::size_t>(numel(sizes));
  allocate(made);
  std::copy(sizes.begin(), sizes.end(), made.sizes);
  std::copy(strides.begin(), strides.end(), made.strides);
  const auto dims = static_cast<int32_t>(sizes.size());
  const auto destroy = [](dlpack::Managed* managed) { delete static_cast<Made*>(managed->owner); };
  made.managed = {{dlpack::kMajor, dlpack::kMinor}, &made, destroy, 0, {}};
  made.managed.tensor = {made.data, dlpack::kCpu, 0, dims, {type.code, type.bits, 1}, made.sizes, made.strides, 0};
  return {made.data, {made.sizes, sizes.size()}, {made.strides, sizes.size()}, scalar_type, true, make, nullptr,
          keeper};
}

// f(item) for those of a list or of a tuple.
template <class F>
void each_of(PyObject* values, F&& f) {
  const bool is_list = PyList_Check(values);
  if (!is_list && !PyTuple_Check(values)) throw NotPlain();
  const Py_ssize_t size = is_list ? PyList_Size(values) : PyTuple_Size(values);
  for (Py_ssize_t i = 0; i < size; ++i) f(is_list ? PyList_GetItem(values, i) : PyTuple_GetItem(values, i));
}

template <class T>
std::vector<T> all_of(PyObject* values) {
  std::vector<T> found;
  each_of(values, [&](PyObject* each) { found.push_back(given<T>(each)); });
  return found;
}

}  // namespace

// Subclasses may mean something of their own, and a negative view has other numbers than its memory.
template <>
Tensor given(PyObject* value) {
  PyObject* const type = reinterpret_cast<PyObject*>(Py_TYPE(value));
  if (type != tensor_type && type != parameter_type) throw NotPlain();
  dlpack::Tensor x;
  if (exchange->tensor_from_python(value, &x) != 0) throw NotPlain();
  if (x.device_type != dlpack::kCpu || x.dtype.lanes != 1) throw NotPlain();
  const Type& known =
      type_where([&](const Type& each) { return each.code == x.dtype.code && each.bits == x.dtype.bits; });
  PyObject* const negative = PyObject_CallFunctionObjArgs(is_neg, value, nullptr);
  Py_XDECREF(negative);
  if (negative != Py_False) throw NotPlain();
  const auto dims = static_cast<std::size_t>(x.ndim);
  char* const data = static_cast<char*>(x.data);
  Tensor tensor(data ? data + x.byte_offset : nullptr, {x.shape, dims}, {x.strides, dims}, known.type, true, make,
                nullptr);
  if (!data && tensor.numel() != 0) throw NotPlain();
  return tensor;
}

template <>
MaybeTensor given(PyObject* value) {
  if (value == Py_None) return std::nullopt;
  return given<Tensor>(value);
}

// No number is asked of an object's own code, which might do anything to the other arguments.
template <>
int64_t given(PyObject* value) {
  if (!PyLong_Check(value)) throw NotPlain();
  const long long number = PyLong_AsLongLong(value);
  if (number == -1 && PyErr_Occurred()) throw NotPlain();
  return number;
}

template <>
double given(PyObject* value) {
  if (!PyFloat_Check(value) && !PyLong_Check(value)) throw NotPlain();
  const double number = PyFloat_Check(value) ? PyFloat_AsDouble(value) : PyLong_AsDouble(value);
  if (number == -1 && PyErr_Occurred()) throw NotPlain();
  return number;
}

template <>
bool given(PyObject* value) {
  if (!PyBool_Check(value)) throw NotPlain();
  return value == Py_True;
}

template <>
ScalarType given(PyObject* value) {
  return type_where([&](const Type& each) { return each.dtype == value; }).type;
}

// Those of a list are held for the call: others may write into it meanwhile.
template <>
Tensors given(PyObject* values) {
  Tensors found;
  each_of(values, [&](PyObject* each) {
    Py_INCREF(each);
    const std::shared_ptr<PyObject> held(each, Py_DecRef);
    found.push_back(given<Tensor>(each));
    found.back().keep(held);
  });
  return found;
}

template <>
Doubles given(PyObject* values) {
  return all_of<double>(values);
}

template <>
Shape given(PyObject* values) {
  return all_of<int64_t>(values);
}

PyObject* answer(const Tensor& result) {
  if (!result.data()) {
    Py_INCREF(Py_None);
    return Py_None;
  }
  Made* const made = static_cast<Keeper*>(result.keeper())->made.release();
  void* object = nullptr;
  if (exchange->managed_to_python(&made->managed, &object) != 0) return nullptr;
  return static_cast<PyObject*>(object);
}

// As torch translates what a kernel throws.
PyObject* error(std::exception_ptr thrown) {
  try {
    std::rethrow_exception(thrown);
  } catch (const NotPlain&) {
    PyErr_Clear();
    Py_INCREF(Py_NotImplemented);
    return Py_NotImplemented;
  } catch (const std::invalid_argument& e) {
    PyErr_SetString(PyExc_ValueError, e.what());
  } catch (const std::out_of_range& e) {
    PyErr_SetString(PyExc_IndexError, e.what());
  } catch (const std::exception& e) {
    PyErr_SetString(PyExc_RuntimeError, e.what());
  } catch (...) {
    PyErr_SetString(PyExc_RuntimeError, "an unknown error");
  }
  return nullptr;
}

static std::vector<PyMethodDef>& table() {
  static auto& methods = *new std::vector<PyMethodDef>;
  return methods;
}

void add(const char* name, PyObject* (*function)(PyObject*, PyObject* const*, Py_ssize_t)) {
  const auto untyped = reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
  table().push_back({name, untyped, METH_FASTCALL, nullptr});
}

static bool prepared() {
  PyObject* const torch = PyImport_ImportModule("torch");
  PyObject* const nn = PyImport_ImportModule("torch.nn");
  if (!torch || !nn) return false;
  tensor_type = PyObject_GetAttrString(torch, "Tensor");
  parameter_type = PyObject_GetAttrString(nn, "Parameter");
  if (!tensor_type || !parameter_type || !(is_neg = PyObject_GetAttrString(tensor_type, "is_neg"))) return false;
  PyObject* const capsule = PyObject_GetAttrString(tensor_type, "__dlpack_c_exchange_api__");
  if (!capsule) return false;
  exchange = static_cast<const dlpack::Exchange*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
  if (!exchange || exchange->version.major != dlpack::kMajor) return false;
  if (!exchange->tensor_from_python || !exchange->managed_to_python) return false;
  for (Type& type : types) {
    if (!(type.dtype = PyObject_GetAttrString(torch, type.name))) return false;
  }
  return true;
}

PyMethodDef* functions() {
  static PyMethodDef* const methods = [] {
    if (!prepared()) {
      PyErr_Clear();
      table().clear();
    }
    table().push_back({nullptr, nullptr, 0, nullptr});
    return table().data();
  }();
  return methods;
}

}  // namespace bfn::direct
