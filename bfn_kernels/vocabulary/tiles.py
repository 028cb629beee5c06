"""Tiles of large vocabularies. A tile is a matrix with numbers for some tokens (rows) and some classes (columns).

An op computes and uses one tile at a time, and all tiles use the same memory. (If a head and a flow each make logits,
there are two tiles.) So the memory of an op does not grow with the number of tokens times the number of classes. Only a
sampler's state does. The outer loop is over classes. The rows of the weight that a tile needs, and the gradient for
these rows, then stay in the cache while all tokens pass. From the forward to the backward pass, an op keeps only a few
sums for each token. The backward pass computes the tiles again, by a matrix product or from the seed. If a loss
computes its gradients in the forward pass, each tile has all classes of its tokens, so it is computed only once.
"""

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from bfn_kernels.checks import valid_classes
from bfn_kernels.formulas import hide
from bfn_kernels.records import LinearHead
from bfn_kernels.vocabulary.shards import Shard
from bfn_kernels.vocabulary.tile_functions import kernel_of

TOKENS = 1024  # the tokens of a tile on a CPU; with fewer tokens, a matrix product waits for the weight
NUMBERS = {"cpu": 2**18}  # the numbers of a tile, 1 MiB in float32; with 4 MiB, products take up to twice as long
# The tokens and numbers of a tile on any other device. A smaller tile would leave most of a GPU idle.
MANY_TOKENS, MANY_NUMBERS = 2**12, 2**24
BLOCK = 512  # the classes whose logits are computed at a time: they are in the cache when the bias is added
FUSED_WIDTH = 256  # the largest d for which a Triton program can hold the sums of its tokens in registers
HALF = (torch.bfloat16, torch.float16)


class Tokens:
    """The T tokens of a call, in one dimension.

    On a CPU, tokens where the mask is False are left out. On a GPU, counting them would cost a synchronisation, so they
    take part, and their results are dropped.
    """

    def __init__(self, x: Tensor, shard: Shard, mask: Tensor | None = None):
        self.shape, self.mask = x.shape, None if mask is None else mask.expand(x.shape)
        self.shard, self.num_classes = shard, shard.num_classes
        index, valid = valid_classes("x", x, shard.num_classes, mask)
        self.indices = None if mask is None or not x.is_cpu else self.mask.flatten().nonzero().squeeze(-1)
        self.rows = torch.arange(x.numel(), device=x.device) if self.indices is None else self.indices
        self.x, self.valid = self.scalars(index), self.scalars(valid)

    def first(self, classes: slice) -> int:
        """Converts the start of a slice of this process's classes to an index among the classes of all processes."""
        return self.shard.first + classes.start

    def scalars(self, values: Tensor | None) -> Any:
        """One number for each token `[T]`, from numbers that broadcast to the shape of the data; None for None."""
        return values if values is None else self._select(values.expand(self.shape).flatten()).contiguous()

    def vectors(self, values: Tensor) -> Tensor:
        """The values of each token `[T, ...]`, from values whose leading dimensions are the shape of the data."""
        return self._select(values.reshape(self.shape.numel(), *values.shape[len(self.shape) :]))

    def scatter(self, values: Tensor) -> Tensor:
        """The values `[T, ...]` in the shape of the data. Tokens that were left out get 0."""
        if self.indices is not None:
            values = values.new_zeros(self.shape.numel(), *values.shape[1:]).index_copy_(0, self.indices, values)
        return values.reshape(*self.shape, *values.shape[1:])

    def _select(self, values: Tensor) -> Tensor:
        """The values of the tokens that take part. If masked tokens take part, their values become 0, so that NaN does
        not reach a sum."""
        if self.mask is None:
            return values
        if self.indices is not None:
            return values.index_select(0, self.indices)
        return hide(self.mask.flatten().view(-1, *(1,) * (values.dim() - 1)), values)[0]


