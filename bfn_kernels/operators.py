"""What a family says of an operator, once, and what becomes of it in every library of `torch.ops` that has it: schema,
fake, backward pass and refusals. The code that runs is csrc's or Triton's; the reference has functions of the same
names and arguments, without those that start with `need_`."""

import contextlib
from collections import namedtuple
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.autograd import forward_ad
from torch.overrides import has_torch_function

# All are private to torch. It says nowhere else whether torch.func's transforms are at work; without that a gradient of
# an outer transform alone is an error. Without autograd's detour a small call takes a third less time; the operator as
# C++ has it, below the object that Python has of it, saves 5 % more.
transformed: Callable[[], bool] = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)
below_autograd: Any = getattr(torch._C, "_AutoDispatchBelowAutograd", contextlib.nullcontext)


def below_python(overload: OpOverload) -> Callable:
    return getattr(overload, "_op", overload)


class Forward(NamedTuple):
    """What a backward pass is given of the forward pass: the values whose names `Operator.saved` has, which of the
    arguments need a gradient, and the arguments' types, None for what is no tensor."""

    saved: Any
    needed: Sequence[bool]
    types: Sequence[torch.dtype | None]


@dataclass(frozen=True)
class Operator:
    """An operator of a family.

    schema: its name, arguments and results. Where there is a backward pass callers get the first result, and others are
    for that pass alone. Callers do not give the arguments `need_x`, the last ones, which say whether a gradient of `x`
    is asked for.
    fake: the results without their numbers, of the same arguments.
    saved: the names of the arguments and results that the backward pass reads.
    backward: `(library, grad, forward)` to the gradients of the first arguments, `grad` being that of the first result.
    Without one no result has a gradient, and asking for one is an error.
    in_place: whether there is another, `<name>_out`, that writes its result into a last argument `out`.
    """

    schema: str
    fake: Callable
    saved: str = ""
    backward: Callable | None = None
    in_place: bool = False

    @property
    def name(self) -> str:
        return self.schema.split("(")[0]

    @property
    def schema_out(self) -> str:
        arguments = self.schema.partition("(")[2].rpartition(" -> ")[0].removesuffix(")")
        return f"{self.name}_out({arguments}, Tensor(a!) out) -> ()"


class Library:
    """The operators of the library `name` of `torch.ops`, as attributes of the families that declare them."""

    def __init__(self, name: str, implement: Callable[[torch.library.Library, str, str], None] | None = None):
        """`implement(library, family, operator)` is for libraries whose code is Python's."""
        self.name, self.implement = name, implement
        self._defined = torch.library.Library(name, "FRAGMENT")

    def __getattr__(self, family: str) -> Any:
        raise AttributeError(f"{self.name} has no operators of {family!r}")

    def declare(self, family: str, operators: Iterable[Operator]) -> None:
        """Defines a family's operators, for which torch has the names `<family>_<operator>`."""
        found = SimpleNamespace()
        setattr(self, family, found)
        for operator in operators:
            setattr(found, operator.name, self._declare(family, operator))

    def _define(self, family: str, schema: str) -> OpOverload:
        name = f"{family}_{schema.split('(')[0]}"
        self._defined.define(f"{family}_{schema}")
        if self.implement is not None:
            self.implement(self._defined, family, schema.split("(")[0])
        return getattr(getattr(torch.ops, self.name), name).default

    def _declare(self, family: str, operator: Operator) -> Callable:
        overload = self._define(family, operator.schema)
        call = _differentiable(self, overload, operator)
        if not operator.in_place:
            return call
        write = self._define(family, operator.schema_out)
        torch.library.register_fake(write.name(), lambda *arguments, **keywords: None)

        def call_or_write(*arguments):
            out = arguments[-1]
            if out is None:
                return call(*arguments[:-1])
            if not torch.compiler.is_compiling():
                _refuse_tangents(write, arguments)
            write(*arguments)
            if not torch.compiler.is_compiling():  # the compiler tells autograd itself
                torch.autograd.graph.increment_version(out)
            return out

        return call_or_write


def needs(*tensors: Tensor | None) -> list[bool]:
    """Which of the tensors a gradient is asked for."""
    if not torch.is_grad_enabled():
        return [False] * len(tensors)
    all_of_them = transformed()  # an outer transform's gradient does not show here
    return [t is not None and (t.requires_grad or all_of_them) for t in tensors]


