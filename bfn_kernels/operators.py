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

    Without a backward the operator is one whose results have no gradient of their own: asking for one, as a second
    derivative does, is an error. vmap is an error for all: noise and reductions would not mean what they say.
    """
    qualified = f"{namespace}::{name}"

    def refuse_backward(ctx, *grads):
        raise RuntimeError(f"{qualified} is not differentiable here; second derivatives are not defined")

    def refuse_vmap(info, in_dims, *args):
        raise RuntimeError(f"{qualified} does not go under vmap; its arguments take batch dimensions of their own")

    torch.library.register_fake(qualified, fake)
    torch.library.register_autograd(qualified, backward or refuse_backward, setup_context=save)
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