class Grid:
    """The tiles that T tokens and the classes of this process are split into, and the memory of a tile.

    width: d, the length of a row of the weight `[K, d]`. grids: the number of grids that a call uses at the same time;
    together they take the memory of one tile. whole: whether a tile has all classes. The tiles of all grids then have
    at most d tokens, so that they take at most as much memory as the gradient of the weight.
    """

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
        """The memory of a tile. It is allocated with the first tile, after the results, so that it leaves no gap
        between results when it is freed."""
        return self.like.new_empty(self.token_step * min(self.class_step, self.num_classes), dtype=self.dtype)

    def with_own_memory(self) -> "Grid":
        """A grid of the same tiles, with its own memory."""
        other = copy.copy(self)
        other.__dict__.pop("memory", None)
        return other

    def classes(self) -> Iterator[slice]:
        return slices_of(self.num_classes, self.class_step)

    def chunks(self) -> Iterator[slice]:
        """The tokens of each tile."""
        return slices_of(self.tokens, self.token_step)

    def tile(self, chunk: slice, classes: slice) -> Tensor:
        """Memory for the numbers of a tile. All tiles use the same memory."""
        rows, columns = chunk.stop - chunk.start, classes.stop - classes.start
        return self.memory[: rows * columns].view(rows, columns)


def slices_of(count: int, step: int) -> Iterator[slice]:
    return (slice(first, min(first + step, count)) for first in range(0, count, step))


