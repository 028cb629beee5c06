"""The operators of a flow's embedding, composed of tiles, which `tiles` describes, and matrix products."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bfn_kernels.call.checks import compute_dtype
from bfn_kernels.records import Noise
from bfn_kernels.vocabulary.shards import Shard
from bfn_kernels.vocabulary.tile_functions import Messages
from bfn_kernels.vocabulary.tiles import FUSED_WIDTH, HALF, Exponentials, Grid, Products, Tokens, for_products


def flow_embedding(
    library: Any, x: Tensor, weight: Tensor, beta: Tensor, spread: Tensor, noise: Noise, shard: Shard
) -> tuple[Tensor, Tensor]:
    """The embedding, and of each token the largest y and the sum of exp(y − largest), of which the backward pass makes
    θ again."""
    dtype, tokens = compute_dtype(weight), Tokens(x, shard)
    messages, products = Messages(library, tokens, beta, spread, noise), Products(library, dtype, weight)
    grid, theta = Grid(x.numel(), len(weight), weight.shape[1], weight, dtype), Exponentials(messages.alpha)
    out = weight.new_zeros(x.numel(), weight.shape[1], dtype=dtype)
    if fused := _fused(messages, "flow_products", weight):
        fused(*messages.of(slice(None), slice(0, len(weight))), weight, theta.top, theta.total, out)
    else:
        flow_tile = messages.function("flow_tile")
        for classes in grid.classes():
            rows = weight[classes].to(products.dtype)
            for part in grid.parts():
                e = grid.tile(part, classes)
                flow_tile(part, classes, False, e, *theta.of(part))
                products.add(out[part].mul_(theta.kept[part].unsqueeze(-1)), e, rows)
    out = theta.joined(shard, out).div_(torch.where(tokens.valid, theta.total, torch.nan).unsqueeze(-1))
    stats = torch.stack([theta.top, theta.total], -1)
    return out.to(weight.dtype).view(*x.shape, weight.shape[1]), stats.view(*x.shape, 2)


def flow_embedding_backward(
    library: Any,
    grad: Tensor,
    x: Tensor,
    beta: Tensor,
    spread: Tensor,
    noise: Noise,
    stats: Tensor,
    count: int,
    dtype: torch.dtype,
    shard: Shard,
) -> Tensor:
    """The gradient of the weight, θᵀ·grad, in its type. The weight has `count` classes."""
    tokens, width = Tokens(x, shard), grad.shape[-1]
    messages, products = Messages(library, tokens, beta, spread, noise), Products(library, stats.dtype, grad)
    grid = Grid(x.numel(), count, width, grad, stats.dtype)
    top, total = (each.contiguous() for each in tokens.records(stats).unbind(-1))
    by_weight = for_products(grid, grad, (count, width), dtype)
    if fused := _fused(messages, "flow_products_backward", grad):
        fused(*messages.of(slice(None), slice(0, count)), tokens.records(grad), top, total, by_weight)
        return by_weight
    vectors, flow_tile = tokens.records(grad).to(products.dtype), messages.function("flow_tile")
    for classes in grid.classes():
        sums = by_weight[classes].to(stats.dtype)
        for part in grid.parts():  # what stands there before the first tokens is not read
            theta = grid.tile(part, classes)
            flow_tile(part, classes, True, theta, top[part], total[part], None)
            products.add(sums, theta.t(), vectors[part], part.start > 0)
        if sums.dtype != dtype:
            by_weight[classes] = sums
    return by_weight


def _fused(messages: Messages, name: str, vectors: Tensor) -> Callable | None:
    """The library's kernel for products of θ and such vectors, if it has one; it is given all tokens and classes."""
    fits = vectors.dtype in HALF and vectors.shape[-1] <= FUSED_WIDTH
    return messages.kernel(name) if fits else None
