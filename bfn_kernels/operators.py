"""How an operator is declared, and how a declaration is registered in every library of `torch.ops` that serves it.

A family declares each operator once: its schema, fake and backward pass. The code that runs is csrc's or Triton's. The
reference has functions of the same names and arguments, but for the arguments whose names start with `need_`.
"""

import contextlib
import importlib
from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.autograd import forward_ad
from torch.overrides import has_torch_function

from bfn_kernels.checks import shows

# These names are private to torch, and each has a fallback. Only the first one says whether a transform of torch.func
# is active; with its fallback, a gradient that an outer transform alone asks for is an error. With the fallback of the
# second one a small call takes a third longer, with that of the third one 5 %.
transformed: Callable[[], bool] = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)
below_autograd: Any = getattr(torch._C, "_AutoDispatchBelowAutograd", contextlib.nullcontext)
# This one says whether what was saved may be read again after the backward pass that runs; the fallback always copies.
keeps_saved: Callable[[], bool] = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)


def constant(function: Callable) -> Callable:
    """Marks a function that compiled code calls once, while it is traced, as torch.compiler.assume_constant_result
    does; that one imports the whole compiler, which takes ten times as long as the rest of this package."""
    vars(function)["_dynamo_marked_constant"] = True
    return function


def below_python(overload: OpOverload) -> Callable:
    """The operator as C++ has it, below the object that Python calls."""
    return getattr(overload, "_op", overload)


# What an operator of a compiled extension refuses is a ValueError or an IndexError, of which torch makes a RuntimeError
# from 2.15 on. Each extension has a function that says what it refused last: one of these kinds, and the message.
REFUSED = (RuntimeError, ValueError, IndexError)
REFUSALS: list[Callable[[], tuple[int, str]]] = []


def difference(overload: OpOverload, compiled: Mapping[str, str]) -> str | None:
    """In words, how an operator differs from the one of its name in an extension, or None. torch does not compare them,
    and would call the compiled code with arguments that it misreads.

    compiled: for the name of each operator of the extension, the types of its arguments and results.
    """
    schema = overload._schema
    name = schema.name.split("::")[1]
    types = [f"({', '.join(str(value.type) for value in values)})" for values in (schema.arguments, schema.returns)]
    declared, found = " -> ".join(types), compiled.get(name)
    if found is None:
        return f"it has no operator {name}"
    return None if found == declared else f"its {name} is {found}, where {declared} is declared"


def as_refused(error: RuntimeError) -> Exception:
    """The error in the type that it was thrown in."""
    for refusal in REFUSALS:
        kind, message = refusal()
        if kind and str(error) == message:
            return REFUSED[kind](message)
    return error


class Forward(NamedTuple):
    """The record of a forward pass that its backward pass is given.

    saved: the values that `Operator.saved` names, as attributes.
    needed: for each argument, whether it needs a gradient.
    types: for each of the leading tensor arguments its dtype, or None if it was not passed.
    """

    saved: Any
    needed: Sequence[bool]
    types: Sequence[torch.dtype | None]


@dataclass(frozen=True)
class Operator:
    """An operator of a family.

    schema: its name, arguments and results. If the operator has a backward pass, callers get its first result alone:
    the other results are saved for that pass. The last arguments may be called `need_x`: they say whether x needs a
    gradient, and are filled in here, not by callers.
    fake: a function of the same arguments that makes results of the right shape and type without computing them.
    saved: the names of the arguments and results that the backward pass reads, those of tensors first.
    backward: a function `(library, grad, forward)` that returns the gradients of the leading arguments, where `grad` is
    the gradient of the first result. Without it, asking for a gradient is an error.
    in_place: whether there is a variant `<name>_out` that writes its result into a last argument `out`.
    beside: the names of tensors that this variant writes too, if they are passed as arguments behind `out`.
    library: NATIVE if the CPU kernels alone have it, TRITON if the libraries in Triton alone do, or both names.
    composed: whether no library has a kernel for it. The function of its name in the family's `composed.py`, which is
    given the library before the arguments, computes it on every device by other operators and torch's own.
    """

    schema: str
    fake: Callable
    saved: str = ""
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
        """Whether it writes into its arguments, and returns nothing; autograd does not hear of it."""
        return "!)" in self.schema

    @property
    def schema_out(self) -> str:
        arguments = self.schema.partition("(")[2].rpartition(" -> ")[0].removesuffix(")")
        beside = "".join(f", Tensor({'bc'[i]}!)? {name}" for i, name in enumerate(self.beside.split()))
        return f"{self.name}_out({arguments}, Tensor(a!) out{beside}) -> ()"


