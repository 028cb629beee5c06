"""Declarations of operators: what an operator takes and returns, its fake and its backward pass.

A family declares each operator once. The operator has the name and arguments of a function of the reference. The
declaration adds the results, the fake and the backward pass. `libraries.py` registers declared operators with torch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bfn_kernels import records
from bfn_kernels.checks import compute_dtype, shows
from bfn_kernels.torch_private import keeps_saved, transformed

# The libraries of `torch.ops` are named after the package, so that a process can also load a copy of the package under
# another name. The C++ code of the copy is compiled with -DBFN_NAMESPACE.
NATIVE = str(__package__)
TRITON = f"{NATIVE}_triton"


class Forward(NamedTuple):
    """What a backward pass gets of its forward pass.

    saved: the values that `Operator.saved` names, as attributes.
    needed: for each argument, whether it needs a gradient.
    types: for each of the leading tensor arguments, its dtype, or None if the argument is None.
    """

    saved: Any
    needed: Sequence[bool]
    types: Sequence[torch.dtype | None]


@dataclass(frozen=True)
class Operator:
    """An operator of a family. The function `operator` below makes one from a function of the reference.

    Attributes:
        schema: The name, arguments and results. If the operator has a backward pass, callers get only the first result;
            the other results are saved for the backward pass. The last arguments may be flags such as `need_x`: whether
            x needs a gradient. Callers do not pass these flags, since `autograd` computes them.
        fake: A function of the same arguments that makes results of the right shape and type, with any values.
        function: The function of the reference, or None if the reference has none. Triton's function of the same name
            takes the same records.
        saved: The names of the arguments and results that the backward pass reads, tensors first.
        unsaved_in_forward: The names among `saved` that are not saved if the argument `in_forward` is True.
        backward: A function `(library, grad, forward)` that returns the gradients of the leading arguments. `grad` is
            the gradient of the first result. If backward is None, a call for a gradient is an error.
        in_place: Whether there is a variant `<name>_out`, which writes its result into a further argument `out`.
        other_outputs: The names of further tensors that this variant writes into. They are arguments after `out`, and
            may be None.
        library: The names of the libraries that have the operator; empty for all. NATIVE: only the CPU kernels. TRITON:
            only Triton. Both names: the CPU kernels and Triton, but not CUDA.
        composed: True if no library has a kernel for it. A function with the operator's name in the family's
            `composed.py` computes it on every device, from other operators and torch's. This function takes the library
            first, then the arguments.
        plain: True if no caller passes a tensor that requires a gradient, has a forward-mode tangent or is batched by
            vmap. Callers then get torch's operator, without the function of `autograd.py` that handles these cases.
    """

    schema: str
    fake: Callable
    function: Callable | None = None
    saved: str = ""
    unsaved_in_forward: str = ""
    backward: Callable | None = None
    in_place: bool = False
    other_outputs: str = ""
    library: str = ""
    composed: bool = False
    plain: bool = False

    @property
    def name(self) -> str:
        return self.schema.split("(")[0]

    @property
    def writes(self) -> bool:
        """Whether the operator writes into its arguments and returns nothing. Such an operator has no gradient."""
        return "!)" in self.schema

    @property
    def schema_out(self) -> str:
        arguments = self.schema.partition("(")[2].rpartition(" -> ")[0].removesuffix(")")
        others = "".join(f", Tensor({'bc'[i]}!)? {name}" for i, name in enumerate(self.other_outputs.split()))
        return f"{self.name}_out({arguments}, Tensor(a!) out{others}) -> ()"


def operator(
    function: Callable, results: str = "Tensor", *, fake: Callable, needs: str = "", **others: Any
) -> Operator:
    """Makes an operator with the name and arguments of a function of the reference.

    results: the results, as a schema writes them. needs: the arguments for which the operator gets a flag
    `need_<name>`. others: further fields of `Operator`.
    """
    arguments = [*records.arguments(function), *(f"bool need_{name}" for name in needs.split())]
    schema = f"{function.__name__}({', '.join(arguments)}) -> {results}"
    out = records.written(function)
    return Operator(schema, fake, function, in_place=bool(out), other_outputs=" ".join(out[1:]), **others)


def loss_fakes(x: Tensor, reduction: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Fakes of a loss and of its scale."""
    shape = (x.shape, x.shape[:1], (), ())[reduction]
    return x.new_empty(shape, dtype=dtype), x.new_empty((), dtype=dtype)


