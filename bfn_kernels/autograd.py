"""Registers an operator with autograd, and makes the function by which callers use the operator."""

from collections import namedtuple
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.overrides import has_torch_function

from bfn_kernels.declarations import Forward, Operator
from bfn_kernels.extensions import as_refused
from bfn_kernels.torch_private import (
    batched,
    below_autograd,
    below_python,
    forward_ad,
    forward_mode,
    has_tangent,
    transformed,
)


def writing(overload: OpOverload, operator: Operator) -> Callable:
    """Makes a function that calls the variant of an operator that writes into tensors. The function takes the inputs
    and the outputs, and returns the first output. If the first output is None, the function makes it."""
    torch.library.register_fake(overload.name(), lambda *arguments, **keywords: None)

    def write(inputs: Sequence, outputs: Sequence[Tensor | None]) -> Tensor:
        out, *others = outputs
        if out is None:
            out = operator.fake(*inputs)  # called with real tensors, a fake makes real results
        if forward_mode():
            _refuse_tangents(overload, (*inputs, out, *others))
        if transformed() and any(isinstance(each, Tensor) and batched(each) for each in (*inputs, out, *others)):
            _refuse_vmap(overload)
        if not torch.compiler.is_compiling():  # compiled code increases the version itself
            # before the call: an operator that raises an error for a class out of range has already written its results
            torch.autograd.graph.increment_version([t for t in (out, *others) if t is not None])
        try:
            overload(*inputs, out, *others)
        except RuntimeError as error:
            raise as_refused(error) from error.__cause__
        return out

    return write


def needs(*tensors: Tensor | None) -> list[bool]:
    """For each tensor, whether it needs a gradient.

    A tensor does not show whether an outer transform of torch.func needs its gradient. So under transforms every tensor
    counts as needing a gradient.
    """
    if not torch.is_grad_enabled():
        return [False] * len(tensors)
    under_transforms = transformed()
    return [t is not None and (t.requires_grad or under_transforms) for t in tensors]


def differentiable(library: Any, overload: OpOverload, operator: Operator) -> Callable:
    """Registers the operator's fake and its backward pass with torch. Returns the function that callers use.

    Second derivatives, forward-mode derivatives and vmap are errors. These derivatives are not implemented. Without the
    errors, torch would take some as zero. Under vmap, noise and reductions would not do what the docstrings say.
    """
    name, arguments = overload.name(), [a.name for a in overload._schema.arguments]
    saving = _Saving(overload, operator.saved.split(), operator.unsaved_in_forward.split())

    def unchecked_backward(ctx, grad, *grads_of_saved):
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
        return unchecked_backward(ctx, *grads)

    def save(ctx, inputs, output):
        saving.write(ctx, inputs, output)
        ctx.set_materialize_grads(False)  # else torch makes zeros as large as the results that have no gradient

    def save_first(ctx, inputs, output):
        save(ctx, inputs, output)
        if operator.backward is not None and isinstance(output, tuple):
            ctx.mark_non_differentiable(*output[1:])

    def refuse_vmap(info, in_dims, *args):
        _refuse_vmap(overload)

    def eagerly(*args):
        with below_autograd():
            return operate(*args)

    operate = below_python(overload)
    torch.library.register_fake(name, operator.fake)
    torch.library.register_autograd(name, checked_backward, setup_context=save_first)
    torch.library.register_vmap(name, refuse_vmap)
    # torch.func's transforms refuse an autograd.Function without `setup_context`. The transforms record a graph of
    # every backward pass, so a Function for them cannot raise an error for a second derivative. Most operators that a
    # backward pass calls have no gradient, and raise the error. But the backward pass of a linear operator calls only
    # operators with a gradient, so its second derivative is correct and raises no error. For these errors, the saved
    # gradients among the results must count as differentiable.
    under_transforms = _function(overload, save, unchecked_backward, refuse_vmap)
    eager = _function(eagerly, save_first, checked_backward, refuse_vmap)
    # torch's own `apply` would check for transforms again
    apply = super(torch.autograd.Function, eager).apply  # type: ignore[misc]
    return _call(overload, operator, apply, under_transforms.apply)


def _function(forward: Callable, setup_context: Callable, backward: Callable, vmap: Callable) -> Any:
    parts = {"forward": forward, "setup_context": setup_context, "backward": backward, "vmap": vmap}
    return type("Operator", (torch.autograd.Function,), {name: staticmethod(part) for name, part in parts.items()})


