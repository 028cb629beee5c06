"""The operators of the losses of a linear head, composed of tiles (see `tiles`) and matrix products.

An operator takes the arguments of the function of the same name in `reference.py`, whose docstring says their shapes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bfn_kernels.call.checks import compute_dtype
from bfn_kernels.call.reduction import MEAN, reduce
from bfn_kernels.discrete.reference import softplus_fall
from bfn_kernels.records import FlowLogits, LinearHead, LossTarget, Noise
from bfn_kernels.vocabulary.composed_flow import flow_embedding as flow_embedding
from bfn_kernels.vocabulary.composed_flow import flow_embedding_backward as flow_embedding_backward
from bfn_kernels.vocabulary.composed_steps import mode as mode
from bfn_kernels.vocabulary.composed_steps import step as step
from bfn_kernels.vocabulary.operators import types_of_head
from bfn_kernels.vocabulary.reference import Cost
from bfn_kernels.vocabulary.shards import Shard
from bfn_kernels.vocabulary.sums import Row, Sums
from bfn_kernels.vocabulary.tile_functions import Messages, kernel_of, less_grown, tile_function
from bfn_kernels.vocabulary.tiles import HALF, Logits, Tokens, for_products

Tensors = tuple[Tensor, ...]
ByLogits = Callable[[Tensor, slice, slice], None]  # writes the gradient by a tile of logits in the place of these


class Head(Logits):
    """The logits of tokens whose classes are known."""

    def __init__(
        self,
        library: Any,
        x: Tensor,
        head: LinearHead,
        of: FlowLogits,
        mask: Tensor | None,
        shard: Shard,
        whole: bool = False,
    ):
        self.tokens, (hidden, weight, _, scale) = Tokens(x, shard, mask), head
        scale = scale if scale is None else self.tokens.numbers(scale)
        of_tokens = head._replace(hidden=self.tokens.records(hidden), flow_scale=scale)
        super().__init__(library, of_tokens, None, compute_dtype(*head), 1 if scale is None else 2, whole)
        self.flow_grid = self.grid.beside()
        if scale is not None:
            self.flow = self._flow(of)
        narrow = hidden.dtype == weight.dtype and weight.dtype in HALF and scale is None
        self.head_sums = kernel_of(library, "head_sums", weight) if narrow else None
        self.sums_tile, self.slopes_tile = (
            tile_function(library, f"{name}_tile", weight) for name in ("sums", "slopes")
        )

    def _flow(self, of: FlowLogits) -> Callable[[slice, slice], Tensor]:
        """A function that makes a tile of the flow's logits, in the memory of `flow_grid`."""
        messages = Messages(self.library, self.tokens, of.beta, of.spread, Noise(of.flow_seed, of.flow_noise))
        flow_tile, grid = messages.function("flow_tile"), self.flow_grid

        def flow(part: slice, classes: slice) -> Tensor:
            y = grid.tile(part, classes)
            flow_tile(part, classes, False, y, None, None, None)
            return y

        return flow

    def each(self, rate: Tensor | None) -> Tensor | None:
        """The rate of each token, if there is one."""
        return rate if rate is None else self.tokens.numbers(rate)

    def sent(self, cost: Cost) -> Messages:
        """The messages that the joint receiver sees."""
        spread = (self.tokens.num_classes * cost.alpha).sqrt()
        return Messages(self.library, self.tokens, cost.alpha, spread, Noise(cost.seed, cost.noise))

    def scale_of(self, reduction: int) -> Tensor:
        """The factor that the reduction multiplies losses by."""
        one, mask = self.hidden.new_ones((), dtype=torch.float64), self.tokens.mask
        if reduction != MEAN:
            return one
        return one / (max(self.tokens.shape.numel(), 1) if mask is None else mask.sum().clamp(min=1))

    def reduced(self, losses: Tensor, reduction: int) -> Tensor:
        each = self.tokens.put_back(torch.where(self.tokens.valid, losses, torch.nan))
        return reduce(each, self.tokens.mask, reduction).to(self.dtype)


