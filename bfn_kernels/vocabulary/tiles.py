"""Ops of large vocabularies: numbers per class are made, used and forgotten tile by tile, and never stored as a whole.

A tile is some tokens by some classes. The outer loop is over classes, so that the part of the weight that a tile needs,
and of its gradient, stays in the cache while all tokens pass. What is known of a token's classes so far are a few sums,
in float64. The backward pass makes the numbers again, by a matrix product or from the seed; only a loss that makes its
gradients in the forward pass has tiles of whole rows, and logits once.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed

from bfn_kernels import noise as random
from bfn_kernels.call.checks import valid_classes
from bfn_kernels.call.reduction import hide
from bfn_kernels.discrete.reference import one_hot
from bfn_kernels.operators import TRITON
from bfn_kernels.records import LinearHead

TOKENS = 1024  # of a tile; a matrix product of fewer reads the weight more often than it can hide
NUMBERS = {"cpu": 2**18}  # of a tile: 1 MiB in float32; with 4 MiB matrix products take up to twice as long
# of a tile on any other device, where a small one would leave most of it idle; Triton has 4096 classes in registers
MANY_TOKENS, MANY_NUMBERS = 2**12, 2**24
BLOCK = 512  # classes whose logits are made at a time, so that a bias finds them in the cache
FUSED_WIDTH = 256  # of vectors of 16 bits, up to which a program can have the sums of tokens in its registers
HALF = (torch.bfloat16, torch.float16)


class Shard(NamedTuple):
    """The classes of this process: from number `first` on, of `num_classes` in all. `group` is the name of the process
    group that has them all, or None where they are all here."""

    first: int
    num_classes: int
    group: str | None

    @property
    def place(self) -> int:
        """The number of this process in the group."""
        return 0 if self.group is None else _group_of(self.group).rank()

    def gathered(self, values: Tensor) -> Tensor:
        """The values of every process, in a new first dimension."""
        if self.group is None:
            return values.unsqueeze(0)
        group = _group_of(self.group)
        found = [torch.empty_like(values) for _ in range(group.size())]
        distributed.all_gather(found, values, group)
        return torch.stack(found)

    def summed(self, values: Tensor) -> Tensor:
        """Their sum, in the place of the values of this process."""
        if self.group is not None:
            distributed.all_reduce(values, group=_group_of(self.group))
        return values


def _group_of(name: str) -> Any:
    """An operator's arguments may be strings, not groups; this is how torch's own operators find one by its name."""
    return distributed.distributed_c10d._resolve_process_group(name)  # type: ignore[arg-type]


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


class Normals:
    """The normals of classes, explicit or made from a seed, a tile at a time."""

    def __init__(self, tokens: Tokens, seed: Tensor | None, noise: Tensor | None, dtype: torch.dtype, stream: int):
        self.tokens, self.seed, self.noise, self.dtype, self.stream = tokens, seed, noise, dtype, stream

    def tile(self, part: slice, classes: slice, draw: int = 0) -> Tensor:
        rows, first, count = self.tokens.rows[part], self.tokens.first(classes), classes.stop - classes.start
        if self.noise is None:
            return random.class_normal_tile(
                rows, first, count, self.tokens.num_classes, self.seed, self.stream, draw, self.dtype
            )
        each = self.noise if self.stream == random.SENDER else self.noise[draw]
        return each.reshape(-1, self.tokens.num_classes)[rows, first : first + count].to(self.dtype)


class Messages:
    """The messages y = α(Ke_x − 1) + √(Kα)·ε about tokens, a tile at a time (185)."""

    def __init__(self, tokens: Tokens, alpha: Tensor, spread: Tensor, normals: Normals):
        self.tokens, self.normals = tokens, normals
        self.alpha, self.spread = (tokens.numbers(row).unsqueeze(-1) for row in (alpha, spread))

    def tile(self, part: slice, classes: slice, draw: int = 0) -> Tensor:
        sent = is_x(self.tokens, part, classes).to(self.alpha.dtype)
        eps = self.normals.tile(part, classes, draw)
        return self.alpha[part] * (self.tokens.num_classes * sent - 1) + self.spread[part] * eps

    def kernel(self, library: Any, name: str) -> Callable | None:
        """The library's kernel for what is done with a tile of them, if it has one; kernels make noise from a seed."""
        return kernel_of(library, name, self.alpha) if self.normals.noise is None else None

    def of(self, part: slice, classes: slice) -> tuple:
        """The arguments of which such a kernel makes a tile."""
        tokens = self.tokens
        sent = (row[part].flatten() for row in (tokens.x, tokens.rows, self.alpha, self.spread))
        return *sent, self.normals.seed, tokens.first(classes), tokens.num_classes