class _Saving:
    """Saves arguments and results for the backward pass: tensors by `save_for_backward`, other values on `ctx`.

    names: the arguments and results to save, tensors first. unsaved_in_forward: the names that are not saved if the
    operator's argument `in_forward` is True. The operator then computes and saves the gradient in its forward pass, so
    its backward pass does not read these arguments.
    """

    def __init__(self, overload: OpOverload, names: Sequence[str], unsaved_in_forward: Sequence[str]):
        schema = overload._schema
        values = [*schema.arguments, *schema.returns]
        index = {value.name: i for i, value in enumerate(values)}
        self.Saved = namedtuple("Saved", names)  # type: ignore[misc]
        indices = [index[name] for name in names]
        self.all = _picks(indices)
        # -1 picks the None that `write` appends
        self.without_unsaved = _picks([-1 if name in unsaved_in_forward else index[name] for name in names])
        self.in_forward = index["in_forward"] if unsaved_in_forward else None
        self.num_saved_tensors = sum("Tensor" in str(values[i].type) for i in indices)
        self.num_leading_tensors = _count_leading_tensors(overload)

    def write(self, ctx, arguments: Sequence, results) -> None:
        in_forward = self.in_forward is not None and arguments[self.in_forward]
        picks = self.without_unsaved if in_forward else self.all
        values = picks((*arguments, *(results if isinstance(results, tuple) else (results,)), None))
        ctx.save_for_backward(*values[: self.num_saved_tensors])
        ctx.others = values[self.num_saved_tensors :]
        ctx.types = [None if t is None else t.dtype for t in arguments[: self.num_leading_tensors]]

    def read(self, ctx) -> Any:
        return self.Saved(*ctx.saved_tensors, *ctx.others)


def _picks(indices: Sequence[int]) -> Callable[[tuple], tuple]:
    """Returns a function that picks the values at these indices of a tuple, as a tuple. `itemgetter` returns a tuple
    only for two or more indices."""
    return itemgetter(*indices) if len(indices) > 1 else lambda values: tuple(values[i] for i in indices)


def _count_leading_tensors(overload: OpOverload) -> int:
    """The number of tensors before the first argument of another type; only these may have a gradient."""
    types = [str(a.type) for a in overload._schema.arguments]
    return next((i for i, t in enumerate(types) if t not in ("Tensor", "Optional[Tensor]")), len(types))


def _call(overload: OpOverload, operator: Operator, apply: Callable, under_transforms: Callable) -> Callable:
    """The operator as callers use it: a function that returns its first result, or all results if it has no backward
    pass.

    The function avoids the Python code that torch runs for `register_autograd`. That code takes several times as long
    as a kernel on a few thousand variables. `call` is one long function: to split it would add calls of Python
    functions, which cost as much as the conditions in it.
    """
    operate = below_python(overload)
    names = [a.name for a in overload._schema.arguments]
    # the indices of the arguments for which the operator takes a flag `need_<name>`; the flags are its last arguments
    flagged = [names.index(name.removeprefix("need_")) for name in names if name.startswith("need_")]
    not_needed = [False] * len(flagged)
    num_tensors, has_backward = _count_leading_tensors(overload), operator.backward is not None
    several = has_backward and len(overload._schema.returns) > 1

    def call(*args):
        tensors = args[:num_tensors]
        try:
            any_needs = torch.is_grad_enabled() and (transformed() or _any_requires_grad(tensors))
            if flagged:
                args = (*args, *(needs(*[args[i] for i in flagged]) if any_needs else not_needed))
            if torch.compiler.is_compiling() or has_torch_function(tensors):
                result = overload(*args)
                return result[0] if several else result
            if getattr(forward_ad, "_current_level", 0) >= 0:  # as `forward_mode` says
                _refuse_tangents(overload, tensors)
            if transformed() or (any_needs and not has_backward):
                # without a backward pass, the result has one that raises the error "has no gradient"
                result = under_transforms(*args)
            elif any_needs:
                result = apply(*args)
            else:
                with below_autograd():
                    result = operate(*args)
        except RuntimeError as error:
            raise as_refused(error) from error.__cause__
        return result[0] if several else result

    return call


def _any_requires_grad(tensors: Sequence[Tensor | None]) -> bool:
    for t in tensors:  # noqa: SIM110, since `any` takes 1.5 times as long
        if t is not None and t.requires_grad:
            return True
    return False


def _refuse_tangents(overload: OpOverload, args: Sequence) -> None:
    if any(map(has_tangent, args)):
        raise RuntimeError(f"{overload} has no forward-mode derivative")


def _refuse_vmap(overload: OpOverload) -> None:
    raise RuntimeError(f"{overload.name()} does not go under vmap; give its arguments batch dimensions instead")
