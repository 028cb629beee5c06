"""What the families' autograd modules share: how operators are called, and get their fakes, backward passes and
refusals."""

import contextlib
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.autograd import forward_ad
from torch.overrides import has_torch_function

# Both are private to torch. It says nowhere else whether torch.func's transforms are at work; without that a gradient
# of an outer transform alone is an error. Without the other, a small call takes a third longer.
transformed: Callable[[], bool] = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)
below_autograd: Any = getattr(torch._C, "_AutoDispatchBelowAutograd", contextlib.nullcontext)


class Namespace(SimpleNamespace):
    """The operators of the namespace `name` of `torch.ops`, each an attribute that `register` made."""

    def __init__(self, name: str):
        super().__init__(name=name)


def needs(*tensors: Tensor | None) -> list[bool]:
    """Which of the tensors a gradient is asked for."""
    enabled, all_of_them = torch.is_grad_enabled(), transformed()  # an outer transform's gradient does not show here
    return [enabled and t is not None and (t.requires_grad or all_of_them) for t in tensors]


def register(ops: Namespace, name: str, fake: Callable, backward: Callable | None = None, save=None) -> None:
    """The fake of an operator, if the namespace has it, and its backward pass: `save(ctx, inputs, output)`,
    `backward(ctx, grad)`, where grad is that of the first result: others have none.

    Without a backward the operator is one whose results have no gradient: asking for one is an error. So is a second
    derivative, refused where the graph for it would be made, and a forward-mode one, since what left them out would be
    silently wrong; and so is vmap, under which noise and reductions would not mean what they say.
    """
    qualified, overload = f"{ops.name}::{name}", _overload(ops, name)
    if overload is None:
        return

    def save_inputs(ctx, inputs, output):
        if save is not None:
            save(ctx, inputs, output)

    def save_all(ctx, inputs, output):
        save_inputs(ctx, inputs, output)
        if isinstance(output, tuple):
            ctx.set_materialize_grads(False)  # zeros for results that have no gradient would be as large as these
            ctx.mark_non_differentiable(*output[1:])

    def first_backward(ctx, grad, *of_saved):
        if backward is None:
            raise RuntimeError(f"{qualified} has no gradient")
        return (None,) * len(ctx.needs_input_grad) if grad is None else backward(ctx, grad)

    def checked_backward(ctx, *grads):
        if backward is not None and torch.is_grad_enabled():
            raise RuntimeError(f"{qualified} has no second derivative; create_graph must be False")
        return first_backward(ctx, *grads)

    def backward_with_lists(ctx, *grads):
        # where a list of tensors was given a list is wanted
        found, given = checked_backward(ctx, *grads), ctx.needs_input_grad
        return tuple([None] * len(n) if isinstance(n, list) else g for g, n in zip(found, given, strict=True))

    def refuse_vmap(info, in_dims, *args):
        raise RuntimeError(f"{qualified} does not go under vmap; its arguments take batch dimensions of their own")

    torch.library.register_fake(qualified, fake)
    torch.library.register_autograd(qualified, backward_with_lists, setup_context=save_all)
    torch.library.register_vmap(qualified, refuse_vmap)
    under_transforms = _under_transforms(overload, save_inputs, first_backward, refuse_vmap)
    once = backward and checked_backward
    setattr(ops, name, _call(overload, save_inputs, once, under_transforms))


def register_plain(ops: Namespace, name: str, fake: Callable) -> None:
    """The fake of an operator, if the namespace has it, that is never asked for a gradient."""
    overload = _overload(ops, name)
    if overload is None:
        return

    def call(*args):
        if not torch.compiler.is_compiling():
            _refuse_tangents(overload, args)
        return overload(*args)

    torch.library.register_fake(f"{ops.name}::{name}", fake)
    setattr(ops, name, call)


def register_in_place(ops: Namespace, name: str) -> None:
    """The fake of an operator that writes into its last argument, which autograd is told of."""
    register_plain(ops, name, lambda *args, **kwargs: None)
    write = getattr(ops, name, None)
    if write is None:
        return

    def call(*args):
        write(*args)
        if not torch.compiler.is_compiling():  # the compiler tells it itself
            torch.autograd.graph.increment_version(args[-1])

    setattr(ops, name, call)


def _overload(ops: Namespace, name: str) -> OpOverload | None:
    packet = getattr(getattr(torch.ops, ops.name), name, None)
    return packet and packet.default


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
    """The operator without the detour through Python that torch makes for what `register_autograd` says: on a few
    thousand variables it costs several times what the work does. Of several results, those behind the first have no
    gradient and are there only where none is asked for."""

    def run(*args):
        with below_autograd():
            return overload(*args)

    class Differentiable(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *args):
            output = run(*args)
            save(ctx, args, output)
            return output[0] if isinstance(output, tuple) else output

        @staticmethod
        def backward(ctx, *grads):
            return backward(ctx, *grads)

    # Function.apply looks for transforms, which have gone another way
    apply = super(torch.autograd.Function, Differentiable).apply  # type: ignore[misc]
    schema = overload._schema
    several = len(schema.returns) > 1
    # only what stands before the numbers of the rows may have a gradient
    first = next((i for i, a in enumerate(schema.arguments) if str(a.type) not in ("Tensor", "Optional[Tensor]")), None)

    def call(*args):
        if torch.compiler.is_compiling() or has_torch_function(args):
            return overload(*args)
        _refuse_tangents(overload, args)
        if transformed():
            return under_transforms(*args)
        if not any(needs(*args[:first])):
            return run(*args)
        if backward is None:
            return under_transforms(*args)
        result = apply(*args)
        return (result,) if several else result

    return call


def _refuse_tangents(overload: OpOverload, args: Sequence) -> None:
    if getattr(forward_ad, "_current_level", 0) < 0:  # private to torch; looking at each tensor takes long
        return
    flat = [t for arg in args for t in (arg if isinstance(arg, list) else [arg]) if isinstance(t, Tensor)]
    if any(forward_ad.unpack_dual(t).tangent is not None for t in flat):
        raise RuntimeError(f"{overload} has no forward-mode derivative")


def loss_fakes(x: Tensor, reduction: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Fakes of a loss and of its scale."""
    shape = (x.shape, x.shape[:1], (), ())[reduction]
    return x.new_empty(shape, dtype=dtype), x.new_empty((), dtype=dtype)


def gradient_fake(like: Tensor, needed: bool, dtype: torch.dtype) -> Tensor:
    """Fake of a saved gradient, empty where it is not needed."""
    return like.new_empty(like.shape if needed else (0,), dtype=dtype)


def times_saved(
    ops: Namespace, grad: Tensor, scale: Tensor | None, saved: Sequence[Tensor], types: Sequence, needed: Sequence[bool]
) -> list[Tensor | None]:
    """Saved gradients of each variable's result times that of what came of it, in their arguments' types."""
    each = zip(saved, types, needed, strict=True)
    return [ops.scaled_gradient(s, grad, scale, t) if n else None for s, t, n in each]
