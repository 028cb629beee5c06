"""How an operator is declared, and how a declaration is registered in every library of `torch.ops` that serves it.

A family declares each operator once. A function of the reference gives the operator's name and arguments. The
declaration adds its results, its fake and its backward pass. The code that runs is in csrc or in Triton.
"""

import functools
import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from bfn_kernels import records
from bfn_kernels.autograd import Forward, differentiable, writing
from bfn_kernels.call.checks import shows
from bfn_kernels.torch_private import below_python, keeps_saved, transformed


@dataclass(frozen=True)
class Operator:
    """An operator of a family. The function `operator` below makes one from a function of the reference.

    schema: its name, arguments and results. If the operator has a backward pass, callers get only its first result; the
    other results are saved for the backward pass. The last arguments may be called `need_x`. They say whether x needs a
    gradient. Callers do not pass them; they are filled in here.
    fake: a function of the same arguments that makes results of the right shape and type without computing them.
    function: the function in the reference, or None if the reference has none. The function of the same name in
    Triton's code is called with the same records.
    saved: the names of the arguments and results that the backward pass reads, tensors first.
    spared: the names among them that are not saved if the argument `in_forward` is True.
    backward: a function `(library, grad, forward)` that returns the gradients of the leading arguments, where `grad` is
    the gradient of the first result. Without it, asking for a gradient is an error.
    in_place: whether there is a variant `<name>_out` that writes its result into a last argument `out`.
    beside: the names of further tensors that this variant writes. They are arguments after `out`, and may be None.
    library: which libraries have the operator; empty for all. NATIVE: only the CPU kernels. TRITON: only Triton. Both
    names: the CPU kernels and Triton, but not CUDA.
    composed: True if no library has a kernel for it. A function with the operator's name in the family's `composed.py`
    computes it on every device, from other operators and torch's. It takes the library first, then the arguments.
    """

    schema: str
    fake: Callable
    function: Callable | None = None
    saved: str = ""
    spared: str = ""
    backward: Callable | None = None
    in_place: bool = False
    beside: str = ""
    library: str = ""
    composed: bool = False

    @property
    def name(self) -> str:
        return self.schema.split("(")[0]

    @property
    def writes(self) -> bool:
        """Whether it writes into its arguments and returns nothing. Such an operator is not registered with
        autograd."""
        return "!)" in self.schema

    @property
    def schema_out(self) -> str:
        arguments = self.schema.partition("(")[2].rpartition(" -> ")[0].removesuffix(")")
        beside = "".join(f", Tensor({'bc'[i]}!)? {name}" for i, name in enumerate(self.beside.split()))
        return f"{self.name}_out({arguments}, Tensor(a!) out{beside}) -> ()"


def operator(
    function: Callable, results: str = "Tensor", *, fake: Callable, needs: str = "", **others: Any
) -> Operator:
    """Makes an operator from a function of the reference, with the function's name and arguments.

    results: its results, as a schema writes them. needs: the arguments for which the operator gets a flag
    `need_<name>`. others: fields of `Operator`.
    """
    arguments = [*records.arguments(function), *(f"bool need_{name}" for name in needs.split())]
    schema = f"{function.__name__}({', '.join(arguments)}) -> {results}"
    out = records.written(function)
    return Operator(schema, fake, function, in_place=bool(out), beside=" ".join(out[1:]), **others)


# The libraries of `torch.ops` have the name of the package. So a copy of the package with another name can be loaded in
# the same process. The C++ of such a copy is compiled with -DBFN_NAMESPACE.
NATIVE = str(__package__)
TRITON = f"{NATIVE}_triton"


