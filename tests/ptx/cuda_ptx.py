"""The backend `cuda_ptx`: the host objects that nvcc makes of csrc/cuda, with a runtime that runs their PTX.

`register` compiles all kernels. With `on_demand`, the function that launches a kernel is compiled at its first call.
"""

import contextlib
import ctypes
import functools
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from gpu_build.sass import find_tool
from tests import compiled
from tests.ptx import ptx

ROOT = compiled.ROOT
NAMESPACE = compiled.NAMESPACE
NAME = "cuda_ptx"  # of files
ARCHITECTURE = 90
# As setup.py compiles them, but PTX alone, which the runtime reads as it is.
NVCC_FLAGS = ["-std=c++17", "-O3", "--expt-relaxed-constexpr", "--no-compress"]
NVCC_FLAGS += ["-Xcompiler=-fPIC,-fvisibility=hidden"]
NVCC_FLAGS += [f"-gencode=arch=compute_{ARCHITECTURE},code=compute_{ARCHITECTURE}"]


def missing() -> str | None:
    """The reason why the kernels cannot be built here, or None."""
    return ptx.missing() or (None if find_tool("nvcc") else "there is no nvcc")


def _nvcc(*more: str) -> list[str]:
    return [str(find_tool("nvcc")), *NVCC_FLAGS, *more]


# The sources with functions that others call and that are no templates. Of the other sources no instance is left.
KEPT = {"coding", "loss"}
LAUNCHER = re.compile(r"\b_ZN3bfn\d+([a-z_]+)I([fd])EEv\w+")  # a function that BFN_INSTANTIATE instantiates
FIND = 'extern "C" { __attribute__((visibility("default"))) void* (*find)(const char*); }\n'
STUB = """
void stub{n}(const void* op, const void* more) asm("{symbol}");
void stub{n}(const void* op, const void* more) {{
  static const auto found = reinterpret_cast<decltype(&stub{n})>(find("{symbol}"));
  found(op, more);
}}
"""


def _objects() -> tuple[list[Path], list[str]]:
    """The bindings and the runtime, and how they are linked."""
    bindings, link = compiled.bindings()
    runtime = compiled.objects(NAME, {ptx.HERE / "cudart.cpp": ["g++", *ptx.FLAGS, "-fvisibility=default"]})
    return [*bindings, *runtime], [*link, str(ptx.path())]


@functools.cache
def operators() -> Path:
    """A library that defines the operators of NAMESPACE by CUDA's kernels."""
    parts, link = _objects()
    return compiled.linked(NAME, parts + compiled.objects(NAME, dict.fromkeys(compiled.KERNELS, _nvcc())), link)


def _with_stubs(name: str, parts: list[Path], link: list[str]) -> Path:
    """Links the objects with a stub for each function that they call and that launches kernels. A stub asks `_find`."""
    listed = subprocess.run(["nm", "--undefined-only", *parts], capture_output=True, text=True, check=True).stdout
    symbols = sorted({found[0] for found in LAUNCHER.finditer(listed) if found[1] in _launchers()})
    stubs = compiled.BUILT / f"{name}.stubs.cpp"
    stubs.write_text(FIND + "".join(STUB.format(n=n, symbol=symbol) for n, symbol in enumerate(symbols)))
    parts += compiled.objects(name, {stubs: ["g++", "-fPIC", "-fvisibility=hidden"]})
    path = compiled.linked(name, parts, link)
    ctypes.c_void_p.in_dll(ctypes.CDLL(str(path)), "find").value = ctypes.cast(_find, ctypes.c_void_p).value
    return path


@functools.cache
def operators_on_demand() -> Path:
    """The same library, for whose kernels there are stubs."""
    parts, link = _objects()
    kept = [path for path in compiled.KERNELS if path.stem in KEPT]
    rest = [_unit(path, compiled.BUILT / f"{NAME}_{path.stem}_rest.cu") for path in kept]
    parts += compiled.objects(NAME, dict.fromkeys(rest, _nvcc()))
    return _with_stubs(f"{NAME}_on_demand", parts, link)


@functools.cache
def _launchers() -> dict[str, tuple[Path, str]]:
    """Of each function that launches kernels its source, and its arguments."""
    pattern = r"(?m)^BFN_INSTANTIATE\((\w+), (.*)\);"
    lists = [path.read_text() for path in (ROOT / "csrc" / "math").glob("*.h")]
    elementwise = {
        name: (ROOT / "csrc" / "cuda" / "element_loss.cu", f"const LossOf<{loss}>&")
        for text in lists
        for name, loss in re.findall(r"\bX\((\w+), (\w+)\)", text)
    }
    return elementwise | {
        name: (path, parameters)
        for path in compiled.KERNELS
        for name, parameters in re.findall(pattern, path.read_text())
    }


def _unit(source: Path, to: Path, instance: str = "") -> Path:
    """Writes a source that has what another one has, but one instance of its functions alone, or none."""
    lines = [f'#include "{source.parents[1]}/ops/view.h"', "#undef BFN_INSTANTIATE", "#define BFN_INSTANTIATE(...)"]
    lines += [f'#include "{source}"', f"namespace bfn {{ template void {instance}; }}" if instance else ""]
    to.write_text("\n".join(lines))
    return to


compiled_on_demand: list[str] = []  # the functions, in the order of their first calls


@ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p)
def _find(symbol: bytes) -> int | None:
    """The address of a function, which is compiled now."""
    function, kind = LAUNCHER.fullmatch(symbol.decode()).groups()
    compiled_on_demand.append(function)
    (source, parameters), kind = _launchers()[function], {"f": "float", "d": "double"}[kind]
    name = f"{NAME}_{function}_{kind}"
    unit = _unit(source, compiled.BUILT / f"{name}.cu", f"{function}<{kind}>({parameters})")
    parts = compiled.objects(name, {unit: _nvcc("-Xcompiler=-fvisibility=default")})
    library = ctypes.CDLL(str(_with_stubs(name, parts, ["-shared", str(operators_on_demand())])))
    return ctypes.cast(getattr(library, symbol.decode()), ctypes.c_void_p).value


def register(on_demand: bool = False) -> None:
    """Makes the kernels a backend of that name, if they can be built."""
    import torch

    from bfn_kernels import backends
    from bfn_kernels.libraries import Library

    if missing() is not None:
        return
    ptx.watch_torch()
    torch.ops.load_library(operators_on_demand() if on_demand else operators())
    backends.add_library(Library(NAMESPACE))
    backends.BACKENDS["cuda_ptx"] = backends.Backend("cuda_ptx", "cpu", NAMESPACE)


@functools.cache
def _runtime() -> ctypes.CDLL:
    library = ctypes.CDLL(str(operators()))
    library.cudart_kernels.restype = library.cudart_text.restype = ctypes.c_char_p
    library.cudart_text.argtypes, library.cudart_replace.argtypes = [ctypes.c_char_p], [ctypes.c_char_p] * 2
    return library


def kernels() -> set[str]:
    """The names of all kernels that the backend may launch."""
    return set(_runtime().cudart_kernels().decode().split())


def reload() -> None:
    """Lets options that matter when a kernel is parsed act upon those that ran already."""
    _runtime().cudart_reload()


@contextlib.contextmanager
def edited(names: Iterable[str], edit: Callable[[str], str]) -> Iterator[None]:
    """Within it, the PTX of these kernels is what `edit` makes of it."""
    names = [name.encode() for name in names]
    try:
        for name in names:
            _runtime().cudart_replace(name, edit(_runtime().cudart_text(name).decode()).encode())
        yield
    finally:
        for name in names:
            _runtime().cudart_replace(name, None)
