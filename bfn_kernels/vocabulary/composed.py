"""The operators of the losses of a linear head, composed of tiles, which `tiles` describes, and matrix products.

An operator takes the arguments of the function of the same name in `reference.py`, whose docstring says their shapes.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bfn_kernels import noise as random
from bfn_kernels import records
from bfn_kernels.call.checks import compute_dtype
from bfn_kernels.call.reduction import MEAN, reduce
from bfn_kernels.discrete.reference import drifted
from bfn_kernels.records import FlowLogits, LinearHead, LossTarget, Noise
from bfn_kernels.vocabulary.composed_flow import flow_embedding as flow_embedding
from bfn_kernels.vocabulary.composed_flow import flow_embedding_backward as flow_embedding_backward
from bfn_kernels.vocabulary.composed_steps import mode as mode
from bfn_kernels.vocabulary.composed_steps import step as step
from bfn_kernels.vocabulary.operators import SUMS, types_of_head
from bfn_kernels.vocabulary.sums import LEAST, Row, Slopes, Sums
from bfn_kernels.vocabulary.tiles import (
    HALF,
    Logits,
    Messages,
    Normals,
    Shard,
    Tokens,
    for_products,
    is_x,
    kernel_of,
)

Tensors = tuple[Tensor, ...]


class Head(Logits):
    """The logits of tokens whose classes are known."""

    def __init__(
        self,
        library: Any,
        shard: Sequence[Any],
        x: Tensor,
        head: LinearHead,
        flow: FlowLogits,
        mask: Tensor | None,
        whole: bool = False,
    ):
        self.library, self.tokens = library, Tokens(x, Shard(*shard), mask)
        dtype, (hidden, weight, _, flow_scale) = compute_dtype(*head), head
        scale = flow_scale if flow_scale is None else self.tokens.numbers(flow_scale)
        of_tokens = head._replace(hidden=self.tokens.records(hidden), flow_scale=scale)
        y = self._flow(flow, dtype) if flow_scale is not None else None
        super().__init__(library, of_tokens, y, dtype, 1 if y is None else 2, whole)
        narrow = hidden.dtype == weight.dtype and weight.dtype in HALF and y is None
        self.head_sums = kernel_of(library, "head_sums", weight) if narrow else None
        self.sums_tile, self.slopes_tile = (kernel_of(library, f"{name}_tile", weight) for name in ("sums", "slopes"))

    def _flow(self, flow: FlowLogits, dtype: torch.dtype) -> Callable[[Any, slice], Tensor]:
        """A function that makes a tile of the flow's logits y. `self.y` remains the last tile."""
        noise = Normals(self.tokens, flow.flow_seed, flow.flow_noise, dtype, random.SENDER)
        messages = Messages(self.tokens, flow.beta, flow.spread, noise)
        kernel = messages.kernel(self.library, "flow_tile")

        def y(part: slice, classes: slice) -> Tensor:
            if kernel is None:
                self.y = messages.tile(part, classes)
            else:
                self.y = self.other_grid.tile(part, classes)
                kernel(*messages.of(part, classes), False, None, None, None, self.y)
            return self.y

        return y

    def rates(self, rate: Tensor | None) -> Tensor | None:
        """The rate of each token, or None for the reconstruction loss, which has none."""
        return rate if rate is None else self.tokens.numbers(rate)

    def no_sums(self, n_samples: int = 0) -> Tensor:
        """z_x and Sums of no logits for each token, then those of each draw: `[1 + n_samples, T, 4]`."""
        stats = self.hidden.new_zeros(1 + n_samples, len(self.hidden), SUMS, dtype=torch.float64)
        stats[..., 1] = LEAST  # the t of no class
        return stats

    def add_sums(self, stats: Tensor, z: Tensor, part: slice, classes: slice) -> None:
        """Adds a tile of logits to the sums of its tokens."""
        if self.sums_tile is not None:
            self.sums_tile(z, self.tokens.x[part], self.tokens.first(classes), stats)
            return
        here = is_x(self.tokens, part, classes)
        z_x = torch.where(here, z, 0).sum(-1)
        stats.copy_(_joined(stats, z_x, Sums.of_others(z.masked_fill(here, -torch.inf))))

    def sloped(self, z: Tensor, each: Tensor, part: slice, classes: slice) -> Tensor:
        """The gradient by a tile of logits, in their place where there is a kernel for it. each: the Slopes of its
        tokens, `[T, 5]`."""
        if self.slopes_tile is not None:
            self.slopes_tile(self.tokens.x[part], each, self.tokens.first(classes), z)
            return z
        by_x, most, slope, level, origin = each.unsqueeze(-1).unbind(1)
        e = z.sub_(most).exp_()
        others = (e - origin).mul_(slope).add_(level).mul_(e)
        return torch.where(is_x(self.tokens, part, classes), by_x, others)


