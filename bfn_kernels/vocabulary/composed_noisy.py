"""The operators of noisy one-hot vectors y = scale·e_x + spread·ε. Like the operators of `composed`, they compute one
tile of y at a time (see `tiles`). The backward pass computes y again, from the seed or the explicit noise."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from bfn_kernels.checks import compute_dtype
from bfn_kernels.records import Noise
from bfn_kernels.vocabulary.shards import Shard
from bfn_kernels.vocabulary.tile_functions import Messages
from bfn_kernels.vocabulary.tiles import (
    NO_SOFTMAX,
    Grid,
    Products,
    Tokens,
    for_products,
    likeliest,
    multiply_transposed,
)


class Noisy:
    """The tiles of y. count: the number of this process's classes. width: d, the length of a class's vector."""

    def __init__(
        self, library: Any, x: Tensor, scale: Tensor, spread: Tensor, noise: Noise, count: int, width: int, shard: Shard
    ):
        self.tokens = Tokens(x, shard)
        self.scale = self.tokens.scalars(scale)
        # A message of accuracy 0 is noise alone.
        messages = Messages(library, self.tokens, torch.zeros_like(scale), spread, noise)
        self.noise_tile = messages.function("flow_tile")
        self.grid = Grid(x.numel(), count, width, scale, scale.dtype)

    def tile(self, chunk: slice, classes: slice) -> Tensor:
        y = self.grid.tile(chunk, classes)
        self.noise_tile(chunk, classes, False, y, *NO_SOFTMAX)
        column = self.tokens.x[chunk] - self.tokens.first(classes)
        inside = (column >= 0) & (column < y.shape[1])
        added = torch.where(inside, self.scale[chunk], 0)
        return y.scatter_add_(1, column.clamp(0, y.shape[1] - 1).unsqueeze(-1), added.unsqueeze(-1))

    def tiles(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Yields the tokens, the classes and the numbers of each tile."""
        for classes in self.grid.classes():
            for chunk in self.grid.chunks():
                yield chunk, classes, self.tile(chunk, classes)


def noisy_sum(
    library: Any, x: Tensor, weight: Tensor, scale: Tensor, spread: Tensor, noise: Noise, shard: Shard
) -> Tensor:
    (count, width), dtype = weight.shape, compute_dtype(weight)
    noisy, products = Noisy(library, x, scale, spread, noise, count, width, shard), Products(library, dtype, weight)
    sums = weight.new_zeros(x.numel(), width, dtype=dtype)
    for classes in noisy.grid.classes():
        rows = weight[classes].to(products.dtype)
        for chunk in noisy.grid.chunks():
            products.add(sums[chunk], noisy.tile(chunk, classes), rows)
    sums = torch.where(noisy.tokens.valid.unsqueeze(-1), shard.summed(sums), torch.nan)
    return sums.to(weight.dtype).view(*x.shape, width)


def noisy_sum_backward(
    library: Any,
    grad: Tensor,
    x: Tensor,
    scale: Tensor,
    spread: Tensor,
    noise: Noise,
    count: int,
    dtype: torch.dtype,
    shard: Shard,
) -> Tensor:
    """The gradient of the weight, yᵀ·grad, in the type `dtype`. The weight has `count` rows."""
    width = grad.shape[-1]
    noisy, products = Noisy(library, x, scale, spread, noise, count, width, shard), Products(library, scale.dtype, grad)
    by_weight = for_products(noisy.grid, grad, (count, width), dtype)
    vectors = noisy.tokens.vectors(grad).to(products.dtype)
    multiply_transposed(noisy.grid, noisy.tile, vectors, products, by_weight)
    return by_weight


def noisy_mode(
    library: Any, x: Tensor, scale: Tensor, spread: Tensor, noise: Noise, count: int, shard: Shard
) -> Tensor:
    noisy = Noisy(library, x, scale, spread, noise, count, 1, shard)
    return likeliest(noisy.tiles(), noisy.scale, noisy.scale.dtype, shard)[0].view(x.shape)
