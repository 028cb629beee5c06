// `import bfn_kernels._cpu_...` loads the operators. The module itself has two functions, and a third one on the CPU.
// It uses Python's limited API, so that one file serves all versions of Python.
#include <Python.h>

#include "../cpu/pages.h"
#include "operators.h"

// Returns the last exception of an operator in this thread: the number of its type and its message.
static PyObject* refusal(PyObject*, PyObject*) {
  const auto& [kind, message] = bfn::last_refusal;
  return Py_BuildValue("is", static_cast<int>(kind), message.c_str());
}

static PyObject* signatures(PyObject*, PyObject*) { return PyUnicode_FromString(bfn::signatures.c_str()); }

#ifndef BFN_CUDA
static PyObject* keep_memory(PyObject*, PyObject* bytes) {
  const size_t most = PyLong_AsSize_t(bytes);
  if (PyErr_Occurred()) return nullptr;
  bfn::limit_cached_pages(most);
  Py_RETURN_NONE;
}
#endif

static PyMethodDef kMethods[] = {{"refusal", refusal, METH_NOARGS, nullptr},
                                 {"signatures", signatures, METH_NOARGS, nullptr},
#ifndef BFN_CUDA
                                 {"keep_memory", keep_memory, METH_O, nullptr},
#endif
                                 {}};

PyMODINIT_FUNC BFN_INIT(void) {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "bfn_kernels", nullptr, -1, kMethods};
  return PyModule_Create(&module);
}
