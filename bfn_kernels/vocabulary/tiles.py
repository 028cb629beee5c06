"""Ops of large vocabularies: numbers per class are made, used and forgotten tile by tile, and never stored as a whole.

A tile is some tokens by some classes. The outer loop is over classes, so that the part of the weight that a tile needs,
and of its gradient, stays in the cache while all tokens pass. What is known of a token's classes so far are a few sums,
in float64. The backward pass makes the numbers again, by a matrix product or from the seed; only a loss that makes its
gradients in the forward pass has tiles of whole rows, and logits once.
"""

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from bfn_kernels.call.checks import valid_classes
from bfn_kernels.call.reduction import hide
from bfn_kernels.records import LinearHead
from bfn_kernels.vocabulary.shards import Shard
from bfn_kernels.vocabulary.tile_functions import kernel_of

TOKENS = 1024  # of a tile; a matrix product of fewer reads the weight more often than it can hide
NUMBERS = {"cpu": 2**18}  # of a tile: 1 MiB in float32; with 4 MiB matrix products take up to twice as long
# of a tile on any other device, where a small one would leave most of it idle; Triton has 4096 classes in registers
MANY_TOKENS, MANY_NUMBERS = 2**12, 2**24
BLOCK = 512  # classes whose logits are made at a time, so that a bias finds them in the cache
FUSED_WIDTH = 256  # of vectors of 16 bits, up to which a program can have the sums of tokens in its registers
HALF = (torch.bfloat16, torch.float16)


class Tokens:
    """The tokens of a call one after the other. On a CPU, those that the mask leaves out are not among them; elsewhere,
    where counting them would cost a synchronisation, they are, and what they give is dropped."""

    def __init__(self, x: Tensor, shard: Shard, mask: Tensor | None = None):
        self.shape, self.mask = x.shape, None if mask is None else mask.expand(x.shape)
        self.shard, self.num_classes = shard, shard.num_classes
        index, valid = valid_classes("x", x, shard.num_classes, mask)
        self.kept = None if mask is None or not x.is_cpu else self.mask.flatten().nonzero().squeeze(-1)
        self.rows = torch.arange(x.numel(), device=x.device) if self.kept is None else self.kept
        self.x, self.valid = self.numbers(index), self.numbers(valid)

    def first(self, classes: slice) -> int:
        """The number of the first of some classes that are here."""
        return self.shard.first + classes.start

    def numbers(self, values: Tensor) -> Tensor:
        """Numbers that broadcast to the tokens, one for each."""
        return self._keep(values.expand(self.shape).flatten()).contiguous()

    def records(self, values: Tensor) -> Tensor:
        """The values of each token, `[T, ...]`, of values that have the tokens' dimensions first."""
        return self._keep(values.reshape(self.shape.numel(), *values.shape[len(self.shape) :]))

    def put_back(self, values: Tensor) -> Tensor:
        """The values of the tokens, a number or a vector for each, in the shape of the data; 0 for those left out."""
        if self.kept is not None:
            values = values.new_zeros(self.shape.numel(), *values.shape[1:]).index_copy_(0, self.kept, values)
        return values.reshape(*self.shape, *values.shape[1:])

    def _keep(self, values: Tensor) -> Tensor:
        """The values without those of tokens that are left out; where these are dropped later, they are 0 until then,
        since not even NaN may reach a sum."""
        if self.mask is None:
            return values
        if self.kept is not None:
            return values.index_select(0, self.kept)
        return hide(self.mask.flatten().view(-1, *(1,) * (values.dim() - 1)), values)[0]