class Library:
    """A library of `torch.ops`; an operator is called as `library.<family>.<operator>(...)`."""

    def __init__(
        self,
        name: str,
        implement: Callable[[str, Operator], Callable] | None = None,
        keys: Sequence[str] = (),
        refuse: Callable[[OpOverload], str | None] = lambda overload: None,
    ):
        """`implement(family, operator)` returns the function of an operator, for libraries that are written in Python.
        It is called when the operator is first called. keys: the dispatch keys that the function serves.
        `refuse(overload)` says why the compiled code of an operator must not be called, or None."""
        self.name, self.implement, self.keys, self.refuse = name, implement, keys, refuse
        self.refused: list[str] = []  # the reasons that `refuse` gave
        self.kind = TRITON if implement else name
        self._defined = torch.library.Library(name, "FRAGMENT")

    def __getattr__(self, family: str) -> Any:
        raise AttributeError(f"{self.name} has no operators of {family!r}")

    def declare(self, family: str, operators: Iterable[Operator]) -> None:
        """Defines a family's operators; torch knows them as `<family>_<operator>`."""
        namespace = SimpleNamespace()
        setattr(self, family, namespace)
        for operator in operators:
            if not operator.library or self.kind in operator.library.split():
                setattr(namespace, operator.name, self._declare(family, operator))

    def _define(self, family: str, schema: str, code: Callable | None, keys: Sequence[str]) -> OpOverload:
        name = f"{family}_{schema.split('(')[0]}"
        self._defined.define(f"{family}_{schema}")
        for key in keys if code else ():
            self._defined.impl(name, code, key)
        return getattr(getattr(torch.ops, self.name), name).default

    def _python(self, family: str, operator: Operator) -> tuple[Callable | None, Callable | None]:
        """The two functions that `python_code` returns, or None for an operator that is not written in Python."""
        if operator.composed:
            module = f"{NATIVE}.{family}.composed"
            return python_code(operator, lambda: getattr(importlib.import_module(module), operator.name), self)
        if self.implement is not None:
            return python_code(operator, functools.partial(self.implement, family, operator))
        return None, None

    def _declare(self, family: str, operator: Operator) -> Callable:
        code, code_out = self._python(family, operator)
        keys = ("CompositeExplicitAutograd",) if operator.composed else self.keys
        out = self._define(family, operator.schema_out, code_out, keys) if operator.in_place else None
        overload = self._define(family, operator.schema, code, keys)
        for compiled in () if operator.composed else filter(None, (overload, out)):
            if why := self.refuse(compiled):
                self.refused.append(why)
                return _refusing(why)
        if operator.writes:
            torch.library.register_fake(overload.name(), operator.fake)
            return below_python(overload)
        return differentiable(self, overload, operator, out and writing(out, operator))


def _refusing(why: str) -> Callable:
    def refuse(*arguments):
        raise RuntimeError(why)

    return refuse


def python_code(operator: Operator, load: Callable[[], Callable], *first: Any) -> tuple[Callable, Callable]:
    """Returns two functions that torch calls: the operator, and its variant that writes into `out`.

    load: returns the function that computes the operator. It is called when the operator is first called, since it
    imports the module of this function. first: arguments that this function gets before the operator's arguments.
    """
    beside = [None] * len(operator.beside.split())

    @functools.cache
    def loaded() -> tuple[Callable, Callable]:
        function = load()
        return function, records.grouping(function if first else operator.function or function)

    def call(*arguments):
        function, group = loaded()
        return function(*group((*first, *arguments)))

    def functional(*arguments):
        function, group = loaded()
        out = operator.fake(*arguments)  # called with real tensors, a fake makes real results
        function(*group((*first, *arguments, out, *beside)))
        return out

    return (functional if operator.in_place else call), call


def loss_fakes(x: Tensor, reduction: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Fakes of a loss and of its scale."""
    shape = (x.shape, x.shape[:1], (), ())[reduction]
    return x.new_empty(shape, dtype=dtype), x.new_empty((), dtype=dtype)


def gradient_fake(like: Tensor, needed: bool, dtype: torch.dtype, dense: bool = True) -> Tensor:
    """Fake of a saved gradient. It is empty if it is not needed, contiguous if `dense`, else it has the strides of
    `like`."""
    if needed and not dense:
        return torch.empty_like(like, dtype=dtype)
    return like.new_empty(like.shape if needed else (0,), dtype=dtype)


def times_saved(
    library: Library, grad: Tensor, scale: Tensor | None, saved: Sequence[Tensor], forward: Forward, first: int = 0
) -> list[Tensor | None]:
    """Multiplies saved derivatives by the gradient of the result: the gradients of the arguments from number `first`
    on.

    saved: for each of these arguments, the derivative of each variable's result. grad: the gradient of the reduced
    result. scale: the factor of the reduction, or None. Each gradient has the type of its argument.
    """
    each = zip(saved, forward.types[first:], forward.needed[first:], strict=False)
    if not transformed() and _is_one(grad) and (scale is None or _is_one(scale)) and not keeps_saved():
        return [s.to(t) if n else None for s, t, n in each]  # nobody else will read them
    return [library.common.scaled_gradient(s, grad, scale, t) if n else None for s, t, n in each]


def saved_loss_backward(library: Library, grad: Tensor, forward: Forward, first: int = 1) -> tuple[Tensor | None, ...]:
    """The backward pass of a loss of x that saved its scale and the gradients of the arguments from number `first`
    on."""
    scale, *gradients = forward.saved
    return *[None] * first, *times_saved(library, grad, scale, gradients, forward, first)


def _is_one(factor: Tensor) -> bool:
    """Whether the factor is 1, as in `loss.backward()`. False if reading its value would cost a synchronisation."""
    return factor.dim() == 0 and shows(factor) and factor.item() == 1


def scaled_input_gradient(library: Library, grad: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The gradient, in `dtype`, of an input that a step multiplies by `scale`; without a scale the factor is 1."""
    if scale is None:
        return grad.to(dtype)
    wide = grad.to(torch.promote_types(grad.dtype, dtype))  # gaussian_step returns the type of its state
    if scale.dtype == torch.float64:
        wide = wide.double()  # scalars of float64 mean that the step was computed in float64
    return library.continuous.gaussian_step(wide, scale, None, None, None, None, None).to(dtype)
