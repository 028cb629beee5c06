"""What the test files share: the backends that run here, and how results are compared."""

import dataclasses
import importlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from bfn_kernels.backends import BACKENDS
from bfn_kernels.extensions import as_refused
from tests.cuda_on_host import cuda_on_host
from tests.kernels.case import Case
from tests.kernels.op_cases import CASES

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# "cuda" or "triton": this process tests only what nvcc or Triton compiles for a GPU, which tests/ptx runs (conftest.py)
PTX = os.environ.get("BFN_PTX")
if PTX:
    module = importlib.import_module(f"tests.ptx.{PTX}_ptx")
    module.register()
    del BACKENDS["cpu"]
elif INTERPRETED:  # this process tests the Triton kernels only (conftest.py)
    from tests.kernels import interpreter

    interpreter.repair()
    interpreter.enlarge_blocks()
    torch.use_deterministic_algorithms(True)  # fills new memory with NaN
    del BACKENDS["cpu"]
    BACKENDS["triton"] = dataclasses.replace(BACKENDS["triton"], device="cpu")
else:
    cuda_on_host.register()  # makes the CUDA kernels, compiled for the CPU, a backend; conftest.py loads it

ON_CPU = [b.name for b in BACKENDS.values() if b.missing is None and b.device in (None, "cpu")]
NATIVE = [name for name in ON_CPU if name != "reference"]
SHARED = [name for name in NATIVE if name == "cpu"]  # one backend is enough to test Python code that all share
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
COMPILER = shutil.which("c++")  # inductor calls it for a CPU
WITH_COMPILER = pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")


def serves(case: Case, backend: str) -> bool:
    """Whether the backend has its own implementation of the op."""
    return case.kernels or backend == "reference"


# Of each op one case for each kind of data that it is given, which have kernels of their own.
FIRST = {(c.op, *(name in c.fields for name in ("mixture_logits", "t"))): c for c in reversed(CASES)}.values()


def joins(case: Case) -> bool:
    """Whether to test autograd and the compiler with this case. They work alike for all cases of an op, so in the slow
    interpreter one case of each op is enough."""
    return case in FIRST or not INTERPRETED


def pairs(backends, keep=lambda case: True):
    """Parametrises a test over (case, backend)."""
    table = [pytest.param(c, b, id=f"{b}-{c.name}") for b in backends for c in CASES if keep(c) and serves(c, b)]
    return pytest.mark.parametrize(("case", "backend"), table)


def named(name: str) -> Case:
    return next(c for c in CASES if c.name == name)


def widened(inputs: dict) -> dict:
    """The same inputs in float64."""
    wide = {}
    for name, value in inputs.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            value = value.double()
        wide[name] = torch.float64 if isinstance(value, torch.dtype) else value
    return wide


@contextmanager
def refused(match: str | None = None) -> Iterator[None]:
    """Tests that an operator of torch.ops raises a ValueError. From 2.15 on, torch makes a RuntimeError of it."""
    with pytest.raises((ValueError, RuntimeError), match=match) as caught:
        yield
    assert isinstance(as_refused(caught.value), ValueError)


def weights_like(result: Tensor) -> Tensor:
    """Numbers around 1 that weigh the elements of a result in a backward pass; they are the same for every type."""
    count = torch.arange(result.numel(), dtype=torch.float64).reshape(result.shape)
    return (1 + (count * 0.75).sin() / 2).bfloat16()


def evaluate(case: Case, inputs: dict, backend: str, wanted=None) -> dict[str, Tensor]:
    """The result of a case, and the gradient of its weighted sum by each of the wanted inputs."""
    wanted = case.diff if wanted is None else wanted
    inputs = {k: v.detach().requires_grad_() if k in wanted else v for k, v in inputs.items()}
    result = case(inputs, backend)
    found = {"result": result.detach()}
    if wanted:
        grads = torch.autograd.grad(result, [inputs[k] for k in wanted], weights_like(result).to(result.dtype))
        found |= dict(zip(wanted, grads, strict=True))
    return found


def error(got: Tensor, want: Tensor) -> float:
    """The largest difference. It is infinite if the shapes differ or only one of the two has NaN or infinity
    somewhere."""
    if got.shape != want.shape:
        return float("inf")
    overflows = want.to(got.dtype).double() == got  # numbers too large for float16 become infinite
    got, want = got.double(), want.double()
    same = overflows | (got.isnan() & want.isnan())
    difference = torch.where(same, 0, got - want).abs().nan_to_num(torch.inf, torch.inf)
    return difference.max().item() if difference.numel() else 0.0


def scale(want: Tensor) -> float:
    finite = want[want.isfinite()].abs()
    return finite.max().item() if finite.numel() else 0.0


def ulp(dtype: torch.dtype, size: float) -> float:
    """The spacing of numbers of this size. Subnormal numbers of float16 are kept; those of other types may become 0."""
    info = torch.finfo(dtype)
    return max(info.eps * size, info.smallest_normal * (info.eps if dtype == torch.float16 else 1))


class Accuracy:
    """A schedule of any data, in which each row has an accuracy of its own."""

    def __init__(self, alpha: Tensor):
        self.of = alpha

    def alpha(self, i, n):
        return self.of.expand_as(i)

    def gamma(self, t):
        return t, 1 - t

    def rate(self, t):
        return t

    beta = rate
