"""Functions that compute with one tile of a large vocabulary (see `tiles`). A library of `torch.ops` may have kernels
for some of them. Without a kernel, the function or method of the same name in this module computes the same in plain
PyTorch. csrc/ops/vocabulary.h describes the functions. The methods of `Messages` are not described there, since only
Triton has kernels for them. Numbers in parentheses are equations of Graves et al. 2023."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bfn_kernels import noise as random
from bfn_kernels.declarations import TRITON
from bfn_kernels.discrete.reference import one_hot
from bfn_kernels.records import Noise, TileMessages, grouped
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


@grouped
def step_tile(
    messages: TileMessages,
    keep: Tensor | None,
    noise: Tensor | None,
    shared: bool,
    again: bool,
    state: Tensor | None,
    out: Tensor | None,
    numbers: Tensor,
    *softmax: Tensor | None,
) -> None:
    x, rows, _, spread, seed, first, num_classes = messages
    count, dtype = numbers.shape[1], numbers.dtype
    p = one_hot(x - first, count).to(dtype)
    if state is not None:
        p = torch.where(x.unsqueeze(-1) < 0, numbers if shared else torch.nan, p)
    if spread is not None and noise is None:
        noise = random.class_normal_tile(rows, first, count, num_classes, seed, random.SENDER, 0, dtype)
    new = _messages(messages, p, noise)
    if state is not None:
        new += state if keep is None else keep.unsqueeze(-1) * state
    if out is not None:
        new = out.copy_(new)  # which rounds it to the type of the state
    top, total, kept = softmax
    if top is None:
        if out is None:
            numbers.copy_(new)
    elif again:
        numbers.copy_(new).sub_(top.unsqueeze(-1)).exp_().div_(total.unsqueeze(-1))
    else:
        _to_exponentials(numbers.copy_(new), top, total, kept)


def _messages(of: TileMessages, p: Tensor, eps: Tensor | None) -> Tensor:
    """y = α(Kp − 1) + √(Kα)·ε (185)."""
    y = of.alpha.unsqueeze(-1) * (of.num_classes * p - 1)
    return y if of.spread is None else y.add_(of.spread.unsqueeze(-1) * eps)


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
        self.step_tile = tile_function(library, "step_tile", self.alpha)

    def kernel(self, name: str) -> Callable | None:
        """The library's kernel, or None. These kernels cannot read explicit noise."""
        return kernel_of(self.library, name, self.alpha) if self.noise is None else None

    def function(self, name: str) -> Callable:
        """The library's kernel or the method of this name, as a function that first takes the tokens and the classes of
        a tile."""
        kernel = self.kernel(name)
        if kernel is None:
            return getattr(self, name)
        return lambda chunk, classes, *others: kernel(*self.of_tile(chunk, classes), *others)

    def of_tile(self, chunk: slice, classes: slice) -> TileMessages:
        """The messages of a tile, as a kernel takes them."""
        tokens, numbers = self.tokens, (self.alpha[chunk], self.spread[chunk])
        first, num_classes = tokens.first(classes), tokens.num_classes
        return TileMessages(tokens.x[chunk], tokens.rows[chunk], *numbers, self.seed, first, num_classes)

    def explicit(self, chunk: slice, classes: slice, noise: Tensor) -> Tensor:
        """The part of explicit noise that belongs to a tile."""
        first = self.tokens.first(classes)
        each = noise.reshape(-1, self.tokens.num_classes)
        return each[self.tokens.rows[chunk], first : first + classes.stop - classes.start]

    def draw(self, chunk: slice, classes: slice, draw: int) -> Tensor:
        """A tile of y for a draw of L_n."""
        of, e_x = self.of_tile(chunk, classes), self.is_x(chunk, classes).to(self.alpha.dtype)
        if self.noise is None:
            place = of.rows, of.first, e_x.shape[1], of.num_classes
            return _messages(of, e_x, random.class_normal_tile(*place, of.seed, random.MONTE_CARLO, draw, e_x.dtype))
        return _messages(of, e_x, self.explicit(chunk, classes, self.noise[draw]).to(e_x.dtype))

    def is_x(self, chunk: slice, classes: slice) -> Tensor:
        """True where a number of a tile is the one of its token's class x."""
        return one_hot(self.tokens.x[chunk] - self.tokens.first(classes), classes.stop - classes.start)

    def flow_tile(self, chunk: slice, classes: slice, again: bool, out: Tensor, *softmax: Tensor | None) -> None:
        noise = None if self.noise is None else self.explicit(chunk, classes, self.noise)
        keep = state = state_out = None  # a flow has no state before it
        messages = self.of_tile(chunk, classes)
        self.step_tile(*messages, keep, noise, False, again, state, state_out, out, *softmax)

    def draws_tile(self, chunk: slice, classes: slice, sums: Tensor, logits: Tensor) -> None:
        is_x = self.is_x(chunk, classes)
        others = logits.masked_fill(is_x, -torch.inf)
        top = others.amax(-1).clamp_(min=torch.finfo(logits.dtype).min)
        others.sub_(top.unsqueeze(-1))  # so that a small y keeps its digits in the sum
        for draw, sums_of_draw in enumerate(sums):
            y = self.draw(chunk, classes, draw)
            y_x = torch.where(is_x, y, 0).sum(-1)
            tile_sums = Sums.of_tile(y_x, y.add_(others))
            tile_sums._replace(top=tile_sums.top + top).add_to(sums_of_draw)

    def draw_slopes_tile(self, chunk: slice, classes: slice, slopes: Tensor, shift: Tensor, logits: Tensor) -> None:
        by_x, top, log_total, factor = slopes.unsqueeze(-1).unbind(1)
        log_p, sums = logits.sub_(top).sub_(log_total), torch.zeros_like(logits)
        for draw, shift_of_draw in enumerate(shift.unsqueeze(-1)):
            growth = self.draw(chunk, classes, draw).sub_(shift_of_draw)
            sums += p_minus_grown(log_p, growth)
        torch.where(self.is_x(chunk, classes), by_x, sums.mul_(factor), out=logits)