# The libraries of `torch.ops`. They are called as the package is, so that a copy under another name can be loaded
# beside it; the C++ of such a copy is compiled with -DBFN_NAMESPACE.
NATIVE = str(__package__)
TRITON = f"{NATIVE}_triton"


class Library:
    """A library of `torch.ops`; an operator is called as `library.<family>.<operator>(...)`."""

    def __init__(
        self,
        name: str,
        implement: Callable[[torch.library.Library, str, str], None] | None = None,
        refuse: Callable[[OpOverload], str | None] = lambda overload: None,
    ):
        """`implement(library, family, operator)` registers the code of libraries that are written in Python.
        `refuse(overload)` says why the compiled code of an operator must not be called, or None."""
        self.name, self.implement, self.refuse = name, implement, refuse
        self.refused: list[str] = []  # what `refuse` says of the operators that were declared
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

    def _define(self, family: str, schema: str, composed: bool = False) -> OpOverload:
        name = schema.split("(")[0]
        self._defined.define(f"{family}_{schema}")
        if composed:
            self._defined.impl(f"{family}_{name}", self._compose(family, name), "CompositeExplicitAutograd")
        elif self.implement is not None:
            self.implement(self._defined, family, name)
        return getattr(getattr(torch.ops, self.name), f"{family}_{name}").default

    def _compose(self, family: str, name: str) -> Callable:
        def call(*arguments):
            return getattr(importlib.import_module(f"{NATIVE}.{family}.composed"), name)(self, *arguments)

        return call

    def _declare(self, family: str, operator: Operator) -> Callable:
        overload = self._define(family, operator.schema, operator.composed)
        out = self._define(family, operator.schema_out, operator.composed) if operator.in_place else None
        for compiled in () if operator.composed else filter(None, (overload, out)):
            if why := self.refuse(compiled):
                self.refused.append(why)
                return _refusing(why)
        if operator.writes:
            torch.library.register_fake(overload.name(), operator.fake)
            return below_python(overload)
        return _differentiable(self, overload, operator, out and _write(out, operator))


def _refusing(why: str) -> Callable:
    def refuse(*arguments):
        raise RuntimeError(why)

    return refuse


def _write(overload: OpOverload, operator: Operator) -> Callable:
    """The variant of an operator that writes into tensors: a function of its inputs and of these tensors, the first of
    which may be None and is made then. It returns the first."""
    torch.library.register_fake(overload.name(), lambda *arguments, **keywords: None)

    def write(inputs: Sequence, outputs: Sequence[Tensor | None]) -> Tensor:
        out, *beside = outputs
        if out is None:
            out = operator.fake(*inputs)  # of real tensors it makes a real one
        _refuse_tangents(overload, (*inputs, out, *beside))
        overload(*inputs, out, *beside)
        if not torch.compiler.is_compiling():  # compiled code increases the version itself
            torch.autograd.graph.increment_version([t for t in (out, *beside) if t is not None])
        return out

    return write


def needs(*tensors: Tensor | None) -> list[bool]:
    """For each tensor, whether it needs a gradient. A tensor does not show that an outer transform of torch.func needs
    its gradient, so under transforms all of them count as if they did."""
    if not torch.is_grad_enabled():
        return [False] * len(tensors)
    under_transforms = transformed()
    return [t is not None and (t.requires_grad or under_transforms) for t in tensors]


