"""Registers an operator with autograd, and makes the function by which callers use the operator."""

from collections import namedtuple
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.overrides import has_torch_function

from bfn_kernels.extensions import as_refused
from bfn_kernels.torch_private import below_autograd, below_python, forward_mode, has_tangent, transformed

if TYPE_CHECKING:
    from bfn_kernels.operators import Library, Operator


class Forward(NamedTuple):
    """What a backward pass gets of its forward pass.

    saved: the values that `Operator.saved` names, as attributes.
    needed: for each argument, whether it needs a gradient.
    types: for each of the leading tensor arguments, its dtype, or None if the argument is None.
    """

    saved: Any
    needed: Sequence[bool]
    types: Sequence[torch.dtype | None]


def writing(overload: OpOverload, operator: "Operator") -> Callable:
    """Makes a function that calls the variant of an operator that writes into tensors. The function takes the inputs
    and the outputs, and returns the first output. If the first output is None, the function makes it."""
    torch.library.register_fake(overload.name(), lambda *arguments, **keywords: None)

    def write(inputs: Sequence, outputs: Sequence[Tensor | None]) -> Tensor:
        out, *others = outputs
        if out is None:
            out = operator.fake(*inputs)  # called with real tensors, a fake makes real results
        _refuse_tangents(overload, (*inputs, out, *others))
        if not torch.compiler.is_compiling():  # compiled code increases the version itself
            # before the call: an operator that raises an error for a class out of range has already written its results
            torch.autograd.graph.increment_version([t for t in (out, *others) if t is not None])
        overload(*inputs, out, *others)
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


def differentiable(library: "Library", overload: OpOverload, operator: "Operator", write: Callable | None) -> Callable:
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

    def save_all(ctx, inputs, output):
        saving.write(ctx, inputs, output)
        if isinstance(output, tuple):
            ctx.set_materialize_grads(False)  # else torch makes zeros as large as the results that have no gradient
            ctx.mark_non_differentiable(*output[1:])

    def refuse_vmap(info, in_dims, *args):
        raise RuntimeError(f"{name} does not go under vmap; give its arguments batch dimensions instead")

    torch.library.register_fake(name, operator.fake)
    torch.library.register_autograd(name, checked_backward, setup_context=save_all)
    torch.library.register_vmap(name, refuse_vmap)
    backward = operator.backward and checked_backward
    transforms = _under_transforms(overload, saving.write, unchecked_backward, refuse_vmap)
    return _call(overload, saving.write, backward, transforms, write)


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


def _under_transforms(overload: OpOverload, save: Callable, backward: Callable, vmap: Callable) -> Callable:
    """The operator as an `autograd.Function` with `setup_context`, the only form that torch.func's transforms accept.

    These transforms build a graph of every backward pass, so this function cannot refuse a second derivative. Most
    operators that a backward pass calls have no gradient, and raise the error. But the backward pass of a linear
    operator calls only operators with a gradient, so its second derivative is correct and raises no error.
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
    """The operator as callers use it: a function that returns its first result, or all results if it has no backward
    pass.

    If the operator has a variant that writes into tensors, callers append an argument for each of these tensors: the
    tensor or None.

    The function avoids the Python code that torch runs for `register_autograd`. That code takes several times as long
    as a kernel on a few thousand variables. `call` is one long function: to split it would add calls of Python
    functions, which cost as much as the conditions in it.
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

    # torch's own `apply` would check for transforms again
    apply = super(torch.autograd.Function, Differentiable).apply  # type: ignore[misc]
    names = [a.name for a in overload._schema.arguments]
    # the indices of the arguments for which the operator takes a flag `need_<name>`; the flags are its last arguments
    flagged = [names.index(name.removeprefix("need_")) for name in names if name.startswith("need_")]
    not_needed = [False] * len(flagged)
    num_tensors, num_inputs = _count_leading_tensors(overload), len(names) - len(flagged)
    several = backward is not None and len(overload._schema.returns) > 1

    def call(*args):
        first = args[:num_tensors]
        try:
            if write is not None:
                args, outputs = args[:num_inputs], args[num_inputs:]
                if any([out is not None for out in outputs]):
                    return write(args, outputs)
            any_needs = torch.is_grad_enabled() and (transformed() or _any_requires_grad(first))
            if flagged:
                args = (*args, *(needs(*[args[i] for i in flagged]) if any_needs else not_needed))
            if torch.compiler.is_compiling() or has_torch_function(first):
                result = overload(*args)
                return result[0] if several else result
            _refuse_tangents(overload, first)
            if transformed():
                result = under_transforms(*args)
            elif not any_needs:
                with below_autograd():
                    result = operate(*args)
            elif backward is None:  # makes a result whose backward pass raises the error "has no gradient"
                result = under_transforms(*args)
            else:
                return apply(*args)
        except RuntimeError as error:
            if (refused := as_refused(error)) is error:
                raise
            raise refused from None
        return result[0] if several else result

    return call


def _any_requires_grad(tensors: Sequence[Tensor | None]) -> bool:
    for t in tensors:  # noqa: SIM110, since `any` takes 1.5 times as long
        if t is not None and t.requires_grad:
            return True
    return False


def _refuse_tangents(overload: OpOverload, args: Sequence) -> None:
    if forward_mode() and any(map(has_tangent, args)):
        raise RuntimeError(f"{overload} has no forward-mode derivative")
