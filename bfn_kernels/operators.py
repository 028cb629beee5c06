"""What the families' autograd modules share: how operators are called, and get their fakes, backward passes and
refusals."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.autograd import forward_ad, profiler
from torch.overrides import has_torch_function

try:
    from torch._C import (
        _any_requires_grad,
        _are_functorch_transforms_active,
        _AutoDispatchBelowAutograd,
        _get_tracing_state,
        _len_torch_dispatch_stack,
    )

    SHORT_WAY = hasattr(profiler, "_is_profiler_enabled")
except ImportError:  # they are private to torch
    SHORT_WAY = False


class Namespace(SimpleNamespace):
    """The operators of the namespace `name` of `torch.ops`, each an attribute that `register` made; `direct` has some
    as functions of an extension module."""

    def __init__(self, name: str, direct: object = None):
        super().__init__(name=name, direct=direct)


def needs(*tensors: Tensor | None) -> list[bool]:
    """Which of the tensors a gradient is asked for."""
    enabled, all_of_them = torch.is_grad_enabled(), transformed()  # an outer transform's gradient does not show here
    return [enabled and t is not None and (t.requires_grad or all_of_them) for t in tensors]


def transformed() -> bool:
    """Whether torch.func's transforms are at work."""
    return SHORT_WAY and _are_functorch_transforms_active()


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
    setattr(ops, name, _call(overload, getattr(ops.direct, name, None), save_inputs, once, under_transforms))


def register_plain(ops: Namespace, name: str, fake: Callable) -> None:
    """The fake of an operator, if the namespace has it, that is never asked for a gradient."""
    overload = _overload(ops, name)
    if overload is None:
        return

    run = _directly(getattr(ops.direct, name, None), overload)

    def call(*args):
        if torch.compiler.is_compiling() or has_torch_function(args):
            return overload(*args)
        _refuse_tangents(overload, args)
        return run(*args)

    torch.library.register_fake(f"{ops.name}::{name}", fake)
    setattr(ops, name, call)


def register_in_place(ops: Namespace, name: str) -> None:
    """That of one which writes into its last argument."""
    register_plain(ops, name, lambda *args, **kwargs: None)


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


def _call(
    overload: OpOverload, direct: Callable | None, save: Callable, backward: Callable | None, under_transforms: Callable
) -> Callable:
    """The operator without the detour through Python that the dispatcher makes for what `register_autograd` says, and
    where there is a direct way, without the dispatcher: both cost more than the work on a few thousand variables.
    Modes, transforms, traces and torch's profilers still see every call. Of several results, those behind the first
    have no gradient and are there only where none is asked for."""
    if not SHORT_WAY:

        def long_way(*args):
            _refuse_tangents(overload, args)
            return overload(*args)

        return long_way
    native = getattr(overload, "_op", overload)  # what it wraps; private too

    def below_autograd(*args):
        with _AutoDispatchBelowAutograd():
            return native(*args)

    run = _directly(direct, below_autograd)

    def forward(ctx, *args):
        output = run(*args)
        save(ctx, args, output)
        return output[0] if isinstance(output, tuple) else output

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    differentiable = type(f"{overload}", (torch.autograd.Function,), methods)
    apply = super(torch.autograd.Function, differentiable).apply  # type: ignore[misc]  # passes functorch by
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
        if torch.is_grad_enabled() and _any_requires_grad(*args[:first]):
            if backward is None:
                return under_transforms(*args)
            result = apply(*args)
            return (result,) if several else result
        return run(*args)

    return call


def _directly(direct: Callable | None, otherwise: Callable) -> Callable:
    """The direct way where there is one that serves."""
    if direct is None or not SHORT_WAY:
        return otherwise

    def run(*args):
        output = NotImplemented if _observed() else direct(*args)
        return otherwise(*args) if output is NotImplemented else output

    return run


def _observed() -> bool:
    """Whether the dispatcher has somebody to tell: modes, transforms, a trace, a profile."""
    return bool(
        _len_torch_dispatch_stack()
        or _are_functorch_transforms_active()
        or _get_tracing_state()
        or profiler._is_profiler_enabled
    )


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
