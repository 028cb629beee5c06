"""Builds csrc/cuda with the host compiler and the shim, as operators for the tests of the kernels."""

import ctypes
import functools
import platform
import shutil
from pathlib import Path

from tests import compiled

ROOT = compiled.ROOT
HERE = ROOT / "tests" / "cuda_on_host"
COMPILE = ["g++", "-x", "c++", "-std=c++20", "-fPIC", "-fvisibility=hidden", f"-I{HERE}", "-DBFN_CUDA_ON_HOST"]
COMPILE += compiled.WARNINGS
SHIM = HERE / "host_shim.cpp"


def missing() -> str | None:
    """The reason why the kernels cannot be built here, or None."""
    if platform.machine() != "x86_64":
        return "the shim switches fibers on x86-64 alone"
    return None if shutil.which("g++") else "there is no g++"


def _fused() -> list[str]:
    """The flags that fuse a multiplication and an addition as a GPU does, if the processor can."""
    import torch

    return [] if torch.backends.cpu.get_cpu_capability() == "DEFAULT" else ["-mfma", "-ffp-contract=fast"]


def operators() -> Path:
    """A library that defines operators by CUDA's kernels."""
    bindings, link = compiled.bindings()
    pages = compiled.objects("cuda_on_host", {ROOT / "csrc" / "cpu" / "pages.cpp": [*COMPILE, "-O1"]})
    sources = {kernel: [*COMPILE, "-O2", *_fused()] for kernel in compiled.KERNELS} | {SHIM: [*COMPILE, "-O2"]}
    parts = [*compiled.objects("cuda_on_host", sources), *bindings, *pages]
    return compiled.linked("libcuda_on_host", parts, link)


def chunks() -> Path:
    """The program of `chunks.cpp`."""
    objects = compiled.objects("chunks", {source: [*COMPILE, "-O1"] for source in (HERE / "chunks.cpp", SHIM)})
    return compiled.linked("chunks", objects, [])


def register() -> None:
    """Makes the kernels a backend of that name, if they can be built. `load` must run before its operators do."""
    from bfn_kernels import backends
    from bfn_kernels.libraries import Library

    if missing() is None:
        backends.add_library(Library(compiled.NAMESPACE))
        backends.BACKENDS["cuda_on_host"] = backends.Backend("cuda_on_host", "cpu", compiled.NAMESPACE)


@functools.cache
def load() -> ctypes.CDLL:
    """Loads the kernels of the backend that `register` made; they are compiled if a source has changed."""
    import torch

    library = operators()
    torch.ops.load_library(library)
    return ctypes.CDLL(str(library))


def launches() -> int:
    """How many kernels this process has launched."""
    return load().host_shim_launches()
