"""Losses of a user's own of the logits of a large vocabulary, which are computed for some tokens at a time."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from bfn_kernels import backends, checks
from bfn_kernels.declarations import Forward, times_saved
from bfn_kernels.records import LinearHead
from bfn_kernels.vocabulary.draws import check_head
from bfn_kernels.vocabulary.tiles import slices_of

NUMBERS = {"cpu": 2**22}  # the numbers of a chunk of logits, 16 MiB in float32
MANY = 2**26  # the numbers of a chunk on any other device
LEAST = 128  # the fewest tokens of a chunk: products with fewer tokens wait for the weight


def loss_by_chunks(
    loss: Callable[..., Tensor],
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *rows: Tensor,
    reduction: str = "mean",
    chunk_size: int | None = None,
) -> Tensor:
    """The mean or the sum of your own loss of the logits hidden·Wᵀ + bias, without the logits of all tokens [derived].

    The forward pass computes the gradients, too, one chunk of tokens after the other. So no tensor `[B, ..., K]` is
    made, and the logits are computed once. The loss may consist of any differentiable operations of PyTorch.

    Args:
        loss: A function `loss(logits, *rows)` of the logits `[T, K]` of T tokens and of their rows `[T, ...]`. It
            returns a loss for each token, `[T]`. No gradient reaches any other tensor that it reads.
        hidden: Hidden states, `[B, ..., d]`, floating-point; differentiable.
        weight: The weight of the head, `[K, d]`, floating-point; differentiable.
        bias: The bias of the head, `[K]`, floating-point, or None; differentiable.
        *rows: Tensors whose leading dimensions are `[B, ...]`, such as the true classes; not differentiable.
        reduction: "mean" over the tokens, or "sum".
        chunk_size: T, the number of tokens of a chunk, at least 1. None chooses one for the device.

    Returns:
        The loss, float32, or float64 if hidden, weight or bias is float64.

    Example:
        >>> own = lambda z, x: torch.nn.functional.cross_entropy(z, x, reduction="none")
        >>> loss_by_chunks(own, torch.ones(1, 3), torch.zeros(2, 3), None, torch.tensor([1]))
        tensor(0.6931)
    """
    checks.data("hidden", hidden)
    lead = hidden.shape[:-1]
    check_head("hidden", hidden, lead, LinearHead(hidden, weight, bias, None))
    checks.no_gradient("rows have none", **{f"rows[{index}]": row for index, row in enumerate(rows)})
    for index, row in enumerate(rows):
        if row.shape[: len(lead)] != lead:
            raise ValueError(f"rows[{index}] must have shape {(*lead, '...')}, got {tuple(row.shape)}")
    divisor = (1, lead.numel())[checks.choice("reduction", reduction, ("sum", "mean"))]
    if chunk_size is None:
        chunk_size = max(LEAST, NUMBERS.get(hidden.device.type, MANY) // max(1, len(weight)))
    size = checks.integer("chunk_size", chunk_size, 1)
    flat = [row.reshape(lead.numel(), *row.shape[len(lead) :]) for row in rows]
    return _Loss.apply(loss, flat, size, divisor, hidden, weight, bias)


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss, rows, size, divisor, hidden, weight, bias):  # type: ignore[override]
        tokens, dtype = hidden.reshape(-1, hidden.shape[-1]), checks.compute_dtype(hidden, weight, bias)
        of_hidden, of_weight, of_bias = ctx.needs_input_grad[-3:]
        wanted = of_hidden or of_weight or of_bias
        by_hidden = torch.zeros_like(tokens, dtype=dtype) if of_hidden else None
        by_weight = torch.zeros_like(weight, dtype=dtype) if of_weight else None
        by_bias = torch.zeros_like(bias, dtype=dtype) if of_bias else None
        total = tokens.new_zeros((), dtype=checks.widest(tokens.device))
        for chunk in slices_of(len(tokens), size):
            logits = linear(tokens[chunk], weight, bias).detach()  # in the type of autocast, if it is on
            with torch.set_grad_enabled(wanted):
                each = loss(logits.requires_grad_(wanted), *(row[chunk] for row in rows))
                if each.shape != logits.shape[:1]:
                    raise ValueError(f"loss must return shape {tuple(logits.shape[:1])}, got {tuple(each.shape)}")
                total += each.detach().sum()
                if not wanted:
                    continue
                slope = torch.autograd.grad(each.sum(), logits)[0].to(dtype).div_(divisor)
            del logits, each
            if by_hidden is not None:
                by_hidden[chunk] = slope @ weight.to(dtype)
            if by_weight is not None:
                by_weight.addmm_(slope.t(), tokens[chunk].to(dtype))
            if by_bias is not None:
                by_bias += slope.sum(0)
        ctx.save_for_backward(None if by_hidden is None else by_hidden.view(hidden.shape), by_weight, by_bias)
        ctx.types = hidden.dtype, weight.dtype, None if bias is None else bias.dtype
        return (total / divisor).to(dtype)

    @staticmethod
    def backward(ctx: Any, grad):  # type: ignore[override]
        if torch.is_grad_enabled():
            raise RuntimeError("loss_by_chunks has no second derivative; create_graph must be False")
        forward = Forward(ctx.saved_tensors, ctx.needs_input_grad[-3:], ctx.types)
        library = backends.library(None, grad.device)
        return *[None] * 4, *times_saved(library, grad, None, forward.saved, forward, first=0)