def loss(
    library: Any, x: Tensor, of_head: LinearHead, flow: FlowLogits, cost: Cost, to: LossTarget, shard: Shard
) -> Tensors:
    """The loss reduced, and the sums of each token, which the backward pass reads."""
    head = Head(library, x, of_head, flow, to.mask, shard)
    stats = _sums(head, cost)
    if cost.alpha is None:
        losses = _row(stats).loss(head.each(cost.rate))
    else:
        losses = cost.n_steps * _divergences(stats)[0].mean(0)
    return head.reduced(losses, to.reduction), head.tokens.put_back(stats.transpose(0, 1).contiguous())


def _sums(head: Head, cost: Cost) -> Tensor:
    """The `Sums` of the logits z of each token, then the `Sums` of z + y for each draw of the message y, with y_x
    instead of z_x: `[1 + n_samples, T, 4]`."""
    stats = Sums.of_none(head.hidden, 1 + cost.n_samples, len(head.hidden))
    if head.head_sums is not None and cost.alpha is None:
        hidden = head.hidden.to(head.weight.dtype)
        head.head_sums(hidden, head.weight, head.bias, head.tokens.x, head.tokens.shard.first, stats[0])
    else:
        draws_tile = None if cost.alpha is None else head.sent(cost).function("draws_tile")
        for part, classes, z in head.tiles():
            head.sums_tile(z, head.tokens.x[part], head.tokens.first(classes), stats[0, part])
            if draws_tile is not None:
                draws_tile(part, classes, stats[1:, part], z)
    together, *others = head.tokens.shard.gathered(stats)
    for each in others:
        Sums(*each.unbind(-1)).add_to(together)
    return together


def _row(stats: Tensor) -> Row:
    """Of the logits' own sums."""
    return Row.of(Sums(*stats[0].unbind(-1)))


def _divergences(stats: Tensor) -> tuple[Tensor, Tensor]:
    """Of each draw and token `[n_samples, T]`: y_x + LSE(z) − LSE(z + y), and the shift LSE(z + y) − LSE(z)."""
    z, of_both = (Sums(*part.unbind(-1)) for part in (stats[0], stats[1:]))
    before, after, y_x = z.log(), of_both.log(), of_both.z_x
    gap = torch.where(_row(stats).max.isnan(), torch.nan, before - z.z_x)
    shift = torch.logaddexp(after, z.z_x + y_x) - torch.logaddexp(before, z.z_x)
    return softplus_fall(gap, after - before - y_x), shift


def loss_backward(
    library: Any,
    grad: Tensor,
    x: Tensor,
    of_head: LinearHead,
    flow: FlowLogits,
    cost: Cost,
    to: LossTarget,
    stats: Tensor,
    shard: Shard,
    wanted: Sequence[bool],
) -> Tensors:
    """The gradients of the head's tensors, in their types. Gradients that are not wanted are empty."""
    head = Head(library, x, of_head, flow, to.mask, shard)
    tokens, stats = head.tokens, head.tokens.records(stats).transpose(0, 1)
    by_loss = grad.double().reshape(*grad.shape, *(1,) * (len(tokens.shape) - grad.dim()))
    factor = torch.where(tokens.valid, head.scale_of(to.reduction) * tokens.numbers(by_loss), 0)
    by_logits = _by_slopes(head, stats, cost, factor) if cost.alpha is None else _by_draws(head, stats, cost, factor)
    return _gradients(head, by_logits, types_of_head(of_head), wanted)


def _by_slopes(head: Head, stats: Tensor, cost: Cost, factor: Tensor) -> ByLogits:
    slopes, tokens = _row(stats).slopes(head.each(cost.rate), factor).to(head.dtype), head.tokens
    return lambda z, part, classes: head.slopes_tile(tokens.x[part], slopes[part], tokens.first(classes), z)


