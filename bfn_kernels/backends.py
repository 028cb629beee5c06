"""Finds the available implementations of the operators, and chooses one for each call.

Each family of ops declares its operators once, in the file `operators.py` of its folder. Two libraries of `torch.ops`
implement the operators: one in C++ and CUDA, and one in Triton. The third implementation is `reference.py` in the same
folder, with plain PyTorch functions of the same names.
"""

import functools
import importlib
import importlib.util
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch._ops import OpOverload

from bfn_kernels import checks, triton_ops
from bfn_kernels.declarations import NATIVE, TRITON, Operator
from bfn_kernels.extensions import REFUSALS, Refusal, difference
from bfn_kernels.libraries import Library
from bfn_kernels.torch_private import constant

# For each instruction set that torch may report for a processor, the builds that this processor can run, best first.
CPU_BUILDS = {
    "AVX512": ("_cpu_avx512", "_cpu_avx2", "_cpu_generic"),
    "AVX2": ("_cpu_avx2", "_cpu_generic"),
}


def builds() -> tuple[str, ...]:
    """The names of the builds of the CPU kernels that run here, best first. The first one that is installed is
    loaded."""
    return CPU_BUILDS.get(torch.backends.cpu.get_cpu_capability(), ("_cpu_generic",))


def _load(name: str) -> tuple[Refusal, dict[str, str]]:
    """Loads an extension. Returns its function for `REFUSALS`, and a dict that maps the name of each operator to the
    types of its arguments and results."""
    extension = importlib.import_module(f"{NATIVE}.{name}")
    lines = (line.partition("(") for line in extension.signatures().splitlines())
    return extension.refusal, {operator: bracket + types for operator, bracket, types in lines}


def _load_cpu() -> tuple[str | None, str | None, dict[str, str]]:
    """Loads the CPU kernels. Returns the name of the extension, None, and the dict of `_load`. If no extension can be
    loaded, returns None, the reason, and an empty dict."""
    reason = "the compiled extension is missing; install with a C++ compiler: pip install --no-build-isolation ."
    for name in builds():
        try:
            refusal, compiled = _load(name)
        except ModuleNotFoundError:
            continue
        except (ImportError, AttributeError) as error:
            reason = _does_not_load(name, error)
        else:
            REFUSALS.append(refusal)
            return name, None, compiled
    return None, reason, {}


def _does_not_load(name: str, error: Exception) -> str:
    if isinstance(error, AttributeError):  # an old extension lacks functions
        return _of_other_sources(name, str(error))
    return f"the compiled extension {name} does not load with torch {torch.__version__}: {error}"


def _of_other_sources(name: str, differs: str) -> str:
    return f"the compiled extension {name} was built from other sources: {differs}; rebuild: make install"


CPU_BUILD, _CPU_MISSING, _CPU_COMPILED = _load_cpu()


def _refuse_cpu(overload: OpOverload) -> str | None:
    """The reason why an operator must not be called: its schema has changed since the extension was compiled. None for
    an operator that may be called. So a developer can change one operator and still call the others."""
    differs = difference(overload, _CPU_COMPILED)
    return differs and _of_other_sources(CPU_BUILD, differs)


def _missing_cuda() -> str | None:
    """The reason why the CUDA kernels are not available, or None. They are loaded with the first CUDA tensor, since a
    torch without CUDA cannot load them."""
    if _CPU_MISSING is not None:
        return f"it needs the CPU kernels, too: {_CPU_MISSING}"
    if importlib.util.find_spec(f"{NATIVE}._cuda") is None:
        return (
            "the compiled extension is missing; `pip install --no-build-isolation .` builds it if there is nvcc, "
            "`make install` if there are nvcc and a GPU"
        )
    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA"
    return None


_CUDA_MISSING = _missing_cuda()


@constant
def _load_cuda() -> None:
    _load_cuda_once()  # has the cache, since torch.compile would ignore a cache of this function


@functools.cache
def _load_cuda_once() -> None:
    try:
        refusal, compiled = _load("_cuda")
    except (ImportError, AttributeError) as error:
        raise RuntimeError(_does_not_load("_cuda", error)) from error
    shared = [(f, o) for f, operators in FAMILIES.items() for o in operators if not (o.composed or o.library)]
    for family, operator in shared:
        for name in (operator.name, f"{operator.name}_out")[: 1 + operator.in_place]:
            if differs := difference(getattr(getattr(torch.ops, NATIVE), f"{family}_{name}").default, compiled):
                raise RuntimeError(_of_other_sources("_cuda", differs))
    REFUSALS.append(refusal)  # only for an extension that is used: after an error, the next call loads it again


