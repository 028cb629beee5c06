"""Functions that compute with one tile of a large vocabulary (see `tiles`). A library of `torch.ops` may have kernels
for some of them. Without a kernel, the function or method of the same name in this module computes the same in plain
PyTorch. csrc/ops/vocabulary.h describes the functions, except for `draws_tile` and `draw_slopes_tile`, for which only
Triton has kernels. Numbers in parentheses are equations of Graves et al. 2023."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bfn_kernels import noise as random
from bfn_kernels.discrete.reference import one_hot
from bfn_kernels.operators import TRITON
from bfn_kernels.records import Noise
from bfn_kernels.vocabulary.sums import Sums


def kernel_of(library: Any, name: str, like: Tensor) -> Callable | None:
    """The library's kernel of this name for tiles on the device of `like`, if it has one."""
    return getattr(library.vocabulary, name, None) if like.is_cpu or library.kind == TRITON else None


def tile_function(library: Any, name: str, like: Tensor) -> Callable:
    """The library's kernel of this name, or the function of this module."""
    return kernel_of(library, name, like) or globals()[name]


def sums_tile(logits: Tensor, x: Tensor, first: int, sums: Tensor) -> None:
    is_x = one_hot(x - first, logits.shape[1])
    z_x = torch.where(is_x, logits, 0).sum(-1)
    Sums.of_tile(z_x, logits.masked_fill(is_x, -torch.inf)).add_to(sums)


def slopes_tile(x: Tensor, slopes: Tensor, first: int, logits: Tensor) -> None:
    by_x, top, slope, level, origin = slopes.unsqueeze(-1).unbind(1)
    e = logits.sub_(top).exp_()
    others = (e - origin).mul_(slope).add_(level).mul_(e)
    torch.where(one_hot(x - first, logits.shape[1]), by_x, others, out=logits)


def step_tile(
    x: Tensor,
    rows: Tensor,
    alpha: Tensor,
    spread: Tensor | None,
    keep: Tensor | None,
    seed: Tensor | None,
    noise: Tensor | None,
    first: int,
    num_classes: int,
    shared: bool,
    state: Tensor,
    numbers: Tensor,
    out: Tensor,
    *sums: Tensor | None,
) -> None:
    count, dtype = numbers.shape[1], numbers.dtype
    p = torch.where(x.unsqueeze(-1) < 0, numbers if shared else torch.nan, one_hot(x - first, count).to(dtype))
    new = alpha.unsqueeze(-1) * (num_classes * p - 1)
    if spread is not None:
        if noise is None:
            noise = random.class_normal_tile(rows, first, count, num_classes, seed, random.SENDER, 0, dtype)
        new += spread.unsqueeze(-1) * noise
    new += state if keep is None else keep.unsqueeze(-1) * state
    out.copy_(new)
    if sums[0] is not None:
        _to_exponentials(numbers.copy_(out), *sums)


def _to_exponentials(numbers: Tensor, top: Tensor, total: Tensor, kept: Tensor) -> None:
    """Overwrites the numbers of a tile by exp(number − new top). Updates top, total and kept as `tiles.OnlineSoftmax`
    describes."""
    new_top = torch.maximum(top, numbers.amax(-1))
    kept.copy_(top.sub_(new_top).exp_())
    top.copy_(new_top)
    total.mul_(kept).add_(numbers.sub_(new_top.unsqueeze(-1)).exp_().sum(-1))


def p_minus_grown(log_p: Tensor, growth: Tensor) -> Tensor:
    """p − p·exp(growth). It does not cancel if growth is near 0, and does not overflow if growth is large."""
    p = log_p.exp()
    return torch.where(growth > 1, p - (log_p + growth).exp(), -p * growth.clamp(max=1).expm1())


