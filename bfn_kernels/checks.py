"""Argument checks and the small conversions that go with them. Every error names the argument, what it was and
what it may be, before anything runs."""

import math
from collections.abc import Sequence
from numbers import Integral, Real

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
CLASSES = (torch.int64, torch.int32, torch.uint8)
SMALL_CLASSES = (torch.int16, torch.int8)  # taken as int32
ROWS = (torch.float32, torch.float64)
REDUCTIONS = ("none", "batch", "sum", "mean")
STEP_TOLERANCE = 1e-6  # of the product nt, for times that were rounded to float32; csrc/math/schedules.h repeats it


def _tensor(name: str, value: object, allowed: Sequence[torch.dtype]) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if value.dtype not in allowed:
        raise TypeError(f"{name} must be one of {[str(d).removeprefix('torch.') for d in allowed]}, got {value.dtype}")


def data(name: str, x: Tensor) -> None:
    """Floating-point data `[B, ...]`."""
    _tensor(name, x, FLOATS)
    if x.dim() == 0:
        raise ValueError(f"{name} must have a batch dimension, got a scalar")


def classes(name: str, x: Tensor) -> Tensor:
    """Integer classes `[B, ...]`, in a type that the operators take."""
    _tensor(name, x, CLASSES + SMALL_CLASSES)
    if x.dim() == 0:
        raise ValueError(f"{name} must have a batch dimension, got a scalar")
    return x.int() if x.dtype in SMALL_CLASSES else x


