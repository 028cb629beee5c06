"""The backend `cuda_ptx`: the host objects that nvcc makes of csrc/cuda, with a runtime that runs their PTX."""

import contextlib
import ctypes
import functools
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import compiled
import ptx

from gpu_build.sass import find_tool

ROOT = compiled.ROOT
NAMESPACE = "bfn_kernels_cuda_ptx"
ARCHITECTURE = 90
# As setup.py compiles them, but PTX alone, which the runtime reads as it is.
NVCC_FLAGS = ["-std=c++17", "-O3", "--expt-relaxed-constexpr", "--no-compress"]
NVCC_FLAGS += ["-Xcompiler=-fPIC,-fvisibility=hidden"]
NVCC_FLAGS += [f"-gencode=arch=compute_{ARCHITECTURE},code=compute_{ARCHITECTURE}"]


def missing() -> str | None:
    """The reason why the kernels cannot be built here, or None."""
    return ptx.missing() or (None if find_tool("nvcc") else "there is no nvcc")


@functools.cache
def operators() -> Path:
    """A library that defines the operators of NAMESPACE by CUDA's kernels."""
    from torch.utils.cpp_extension import include_paths, library_paths

    host = ["g++", "-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wno-unknown-pragmas"]
    host += [f"-DBFN_NAMESPACE={NAMESPACE}", "-DTORCH_TARGET_VERSION=0x020b000000000000"]
    host += [f"-isystem{folder}" for folder in include_paths()]
    kernels = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
    nvcc = [find_tool("nvcc"), *NVCC_FLAGS]
    sources = dict.fromkeys(compiled.bindings(), host) | dict.fromkeys(kernels, nvcc)
    parts = compiled.objects(NAMESPACE, sources | {ptx.HERE / "cudart.cpp": ["g++", *ptx.FLAGS]})
    link = ["-shared", *(f"-L{folder}" for folder in library_paths()), "-ltorch_cpu", "-ltorch", "-lc10"]
    return compiled.linked(NAMESPACE, parts, [*link, str(ptx.path())])


def register() -> None:
    """Makes the kernels a backend of that name, if they can be built."""
    import torch

    from bfn_kernels import backends
    from bfn_kernels.operators import Library

    if missing() is not None:
        return
    ptx.watch_torch()
    torch.ops.load_library(operators())
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


def compiled_with(fault: tuple[str, str, str], source: str, instance: str, folder: Path) -> str:
    """The PTX of a source of csrc/cuda, of which this instance alone is compiled, with a fault: a file of csrc/cuda,
    what stands there once, and what takes its place."""
    copy = Path(shutil.copytree(ROOT / "csrc", folder / "csrc")) / "cuda"
    changed, old, new = copy / fault[0], *fault[1:]
    assert changed.read_text().count(old) == 1
    changed.write_text(changed.read_text().replace(old, new))
    text = re.sub("BFN_INSTANTIATE.*\n", "", (copy / source).read_text())
    (copy / source).write_text(f"{text}\ntemplate void bfn::{instance};\n")
    command = [find_tool("nvcc"), *NVCC_FLAGS, "-ptx", str(copy / source), "-o", str(folder / "ptx")]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return (folder / "ptx").read_text()


def in_the_place_of(text: str, other: str, kernel: str) -> str:
    """The PTX of the kernel that the pattern names, out of `other`, under the name that it has in `text`."""
    name = re.search(rf"\.entry (\w*{kernel}\w*)\(", other)[1]
    body = re.search(rf"\.entry {name}\(.*?\n}}\n", other, re.DOTALL)[0]
    return body.replace(name, re.search(r"\.entry (\w+)\(", text)[1])


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