def _by_draws(head: Head, stats: Tensor, cost: Cost, factor: Tensor) -> ByLogits:
    """The gradient of L_n by a logit is the mean over draws of n(p − p'), p' = softmax(z + y), computed as
    np(1 − exp(y − shift))."""
    row, (divergences, shift) = _row(stats), _divergences(stats)
    factor, log_total = factor * (cost.n_steps / cost.n_samples), row.total().log()
    by_x = factor * less_grown(row.z_x - row.max - log_total, divergences).sum(0)
    each = torch.stack([by_x, row.max, log_total, factor], -1).to(head.dtype)
    shift, slopes_tile = shift.to(head.dtype).contiguous(), head.sent(cost).function("draw_slopes_tile")
    return lambda z, part, classes: slopes_tile(part, classes, each[part], shift[:, part], z)


def loss_with_gradients(
    library: Any,
    x: Tensor,
    of_head: LinearHead,
    flow: FlowLogits,
    rate: Tensor | None,
    to: LossTarget,
    *wanted: bool,
) -> Tensors:
    """L∞ or, without a rate, the reconstruction loss, reduced to a number, and its gradients.

    A tile has all classes of its tokens, so the logits are made only once. The gradients have the type of the
    arithmetic, since they will be multiplied by the gradient of the loss, such as the scale of mixed precision.
    """
    head = Head(library, x, of_head, flow, to.mask, Shard(0, len(of_head.weight), None), whole=True)
    stats, rates = Sums.of_none(head.hidden, 1, len(head.hidden)), head.each(rate)
    factor = torch.where(head.tokens.valid, head.scale_of(to.reduction), 0)

    def by_logits(z: Tensor, part: slice, classes: slice) -> None:
        x, first = head.tokens.x[part], head.tokens.first(classes)
        head.sums_tile(z, x, first, stats[0, part])
        slopes = _row(stats[:, part]).slopes(rates if rates is None else rates[part], factor[part])
        head.slopes_tile(x, slopes.to(head.dtype), first, z)

    gradients = _gradients(head, by_logits, [head.dtype] * 4, wanted)
    return head.reduced(_row(stats).loss(rates), to.reduction), *gradients


def _gradients(head: Head, by_logits: ByLogits, dtypes: Sequence[torch.dtype], wanted: Sequence[bool]) -> Tensors:
    """The gradients of the head's tensors, in the types `dtypes`."""
    weight, (want_hidden, want_weight, want_bias, want_scale) = head.weight, wanted
    by_hidden = head.hidden.new_zeros(head.hidden.shape if want_hidden else (0,), dtype=head.dtype)
    by_weight = for_products(head.grid, weight, weight.shape if want_weight else (0,), dtypes[1])
    by_bias = weight.new_zeros(len(weight) if want_bias else 0, dtype=torch.float64)
    by_scale = weight.new_zeros(len(head.hidden) if want_scale else 0, dtype=torch.float64)
    for classes in head.grid.classes():
        sums = by_weight[classes].to(head.dtype) if want_weight else by_weight
        for part in head.grid.parts():
            tile = head.tile(part, classes)
            by_logits(tile, part, classes)
            if want_hidden:
                head.products.add(by_hidden[part], tile, head.rows(classes))
            if want_weight:
                head.products.add(sums, tile.t(), head.hidden[part], part.start > 0)
            if want_bias:
                by_bias[classes] += tile.sum(0)  # torch would copy the tile for a sum in float64
            if want_scale:
                y = head.flow_grid.tile(part, classes)  # the memory that still has the flow's logits
                by_scale[part] += y.mul_(tile).sum(1)
        if want_weight and sums.dtype != by_weight.dtype:
            by_weight[classes] = sums
    if want_hidden:
        by_hidden = head.tokens.put_back(head.tokens.shard.summed(by_hidden))
    if want_scale:
        by_scale = head.tokens.put_back(head.tokens.shard.summed(by_scale))
    return by_hidden.to(dtypes[0]), by_weight, by_bias.to(dtypes[2]), by_scale.to(dtypes[3])
