"""Checks of arguments, and small conversions of them.

Every error is raised before anything is computed. It names the argument, its value and the allowed values.
"""

import functools
import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from bfn_kernels.torch_private import batched, constant, forward_mode, has_tangent

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
SMALL_CLASSES = (torch.int16, torch.int8)  # converted to int32
INTEGERS = (torch.int64, torch.int32, torch.uint8, *SMALL_CLASSES)  # types of classes and of steps
KNOWN = (*FLOATS, torch.int64, torch.int32, torch.uint8, torch.bool)  # types of known values that operators take
ROW_TYPES = (torch.float32, torch.float64)  # types of times and accuracies that operators take
WIDE = ("cpu", "cuda", "meta")  # types of devices that have float64, which nothing needs to try
REDUCTIONS = ("none", "batch", "sum", "mean")
# The error that n·t may have, since times may be rounded to float32: absolute if n·t < 1, relative otherwise.
# csrc/math/schedules.h has the same number.
STEP_TOLERANCE = 1e-6


@constant
@functools.cache
def has_float64(kind: str) -> bool:
    """Whether devices of a type have float64. Apple's have not."""
    try:
        torch.empty(0, dtype=torch.float64, device=kind)
    except (TypeError, RuntimeError):
        return False
    return True


def widest(device: torch.device) -> torch.dtype:
    """The type of sums: float64, or float32 on a device that has none."""
    return torch.float64 if device.type in WIDE or has_float64(device.type) else torch.float32


def wide_device(device: torch.device) -> torch.device:
    """Where row scalars for a device are computed in float64: on it, or on the CPU if it has none."""
    return device if device.type in WIDE or has_float64(device.type) else torch.device("cpu")


def _tensor(name: str, value: object, allowed: Sequence[torch.dtype]) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    dense(name, value)
    if value.dtype not in allowed:
        raise TypeError(f"{name} must be one of {[str(d).removeprefix('torch.') for d in allowed]}, got {value.dtype}")


def is_dense(value: Tensor) -> bool:
    """Whether a tensor is neither sparse nor nested. torch may not know the shape of a sparse or a nested tensor."""
    return value.layout == torch.strided and not value.is_nested


def dense(name: str, value: Tensor) -> None:
    if not is_dense(value):
        kind = "a nested tensor" if value.is_nested else f"a tensor of layout {value.layout}"
        raise TypeError(f"{name} must be a dense tensor, got {kind}")


def data(name: str, x: Tensor, allowed: Sequence[torch.dtype] = FLOATS) -> None:
    """Raises an error unless x is data `[B, ...]` of an allowed type, floating-point by default."""
    if isinstance(x, Tensor) and x.dtype in allowed and x.layout == torch.strided and x.dim() and not x.is_nested:
        return  # each function call takes time, also the one below
    _tensor(name, x, allowed)
    raise ValueError(f"{name} must have a batch dimension, got a scalar")


def classes(name: str, x: Tensor, booleans: bool = False) -> Tensor:
    """Checks integer classes `[B, ...]`, or booleans if they are allowed. Returns them in a type that the operators
    take."""
    data(name, x, (*INTEGERS, torch.bool) if booleans else INTEGERS)
    if x.dtype == torch.bool:
        return x.view(torch.uint8)
    return x.int() if x.dtype in SMALL_CLASSES else x


def soft_classes(name: str, x: Tensor, shape: torch.Size | None = None) -> Tensor:
    """Checks classes `[B, ...]`, or floating-point distributions over classes `[B, ..., K]`. Returns them in a type
    that the operators take. shape: the shape of the variables, if it is known. An x of this shape must be classes."""
    if not isinstance(x, Tensor) or x.dtype not in FLOATS or not is_dense(x) or x.shape == shape:
        return classes(name, x)
    logits(name, x)
    no_gradient("none is defined for it", **{name: x})
    return x


