"""The backends: which implementations of the operators are available, and which one serves a call.

Every family declares its operators once, in `operators.py`. Two libraries of `torch.ops` implement them, one in C++ and
CUDA and one in Triton, and so does `reference.py`, plain PyTorch functions of the same names and arguments.
"""

import importlib
import importlib.util
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from bfn_kernels import checks, triton_ops
from bfn_kernels.operators import NATIVE, REFUSALS, TRITON, Library, Operator, constant

# For each instruction set that torch may use, the builds of the CPU kernels that run on it, best first.
CPU_BUILDS = {
    "AVX512": ("_cpu_avx512", "_cpu_avx2", "_cpu_generic"),
    "AVX2": ("_cpu_avx2", "_cpu_generic"),
}


def builds() -> tuple[str, ...]:
    """The builds of the CPU kernels that run here, of which the first one that is there is loaded."""
    return CPU_BUILDS.get(torch.backends.cpu.get_cpu_capability(), ("_cpu_generic",))


def _load_cpu() -> tuple[str | None, str | None]:
    """Loads the CPU kernels; returns the name of the extension, or the reason why there is none."""
    why = "the compiled extension is not there; install with a C++ compiler: pip install --no-build-isolation ."
    for name in builds():
        try:
            REFUSALS.append(importlib.import_module(f"{NATIVE}.{name}").refusal)
            return name, None
        except ModuleNotFoundError:
            continue
        except (ImportError, AttributeError) as error:  # an extension that was compiled of other sources lacks names
            why = _does_not_load(name, error)
    return None, why


def _does_not_load(name: str, error: Exception) -> str:
    return f"the compiled extension {name} does not load beside torch {torch.__version__}: {error}"


CPU_BUILD, _CPU_MISSING = _load_cpu()


def _missing_cuda() -> str | None:
    """The reason why there are no CUDA kernels, or None. They are loaded with the first CUDA tensor, since they cannot
    be loaded beside a torch without CUDA."""
    if _CPU_MISSING is not None:
        return f"it needs the CPU kernels beside it: {_CPU_MISSING}"
    if importlib.util.find_spec(f"{NATIVE}._cuda") is None:
        return (
            "the compiled extension is not there; `pip install --no-build-isolation .` builds it where nvcc is, "
            "`make install` where a GPU is, too"
        )
    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA"
    return None


_CUDA_MISSING = _missing_cuda()


@constant
def _load_cuda() -> None:
    try:
        refusal = importlib.import_module(f"{NATIVE}._cuda").refusal  # does nothing from the second call on
    except ImportError as error:
        raise RuntimeError(_does_not_load("_cuda", error)) from error
    if refusal not in REFUSALS:
        REFUSALS.append(refusal)


def _missing_triton() -> str | None:
    """The reason why there are no Triton kernels, or None. Triton is imported when one of them is first called."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not there; a CUDA build of torch brings it, or: pip install 'bfn-kernels[triton]'"
    return None


@dataclass(frozen=True)
class Backend:
    """An implementation of the ops: its device, its library of torch.ops, and the reason if it is not available."""

    name: str
    device: str | None  # None stands for any device
    library: str | None = None  # None stands for the reference
    missing: str | None = None


# In order of preference, best first.
BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("triton", "cuda", TRITON, missing=_missing_triton()),
        Backend("cuda", "cuda", NATIVE, missing=_CUDA_MISSING),
        Backend("cpu", "cpu", NATIVE, missing=_CPU_MISSING),
        Backend("reference", None),
    )
}

REFERENCE: Any = SimpleNamespace()
LIBRARIES: dict[str | None, Any] = {None: REFERENCE}
FAMILIES: dict[str, Sequence[Operator]] = {}


def add_library(library: Library) -> None:
    """Adds a library, which must implement the operators of all families, and declares these in it."""
    LIBRARIES[library.name] = library
    for family, operators in FAMILIES.items():
        library.declare(family, operators)


def add_family(name: str, operators: Sequence[Operator], reference: ModuleType | None) -> None:
    """Declares the operators of a family in every library, where they become the attribute `name`.

    reference: the module of their plain PyTorch functions; None for the operators that are common to the families, in
    whose place the reference uses formulas and autograd.
    """
    FAMILIES[name] = operators
    setattr(REFERENCE, name, reference)
    for library in LIBRARIES.values():
        if library is not REFERENCE:
            library.declare(name, operators)


if _CPU_MISSING is None:
    add_library(Library(NATIVE))
if BACKENDS["triton"].missing is None:
    add_library(Library(TRITON, triton_ops.implement))


def keep_memory(most: int) -> None:
    """Bounds the memory that large outputs of the CPU kernels leave behind, to be filled again by later outputs.

    most: bytes at a time, 2³⁰ unless set; 0 ends it, and outputs come from torch's allocator. What is beyond the bound
    is given back at once. Outputs below 2 MiB always come from torch's. Raises TypeError or ValueError for what is no
    such number.

    >>> keep_memory(2**28)
    >>> keep_memory(2**30)
    """
    most = checks.integer("most", most, 0)
    if CPU_BUILD is not None:
        importlib.import_module(f"{NATIVE}.{CPU_BUILD}").keep_memory(min(most, 2**62))


def choose(name: str | None, device: torch.device) -> Backend:
    """The backend of that name, or the best one for the device if the name is None.

    Raises ValueError for a name that is unknown or does not serve the device, RuntimeError for a backend that is not
    available.
    """
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


_warned = False


@constant
def _warn_of_reference(device: str) -> None:
    """Says once in a process that nobody asked for the slow backend."""
    global _warned
    if not _warned:
        _warned = True
        reasons = [f"{b.name}: {b.missing}" for b in BACKENDS.values() if b.device == device]
        warnings.warn(
            f"no compiled backend serves {device} tensors, so the plain PyTorch reference does, which is many times "
            f"slower and takes more memory ({'; '.join(reasons) or 'there is none for this device'})",
            stacklevel=4,
        )


def library(name: str | None, device: torch.device) -> Any:
    """The operators of the backend that `choose` returns, as `library.<family>.<operator>`."""
    backend = choose(name, device)
    if backend.device != "cpu":
        if backend.name == "cuda":
            _load_cuda()
        elif name is None and backend.library is None and device.type != "meta":
            _warn_of_reference(device.type)
    return LIBRARIES[backend.library]