def for_products(grid: Grid, like: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Memory for sums over tokens. It is set to 0 only if there are no tokens, since otherwise the product for the
    first tokens overwrites it."""
    return (like.new_empty if grid.tokens else like.new_zeros)(shape, dtype=dtype)


NO_SOFTMAX = (None,) * 3  # for a tile function: the tile's numbers stay as they are


class OnlineSoftmax:
    """The mean of vectors under the softmax of each token's numbers, computed tile by tile.

    top: for each token the largest number so far. total: the sum of exp(number − top) so far. kept: exp(old top − top),
    the factor by which `sums` of earlier tiles must be multiplied when a tile has raised top. sums: `[T, d]`, the sum
    of exp(number − top) times the vectors.
    """

    def __init__(self, like: Tensor, sums: Tensor):
        self.top, self.total = torch.full_like(like, torch.finfo(like.dtype).min), torch.zeros_like(like)
        self.kept, self.sums = torch.ones_like(like), sums

    def numbers_of(self, chunk: slice) -> tuple[Tensor, Tensor, Tensor]:
        """The numbers that a tile function updates."""
        return self.top[chunk], self.total[chunk], self.kept[chunk]

    def rescaled(self, chunk: slice) -> Tensor:
        """Multiplies the sums of some tokens by `kept`, after a tile has changed `top`, and returns them."""
        return self.sums[chunk].mul_(self.kept[chunk].unsqueeze(-1))

    def join(self, shard: Shard) -> None:
        """Joins the numbers of all processes."""
        if shard.group is None:
            return
        tops, totals = shard.gathered(torch.stack([self.top, self.total])).unbind(1)
        top = tops.amax(0)
        self.sums = shard.summed(self.sums * (self.top - top).exp().unsqueeze(-1))
        self.top, self.total = top, ((tops - top).exp() * totals).sum(0)


class Products:
    """Matrix products with vectors: by torch in the type of the arithmetic or, for vectors of bfloat16, by the
    library's kernel on tensor cores. `dtype` is the type that callers must convert vectors to. For vectors of float16
    the kernel is not used, since small factors would underflow in float16."""

    def __init__(self, library: Any, dtype: torch.dtype, *vectors: Tensor):
        narrow = dtype == torch.float32 and all(v.dtype == torch.bfloat16 for v in vectors)
        self.kernel = kernel_of(library, "product", vectors[0]) if narrow else None
        self.dtype = torch.bfloat16 if self.kernel else dtype

    def add(self, sums: Tensor, a: Tensor, b: Tensor, add: bool = True) -> None:
        """Adds a·b to the sums or, if not `add`, overwrites them."""
        if self.kernel is None:
            sums.addmm_(a, b, beta=float(add))
        else:
            self.kernel(a, b, add, sums)


def multiply_transposed(
    grid: Grid, tile: Callable[[slice, slice], Tensor], vectors: Tensor, products: Products, out: Tensor
) -> None:
    """Writes Yᵀ·vectors into `out`, for a matrix Y whose tiles the function `tile` computes. The sums over tokens have
    the type of the tiles."""
    for classes in grid.classes():
        sums = out[classes].to(grid.dtype)
        for chunk in grid.chunks():
            products.add(sums, tile(chunk, classes).t(), vectors[chunk], chunk.start > 0)
        if sums.dtype != out.dtype:
            out[classes] = sums


class Logits:
    """The logits hidden·Wᵀ + bias + flow_scale·y of tokens, a tile at a time.

    head: hidden `[T, d]` and flow_scale `[T]`. state: y `[T, K]`, which is not used if flow_scale is None. dtype: the
    type of the arithmetic. grids, whole: as for `Grid`.
    """

    def __init__(self, library: Any, head: LinearHead, state: Any, dtype: torch.dtype, grids: int, whole: bool = False):
        hidden, weight, bias, scale = head
        self.library, self.dtype, self.products = library, dtype, Products(library, dtype, hidden, weight)
        self.hidden, self.weight, self.state = hidden.to(self.products.dtype), weight, state
        self.bias, self.scale = (value if value is None else value.to(dtype) for value in (bias, scale))
        self.grid = Grid(len(hidden), len(weight), weight.shape[1], weight, dtype, grids, whole)
        self._rows: tuple[slice | None, Tensor] = None, weight
        self.least: Tensor | None = None  # for each token, a limit below which a logit becomes −∞

    def rows(self, classes: slice) -> Tensor:
        """The rows of the weight for some classes."""
        if self._rows[0] != classes:
            self._rows = classes, self.weight[classes].to(self.products.dtype)
        return self._rows[1]

    def y(self, chunk: Any, classes: slice) -> Tensor:
        """A tile of y."""
        return self.state[chunk, classes]

    def tiles(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Yields the tokens, the classes and the logits of each tile."""
        for classes in self.grid.classes():
            for chunk in self.grid.chunks():
                yield chunk, classes, self.tile(chunk, classes)

    def tile(self, chunk: slice | Tensor, classes: slice) -> Tensor:
        hidden, rows = self.hidden[chunk], self.rows(classes)
        logits = self.grid.tile(slice(0, len(hidden)), classes)
        for columns in slices_of(len(rows), BLOCK):
            block = logits[:, columns]
            self.products.add(block, hidden, rows[columns].t(), False)
            if self.bias is not None:
                block.add_(self.bias[classes][columns])
        if self.scale is not None:
            logits.addcmul_(self.scale[chunk].unsqueeze(-1), self.y(chunk, classes).to(self.dtype))
        if self.least is not None:
            logits.masked_fill_(logits < self.least[chunk].unsqueeze(-1), -torch.inf)
        return logits


def likeliest(
    tiles: Iterator[tuple[slice, slice, Tensor]], like: Tensor, dtype: torch.dtype, shard: Shard
) -> tuple[Tensor, Tensor]:
    """For each token, the class with the largest number, or the first one of several, and whether this number is
    finite.

    tiles: the tokens, the classes and the numbers of each tile. like: a tensor with a row for each token. dtype: the
    type of the numbers.
    """
    top = like.new_full((len(like),), -torch.inf, dtype=dtype)
    mode = torch.zeros_like(top, dtype=torch.int64)
    for chunk, classes, numbers in tiles:
        tile_top, index = numbers.max(-1)
        higher = ~((tile_top <= top[chunk]) | top[chunk].isnan())  # the first NaN counts as the highest
        mode[chunk] = torch.where(higher, index + classes.start, mode[chunk])
        top[chunk] = torch.where(higher, tile_top, top[chunk])
    top, process = shard.gathered(top).max(0)
    return shard.gathered(shard.first + mode).gather(0, process.unsqueeze(0)).squeeze(0), top.isfinite()
