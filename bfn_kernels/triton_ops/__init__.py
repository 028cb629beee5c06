"""The library of `torch.ops` that is implemented in Triton. The submodules have code that its kernels share."""

import importlib
import os
from collections.abc import Callable

from bfn_kernels.declarations import NATIVE, TRITON, Operator
from bfn_kernels.libraries import Library


def implement(family: str, operator: Operator) -> Callable:
    """Returns the function with the operator's name from the family's `triton.py`, or from `triton_ops/common.py`.
    These modules import Triton."""
    module = f"{__package__}.common" if family == "common" else f"{NATIVE}.{family}.triton"
    return getattr(importlib.import_module(module), operator.name)


def library() -> Library:
    """The library of Triton kernels. It serves GPUs and, if Triton's interpreter runs the kernels, the CPU."""
    return Library(TRITON, implement, ("CUDA", "CPU") if os.environ.get("TRITON_INTERPRET") == "1" else ("CUDA",))
