"""The library of `torch.ops` that is implemented in Triton; the submodules hold what its kernels share."""

import importlib
import os

import torch

from bfn_kernels.operators import NATIVE


def implement(library: torch.library.Library, family: str, name: str) -> None:
    """Registers the code of an operator: the function of that name in the family's `triton.py`.

    That module, and Triton with it, is imported when the operator is first called. The code is registered for GPUs, and
    for the CPU too if Triton's interpreter runs it.
    """
    module = f"{__package__}.common" if family == "common" else f"{NATIVE}.{family}.triton"

    def call(*arguments):
        return getattr(importlib.import_module(module), name)(*arguments)

    for key in ["CUDA"] + ["CPU"] * (os.environ.get("TRITON_INTERPRET") == "1"):
        library.impl(f"{family}_{name}", call, key)
