"""The library of `torch.ops` that is implemented in Triton; the submodules hold what its kernels share."""

import functools
import importlib
import os
from collections.abc import Callable

from bfn_kernels.operators import NATIVE, TRITON, Library, Operator


def implement(family: str, operator: Operator) -> Callable:
    """The code of an operator: the function of its name in the family's `triton.py`. That module, and Triton with it,
    is imported when the operator is first called."""
    module = f"{__package__}.common" if family == "common" else f"{NATIVE}.{family}.triton"

    @functools.cache
    def function() -> Callable:
        return operator.grouped(getattr(importlib.import_module(module), operator.name))

    return lambda *arguments: function()(*arguments)


def library() -> Library:
    """The library serves GPUs, and the CPU too if Triton's interpreter runs its kernels."""
    return Library(TRITON, implement, ("CUDA", "CPU") if os.environ.get("TRITON_INTERPRET") == "1" else ("CUDA",))