class Messages:
    """The messages y = α(Ke_x − 1) + √(Kα)·ε about tokens (185), and the computations on tiles of y. For a flow, α is
    the accuracy β of all messages so far."""

    def __init__(self, library: Any, tokens: Any, alpha: Tensor, spread: Tensor, noise: Noise):
        self.library, self.tokens, self.seed, self.noise = library, tokens, noise.seed, noise.noise
        self.alpha, self.spread = tokens.scalars(alpha), tokens.scalars(spread)

    def kernel(self, name: str) -> Callable | None:
        """The library's kernel, or None. Kernels cannot read explicit noise."""
        return kernel_of(self.library, name, self.alpha) if self.noise is None else None

    def function(self, name: str) -> Callable:
        """The library's kernel or the method of this name, as a function that first takes the tokens and the classes of
        a tile."""
        kernel = self.kernel(name)
        if kernel is None:
            return getattr(self, name)
        return lambda chunk, classes, *others: kernel(*self.kernel_arguments(chunk, classes), *others)

    def kernel_arguments(self, chunk: slice, classes: slice) -> tuple:
        """The arguments of a kernel that describe the messages of a tile."""
        tokens = self.tokens
        of_tokens = (values[chunk] for values in (tokens.x, tokens.rows, self.alpha, self.spread))
        return *of_tokens, self.seed, tokens.first(classes), tokens.num_classes

    def tile(self, chunk: slice, classes: slice, stream: int = random.SENDER, draw: int = 0) -> Tensor:
        x, rows, alpha, spread, seed, first, num_classes = self.kernel_arguments(chunk, classes)
        count = classes.stop - classes.start
        if self.noise is None:
            eps = random.class_normal_tile(rows, first, count, num_classes, seed, stream, draw, alpha.dtype)
        else:
            noise = self.noise if stream == random.SENDER else self.noise[draw]
            eps = noise.reshape(-1, num_classes)[rows, first : first + count].to(alpha.dtype)
        e_x = one_hot(x - first, count).to(alpha.dtype)
        return alpha.unsqueeze(-1) * (num_classes * e_x - 1) + spread.unsqueeze(-1) * eps

    def is_x(self, chunk: slice, classes: slice) -> Tensor:
        """True where a number of a tile is the one of its token's class x."""
        return one_hot(self.tokens.x[chunk] - self.tokens.first(classes), classes.stop - classes.start)

    def flow_tile(self, chunk: slice, classes: slice, again: bool, out: Tensor, *sums: Tensor | None) -> None:
        top, total, kept = sums
        out.copy_(self.tile(chunk, classes))
        if top is None or total is None:
            return
        if again or kept is None:
            out.sub_(top.unsqueeze(-1)).exp_().div_(total.unsqueeze(-1))
        else:
            _to_exponentials(out, top, total, kept)

    def draws_tile(self, chunk: slice, classes: slice, sums: Tensor, logits: Tensor) -> None:
        is_x = self.is_x(chunk, classes)
        others = logits.masked_fill(is_x, -torch.inf)
        top = others.amax(-1).clamp_(min=torch.finfo(logits.dtype).min)
        others.sub_(top.unsqueeze(-1))  # so that a small y keeps its digits in the sum
        for draw, sums_of_draw in enumerate(sums):
            y = self.tile(chunk, classes, random.MONTE_CARLO, draw)
            y_x = torch.where(is_x, y, 0).sum(-1)
            tile_sums = Sums.of_tile(y_x, y.add_(others))
            tile_sums._replace(top=tile_sums.top + top).add_to(sums_of_draw)

    def draw_slopes_tile(self, chunk: slice, classes: slice, slopes: Tensor, shift: Tensor, logits: Tensor) -> None:
        by_x, top, log_total, factor = slopes.unsqueeze(-1).unbind(1)
        log_p, sums = logits.sub_(top).sub_(log_total), torch.zeros_like(logits)
        for draw, shift_of_draw in enumerate(shift.unsqueeze(-1)):
            growth = self.tile(chunk, classes, random.MONTE_CARLO, draw).sub_(shift_of_draw)
            sums += p_minus_grown(log_p, growth)
        torch.where(self.is_x(chunk, classes), by_x, sums.mul_(factor), out=logits)