def gradient_fake(like: Tensor, needed: bool, dtype: torch.dtype, dense: bool = True) -> Tensor:
    """Fake of a saved gradient. It is empty if it is not needed, contiguous if `dense`, and otherwise has the strides
    of `like`."""
    if needed and not dense:
        return torch.empty_like(like, dtype=dtype)
    return like.new_empty(like.shape if needed else (0,), dtype=dtype)


def times_saved(
    library: Any, grad: Tensor, scale: Tensor | None, saved: Sequence[Tensor], forward: Forward, first: int
) -> list[Tensor | None]:
    """The gradients of the arguments from index `first` on: the saved derivatives times the gradient of the result.

    saved: for each of these arguments, the derivatives of the unreduced result. grad: the gradient of the reduced
    result. scale: the factor of the reduction, or None. Each gradient has the type of its argument.
    """
    each = zip(saved, forward.types[first:], forward.needed[first:], strict=False)
    if not transformed() and _is_one(grad) and (scale is None or _is_one(scale)) and not keeps_saved():
        return [s.to(t) if n else None for s, t, n in each]  # autograd frees what was saved, so no copy is needed
    return [library.common.scaled_gradient(s, grad, scale, t) if n else None for s, t, n in each]


def gradient_operator(
    function: Callable, inputs: str, fake: Callable | None = None, dense: bool = True, of_rows: bool = False
) -> Operator:
    """Makes an operator that computes its gradients in the forward pass and saves them.

    inputs: the names of the arguments with a gradient, which must be adjacent. fake: the fake of the result; None for a
    loss of x, which also saves the scale of its gradients. dense: whether the saved gradients are contiguous; otherwise
    they have the strides of their inputs. of_rows: whether x has a number for each class of a variable.
    """
    kinds, names = zip(*(argument.split() for argument in records.arguments(function)), strict=True)
    needed = inputs.split()
    first = names.index(needed[0])
    tensors = next(number for number, kind in enumerate(kinds) if not kind.startswith("Tensor"))

    def fakes(*arguments):
        dtype, values = compute_dtype(*arguments[:tensors]), arguments[first : first + len(needed)]
        gradients = [
            gradient_fake(values[0] if value is None else value, need, dtype, dense)
            for value, need in zip(values, arguments[len(names) :], strict=True)
        ]
        if fake is not None:
            return fake(*arguments), *gradients
        x = arguments[0].select(-1, 0) if of_rows else arguments[0]
        return *loss_fakes(x, arguments[names.index("reduction")], dtype), *gradients

    def backward(library, grad, forward):
        scale, gradients = (None, forward.saved) if fake else (forward.saved[0], forward.saved[1:])
        return *[None] * first, *times_saved(library, grad, scale, gradients, forward, first)

    saved = [*(() if fake else ("scale",)), *(f"grad_{name}" for name in needed)]
    results = ", ".join(f"Tensor {name}" for name in ("result", *saved))
    return operator(function, f"({results})", fake=fakes, needs=inputs, saved=" ".join(saved), backward=backward)


def step_operator(function: Callable, state: int) -> Operator:
    """Makes the operator of a step of which only the state has a gradient: a draw or a mode of the output distribution
    has none. state: the index of the state among the arguments."""

    def backward(library, grad, forward):
        keep = forward.saved.keep
        if keep is not None and keep.dim() < grad.dim():  # keep has a number for each row of classes
            keep = keep.unsqueeze(-1)
        return *[None] * state, scaled_input_gradient(library, grad, keep, forward.types[state])

    return operator(function, fake=like_argument(state), saved="keep", backward=backward)


def like_argument(number: int) -> Callable:
    """Returns a fake that makes one result like the argument with this index."""
    return lambda *arguments: torch.empty_like(arguments[number])


def _is_one(factor: Tensor) -> bool:
    """Whether the factor is 1, as in `loss.backward()`. It is False if reading the factor would cost a
    synchronisation."""
    return factor.dim() == 0 and shows(factor) and factor.item() == 1


def scaled_input_gradient(library: Any, grad: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The gradient, in `dtype`, of an input that a step multiplies by `scale`; without a scale the factor is 1."""
    if scale is None:
        return grad.to(dtype)
    wide = grad.to(torch.promote_types(grad.dtype, dtype))  # the result of gaussian_step has the type of its state
    if scale.dtype == torch.float64:
        wide = wide.double()  # since the step was computed in float64, too
    return library.continuous.gaussian_step(wide, state_scale=scale).to(dtype)
