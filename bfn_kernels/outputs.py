"""The checks of `out=`, `theta_out=` and `predicted_out=`, the tensors that a step writes its results into."""

from typing import Any

import torch
from torch import Tensor

from bfn_kernels import checks
from bfn_kernels.indexed import Indexed, Rows


def check_out(out: Tensor | None, state_name: str, /, **inputs: Tensor | Rows | None) -> None:
    """Refuses an `out` that is not like the state, which is the input called `state_name`.

    `out` may be the state itself, and must share no memory with any other input. Writing into it leaves no gradient.
    """
    if out is None:
        return
    state: Any = inputs[state_name]
    checks.like("out", out, "the state", state)
    if out.dtype != state.dtype:
        raise TypeError(f"out must be {state.dtype} as the state is, got {out.dtype}")
    _check_place("out", out, inputs, state_name)


def check_theta_out(theta_out: Tensor | None, state: Tensor, /, **tensors: Tensor | Rows | None) -> None:
    """Refuses a `theta_out` that has not the state's shape. It must share no memory with any other tensor of the call,
    and leaves no gradient either."""
    if theta_out is not None:
        checks.like("theta_out", theta_out, "the state", state)
        _check_place("theta_out", theta_out, {**tensors, "state": state}, None)


def check_predicted_out(predicted_out: Tensor | None, state: Tensor, /, **tensors: Tensor | Rows | None) -> None:
    """Refuses a `predicted_out` that has not the state's shape. It may be the input called `previous`, must share no
    memory with any other tensor of the call, and leaves no gradient either."""
    if predicted_out is not None:
        checks.like("predicted_out", predicted_out, "the state", state)
        _check_place("predicted_out", predicted_out, tensors, "previous", "the previous prediction")


def check_step_tensors(
    state: Tensor,
    name: str,
    previous: Tensor | None,
    out: Tensor | None,
    predicted_out: Tensor | None,
    theta_out: Tensor | None = None,
    /,
    **tensors: Tensor | Rows | None,
) -> None:
    """Refuses tensors of a solver's step, whose state is the argument called `name`, that it cannot read or write."""
    if previous is not None:
        checks.like("previous", previous, "the state", state)
    checks.no_gradient("no argument of a solver's step has one", **{name: state}, previous=previous, **tensors)
    check_out(out, name, **{name: state}, previous=previous, **tensors)
    check_theta_out(theta_out, state, previous=previous, out=out, **tensors)
    check_predicted_out(
        predicted_out, state, **{name: state}, previous=previous, out=out, theta_out=theta_out, **tensors
    )


def _check_place(what: str, out: Tensor, inputs: dict, same: str | None, called: str = "the state") -> None:
    """Refuses an `out`, called `what`, that cannot be written to. It may be the input of the name `same`, which a
    message calls `called`."""
    named = {name: value.values if isinstance(value, Indexed) else value for name, value in inputs.items()}
    tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    checks.no_gradient(f"writing into {what} leaves none", **{what: out}, **tensors)
    if not torch.compiler.is_compiling():  # the compiler cannot trace this check, and writes into its own copies
        _check_kind(what, out)
    if _overlaps_itself(out):
        raise ValueError(f"{what} must have a place of its own for every element, got strides {out.stride()}")
    written = _memory(out)
    for name, value in tensors.items():
        read = _memory(value)
        if written is None or read is None or written[0] >= read[1] or read[0] >= written[1]:
            continue
        if name != same or _dims(out) != _dims(value) or written != read:
            itself = "" if same is None else f"be {called} itself or "
            raise ValueError(f"{what} must {itself}share no memory with any input, but it does with {name}")


def _check_kind(what: str, out: Tensor) -> None:
    if out.layout != torch.strided or out.is_neg():
        raise ValueError(f"{what} must be a plain tensor, got a sparse one or a view that negates what it shows")
    if out.is_inference() and not torch.is_inference_mode_enabled():
        raise ValueError(
            f"{what} must not be a tensor of inference mode outside of it, where autograd cannot follow it"
        )


def _dims(x: Tensor) -> list[tuple[int, int]]:
    """The stride and size of each dimension that has more than one element."""
    return [(stride, size) for stride, size in zip(x.stride(), x.shape, strict=True) if size > 1]


def _overlaps_itself(x: Tensor) -> bool:
    """Whether two elements may share an address: some stride is shorter than the span of the dimensions inside it."""
    span = 1
    for stride, size in sorted(_dims(x)) if x.numel() else ():
        if stride < span:
            return True
        span += stride * (size - 1)
    return False


def _memory(x: Tensor) -> tuple[int, int] | None:
    """The address of the first element and the one behind the last; None if the tensor has no memory, as fakes have.

    In compiled code it is None too: the compiler itself finds out what shares memory, and copies.
    """
    if torch.compiler.is_compiling() or x.device.type == "meta" or x.numel() == 0:
        return None
    try:
        first = x.data_ptr()
    except RuntimeError:  # a tensor without storage
        return None
    if first == 0:  # a fake
        return None
    return first, first + (1 + sum(stride * (size - 1) for stride, size in _dims(x))) * x.element_size()
