"""The library of `torch.ops` that is implemented in Triton. The submodules are the code that its kernels share."""

import importlib
import os
from collections.abc import Callable

from bfn_kernels.operators import NATIVE, TRITON, Library, Operator


def implement(family: str, operator: Operator) -> Callable:
    """The function with the operator's name in the family's `triton.py`, or in `triton_ops/common.py`. The import of
    this module imports Triton."""
    module = f"{__package__}.common" if family == "common" else f"{NATIVE}.{family}.triton"
    return getattr(importlib.import_module(module), operator.name)


def library() -> Library:
    """The library of Triton kernels. It serves GPUs, and the CPU too if Triton's interpreter runs the kernels."""
    return Library(TRITON, implement, ("CUDA", "CPU") if os.environ.get("TRITON_INTERPRET") == "1" else ("CUDA",))