def exponentials(numbers: Tensor, top: Tensor, total: Tensor, kept: Tensor) -> Tensor:
    """A tile's exp(number − top), in the place of the numbers. Of each token `top`, the largest number so far, and
    `total`, the sum of all exponentials so far, are joined with the tile's; `kept` becomes the factor of those by the
    old top."""
    most = torch.maximum(top, numbers.amax(-1))
    kept.copy_(top.sub_(most).exp_())
    top.copy_(most)
    e = numbers.sub_(most.unsqueeze(-1)).exp_()
    total.mul_(kept).add_(e.sum(-1))
    return e


def joined(shard: Shard, top: Tensor, total: Tensor, sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`top` and `total` of the exponentials of all processes, and sums `[T, d]` by them."""
    if shard.group is None:
        return top, total, sums
    tops, totals = shard.gathered(torch.stack([top, total])).unbind(1)
    most = tops.amax(0)
    total = ((tops - most).exp() * totals).sum(0)
    return most, total, shard.summed(sums * (top - most).exp().unsqueeze(-1))


def kernel_of(library: Any, name: str, like: Tensor) -> Callable | None:
    """The library's kernel of this name for tiles on the device of `like`, if it has one."""
    return getattr(library.vocabulary, name, None) if like.is_cpu or library.kind == TRITON else None


class Products:
    """Products with vectors, in the type of the arithmetic or, where the library has a kernel for it, on tensor cores.
    `dtype` is the type that the vectors must have. float16 would lose what they are multiplied by if that is small."""

    def __init__(self, library: Any, dtype: torch.dtype, *vectors: Tensor):
        narrow = dtype == torch.float32 and all(each.dtype == torch.bfloat16 for each in vectors)
        self.kernel = kernel_of(library, "product", vectors[0]) if narrow else None
        self.dtype = torch.bfloat16 if self.kernel else dtype

    def add(self, sums: Tensor, a: Tensor, b: Tensor, add: bool = True) -> Tensor:
        """Adds a·b or, if not `add`, writes it, and does not read what is there."""
        if self.kernel is None:
            return sums.addmm_(a, b, beta=float(add))
        self.kernel(a, b, add, sums)
        return sums


class Logits:
    """The logits hidden·Wᵀ + bias + flow_scale·y of tokens, a tile at a time.

    head: hidden `[T, d]` and flow_scale `[T]`. y: a function that makes a tile of the flow's logits, or None. dtype:
    the type of the arithmetic. grids: how many tiles are used at the same time.
    """

    def __init__(
        self,
        library: Any,
        head: LinearHead,
        y: Callable[[Any, slice], Tensor] | None,
        dtype: torch.dtype,
        grids: int = 1,
        whole: bool = False,
    ):
        hidden, weight, bias, scale = head
        self.dtype, self.products = dtype, Products(library, dtype, hidden, weight)
        self.hidden, self.weight, self.flow = hidden.to(self.products.dtype), weight, y
        self.bias, self.scale = (each if each is None else each.to(dtype) for each in (bias, scale))
        self.grid, self.other_grid = (
            Grid(len(hidden), weight.shape[0], weight.shape[1], weight, dtype, grids, whole) for _ in range(2)
        )

    def rows(self, classes: slice) -> Tensor:
        """The part of the weight that belongs to some classes."""
        return self.weight[classes].to(self.products.dtype)

    def tile(self, part: slice | Tensor, classes: slice, rows: Tensor) -> Tensor:
        hidden = self.hidden[part]
        memory = self.grid.tile(slice(0, len(hidden)), classes)
        for some in _parts(len(rows), BLOCK):
            logits = self.products.add(memory[:, some], hidden, rows[some].t(), False)
            if self.bias is not None:
                logits.add_(self.bias[classes][some])
        if self.flow is not None and self.scale is not None:
            memory.addcmul_(self.scale[part].unsqueeze(-1), self.flow(part, classes).to(self.dtype))
        return memory


def is_x(tokens: Tokens, part: slice, classes: slice) -> Tensor:
    """Where a tile has its tokens' own classes."""
    return one_hot(tokens.x[part] - tokens.first(classes), classes.stop - classes.start)
