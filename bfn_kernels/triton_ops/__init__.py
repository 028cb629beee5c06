"""What the Triton kernels of the families share, and how they become the code of a library of `torch.ops`."""

import importlib
import os

import torch


def implement(library: torch.library.Library, family: str, name: str) -> None:
    """The code of an operator, on a GPU and, for Triton's interpreter, on the CPU: the function of that name in the
    family's `triton.py`, which is imported, Triton with it, when the operator is first called."""
    module = "bfn_kernels.triton_ops.common" if family == "common" else f"bfn_kernels.{family}.triton"

    def call(*arguments):
        return getattr(importlib.import_module(module), name)(*arguments)

    for key in ["CUDA"] + ["CPU"] * (os.environ.get("TRITON_INTERPRET") == "1"):
        library.impl(f"{family}_{name}", call, key)
