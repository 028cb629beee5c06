// `import bfn_kernels._cpu_...` loads the operators; the module itself is empty. Limited API: one file for all Pythons.
#include <Python.h>

#define BFN_CONCATENATE(a, b) a##b
#define BFN_INIT(name) BFN_CONCATENATE(PyInit_, name)
#define BFN_QUOTE_(name) #name
#define BFN_QUOTE(name) BFN_QUOTE_(name)

PyMODINIT_FUNC BFN_INIT(BFN_MODULE)(void) {
  static PyModuleDef module = {
      PyModuleDef_HEAD_INIT, BFN_QUOTE(BFN_MODULE), nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
