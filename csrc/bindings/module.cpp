// `import bfn_kernels._cpu_...` loads the operators; the module itself has one function, and one more on the CPU.
// Limited API: one file for all Pythons.
#include <Python.h>

#include "refusals.h"

// What the last operator of this thread refused, as the number of its kind and the message.
static PyObject* refusal(PyObject*, PyObject*) {
  const bfn::Refusal& last = bfn::last_refusal;
  return Py_BuildValue("is", static_cast<int>(last.kind), last.what.c_str());
}

#ifdef BFN_CUDA
static PyMethodDef kMethods[] = {{"refusal", refusal, METH_NOARGS, nullptr}, {}};
#else
#include "../cpu/pages.h"

static PyObject* keep_memory(PyObject*, PyObject* bytes) {
  const size_t most = PyLong_AsSize_t(bytes);
  if (PyErr_Occurred()) return nullptr;
  bfn::keep_pages(most);
  Py_RETURN_NONE;
}

static PyMethodDef kMethods[] = {
    {"refusal", refusal, METH_NOARGS, nullptr}, {"keep_memory", keep_memory, METH_O, nullptr}, {}};
#endif

#define BFN_CONCATENATE(a, b) a##b
#define BFN_INIT(name) BFN_CONCATENATE(PyInit_, name)

PyMODINIT_FUNC BFN_INIT(BFN_MODULE)(void) {
  static PyModuleDef module = {
      PyModuleDef_HEAD_INIT, "bfn_kernels", nullptr, -1, kMethods, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