def _differentiable(library: Library, overload: OpOverload, operator: Operator, write: Callable | None) -> Callable:
    """Registers the operator's fake and backward pass with torch; returns the function that callers use.

    Second derivatives, forward-mode derivatives and vmap are errors. The first two are not implemented, and zeros in
    their place would be silently wrong; under vmap, noise and reductions would not mean what the docstrings say.
    """
    name, arguments = overload.name(), [a.name for a in overload._schema.arguments]
    saving = _Saving(overload, operator.saved.split())

    def first_backward(ctx, grad, *grads_of_saved):
        if operator.backward is None:
            raise RuntimeError(f"{name} has no gradient")
        if grad is None:
            return (None,) * len(arguments)
        needed = ctx.needs_input_grad
        gradients = operator.backward(library, grad, Forward(saving.read(ctx), needed, ctx.types))
        gradients = [g if n else None for g, n in zip(gradients, needed, strict=False)]
        return *gradients, *[None] * (len(arguments) - len(gradients))

    def checked_backward(ctx, *grads):
        if operator.backward is not None and torch.is_grad_enabled():
            raise RuntimeError(f"{name} has no second derivative; create_graph must be False")
        return first_backward(ctx, *grads)

    def save_all(ctx, inputs, output):
        saving.write(ctx, inputs, output)
        if isinstance(output, tuple):
            ctx.set_materialize_grads(False)  # saves making zeros as large as the results that have no gradient
            ctx.mark_non_differentiable(*output[1:])

    def refuse_vmap(info, in_dims, *args):
        raise RuntimeError(f"{name} does not go under vmap; its arguments take batch dimensions of their own")

    torch.library.register_fake(name, operator.fake)
    torch.library.register_autograd(name, checked_backward, setup_context=save_all)
    torch.library.register_vmap(name, refuse_vmap)
    once = operator.backward and checked_backward
    transforms = _under_transforms(overload, saving.write, first_backward, refuse_vmap)
    return _call(overload, saving.write, once, transforms, write)


class _Saving:
    """Saves arguments and results for the backward pass: the tensors, which come first, by `save_for_backward`, other
    values on `ctx`."""

    def __init__(self, overload: OpOverload, names: Sequence[str]):
        schema = overload._schema
        values = [*schema.arguments, *schema.returns]
        place = {value.name: i for i, value in enumerate(values)}
        self.Saved = namedtuple("Saved", names)  # type: ignore[misc]
        self.places = [place[name] for name in names]
        self.saved_tensors = sum("Tensor" in str(values[i].type) for i in self.places)
        self.tensors = _leading_tensors(overload)

    def write(self, ctx, arguments: Sequence, results) -> None:
        values = (*arguments, *(results if isinstance(results, tuple) else (results,)))
        kept = [values[i] for i in self.places]
        ctx.save_for_backward(*kept[: self.saved_tensors])
        ctx.others = kept[self.saved_tensors :]
        ctx.types = [None if t is None else t.dtype for t in arguments[: self.tensors]]

    def read(self, ctx) -> Any:
        return self.Saved(*ctx.saved_tensors, *ctx.others)


def _leading_tensors(overload: OpOverload) -> int:
    """The number of tensors before the first argument of another type; only these may have a gradient."""
    types = [str(a.type) for a in overload._schema.arguments]
    return next((i for i, t in enumerate(types) if t not in ("Tensor", "Optional[Tensor]")), len(types))


def _under_transforms(overload: OpOverload, save: Callable, backward: Callable, vmap: Callable) -> Callable:
    """The operator in the one form of `autograd.Function` that torch.func's transforms accept.

    These transforms build a graph of every backward pass, so a second derivative cannot be refused there. The operators
    that the backward pass calls refuse it, unless they are linear and have a right one.
    """

    class UnderTransforms(torch.autograd.Function):
        @staticmethod
        def forward(*args):
            return overload(*args)

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.set_materialize_grads(False)
            save(ctx, inputs, output)

        @staticmethod
        def backward(ctx, *grads):
            return backward(ctx, *grads)

        @staticmethod
        def vmap(info, in_dims, *args):
            return vmap(info, in_dims, *args)

    return UnderTransforms.apply