def loss(
    library: Any,
    x: Tensor,
    head: LinearHead,
    flow: FlowLogits,
    rate: Tensor | None,
    to: LossTarget,
    shard: records.Shard,
) -> Tensors:
    tokens = Head(library, shard, x, head, flow, to.mask)
    stats = _sums(tokens)
    return _result(tokens, _costs(stats, tokens.rates(rate)), to.reduction, stats)


def _costs(stats: Tensor, rates: Tensor | None) -> Tensor:
    """L∞ or, without rates, the reconstruction loss of each token."""
    row = _row(stats)
    return row.cross_entropy() if rates is None else rates * row.squared_distance()


def discrete_time_loss(
    library: Any,
    x: Tensor,
    head: LinearHead,
    flow: FlowLogits,
    alpha: Tensor,
    noise: Noise,
    n_steps: int,
    n_samples: int,
    to: LossTarget,
    shard: records.Shard,
) -> Tensors:
    tokens = Head(library, shard, x, head, flow, to.mask)
    stats = _sums(tokens, _sent(tokens, alpha, *noise), n_samples)
    return _result(tokens, n_steps * _Divergences.of_sums(stats).of.mean(0), to.reduction, stats)


def _sent(head: Head, alpha: Tensor, seed: Tensor | None, noise: Tensor | None) -> Messages:
    """The messages that the joint receiver sees."""
    normals = Normals(head.tokens, seed, noise, head.dtype, random.MONTE_CARLO)
    return Messages(head.tokens, alpha, (head.tokens.num_classes * alpha).sqrt(), normals)


def _sums(head: Head, messages: Messages | None = None, n_samples: int = 0) -> Tensor:
    """z_x and Sums of the logits of each token, then y_x and Sums of z + y for each draw of its messages:
    `[1 + n_samples, T, 4]`."""
    stats = head.no_sums(n_samples)
    draws_tile = messages and messages.kernel(head.library, "draws_tile")
    fused = head.head_sums if messages is None else None
    if fused:
        hidden = head.hidden.to(head.weight.dtype)
        fused(hidden, head.weight, head.bias, head.tokens.x, head.tokens.shard.first, stats[0])
    for classes in () if fused else head.grid.classes():
        rows = head.rows(classes)
        for part in head.grid.parts():
            z = head.tile(part, classes, rows)
            head.add_sums(stats[0, part], z, part, classes)
            if draws_tile:
                draws_tile(z, *messages.of(part, classes), stats[1:, part])
            elif messages:
                _add_draws(stats[1:, part], z, messages, part, classes)
    first_of_all, *others = head.tokens.shard.gathered(stats)
    for each in others:
        first_of_all = _joined(first_of_all, each[..., 0], _sums_in(each))
    return first_of_all


def _add_draws(stats: Tensor, z: Tensor, messages: Messages, part: slice, classes: slice) -> None:
    """Adds y and z + y of a tile to the sums of each draw."""
    here = is_x(messages.tokens, part, classes)
    others = z.masked_fill(here, -torch.inf)
    top = others.amax(-1).clamp_(min=torch.finfo(z.dtype).min)
    others.sub_(top.unsqueeze(-1))  # so that the sum with y, which may be small, is rounded least where it is largest
    for draw, of_draw in enumerate(stats):
        y = messages.tile(part, classes, draw)
        y_x = torch.where(here, y, 0).sum(-1)
        found = Sums.of_others(y.add_(others))
        of_draw.copy_(_joined(of_draw, y_x, found._replace(top=found.top + top)))


def _joined(stats: Tensor, of_x: Tensor, sums: Sums) -> Tensor:
    return torch.stack([stats[..., 0] + of_x, *_sums_in(stats).joined(sums)], -1)


def _sums_in(stats: Tensor) -> Sums:
    """The sums of logits, or of z + y, which stand behind z_x or y_x."""
    return Sums(*stats[..., 1:].unbind(-1))


