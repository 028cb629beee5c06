"""Checks `out=` and the other tensors that a step writes its results into."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bfn_kernels import checks
from bfn_kernels.solvers import Coefficients


def check_outputs(outputs: Mapping[str, Tensor | None], state_name: str, **inputs: Any) -> None:
    """Raises an error if a step cannot write its results into `outputs`, which maps the names of arguments to tensors
    or None.

    inputs: the other arguments of the step, of which only tensors and `Coefficients` are read. The state is the input
    that `state_name` names. Each output must be a floating-point tensor with the shape and the device of the state;
    `out` must also have the type of the state. An output must share no memory with any input, since the step may read
    an input after it has written an output. Three pairs are exceptions: `out` may be the state itself, `predicted_out`
    may be the input `previous`, and `concentration_out` may be the input `concentration`.
    """
    written_to = {name: out for name, out in outputs.items() if out is not None}
    if not written_to:
        return
    state, tensors = inputs[state_name], _tensors(inputs)
    may_be = {
        "out": (state_name, "the state"),
        "predicted_out": ("previous", "the previous prediction"),
        "concentration_out": ("concentration", "the concentration"),
    }
    for name, out in written_to.items():
        _check_output(name, out, state, tensors)
    if torch.compiler.is_compiling():  # the compiler finds tensors that share memory, and copies them
        return
    read = {name: memory_of(tensor) for name, tensor in tensors.items()}
    for name, out in written_to.items():
        itself, description = may_be.get(name, ("", ""))
        written = memory_of(out)
        for other, memory in read.items():
            if not overlap(written, memory):
                continue
            if other != itself or written != memory or _dims(out) != _dims(tensors[other]):
                allowed = f"be {description} itself or " if itself else ""
                raise ValueError(f"{name} must {allowed}share no memory with any input, but it does with {other}")
        read[name] = written


def check_solver_step(outputs: Mapping[str, Tensor | None], state_name: str, **inputs: Any) -> None:
    """Raises an error if an output of a solver's step or its `previous` is wrong, or if an argument requires a
    gradient. The arguments are the arguments of `check_outputs`."""
    check_outputs(outputs, state_name, **inputs)
    checks.no_gradient("no argument of a solver's step has a gradient", **inputs)
    if inputs["previous"] is not None:
        checks.like("previous", inputs["previous"], "the state", inputs[state_name])


def _tensors(arguments: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors among the arguments, and the tensors in arguments that are `Coefficients`."""
    values = dict(arguments)
    for name, value in arguments.items():
        if isinstance(value, Coefficients):
            values.update({f"{name}.{field}": number for field, number in value._asdict().items()})
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def _check_output(name: str, out: Tensor, state: Tensor, inputs: dict[str, Tensor]) -> None:
    checks.like(name, out, "the state", state)
    if name == "out" and out.dtype != state.dtype:
        raise TypeError(f"out must be {state.dtype}, the state's type, got {out.dtype}")
    if torch.is_grad_enabled():
        checks.no_gradient(f"writing into {name} leaves none", **{name: out}, **inputs)
    if not torch.compiler.is_compiling():  # the compiler cannot trace these checks; compiled code writes into copies
        if out.is_neg():
            raise ValueError(f"{name} must be a plain tensor, got a view that negates its memory")
        if out.is_inference() and not torch.is_inference_mode_enabled():
            raise ValueError(
                f"{name} must not be an inference tensor outside of inference mode, where autograd cannot track it"
            )
    if _overlaps_itself(out):
        raise ValueError(f"{name} must have a place of its own for each element, got strides {out.stride()}")


def _dims(x: Tensor) -> list[tuple[int, int]]:
    """The stride and size of each dimension that has more than one element."""
    return [(stride, size) for stride, size in zip(x.stride(), x.shape, strict=True) if size > 1]


def _overlaps_itself(x: Tensor) -> bool:
    """Whether two elements may share an address: whether a stride is smaller than the span of all dimensions with
    smaller strides."""
    span = 1
    for stride, size in () if x.is_contiguous() or x.numel() == 0 else sorted(_dims(x)):
        if stride < span:
            return True
        span += stride * (size - 1)
    return False


def overlap(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Whether two results of `memory_of` have addresses in common."""
    return a[0] < b[1] and b[0] < a[1]


def memory_of(x: Tensor) -> tuple[int, int]:
    """The address of the first element and the address after the last element. (0, 0) for a tensor without memory."""
    try:
        first = 0 if x.is_meta else x.data_ptr()  # also 0 for a fake tensor
    except RuntimeError:  # a tensor without storage
        first = 0
    if first == 0 or x.numel() == 0:
        return 0, 0
    count = x.numel() if x.is_contiguous() else 1 + sum(stride * (size - 1) for stride, size in _dims(x))
    return first, first + count * x.element_size()
