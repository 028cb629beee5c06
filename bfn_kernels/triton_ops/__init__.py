"""The library of `torch.ops` that is implemented in Triton; the submodules hold what its kernels share."""

import importlib
import os
from collections.abc import Callable

from bfn_kernels.operators import NATIVE, TRITON, Library, Operator


def implement(family: str, operator: Operator) -> Callable:
    """Returns the function that computes an operator and has its name, in the family's `triton.py` or in `common.py`
    here. The import of this module imports Triton."""
    module = f"{__package__}.common" if family == "common" else f"{NATIVE}.{family}.triton"
    return getattr(importlib.import_module(module), operator.name)


def library() -> Library:
    """The library serves GPUs, and the CPU too if Triton's interpreter runs its kernels."""
    return Library(TRITON, implement, ("CUDA", "CPU") if os.environ.get("TRITON_INTERPRET") == "1" else ("CUDA",))
