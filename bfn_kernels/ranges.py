"""Checks of the numbers in data, which the functions of the reference call. The CPU kernels make the same checks."""

import math

import torch
from torch import Tensor

from bfn_kernels.checks import shows


def values(name: str, x: Tensor, low: float, high: float) -> None:
    """Raises an error if data on the CPU lie outside of [low, high]. NaN is allowed."""
    if not shows(x):
        return
    outside = (x < low) | (x > high)
    if outside.any():
        raise ValueError(f"{name} must lie in [{low}, {high}], got {x[outside][0].item()}")


def nonnegative(name: str, x: Tensor, zero: bool = True) -> Tensor:
    """Checks numbers that must be at least 0 or, unless `zero`, above 0, and returns them. NaN is allowed, and has a
    gradient of NaN. On other devices than the CPU and in compiled code, a number out of range becomes NaN instead of an
    error."""
    if shows(x):
        outside = x < 0 if zero else x <= 0
        if outside.any():
            allowed = "lie in [0, inf]" if zero else "be positive"
            raise ValueError(f"{name} must {allowed}, got {x[outside][0].item()}")
    return _nan_below(x, zero)


def compiled_nonnegative(x: Tensor, zero: bool = True) -> Tensor:
    """In compiled code on a CPU, replaces the numbers that `nonnegative` refuses by NaN. Otherwise, a CPU kernel would
    raise an error in the middle of a graph. The kernels of GPUs make such numbers NaN."""
    return _nan_below(x, zero) if torch.compiler.is_compiling() and x.is_cpu else x


def _nan_below(x: Tensor, zero: bool) -> Tensor:
    inside = x >= 0 if zero else x > 0
    return x * torch.where(inside, 1.0, math.nan).to(x.dtype)  # so that the gradient is NaN, too