class Grid:
    """The tiles of T tokens by the classes that are here, and the memory that a tile takes; as many `grids` as are used
    at the same time share what one would take. A tile of `whole` rows has all classes of as many tokens as a vector has
    numbers, so that it takes the memory of the gradient by the weight."""

    def __init__(
        self, tokens: int, num_classes: int, width: int, like: Tensor, dtype: torch.dtype, grids: int = 1,
        whole: bool = False,
    ):  # fmt: skip
        few = like.device.type in NUMBERS
        numbers, most = (NUMBERS[like.device.type], TOKENS) if few else (MANY_NUMBERS, MANY_TOKENS)
        numbers //= grids
        self.tokens, self.num_classes, self.like, self.dtype = tokens, num_classes, like, dtype
        self.token_step = max(1, min(width // grids if whole else most, tokens))
        self.class_step = num_classes if whole else max(64, numbers // max(self.token_step, width) // 64 * 64)

    @functools.cached_property
    def memory(self) -> Tensor:
        """The memory of a tile, made with the first: behind what stays, it is free for what comes later."""
        return self.like.new_empty(self.token_step * min(self.class_step, self.num_classes), dtype=self.dtype)

    def beside(self) -> "Grid":
        """The same tiles, in memory of their own."""
        other = copy.copy(self)
        other.__dict__.pop("memory", None)
        return other

    def classes(self) -> Iterator[slice]:
        return _parts(self.num_classes, self.class_step)

    def parts(self) -> Iterator[slice]:
        return _parts(self.tokens, self.token_step)

    def tile(self, part: slice, classes: slice) -> Tensor:
        """Memory for the numbers of a tile, which is that of the tile before."""
        rows, columns = part.stop - part.start, classes.stop - classes.start
        return self.memory[: rows * columns].view(rows, columns)


def _parts(count: int, step: int) -> Iterator[slice]:
    for first in range(0, count, step):
        yield slice(first, min(first + step, count))


def for_products(grid: Grid, like: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Memory for sums over tokens, which the products of the first tokens fill."""
    return (like.new_empty if grid.tokens else like.new_zeros)(shape, dtype=dtype)


class Exponentials:
    """Sums over the classes of each token by an online softmax. `top` is the largest number so far, `total` the sum of
    exp(number − top), and `kept` the factor of the sums by the top before."""

    def __init__(self, like: Tensor):
        self.top, self.total = torch.full_like(like, torch.finfo(like.dtype).min), torch.zeros_like(like)
        self.kept = torch.ones_like(like)

    def of(self, part: slice) -> tuple[Tensor, Tensor, Tensor]:
        return self.top[part], self.total[part], self.kept[part]

    def joined(self, shard: Shard, sums: Tensor) -> Tensor:
        """The sums `[T, d]` by the exponentials of all processes, whose top and total these become."""
        if shard.group is None:
            return sums
        tops, totals = shard.gathered(torch.stack([self.top, self.total])).unbind(1)
        top = tops.amax(0)
        sums = shard.summed(sums * (self.top - top).exp().unsqueeze(-1))
        self.top, self.total = top, ((tops - top).exp() * totals).sum(0)
        return sums


class Products:
    """Products with vectors, in the type of the arithmetic or, where the library has a kernel for it, on tensor cores.
    `dtype` is the type that the vectors must have. float16 would lose what they are multiplied by if that is small."""

    def __init__(self, library: Any, dtype: torch.dtype, *vectors: Tensor):
        narrow = dtype == torch.float32 and all(each.dtype == torch.bfloat16 for each in vectors)
        self.kernel = kernel_of(library, "product", vectors[0]) if narrow else None
        self.dtype = torch.bfloat16 if self.kernel else dtype

    def add(self, sums: Tensor, a: Tensor, b: Tensor, add: bool = True) -> None:
        """Adds a·b or, if not `add`, writes it, and does not read what is there."""
        if self.kernel is None:
            sums.addmm_(a, b, beta=float(add))
        else:
            self.kernel(a, b, add, sums)


class Logits:
    """The logits hidden·Wᵀ + bias + flow_scale·y of tokens, a tile at a time.

    head: hidden `[T, d]` and flow_scale `[T]`. flow: a function that makes a tile of y, or None. dtype: the type of the
    arithmetic. grids: how many tiles are used at the same time.
    """

    def __init__(
        self,
        library: Any,
        head: LinearHead,
        flow: Callable[[Any, slice], Tensor] | None,
        dtype: torch.dtype,
        grids: int = 1,
        whole: bool = False,
    ):
        hidden, weight, bias, scale = head
        self.library, self.dtype, self.products = library, dtype, Products(library, dtype, hidden, weight)
        self.hidden, self.weight, self.flow = hidden.to(self.products.dtype), weight, flow
        self.bias, self.scale = (each if each is None else each.to(dtype) for each in (bias, scale))
        self.grid = Grid(len(hidden), weight.shape[0], weight.shape[1], weight, dtype, grids, whole)
        self._rows: tuple[slice | None, Tensor] = None, weight

    def rows(self, classes: slice) -> Tensor:
        """The part of the weight that belongs to some classes."""
        if self._rows[0] != classes:
            self._rows = classes, self.weight[classes].to(self.products.dtype)
        return self._rows[1]

    def tiles(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Yields all tiles, each as its tokens, its classes and its logits."""
        for classes in self.grid.classes():
            for part in self.grid.parts():
                yield part, classes, self.tile(part, classes)

    def tile(self, part: slice | Tensor, classes: slice) -> Tensor:
        hidden, rows = self.hidden[part], self.rows(classes)
        logits = self.grid.tile(slice(0, len(hidden)), classes)
        for some in _parts(len(rows), BLOCK):
            block = logits[:, some]
            self.products.add(block, hidden, rows[some].t(), False)
            if self.bias is not None:
                block.add_(self.bias[classes][some])
        if self.flow is not None and self.scale is not None:
            logits.addcmul_(self.scale[part].unsqueeze(-1), self.flow(part, classes).to(self.dtype))
        return logits