@constant
def _cuda_loads() -> bool:
    try:
        _load_cuda_once()
    except RuntimeError:
        return False
    return True


def _missing_triton() -> str | None:
    """The reason why the Triton kernels are not available, or None. Triton is imported when one of the kernels is first
    called."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is missing; a CUDA build of torch brings it, or: pip install triton"
    return None


@dataclass(frozen=True)
class Backend:
    """An implementation of the ops.

    Attributes:
        name: Its name, as the ops take it in `backend=`.
        device: The type of the device that it serves; None stands for any device.
        library: Its library of `torch.ops`; None stands for the reference.
        missing: The reason why it is not available, or None if it is.

    Example:
        >>> Backend("mine", "cpu").missing is None
        True
    """

    name: str
    device: str | None
    library: str | None = None
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
    """Adds a library, and declares the operators of all families in it. The library must implement them."""
    LIBRARIES[library.name] = library
    for family, operators in FAMILIES.items():
        library.declare(family, operators)


def add_family(name: str, operators: Sequence[Operator]) -> None:
    """Declares the operators of a family in every library, which gets them as an attribute `name`.

    The reference gets only the operators with a function in `reference.py`. It needs no others: torch's autograd
    computes its gradients, and `arguments.rows` its row scalars.
    """
    FAMILIES[name] = operators
    functions = {each.name: each.function for each in operators if each.function is not None}
    setattr(REFERENCE, name, SimpleNamespace(**functions) if functions else None)
    for library in LIBRARIES.values():
        if library is not REFERENCE:
            library.declare(name, operators)


if _CPU_MISSING is None:
    add_library(Library(NATIVE, refuse=_refuse_cpu))
if BACKENDS["triton"].missing is None:
    add_library(triton_ops.library())


def keep_memory(most: int) -> None:
    """Sets how much memory of freed outputs the CPU kernels keep for later outputs.

    Only outputs of at least 2 MiB, on Linux, use this memory. Other outputs always come from torch's allocator. Memory
    beyond `most` bytes goes back to the system at once.

    Args:
        most: The largest number of bytes to keep, 2³⁰ by default. With 0 no memory is kept, and all outputs come from
            torch's allocator.

    Raises:
        TypeError: If most is no int.
        ValueError: If most is below 0.

    Example:
        >>> keep_memory(2**28)
        >>> keep_memory(2**30)
    """
    most = checks.integer("most", most, 0, math.inf)
    if CPU_BUILD is not None:
        importlib.import_module(f"{NATIVE}.{CPU_BUILD}").keep_memory(min(most, 2**62))


def choose(name: str | None, device: torch.device, first: str | None = None) -> Backend:
    """Finds the backend of a name, or the best backend for the device.

    Args:
        name: A name of `BACKENDS`, or None for the first of them that is available for the device.
        device: The device of the tensors.
        first: The name of a backend that comes before all others if `name` is None.

    Returns:
        The backend.

    Raises:
        ValueError: If the name is unknown, or the backend does not serve the device.
        RuntimeError: If the backend is not available.

    Example:
        >>> choose("reference", torch.device("cpu")).name
        'reference'
    """
    if name is None:
        kind, order = device.type, BACKENDS.values()
        for backend in order if first is None else sorted(order, key=lambda each: each.name != first):
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
    """Warns, once in a process, that the slow reference serves calls that name no backend."""
    global _warned
    if not _warned:
        _warned = True
        reasons = [f"{b.name}: {b.missing}" for b in BACKENDS.values() if b.device == device]
        warnings.warn(
            f"no compiled backend serves {device} tensors, so the plain PyTorch reference does, which is many times "
            f"slower and takes more memory ({'; '.join(reasons) or 'there is none for this device'})",
            stacklevel=4,
        )


def library(name: str | None, device: torch.device, first: str | None = None) -> Any:
    """Returns the operators of the backend that `choose` returns, as `library.<family>.<operator>`.

    `first="cuda"` is for an operator that the CUDA kernels are predicted to run faster than Triton in every call of
    benchmarks/results/predicted/executed.csv. If they cannot be loaded, the call is served as without `first`.

    The function loads the CUDA kernels if they serve the call. It warns once in a process if the reference serves a
    call that names no backend.
    """
    backend = choose(name, device, first)
    if backend.name == first == "cuda" and name is None and not _cuda_loads():
        backend = choose(None, device)
    if backend.device != "cpu":
        if backend.name == "cuda":
            _load_cuda()
        elif name is None and backend.library is None and device.type != "meta":
            _warn_of_reference(device.type)
    return LIBRARIES[backend.library]
