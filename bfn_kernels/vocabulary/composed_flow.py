"""The operators of a flow's embedding, composed of tiles, which `tiles` describes, and matrix products."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bfn_kernels import noise as random
from bfn_kernels import records
from bfn_kernels.call.checks import compute_dtype
from bfn_kernels.records import Noise
from bfn_kernels.vocabulary.tiles import (
    FUSED_WIDTH,
    HALF,
    Grid,
    Messages,
    Normals,
    Products,
    Shard,
    Tokens,
    exponentials,
    for_products,
    joined,
)


class Flow:
    """The distributions θ of a flow's tokens, a tile at a time: first exp(y − top), where `top` is the largest y so far
    and `total` the sum; then, with these of all classes, θ again."""

    def __init__(self, library: Any, tokens: Tokens, beta: Tensor, spread: Tensor, noise: Noise, grid: Grid):
        self.tokens, self.grid = tokens, grid
        self.messages = Messages(tokens, beta, spread, Normals(tokens, *noise, beta.dtype, random.SENDER))
        self.library, self.kernel = library, self.messages.kernel(library, "flow_tile")
        self.top = beta.new_full(tokens.x.shape, torch.finfo(beta.dtype).min)
        self.total, self.kept = torch.zeros_like(self.top), torch.ones_like(self.top)

    def fused(self, name: str, vectors: Tensor) -> Callable | None:
        """The library's kernel for products of θ and such vectors, if it has one; it is given all tokens and classes,
        and what it takes behind the messages."""
        kernel = self.messages.kernel(self.library, name)
        if kernel is None or vectors.dtype not in HALF or vectors.shape[-1] > FUSED_WIDTH:
            return None
        return lambda *others: kernel(*self.messages.of(slice(None), slice(0, self.grid.num_classes)), *others)

    def first(self, part: slice, classes: slice) -> Tensor:
        """The exponentials by the new top; `kept` is the factor of those by the old one."""
        if self.kernel is not None:
            return self._by_kernel(part, classes, False)
        return exponentials(self.messages.tile(part, classes), self.top[part], self.total[part], self.kept[part])

    def again(self, part: slice, classes: slice) -> Tensor:
        if self.kernel is not None:
            return self._by_kernel(part, classes, True)
        top, total = self.top[part].unsqueeze(-1), self.total[part].unsqueeze(-1)
        return self.messages.tile(part, classes).sub_(top).exp_().div_(total)

    def join(self, sums: Tensor) -> Tensor:
        """Joins top, total and sums of vectors by the exponentials with those of the classes of other processes."""
        self.top, self.total, sums = joined(self.tokens.shard, self.top, self.total, sums)
        return sums

    def _by_kernel(self, part: slice, classes: slice, again: bool) -> Tensor:
        out = self.grid.tile(part, classes)
        sums = self.top[part], self.total[part], self.kept[part]
        self.kernel(*self.messages.of(part, classes), again, *sums, out)
        return out


def flow_embedding(
    library: Any, x: Tensor, weight: Tensor, beta: Tensor, spread: Tensor, noise: Noise, shard: records.Shard
) -> tuple[Tensor, Tensor]:
    """The embedding, and of each token the largest y and the sum of exp(y − largest), of which the backward pass makes
    θ again."""
    dtype, tokens = compute_dtype(weight), Tokens(x, Shard(*shard))
    grid = Grid(x.numel(), weight.shape[0], weight.shape[1], weight, dtype)
    flow = Flow(library, tokens, beta, spread, noise, grid)
    out = weight.new_zeros(x.numel(), weight.shape[1], dtype=dtype)
    fused, products = flow.fused("flow_products", weight), Products(library, dtype, weight)
    if fused:
        fused(weight, flow.top, flow.total, out)
    for classes in () if fused else grid.classes():
        rows = weight[classes].to(products.dtype)
        for part in grid.parts():
            e = flow.first(part, classes)
            products.add(out[part].mul_(flow.kept[part].unsqueeze(-1)), e, rows)
    out = flow.join(out).div_(torch.where(tokens.valid, flow.total, torch.nan).unsqueeze(-1))
    return out.to(weight.dtype).view(*x.shape, weight.shape[1]), torch.stack([flow.top, flow.total], -1).view(
        *x.shape, 2
    )


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
    shard: records.Shard,
) -> Tensor:
    """The gradient of the weight, θᵀ·grad, in its type. The weight has `count` classes."""
    tokens = Tokens(x, Shard(*shard))
    grid = Grid(x.numel(), count, grad.shape[-1], grad, stats.dtype)
    flow = Flow(library, tokens, beta, spread, noise, grid)
    flow.top, flow.total = (each.contiguous() for each in tokens.records(stats).unbind(-1))
    fused, products = flow.fused("flow_products_backward", grad), Products(library, stats.dtype, grad)
    vectors = tokens.records(grad).to(grad.dtype if fused else products.dtype)
    by_weight = for_products(grid, grad, (count, grad.shape[-1]), dtype)
    if fused:
        fused(vectors, flow.top, flow.total, by_weight)
    for classes in () if fused else grid.classes():
        sums = by_weight[classes].to(stats.dtype)
        for part in grid.parts():  # what stands there before the first tokens is not read
            products.add(sums, flow.again(part, classes).t(), vectors[part], part.start > 0)
        if sums.dtype != dtype:
            by_weight[classes] = sums
    return by_weight