def valid_classes(name: str, x: Tensor, num_classes: int, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Classes to index with, and where x held one. A class out of range is an IndexError on the CPU, where looking is
    free; elsewhere its variable becomes NaN. Where the mask is False x may be anything."""
    index = x.long()  # uint8 holds no number of classes from 256 on to be compared with
    within = (index >= 0) & (index < num_classes)
    valid = within
    if mask is not None:
        valid = valid | ~mask
    if shows(x) and not valid.all():
        raise IndexError(f"{name} must hold classes in [0, {num_classes}), got {x[~valid][0].item()}")
    return torch.where(within, index, 0), valid


def logits(name: str, z: Tensor) -> None:
    """Floating-point numbers per class `[B, ..., K]`, K at least 2."""
    data(name, z)
    if z.dim() < 2 or z.shape[-1] < 2:
        raise ValueError(f"{name} must have shape [B, ..., K] with K of at least 2, got {tuple(z.shape)}")


def components(name: str, z: Tensor, most: int) -> None:
    """Floating-point numbers per component of a mixture `[B, ..., M]`."""
    data(name, z)
    if z.dim() < 2 or not 1 <= z.shape[-1] <= most:
        raise ValueError(f"{name} must have shape [B, ..., M] with M from 1 to {most}, got {tuple(z.shape)}")


def like(name: str, value: Tensor, model_name: str, model: Tensor, shape: Sequence[int] | None = None) -> None:
    """A floating-point tensor on the model's device, of its shape or of the one given."""
    shape = model.shape if shape is None else shape
    _tensor(name, value, FLOATS)
    if value.shape != shape:
        raise ValueError(
            f"{name} must have shape {tuple(shape)}, as {model_name} of shape {tuple(model.shape)} requires, "
            f"got {tuple(value.shape)}"
        )
    same_device(name, value, model_name, model)


def same_device(name: str, value: Tensor, model_name: str, model: Tensor) -> None:
    if value.device != model.device:
        raise ValueError(f"{name} must be on {model.device}, where {model_name} is, got {value.device}")


def rows(name: str, value: float | Tensor, shape: Sequence[int], model: Tensor, low=-math.inf, high=math.inf) -> Tensor:
    """Numbers that belong to rows, float64: a scalar, or any leading part of `shape` with or without trailing ones.

    Comes back with as many dimensions as `shape`. Outside [low, high] a CPU tensor is refused with ValueError; on
    other devices, and in compiled code, where looking would cost a synchronisation, the number becomes NaN.
    """
    if isinstance(value, Real) and not isinstance(value, bool):
        if not low <= value <= high:
            raise ValueError(f"{name} must lie in [{low}, {high}], got {value}")
        # added, since compiled code makes a constant of a number that it is to fill a tensor with
        return torch.zeros((1,) * len(shape), dtype=torch.float64, device=model.device) + value
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a number or a tensor, got {type(value).__name__}")
    _tensor(name, value, FLOATS)
    same_device(name, value, "the data", model)
    if value.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{name} requires a gradient, but none is defined for it; pass {name}.detach()")
    lead = leading(name, value, shape)
    if value.numel() and shows(value):
        least, most = (v.item() for v in value.detach().aminmax())
        if not (low <= least and most <= high):
            raise ValueError(f"{name} must lie in [{low}, {high}], got values from {least} to {most}")
    wide = value.detach().double().reshape(lead)
    return torch.where((wide >= low) & (wide <= high), wide, math.nan)


def shows(x: Tensor) -> bool:
    """Whether to look at its values is free: fakes have none, and compiled code would wait for them."""
    return x.device.type == "cpu" and type(x) in (Tensor, torch.nn.Parameter) and not torch.compiler.is_compiling()


def leading(name: str, value: Tensor, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of rows with as many dimensions as `shape`, of whose leading ones they have numbers."""
    kept = value.dim()
    while kept > 0 and value.shape[kept - 1] == 1:
        kept -= 1
    lead = value.shape[:kept]
    if kept > len(shape) or any(n not in (1, m) for n, m in zip(lead, shape, strict=False)):
        raise ValueError(
            f"{name} must be a scalar or have the shape of a leading part of {tuple(shape)}, got {tuple(value.shape)}"
        )
    return *lead, *(1,) * (len(shape) - kept)


def steps(name: str, t: Tensor, n_steps: int) -> None:
    """Refuses times on the CPU that no step of L_n has; elsewhere, and in compiled code, their losses become NaN."""
    if not shows(t):
        return
    other = t[step_of(t, n_steps).isnan()]
    if other.numel():
        raise ValueError(
            f"{name} must be (i - 1)/n for a step i from 1 to n = {n_steps}, got {other[0].item()}; or give step=i"
        )


def step_of(t: Tensor, n_steps: int) -> Tensor:
    """The step i = nt + 1 of n that a time in float64 stands for, up to rounding to float32; NaN for other times."""
    before = n_steps * t
    whole = before.round()
    is_step = ((before - whole).abs() <= STEP_TOLERANCE * before.clamp(min=1)) & (whole < n_steps)
    return torch.where(is_step, whole + 1, math.nan)


def values(name: str, x: Tensor, low: float, high: float) -> None:
    """Refuses data outside of [low, high] on the CPU; NaN goes through."""
    if not shows(x):
        return
    outside = (x < low) | (x > high)
    if outside.any():
        raise ValueError(f"{name} must lie in [{low}, {high}], got {x[outside][0].item()}")


def integer(name: str, value: int, low: int) -> int:
    """The number as Python's own int; numpy's are taken too."""
    if isinstance(value, bool) or not isinstance(value, (int, Integral)):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < low:
        raise ValueError(f"{name} must be at least {low}, got {value}")
    return value if isinstance(value, int) else int(value)


def choice(name: str, value: str, allowed: Sequence[str]) -> int:
    """The place of the value among those allowed, by which operators know it."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {list(allowed)}, got {value!r}")
    return allowed.index(value)


def interval(name: str, value: tuple[float, float] | None) -> tuple[float, float]:
    """The two ends; None stands for the whole line."""
    if value is None:
        return -math.inf, math.inf
    if not (isinstance(value, (tuple, list)) and len(value) == 2 and value[0] < value[1]):
        raise ValueError(f"{name} must be None or a pair (low, high) with low < high, got {value!r}")
    return float(value[0]), float(value[1])


def mask(name: str, value: Tensor | None, model_name: str, model: Tensor, shape: Sequence[int]) -> Tensor | None:
    """None, or a bool tensor with as many dimensions as `shape`, to which it broadcasts. One of fewer dimensions has
    the leading ones, as times have, or the trailing ones, as in torch's broadcasting, whichever fit."""
    if value is None:
        return None
    _tensor(name, value, (torch.bool,))
    same_device(name, value, model_name, model)
    missing = (1,) * (len(shape) - value.dim())
    leading, trailing = (*value.shape, *missing), (*missing, *value.shape)
    fits = [
        len(r) == len(shape) and all(m in (1, n) for m, n in zip(r, shape, strict=True)) for r in (leading, trailing)
    ]
    if not any(fits):
        raise ValueError(f"{name} must broadcast to {tuple(shape)}, got shape {tuple(value.shape)}")
    if all(fits) and leading != trailing:
        raise ValueError(
            f"{name} must say which dimensions of {tuple(shape)} it has, by shape {leading} or {trailing}, "
            f"got {tuple(value.shape)}"
        )
    return value.reshape(leading if fits[0] else trailing)


def no_gradient(reason: str, **tensors: object) -> None:
    """Refuses tensors that require a gradient which this library does not define."""
    if not torch.is_grad_enabled():
        return
    for name, value in tensors.items():
        if isinstance(value, Tensor) and value.requires_grad:
            raise ValueError(f"{name} requires a gradient, but {reason}; pass {name}.detach()")


def compute_dtype(*tensors: Tensor | None) -> torch.dtype:
    """float64 if any argument has it, float32 otherwise."""
    for t in tensors:
        if t is not None and t.dtype == torch.float64:
            return torch.float64
    return torch.float32
