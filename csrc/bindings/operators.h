// What the bindings of a family say of their operators. They are the same for every implementation of the ops, each
// linked into a library of its own: CPU by default; CUDA with BFN_CUDA, beside the CPU's, which defines the schemas;
// and, for tests, CUDA's kernels run on the CPU, as a namespace of their own.
#pragma once

#include "dispatcher.h"

#ifndef BFN_NAMESPACE
#define BFN_NAMESPACE bfn_kernels
#endif

#ifdef BFN_CUDA
#define BFN_SCHEMAS(m) [[maybe_unused]] static void schemas(torch::stable::detail::StableLibrary& m)
#define BFN_OPERATORS(m) BFN_EXPANDED(STABLE_TORCH_LIBRARY_IMPL, BFN_NAMESPACE, CUDA, m)
#else
#define BFN_SCHEMAS(m) BFN_EXPANDED(STABLE_TORCH_LIBRARY_FRAGMENT, BFN_NAMESPACE, m)
#define BFN_OPERATORS(m) BFN_EXPANDED(STABLE_TORCH_LIBRARY_IMPL, BFN_NAMESPACE, CPU, m)
#endif
#define BFN_EXPANDED(macro, ...) macro(__VA_ARGS__)

// A Python module of the CPU's kernels has those that make something as functions too.
#if defined(BFN_MODULE) && !defined(BFN_CUDA)
#include "direct.h"
#endif

namespace bfn {

template <auto f>
void add(torch::stable::detail::StableLibrary& library, const char* name) {
  library.impl(name, &dispatcher::boxed<f>);
#if defined(BFN_MODULE) && !defined(BFN_CUDA)
  if constexpr (!std::is_void_v<typename direct::Function<f>::Result>) direct::add(name, &direct::Function<f>::call);
#endif
}

}  // namespace bfn
