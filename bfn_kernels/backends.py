"""Which implementations there are, what each takes, and which one serves a call.

Every family declares its operators once, in `operators.py`. They are served by libraries of `torch.ops`, one for C++
and CUDA, one for Triton, and by `reference.py`, plain PyTorch that has functions of the same names and arguments.
"""

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from bfn_kernels import triton_ops
from bfn_kernels.operators import Library, Operator

# Builds of the CPU kernels, by the instruction set that torch itself would use; the first that was built is loaded.
CPU_BUILDS = {
    "AVX512": ("_cpu_avx512", "_cpu_avx2", "_cpu_generic"),
    "AVX2": ("_cpu_avx2", "_cpu_generic"),
}


def _load_cpu() -> tuple[str | None, str | None]:
    """The name of the extension that was loaded, or why there is none."""
    why = "the compiled extension is not there; install with a C++ compiler: pip install --no-build-isolation ."
    for name in CPU_BUILDS.get(torch.backends.cpu.get_cpu_capability(), ("_cpu_generic",)):
        try:
            importlib.import_module(f"bfn_kernels.{name}")
            return name, None
        except ModuleNotFoundError:
            continue
        except ImportError as error:
            why = _does_not_load(name, error)
    return None, why


def _does_not_load(name: str, error: ImportError) -> str:
    return f"the compiled extension {name} does not load beside torch {torch.__version__}: {error}"


CPU_BUILD, _CPU_MISSING = _load_cpu()


def _missing_cuda() -> str | None:
    """Why there are no CUDA kernels. They are loaded with the first CUDA tensor: beside a torch without CUDA they
    cannot be."""
    if _CPU_MISSING is not None:
        return f"it needs the CPU kernels beside it: {_CPU_MISSING}"
    if importlib.util.find_spec("bfn_kernels._cuda") is None:
        return "the compiled extension is not there; install with nvcc: pip install --no-build-isolation ."
    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA"
    return None


_CUDA_MISSING = _missing_cuda()


@torch.compiler.assume_constant_result
def _load_cuda() -> None:
    try:
        importlib.import_module("bfn_kernels._cuda")  # which does nothing from the second time on
    except ImportError as error:
        raise RuntimeError(_does_not_load("_cuda", error)) from error


def _missing_triton() -> str | None:
    """Why there are no Triton kernels. Triton itself is imported when one of them is first called."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not there; a CUDA build of torch brings it, or: pip install 'bfn-kernels[triton]'"
    return None


NATIVE, TRITON = "bfn_kernels", "bfn_kernels_triton"


@dataclass(frozen=True)
class Backend:
    """An implementation of the ops: on which devices, in which library of torch.ops, and why it is not available."""

    name: str
    device: str | None  # None: any
    library: str | None = None  # None: the reference
    missing: str | None = None


# In order of preference.
BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("triton", "cuda", TRITON, missing=_missing_triton()),
        Backend("cuda", "cuda", NATIVE, missing=_CUDA_MISSING),
        Backend("cpu", "cpu", NATIVE, missing=_CPU_MISSING),
        Backend("reference", None),
    )
}

# The reference has no operators that are common to the families: it makes scalars of rows by their formulas.
REFERENCE: Any = SimpleNamespace(common=None)
LIBRARIES: dict[str | None, Any] = {None: REFERENCE}
_FAMILIES: dict[str, Sequence[Operator]] = {}


def add_library(library: Library) -> None:
    """A library that has, or will have, code for the operators of all families."""
    LIBRARIES[library.name] = library
    for family, operators in _FAMILIES.items():
        library.declare(family, operators)


def add_family(name: str, operators: Sequence[Operator], reference: ModuleType | None) -> None:
    """Operators as the attribute `name` of every library."""
    _FAMILIES[name] = operators
    setattr(REFERENCE, name, reference)
    for library in LIBRARIES.values():
        if library is not REFERENCE:
            library.declare(name, operators)


if _CPU_MISSING is None:
    add_library(Library(NATIVE))
if BACKENDS["triton"].missing is None:
    add_library(Library(TRITON, triton_ops.implement))


def choose(name: str | None, device: torch.device) -> Backend:
    """The backend asked for, or the best there is for the device. Raises ValueError for a name that no backend has or
    that does not serve the device, RuntimeError for one that is not available."""
    if name is None:
        kind = device.type
        for backend in BACKENDS.values():
            if backend.missing is None and (backend.device is None or backend.device == kind):
                return backend
    if name not in BACKENDS:
        raise ValueError(f"backend must be None or one of {list(BACKENDS)}, got {name!r}")
    backend = BACKENDS[name]
    if backend.device not in (None, device.type):
        raise ValueError(f"backend {name!r} takes tensors on {backend.device}, got {device}")
    if backend.missing is not None:
        raise RuntimeError(f"backend {name!r} is not available: {backend.missing}")
    return backend


def library(name: str | None, device: torch.device) -> Any:
    """The operators of the backend asked for, or of the best there is for the device: `library.<family>.<operator>`."""
    backend = choose(name, device)
    if backend.name == "cuda":
        _load_cuda()
    return LIBRARIES[backend.library]
