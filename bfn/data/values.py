"""Checks of the numbers in examples: wrong numbers are refused before they spoil a run in silence."""

import math
from typing import Any

import torch
from torch import Tensor

from bfn.configs import ConfigError

AT_ONCE = 2**22  # numbers that are checked at once
SLACK = 0.01  # A number this far from the centre of a bin, in bin widths, counts as the centre with a rounding error.


def require_examples(x: Any, num_classes: int, what: str) -> None:
    """Raises a ConfigError unless x is a tensor [N, ...] of finite angles (num_classes is 0), centres of bins, or
    classes. what: names x in the error."""
    if not isinstance(x, Tensor):
        raise ConfigError(f"{what} must be a torch.Tensor, got {None if x is None else type(x).__name__}")
    if x.dim() < 2 or x.is_complex():
        raise ConfigError(f"{what} must be a tensor [N, ...] of real numbers or classes, got {x.dtype} {list(x.shape)}")
    if num_classes == 0 and not x.is_floating_point():
        raise ConfigError(f"{what} must hold angles as floating-point numbers, got {x.dtype}")
    stored = x.untyped_storage().nbytes() // x.itemsize
    if x.numel() > stored and first_fault(x.as_strided((stored, 1), (1, 1), 0), num_classes) is None:
        return  # windows that overlap have each number of the memory many times
    if (fault := first_fault(x, num_classes)) is not None:
        raise ConfigError(f"{what} must hold {fault}")


def first_fault(x: Tensor, num_classes: int) -> str | None:
    """Describes the numbers that x [N, ...] must hold, and its first wrong number. None if no number is wrong."""
    rows = max(1, AT_ONCE // max(1, math.prod(x.shape[1:])))
    for start in range(0, len(x), rows):
        part = x[start : start + rows]
        for wrong, wanted in faults(part, num_classes):
            if wrong.any():
                example, *rest = wrong.nonzero()[0].tolist()
                value = part[(example, *rest)].item()
                return f"{wanted}, got {value:g} in example {start + example}"
    return None


def faults(x: Tensor, num_classes: int) -> list[tuple[Tensor, str]]:
    """The rules for numbers: where x breaks each of them, and what it must hold there."""
    if not x.is_floating_point():
        classes = x.long()  # uint8 cannot be compared with 256
        return [((classes < 0) | (classes >= num_classes), f"classes in [0, {num_classes})")]
    finite = [(~x.isfinite(), "finite numbers")]
    if num_classes == 0:
        return finite
    place = (x.float() + 1) * (num_classes / 2) - 0.5  # k at the centre of bin k
    off = (place - place.round().clamp(0, num_classes - 1)).abs()
    centres = f"the centres (2k + 1)/{num_classes} - 1 of {num_classes} bins (see bfn_kernels.discretised.from_levels)"
    return [*finite, (off > SLACK + num_classes * torch.finfo(x.dtype).eps, centres)]