def _row(stats: Tensor) -> Row:
    """The logits' own sums."""
    return Row.of(stats[0, :, 0], _sums_in(stats[0]))


def _result(head: Head, loss: Tensor, reduction: int, stats: Tensor) -> Tensors:
    """The loss reduced, the factor of a mean, and what the backward pass reads."""
    kept = head.tokens.put_back(stats.transpose(0, 1).contiguous())
    return _reduced(head, loss, reduction), _scale(head, reduction).to(head.dtype), kept


def _reduced(head: Head, loss: Tensor, reduction: int) -> Tensor:
    tokens = head.tokens
    each = tokens.put_back(torch.where(tokens.valid, loss, torch.nan))
    return reduce(each, tokens.mask, reduction).to(head.dtype)


def _scale(head: Head, reduction: int) -> Tensor:
    """The factor that the reduction multiplies losses by."""
    tokens, one = head.tokens, head.hidden.new_ones((), dtype=torch.float64)
    if reduction != MEAN:
        return one
    return one / (max(tokens.shape.numel(), 1) if tokens.mask is None else tokens.mask.sum().clamp(min=1))


class _Divergences(NamedTuple):
    """Of each draw and token `[n_samples, T]`: y_x + LSE(z) − LSE(z + y), and the shift LSE(z + y) − LSE(z)."""

    of: Tensor
    shift: Tensor

    @staticmethod
    def of_sums(stats: Tensor) -> "_Divergences":
        z_x, y_x = stats[0, :, 0], stats[1:, :, 0]
        before, after = (_sums_in(part).log() for part in (stats[0], stats[1:]))
        gap = torch.where(_row(stats).max.isnan(), torch.nan, before - z_x)
        shift = torch.logaddexp(after, z_x + y_x) - torch.logaddexp(before, z_x)
        return _Divergences(drifted(gap, after - before - y_x), shift)


def loss_backward(
    library: Any, grad: Tensor, scale: Tensor, x: Tensor, of_head: LinearHead, flow: FlowLogits, *others: Any
) -> Tensors:
    """The gradients of the head's tensors, in their types, of L∞ or, without a rate, of the reconstruction loss.
    Gradients that are not wanted are empty."""
    rate, mask, stats, *shard, wanted = others
    head = Head(library, shard, x, of_head, flow, mask)
    stats = head.tokens.records(stats).transpose(0, 1)
    slopes = _slopes(stats, head.rates(rate), _factor(head, grad, scale)).to(head.dtype)

    def by_logits(z: Tensor, part: slice, classes: slice) -> Tensor:
        return head.sloped(z, slopes[part], part, classes)

    return _gradients(head, by_logits, types_of_head(of_head), wanted)


def loss_with_gradients(library: Any, x: Tensor, of_head: LinearHead, flow: FlowLogits, *others: Any) -> Tensors:
    """L∞ or, without a rate, the reconstruction loss, reduced to a number, and its gradients: the same of logits that
    are made once, since a tile has all classes of its tokens. The gradients are in the type of the arithmetic, since
    the gradient of the loss, such as the scale of mixed precision, is not known yet."""
    rate, mask, reduction, *wanted = others
    head = Head(library, (0, len(of_head.weight), None), x, of_head, flow, mask, whole=True)
    stats, rates = head.no_sums(), head.rates(rate)
    factor = torch.where(head.tokens.valid, _scale(head, reduction), 0)

    def by_logits(z: Tensor, part: slice, classes: slice) -> Tensor:
        head.add_sums(stats[0, part], z, part, classes)
        slopes = _slopes(stats[:, part], rates if rates is None else rates[part], factor[part])
        return head.sloped(z, slopes.to(head.dtype), part, classes)

    gradients = _gradients(head, by_logits, [head.dtype] * 4, wanted)
    return _reduced(head, _costs(stats, rates), reduction), *gradients


def _slopes(stats: Tensor, rates: Tensor | None, factor: Tensor) -> Tensor:
    """The Slopes of L∞ or, without rates, of the reconstruction loss, times a factor of each token: `[T, 5]`."""
    row = _row(stats)
    if rates is None:
        return torch.stack(Slopes.of_cross_entropy(row).times(factor), -1)
    return torch.stack(Slopes.of_squared_distance(row).times(factor * rates), -1)


