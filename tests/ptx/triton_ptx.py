"""The backend `triton_ptx`: what Triton compiles for a GPU at each launch, run by the interpreter of PTX."""

import ast
import importlib
import importlib.util
import os
import pkgutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from tests import compiled
from tests.ptx import ptx

NAMESPACE = "bfn_kernels_triton_ptx"
FORMATS = {
    "i1": "b", "u1": "B", "i8": "b", "u8": "B", "i16": "h", "u16": "H", "i32": "i", "u32": "I", "i64": "q", "u64": "Q",
    "fp32": "f", "fp64": "d",
}  # fmt: skip
# The kernels that ran, as `kernels` names them, and the types of the numbers that they were given pointers to.
executed: dict[str, set[str]] = {}
_modules: dict[str, ptx.Module] = {}


def missing() -> str | None:
    """The reason why the kernels cannot be run here, or None."""
    there = importlib.util.find_spec("triton") is not None
    return ptx.missing() or (None if there else "Triton is not installed")


def _scalars(value: Any, kind: Any) -> Iterator[tuple[Any, str]]:
    """The numbers and pointers of an argument, which may be a tuple, with their types."""
    if isinstance(kind, (tuple, list)):
        for one, its_kind in zip(value, kind, strict=True):
            yield from _scalars(one, its_kind)
    elif kind != "constexpr":
        yield value, kind


def _packed(value: Any, kind: str) -> bytes:
    if kind.startswith("*"):
        return struct.pack("Q", 0 if value is None else value.data_ptr())
    return struct.pack(FORMATS[kind], value)


def _run(self, *arguments, grid, warmup, **options):
    """Takes the place of JITFunction.run."""
    if warmup:
        return _compile(self, *arguments, grid=grid, warmup=True, **options)
    if 0 in grid:
        return None
    kernel = _compile(self, *arguments, grid=grid, warmup=True, **options)
    name = kernel.metadata.name
    if kernel.hash not in _modules:
        _modules[kernel.hash] = ptx.Module(kernel.asm["ptx"])
    module = _modules[kernel.hash]
    named = dict(zip(self.arg_names, arguments, strict=False)) | options
    scalars = [pair for key, kind in kernel.src.signature.items() for pair in _scalars(named.get(key), kind)]
    packed = [_packed(*pair) for pair in scalars]
    # behind its arguments a kernel has pointers to scratch memory, which none of ours uses
    packed += [bytes(8)] * (module.parameters(name) - len(packed))
    module.launch(name, grid, (32 * kernel.metadata.num_warps,), packed, kernel.metadata.shared)
    executed.setdefault(_name(self), set()).update(kind[1:] for _, kind in scalars if kind.startswith("*"))
    return kernel


_compile: Any = None


def compile_for(architecture: int) -> None:
    """For a GPU with this compute capability, times ten."""
    from triton.runtime import driver

    from gpu_build.compiled_triton import NoGPU

    driver.set_active(NoGPU(architecture))


@contextmanager
def compiled_for(architecture: int) -> Iterator[None]:
    """Compiles the kernels of this context for another GPU than the usual one."""
    compile_for(architecture)
    try:
        yield
    finally:
        compile_for(90)


def register(on_demand: bool = True) -> None:
    """Makes the kernels, compiled for compute capability 9.0, a backend of that name, if Triton is here. It compiles a
    kernel at its first launch, `on_demand` or not."""
    global _compile
    if missing() is not None:
        return
    # what is compiled lacks the last stage, and must not be found by others
    os.environ["TRITON_CACHE_DIR"] = str(compiled.BUILT / "triton")
    from triton.backends.nvidia.compiler import CUDABackend
    from triton.runtime.jit import JITFunction

    from bfn_kernels import backends
    from bfn_kernels.libraries import Library
    from bfn_kernels.triton_ops import implement

    ptx.watch_torch()
    compile_for(90)
    CUDABackend.make_cubin = lambda *stage: b""  # nobody reads it, and ptxas takes long
    _compile, JITFunction.run = JITFunction.run, _run
    backends.add_library(Library(NAMESPACE, implement, ["CPU"]))
    backends.BACKENDS["triton_ptx"] = backends.Backend("triton_ptx", "cpu", NAMESPACE)


def reload() -> None:
    """Lets options that matter when a kernel is parsed act upon those that ran already."""
    _modules.clear()


def kernels() -> set[str]:
    """All functions of the package that Triton compiles and no other one of them calls, as `module.name`."""
    import bfn_kernels

    names = [m.name for m in pkgutil.walk_packages(bfn_kernels.__path__, "bfn_kernels.") if "triton" in m.name]
    functions = {name: f for m in map(importlib.import_module, names) for name, f in _compiled_functions(m)}
    return set(functions) - {callee for f in functions.values() for callee in _callees(f)}


def _name(function) -> str:
    return f"{function.fn.__module__}.{function.fn.__name__}"


def _compiled_functions(module: ModuleType) -> Iterator[tuple[str, Any]]:
    from triton.runtime.jit import JITFunction

    for value in vars(module).values():
        if isinstance(value, JITFunction) and value.fn.__module__ == module.__name__:
            yield _name(value), value


def _callees(function) -> Iterator[str]:
    """What a function mentions that Triton compiles too."""
    from triton.runtime.jit import JITFunction

    for node in ast.walk(function.parse()):
        if isinstance(node, ast.Name):
            value = function.fn.__globals__.get(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            value = getattr(function.fn.__globals__.get(node.value.id), node.attr, None)
        else:
            continue
        if isinstance(value, JITFunction) and value is not function:
            yield _name(value)
