"""What the families' autograd modules share: how operators get their fakes, backward passes and refusals."""

from collections.abc import Callable

import torch
from torch import Tensor

Namespace = torch._ops._OpNamespace


def needs(*tensors: Tensor | None) -> list[bool]:
    """Which of the tensors a gradient is asked for."""
    enabled = torch.is_grad_enabled()
    return [enabled and t is not None and t.requires_grad for t in tensors]


def register(namespace: str, name: str, fake: Callable, backward: Callable | None = None, save=None) -> None:
    """The fake of an operator and its backward pass: `save(ctx, inputs, output)`, `backward(ctx, *grads)`.

    Without a backward the operator is one whose results have no gradient: asking for one is an error. So is a second
    derivative, refused where the graph for it would be made, since a backward pass that left it out would be silently
    wrong; and so is vmap, under which noise and reductions would not mean what they say.
    """
    qualified = f"{namespace}::{name}"

    def checked_backward(ctx, *grads):
        if backward is None:
            raise RuntimeError(f"{qualified} has no gradient")
        if torch.is_grad_enabled():
            raise RuntimeError(f"{qualified} has no second derivative; create_graph must be False")
        return backward(ctx, *grads)

    def refuse_vmap(info, in_dims, *args):
        raise RuntimeError(f"{qualified} does not go under vmap; its arguments take batch dimensions of their own")

    torch.library.register_fake(qualified, fake)
    torch.library.register_autograd(qualified, checked_backward, setup_context=save)
    torch.library.register_vmap(qualified, refuse_vmap)


def register_in_place(namespace: str, name: str) -> None:
    """The fake of an operator that writes into its last argument."""
    torch.library.register_fake(f"{namespace}::{name}", lambda *args, **kwargs: None)


def per_variable(grad: Tensor, scale: Tensor, dims: int) -> Tensor:
    """The gradient of a reduced loss, in a shape that broadcasts to the variables'."""
    grad = grad * scale
    return grad if grad.dim() in (0, dims) else grad.reshape(-1, *(1,) * (dims - 1))


def loss_fakes(x: Tensor, reduction: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Fakes of a loss and of its scale."""
    shape = (x.shape, x.shape[:1], (), ())[reduction]
    return x.new_empty(shape, dtype=dtype), x.new_empty((), dtype=dtype)


def gradient_fake(like: Tensor, needed: bool, dtype: torch.dtype) -> Tensor:
    """Fake of a saved gradient, empty where it is not needed."""
    return like.new_empty(like.shape if needed else (0,), dtype=dtype)


def times_saved(grad: Tensor, saved: list[Tensor], types: list[torch.dtype], needed: list[bool]) -> list[Tensor | None]:
    """Saved gradients of each variable's loss times that of the result, in their arguments' types."""
    return [(s * grad).to(t) if n else None for s, t, n in zip(saved, types, needed, strict=True)]