def discrete_time_loss_backward(
    library: Any, grad: Tensor, scale: Tensor, x: Tensor, of_head: LinearHead, flow: FlowLogits, *others: Any
) -> Tensors:
    """The gradients of L_n. The gradient of a logit is the mean over draws of n(p − p'), p' = softmax(z + y), computed
    as np(1 − exp(y − shift))."""
    alpha, seed, noise, mask, stats, n_steps, n_samples, *shard, wanted = others
    head = Head(library, shard, x, of_head, flow, mask)
    stats = head.tokens.records(stats).transpose(0, 1)
    row, divergences = _row(stats), _Divergences.of_sums(stats)
    factor = _factor(head, grad, scale) * (n_steps / n_samples)
    log_x = row.z_x - row.max - row.total().log()
    by_x = (factor * _less(log_x, divergences.of).sum(0)).to(head.dtype).unsqueeze(-1)
    most, log_total, factor = (r.to(head.dtype).unsqueeze(-1) for r in (row.max, row.total().log(), factor))
    messages, shift = _sent(head, alpha, seed, noise), divergences.shift.to(head.dtype).contiguous()
    slopes_tile = messages.kernel(library, "draw_slopes_tile")
    each = torch.cat([by_x, most, log_total, factor], 1) if slopes_tile else None

    def by_logits(z: Tensor, part: slice, classes: slice) -> Tensor:
        if slopes_tile:
            slopes_tile(*messages.of(part, classes), each[part], shift[:, part], z)
            return z
        log_p = z.sub_(most[part]).sub_(log_total[part])
        sums = torch.zeros_like(z)
        for draw in range(n_samples):
            sums += _less(log_p, messages.tile(part, classes, draw).sub_(shift[draw, part].unsqueeze(-1)))
        return torch.where(is_x(head.tokens, part, classes), by_x[part], sums.mul_(factor[part]))

    return _gradients(head, by_logits, types_of_head(of_head), wanted)


def _less(log_p: Tensor, growth: Tensor) -> Tensor:
    """p − p·exp(growth), whose parts may be close to each other, or out of range in the product."""
    p = log_p.exp()
    return torch.where(growth > 1, p - (log_p + growth).exp(), -p * growth.clamp(max=1).expm1())


def _factor(head: Head, grad: Tensor, scale: Tensor) -> Tensor:
    """The gradient of the result by each token's loss."""
    shape = head.tokens.shape
    each = (grad * scale).double().reshape(*grad.shape, *(1,) * (len(shape) - grad.dim()))
    return torch.where(head.tokens.valid, head.tokens.numbers(each), 0)


def _gradients(head: Head, by_logits: Callable, dtypes: Sequence[torch.dtype], wanted: Sequence[bool]) -> Tensors:
    """The gradients of the head's tensors, in the types `dtypes`. `by_logits` makes the gradient of the logits of one
    tile."""
    weight = head.weight
    by_hidden = head.hidden.new_zeros(head.hidden.shape if wanted[0] else (0,), dtype=head.dtype)
    by_weight = for_products(head.grid, weight, weight.shape if wanted[1] else (0,), dtypes[1])
    by_bias = weight.new_zeros(len(weight) if wanted[2] else 0, dtype=torch.float64)
    by_scale = weight.new_zeros(len(head.hidden) if wanted[3] else 0, dtype=torch.float64)
    for classes in head.grid.classes():
        rows = head.rows(classes)
        sums = by_weight[classes].to(head.dtype) if wanted[1] else by_weight
        for part in head.grid.parts():
            tile = by_logits(head.tile(part, classes, rows), part, classes)
            if wanted[0]:
                head.products.add(by_hidden[part], tile, rows)
            if wanted[1]:
                head.products.add(sums, tile.t(), head.hidden[part], part.start > 0)
            if wanted[2]:
                by_bias[classes] += tile.sum(0)  # a sum in float64 would be of a copy of the tile
            if wanted[3]:
                by_scale[part] += head.y.mul_(tile).sum(1)
        if wanted[1] and sums.dtype != by_weight.dtype:
            by_weight[classes] = sums
    if wanted[0]:
        by_hidden = head.tokens.put_back(head.tokens.shard.summed(by_hidden))
    if wanted[3]:
        by_scale = head.tokens.put_back(head.tokens.shard.summed(by_scale))
    return by_hidden.to(dtypes[0]), by_weight, by_bias.to(dtypes[2]), by_scale.to(dtypes[3])