def _call(
    overload: OpOverload, save: Callable, backward: Callable | None, under_transforms: Callable, write: Callable | None
) -> Callable:
    """The operator as callers use it: a function that returns its first result. Behind the inputs of an operator that
    has a variant that writes, callers pass what to write into, or None.

    It goes past the Python code that torch runs for `register_autograd`, which takes several times as long as the
    kernel on a few thousand variables. It is a single function, since one in between would cost as much as a check.
    """

    operate = below_python(overload)

    class Differentiable(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *args):
            with below_autograd():
                output = operate(*args)
            save(ctx, args, output)
            return output[0] if several else output

        @staticmethod
        def backward(ctx, *grads):
            return backward(ctx, *grads)

    # torch's Python `apply` would look for transforms again, which `call` has handled before
    apply = super(torch.autograd.Function, Differentiable).apply  # type: ignore[misc]
    names = [a.name for a in overload._schema.arguments]
    needed = [names.index(name.removeprefix("need_")) for name in names if name.startswith("need_")]
    tensors, inputs = _leading_tensors(overload), len(names) - len(needed)
    several = backward is not None and len(overload._schema.returns) > 1

    def call(*args):
        first = args[:tensors]
        try:
            if write is not None:
                args, outputs = args[:inputs], args[inputs:]
                if any([out is not None for out in outputs]):
                    return write(args, outputs)
            if needed:
                args = (*args, *needs(*[args[i] for i in needed]))
            if torch.compiler.is_compiling() or has_torch_function(first):
                result = overload(*args)
                return result[0] if several else result
            _refuse_tangents(overload, first)
            if transformed():
                result = under_transforms(*args)
            elif not (torch.is_grad_enabled() and any([t is not None and t.requires_grad for t in first])):
                with below_autograd():
                    result = operate(*args)
            elif backward is None:
                result = under_transforms(*args)
            else:
                return apply(*args)
        except RuntimeError as error:
            if (refused := as_refused(error)) is error:
                raise
            raise refused from None
        return result[0] if several else result

    return call


def _refuse_tangents(overload: OpOverload, args: Sequence) -> None:
    if getattr(forward_ad, "_current_level", 0) < 0:  # private to torch, but checking every tensor is slow
        return
    if any(isinstance(t, Tensor) and forward_ad.unpack_dual(t).tangent is not None for t in args):
        raise RuntimeError(f"{overload} has no forward-mode derivative")


def loss_fakes(x: Tensor, reduction: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Fakes of a loss and of its scale."""
    shape = (x.shape, x.shape[:1], (), ())[reduction]
    return x.new_empty(shape, dtype=dtype), x.new_empty((), dtype=dtype)


def gradient_fake(like: Tensor, needed: bool, dtype: torch.dtype, dense: bool = True) -> Tensor:
    """Fake of a saved gradient, empty where it is not needed; contiguous if `dense`, else laid out as `like` is."""
    if needed and not dense:
        return torch.empty_like(like, dtype=dtype)
    return like.new_empty(like.shape if needed else (0,), dtype=dtype)


def times_saved(
    library: Library, grad: Tensor, scale: Tensor | None, saved: Sequence[Tensor], forward: Forward, first: int = 0
) -> list[Tensor | None]:
    """The gradients of the arguments from number `first` on, each in its argument's type.

    saved: for each of these arguments, the derivative of every variable's result. grad: the gradient of the reduced
    result; scale: the factor that the reduction multiplied it by, or None.
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
    """Whether it is a 1, as the gradient of a loss by itself is, where looking is free."""
    return factor.dim() == 0 and shows(factor) and factor.item() == 1