def variables(x: Tensor) -> torch.Size:
    """The shape `[B, ...]` of the variables of x: classes, or distributions over classes `[B, ..., K]`."""
    return x.shape[:-1] if x.is_floating_point() else x.shape


def valid_classes(name: str, x: Tensor, num_classes: int, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Returns classes that are safe as indices, and a mask that is True where the class in x is valid.

    On the CPU, where the values can be read at no cost, a class out of range is an IndexError. On other devices and in
    compiled code, the returned mask is False for this class, and callers set the loss or state of its variable to NaN.
    Where the argument `mask` is False, x may have any value.
    """
    index = x.long()  # uint8 cannot be compared with a number of classes above 255
    within = (index >= 0) & (index < num_classes)
    valid = within if mask is None else within | ~mask
    if shows(valid) and not valid.all():  # the mask may be under vmap
        raise IndexError(f"{name} must hold classes in [0, {num_classes}), got {x[~valid][0].item()}")
    return torch.where(within, index, 0), valid


def logits(name: str, z: Tensor) -> None:
    """Raises an error unless z has floating-point numbers per class `[B, ..., K]`, K at least 2."""
    plain = isinstance(z, Tensor) and z.dtype in FLOATS and z.layout == torch.strided and not z.is_nested
    if plain and z.dim() > 1 and z.shape[-1] > 1:
        return
    data(name, z)
    raise ValueError(f"{name} must have shape [B, ..., K] with K of at least 2, got {tuple(z.shape)}")


def weight(name: str, w: Tensor) -> None:
    """Raises an error unless w has a floating-point vector for each class `[K, d]`."""
    _tensor(name, w, FLOATS)
    if w.dim() != 2:
        raise ValueError(f"{name} must have shape [K, d], got {tuple(w.shape)}")


def components(name: str, z: Tensor, most: int) -> None:
    """Raises an error unless z has floating-point numbers per component of a mixture `[B, ..., M]`, M at most
    `most`."""
    data(name, z)
    if z.dim() < 2 or not 1 <= z.shape[-1] <= most:
        raise ValueError(f"{name} must have shape [B, ..., M] with M from 1 to {most}, got {tuple(z.shape)}")


def like(name: str, value: Tensor, model_name: str, model: Tensor, shape: Sequence[int] | None = None) -> None:
    """Raises an error unless the value is a floating-point tensor on the device of `model` and has this shape, by
    default the shape of `model`."""
    shape = model.shape if shape is None else shape
    plain = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_nested
    if plain and value.dtype in FLOATS and value.shape == shape and value.device == model.device:
        return  # the checks below would take twice as long
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


def once(name: str, value: Tensor, shape: Sequence[int]) -> Tensor:
    """Undoes `expand`: a dimension of stride 0 gets size 1, so that no number is repeated."""
    if value.layout == torch.strided and not value.is_nested and 0 not in value.stride():
        return value
    dense(name, value)
    leading(name, value, shape)
    return value[tuple(slice(1) if stride == 0 else slice(None) for stride in value.stride())]


def rows(name: str, value: float | Tensor, shape: Sequence[int], model: Tensor, low=-math.inf, high=math.inf) -> Tensor:
    """Returns a number for each row in float64, on the `wide_device` of the model, with as many dimensions as `shape`.

    value: a number, or a tensor with the shape of any leading part of `shape`, and possibly trailing dimensions of size
    1. A number outside [low, high] is a ValueError. In a tensor on another device than the CPU, and in compiled code,
    where reading the tensor would cost a synchronisation, this number becomes NaN instead.
    """
    device = wide_device(model.device)
    if isinstance(value, Real) and not isinstance(value, bool):
        if not low <= value <= high:
            raise ValueError(f"{name} must lie in [{low}, {high}], got {value}")
        value = finite(value)
        if torch.compiler.is_compiling():  # with torch.full, compiled code would contain the number as a constant
            return torch.zeros((1,) * len(shape), dtype=torch.float64, device=device) + value
        return torch.full((1,) * len(shape), float(value), dtype=torch.float64, device=device)
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a number or a tensor, got {type(value).__name__}")
    _tensor(name, value, FLOATS)
    same_device(name, value, "the data", model)
    no_derivative(name, value)
    lead = leading(name, value, shape)
    if value.numel() and shows(value):
        least, most = (v.item() for v in value.detach().aminmax())
        if not (low <= least and most <= high):
            raise ValueError(f"{name} must lie in [{low}, {high}], got values from {least} to {most}")
    wide = value.detach().to(device).double().reshape(lead)
    if shows(value) or (low == -math.inf and high == math.inf):
        return wide
    return wide.masked_fill(wide != wide.clamp(low, high), math.nan)


def finite(value: Any) -> float:
    """Returns the number. Torch refuses an int of 64 bits or more, and float() may overflow for it. So the function
    clamps such an int to ±2¹⁰²³ and returns a float."""
    if isinstance(value, int) and abs(value) >= 2**63:
        return float(min(max(value, -(2**1023)), 2**1023))
    return value


def shows(x: Tensor) -> bool:
    """Whether the values of x can be read at no cost. Fake tensors have no values. Under vmap, an element of x has a
    value for each lane. On other devices than the CPU and in compiled code, reading values would cost a
    synchronisation."""
    plain = x.device.type == "cpu" and type(x) in (Tensor, torch.nn.Parameter)
    return plain and not torch.compiler.is_compiling() and not batched(x)


def leading(name: str, value: Tensor, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of a tensor of row scalars, with trailing dimensions of size 1 up to the number of dimensions of
    `shape`."""
    dims = value.dim()
    while dims > 0 and value.shape[dims - 1] == 1:
        dims -= 1
    lead = value.shape[:dims]
    if dims > len(shape) or any(n not in (1, m) for n, m in zip(lead, shape, strict=False)):
        raise ValueError(
            f"{name} must be a scalar or have the shape of a leading part of {tuple(shape)}, got {tuple(value.shape)}"
        )
    return *lead, *(1,) * (len(shape) - dims)


def steps(name: str, t: Tensor, n_steps: int) -> None:
    """Raises an error if no step of L_n starts at one of the times. On other devices than the CPU, and in compiled
    code, the losses of such times become NaN instead."""
    if not shows(t):
        return
    bad = t[step_of(t, n_steps).isnan()]
    if bad.numel():
        raise ValueError(
            f"{name} must be (i - 1)/n for a step i from 1 to n = {n_steps}, got {bad[0].item()}; or pass step=i"
        )


def step_of(t: Tensor, n_steps: int) -> Tensor:
    """The step i = nt + 1 that starts at a time t (float64, up to rounding to float32); NaN if no step starts at t."""
    before = n_steps * t
    whole = before.round()
    is_step = ((before - whole).abs() <= STEP_TOLERANCE * before.clamp(min=1)) & (whole < n_steps)
    return torch.where(is_step, whole + 1, math.nan)


def integer(name: str, value: int, low: int, high: float = 2**63 - 1) -> int:
    """Checks an integer, also a NumPy one, and returns it as a Python int. high: the largest allowed integer, by
    default the largest one that an operator takes."""
    if isinstance(value, bool) or not isinstance(value, (int, Integral)):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < low:
        raise ValueError(f"{name} must be at least {low}, got {value}")
    if not torch.compiler.is_compiling() and value > high:  # compiled code has only integers of 64 bits
        raise ValueError(f"{name} must be at most {high}, got {value}")
    return value if isinstance(value, int) else int(value)


def sizes(name: str, value: Sequence[int]) -> tuple[int, ...]:
    """Checks the shape of data `[B, ...]`, and returns it as a tuple."""
    whole = isinstance(value, (tuple, list)) and all(isinstance(n, Integral) and not isinstance(n, bool) for n in value)
    if not whole:
        raise TypeError(f"{name} must be a tuple of ints, got {value!r}")
    if len(value) == 0 or min(value) < 0:
        raise ValueError(f"{name} must have a batch dimension and no size below 0, got {tuple(value)}")
    return tuple(value)


def _real(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")


def number(name: str, value: float, low: float, high: float) -> float:
    """Checks a number, and returns it as a Python float."""
    _real(name, value)
    if not low <= value <= high:
        raise ValueError(f"{name} must lie in [{low}, {high}], got {value}")
    return float(finite(value))


def positive(name: str, value: float) -> None:
    """Raises an error unless the value is a number above 0."""
    _real(name, value)
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")


def boolean(name: str, value: bool) -> bool:
    """Checks a bool, and returns it."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, got {type(value).__name__}")
    return value


def choice(name: str, value: str, allowed: Sequence[str]) -> int:
    """The index of the value among the allowed values. Operators take this index."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {list(allowed)}, got {value!r}")
    return allowed.index(value)


def interval(name: str, value: tuple[float, float] | None) -> tuple[float, float]:
    """The two ends of an interval; None stands for the whole real line."""
    if value is None:
        return -math.inf, math.inf
    is_pair = isinstance(value, (tuple, list)) and len(value) == 2
    if not (is_pair and all(map(_is_number, value)) and value[0] < value[1]):
        raise ValueError(f"{name} must be None or a pair (low, high) with low < high, got {value!r}")
    return float(value[0]), float(value[1])


def _is_number(value: object) -> bool:
    return isinstance(value, Real) or (isinstance(value, Tensor) and value.numel() == 1)


def mask(name: str, value: Tensor | None, model_name: str, model: Tensor, shape: Sequence[int]) -> Tensor | None:
    """Returns the mask with as many dimensions as `shape`, to which it broadcasts, or None.

    The dimensions of a mask may be the leading dimensions of `shape`, as for times, or the trailing ones, as in torch's
    broadcasting. If both are possible and differ, it is an error.
    """
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


def class_mask(value: Tensor | None, logits: Tensor) -> Tensor | None:
    """Checks a mask of valid classes, `[K]` or broadcastable to logits `[B, ..., K]`, and returns it."""
    if value is None:
        return None
    _tensor("class_mask", value, (torch.bool,))
    same_device("class_mask", value, "the logits", logits)
    ends = zip(reversed(value.shape), reversed(logits.shape), strict=False)
    fits = 0 < value.dim() <= logits.dim() and value.shape[-1] == logits.shape[-1]
    if not fits or any(m not in (1, n) for m, n in ends):
        shape = tuple(logits.shape)
        raise ValueError(f"class_mask must have shape {shape[-1:]} or broadcast to {shape}, got {tuple(value.shape)}")
    return value


def no_derivative(name: str, value: object) -> None:
    """Refuses a tensor that requires a gradient or has a forward-mode tangent, which would be dropped in silence."""
    no_gradient("none is defined for it", **{name: value})
    if forward_mode() and has_tangent(value):
        raise ValueError(f"{name} has a forward-mode tangent, but none is defined for it; pass {name}.detach()")


def no_gradient(reason: str, **tensors: object) -> None:
    """Raises an error if a tensor requires a gradient, for arguments that have no gradient. Most often such a tensor is
    the output of a network in a sampling loop."""
    if not torch.is_grad_enabled():
        return
    for name, value in tensors.items():
        if isinstance(value, Tensor) and value.requires_grad:
            raise ValueError(
                f"{name} requires a gradient, but {reason}; run a sampling loop under torch.no_grad(), elsewhere pass "
                f"{name}.detach()"
            )


def compute_dtype(*tensors: Tensor | None) -> torch.dtype:
    """The type of the arithmetic: float64 if any of these tensors is float64, else float32."""
    for t in tensors:
        if t is not None and t.dtype == torch.float64:
            return torch.float64
    return torch.float32