def _differentiable(library: Library, overload: OpOverload, operator: Operator) -> Callable:
    """The operator as a function, its fake and backward pass made known to torch.

    A second derivative is refused where the graph for it would be made, and a forward-mode one, since what left them
    out would be silently wrong; and so is vmap, under which noise and reductions would not mean what they say.
    """
    name, arguments = overload.name(), [a.name for a in overload._schema.arguments]
    saving = _Saving(overload, operator.saved.split())

    def first_backward(ctx, grad, *of_saved):
        if operator.backward is None:
            raise RuntimeError(f"{name} has no gradient")
        if grad is None:
            return (None,) * len(arguments)
        needed = ctx.needs_input_grad
        found = operator.backward(library, grad, Forward(saving.read(ctx), needed, ctx.types))
        found = [g if n else None for g, n in zip(found, needed, strict=False)]
        return *found, *[None] * (len(arguments) - len(found))

    def checked_backward(ctx, *grads):
        if operator.backward is not None and torch.is_grad_enabled():
            raise RuntimeError(f"{name} has no second derivative; create_graph must be False")
        return first_backward(ctx, *grads)

    def save_all(ctx, inputs, output):
        saving.write(ctx, inputs, output)
        if isinstance(output, tuple):
            ctx.set_materialize_grads(False)  # zeros for results that have no gradient would be as large as these
            ctx.mark_non_differentiable(*output[1:])

    def refuse_vmap(info, in_dims, *args):
        raise RuntimeError(f"{name} does not go under vmap; its arguments take batch dimensions of their own")

    torch.library.register_fake(name, operator.fake)
    torch.library.register_autograd(name, checked_backward, setup_context=save_all)
    torch.library.register_vmap(name, refuse_vmap)
    once = operator.backward and checked_backward
    return _call(overload, saving.write, once, _under_transforms(overload, saving.write, first_backward, refuse_vmap))


class _Saving:
    """Which arguments and results an operator keeps for its backward pass: tensors in torch's way, the rest beside."""

    def __init__(self, overload: OpOverload, names: Sequence[str]):
        schema = overload._schema
        values = [*schema.arguments, *schema.returns]
        place = {value.name: i for i, value in enumerate(values)}
        self.Saved = namedtuple("Saved", names)  # type: ignore[misc]
        self.places = [place[name] for name in names]
        self.is_tensor = ["Tensor" in str(values[i].type) for i in self.places]
        self.tensors = _leading_tensors(overload)

    def write(self, ctx, arguments: Sequence, results) -> None:
        values = (*arguments, *(results if isinstance(results, tuple) else (results,)))
        kept = [values[i] for i in self.places]
        ctx.save_for_backward(*(v for v, tensor in zip(kept, self.is_tensor, strict=True) if tensor))
        ctx.others = [v for v, tensor in zip(kept, self.is_tensor, strict=True) if not tensor]
        ctx.types = [None if t is None else t.dtype for t in arguments[: self.tensors]]

    def read(self, ctx) -> Any:
        tensors, others = iter(ctx.saved_tensors), iter(ctx.others)
        return self.Saved(*(next(tensors if tensor else others) for tensor in self.is_tensor))


def _leading_tensors(overload: OpOverload) -> int:
    """How many of the first arguments are tensors; only these may have a gradient."""
    types = [str(a.type) for a in overload._schema.arguments]
    return next((i for i, t in enumerate(types) if t not in ("Tensor", "Optional[Tensor]")), len(types))


def _under_transforms(overload: OpOverload, save: Callable, backward: Callable, vmap: Callable) -> Callable:
    """The operator for torch.func, whose transforms take no autograd but of this form, and make a graph of every
    backward pass: a second derivative is refused by the operators that work in the first, which have none, unless they
    are linear."""

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


def _call(overload: OpOverload, save: Callable, backward: Callable | None, under_transforms: Callable) -> Callable:
    """The operator's first result, without the detour through Python that torch makes for what `register_autograd`
    says: on a few thousand variables it costs several times what the work does."""

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

    # Function.apply looks for transforms, which have gone another way
    apply = super(torch.autograd.Function, Differentiable).apply  # type: ignore[misc]
    names = [a.name for a in overload._schema.arguments]
    needed = [names.index(name.removeprefix("need_")) for name in names if name.startswith("need_")]
    tensors = _leading_tensors(overload)
    several = backward is not None and len(overload._schema.returns) > 1

    def call(*args):
        if needed:
            args = (*args, *needs(*[args[i] for i in needed]))
        first = args[:tensors]
        if torch.compiler.is_compiling() or has_torch_function(first):
            result = overload(*args)
        else:
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
        return result[0] if several else result

    return call


def _refuse_tangents(overload: OpOverload, args: Sequence) -> None:
    if getattr(forward_ad, "_current_level", 0) < 0:  # private to torch; looking at each tensor takes long
        return
    if any(isinstance(t, Tensor) and forward_ad.unpack_dual(t).tangent is not None for t in args):
        raise RuntimeError(f"{overload} has no forward-mode derivative")


def loss_fakes(x: Tensor, reduction: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Fakes of a loss and of its scale."""
    shape = (x.shape, x.shape[:1], (), ())[reduction]
    return x.new_empty(shape, dtype=dtype), x.new_empty((), dtype=dtype)


def gradient_fake(like: Tensor, needed: bool, dtype: torch.dtype) -> Tensor:
    """Fake of a saved gradient, empty where it is not needed."""
    return like.new_empty(like.shape if needed else (0,), dtype=dtype)


def times_saved(
    library: Library, grad: Tensor, scale: Tensor | None, saved: Sequence[Tensor], forward: Forward, first: int = 0
) -> list[Tensor | None]:
    """The gradients of as many arguments from the first on as were saved, of each variable's result, times that of what
    came of it, in their arguments' types."""
    each = zip(saved, forward.types[first:], forward.needed[first:], strict=False)
    return [library.common.scaled_gradient(s, grad, scale, t) if n else None for s, t, n in each]
