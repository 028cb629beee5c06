"""Which implementations there are, what each takes, and which one serves a call.

Every family offers its ops twice under the same names: `reference.py`, plain PyTorch, and `autograd.py`, which joins
the operators of a namespace of `torch.ops` with their backward passes. A backend other than the reference is such a
namespace: adding one is a file that defines its operators and a line in BACKENDS.
"""

import functools
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType

import torch

from bfn_kernels import triton_ops
from bfn_kernels.operators import Namespace

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


def _define_triton() -> tuple[torch.library.Library | None, str | None]:
    """The Triton operators, or why there are none. Triton itself is imported when one of them is first called."""
    if importlib.util.find_spec("triton") is None:
        return None, "Triton is not there; a CUDA build of torch brings it, or: pip install 'bfn-kernels[triton]'"
    return triton_ops.define(), None


_TRITON_LIBRARY, _TRITON_MISSING = _define_triton()


@dataclass(frozen=True)
class Backend:
    """An implementation of the ops: on which devices, in which namespace of torch.ops, and why it is not available."""

    name: str
    device: str | None  # None: any
    namespace: str | None = None  # None: the reference
    missing: str | None = None
    lacks: dict[str, str] = field(default_factory=dict)  # op: why this backend has none


# In order of preference.
BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("triton", "cuda", "bfn_kernels_triton", missing=_TRITON_MISSING),
        Backend("cuda", "cuda", "bfn_kernels", missing=_CUDA_MISSING),
        Backend("cpu", "cpu", "bfn_kernels", missing=_CPU_MISSING),
        Backend("reference", None),
    )
}

# The ops that the CUDA kernels were measured to do faster than Triton's, and by which report of benchmarks/results: for
# these they come first. None is here before `make gpu-check` has run on a GPU.
CUDA_FIRST: dict[str, str] = {}

# The operators that are there, by the name that torch.ops has for them.
NAMESPACES = {b.namespace: Namespace(b.namespace) for b in BACKENDS.values() if b.namespace and b.missing is None}


def choose(op: str, name: str | None, device: torch.device) -> Backend:
    """The backend asked for, or the best there is for the device. Raises ValueError for a name that no backend has or
    that does not serve the device, RuntimeError for one that is not available or lacks the op."""
    if name is None:
        order = [*BACKENDS.values()]
        if op in CUDA_FIRST:
            order.insert(0, BACKENDS["cuda"])
        return next(b for b in order if b.missing is None and b.device in (None, device.type) and op not in b.lacks)
    if name not in BACKENDS:
        raise ValueError(f"backend must be None or one of {list(BACKENDS)}, got {name!r}")
    backend = BACKENDS[name]
    if backend.device not in (None, device.type):
        raise ValueError(f"backend {name!r} takes tensors on {backend.device}, got {device}")
    if backend.missing is not None:
        raise RuntimeError(f"backend {name!r} is not available: {backend.missing}")
    if op in backend.lacks:
        raise RuntimeError(f"backend {name!r} has no {op}: {backend.lacks[op]}")
    return backend


class Family:
    """The ops of one family of data: `family(op, backend, device)` is the namespace of the backend that serves the
    call, None for the reference, and the function."""

    def __init__(self, name: str, reference: ModuleType, autograd: ModuleType):
        self.name, self.reference, self.autograd = name, reference, autograd
        self.found: dict[tuple, tuple[Namespace | None, Callable]] = {}

    def __call__(
        self, op: str, name: str | None, device: torch.device, variant: str = ""
    ) -> tuple[Namespace | None, Callable]:
        """`variant`: a form of the op that a backend may lack by itself."""
        found = self.found.get((op, name, device, variant))
        if found is None:
            found = self.found[op, name, device, variant] = self._find(op, name, device, variant)
        return found

    def _find(
        self, op: str, name: str | None, device: torch.device, variant: str
    ) -> tuple[Namespace | None, Callable]:  # fmt: skip
        backend = choose(f"{self.name}.{op}{variant}", name, device)
        if backend.name == "cuda":
            _load_cuda()
        if backend.namespace is None:
            return None, getattr(self.reference, op)
        ops = NAMESPACES[backend.namespace]
        return ops, functools.partial(getattr(self.autograd, op), ops)
