"""The operators of flow embeddings and losses, composed of tiles (see `tiles`) and matrix products.

The first argument is `library`, the library of `torch.ops` whose other operators the function calls. `reference.py`
describes the other arguments of `flow_embedding` and `loss`. stats: a few numbers for each token, which the forward
pass returns for the backward pass. T is the number of tokens.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bfn_kernels.checks import compute_dtype, widest
from bfn_kernels.discrete.reference import softplus_fall
from bfn_kernels.formulas import MEAN, reduce
from bfn_kernels.records import FlowLogits, LinearHead, LossTarget, Noise
from bfn_kernels.vocabulary.composed_noisy import noisy_mode as noisy_mode
from bfn_kernels.vocabulary.composed_noisy import noisy_sum as noisy_sum
from bfn_kernels.vocabulary.composed_noisy import noisy_sum_backward as noisy_sum_backward
from bfn_kernels.vocabulary.composed_steps import mode as mode
from bfn_kernels.vocabulary.composed_steps import sample as sample
from bfn_kernels.vocabulary.composed_steps import step as step
from bfn_kernels.vocabulary.operators import types_of_head
from bfn_kernels.vocabulary.reference import Cost
from bfn_kernels.vocabulary.shards import Shard
from bfn_kernels.vocabulary.sums import Row, Sums
from bfn_kernels.vocabulary.tile_functions import Messages, kernel_of, p_minus_grown, tile_function
from bfn_kernels.vocabulary.tiles import (
    FUSED_WIDTH,
    HALF,
    NO_SOFTMAX,
    Grid,
    Logits,
    OnlineSoftmax,
    Products,
    Tokens,
    for_products,
    multiply_transposed,
)

Tensors = tuple[Tensor, ...]
# Replaces a tile of logits, in place, by the gradient of the loss with respect to these logits. The slices are the
# tokens and the classes of the tile.
ByLogits = Callable[[Tensor, slice, slice], None]


def flow_embedding(
    library: Any, x: Tensor, weight: Tensor, beta: Tensor, spread: Tensor, noise: Noise, shard: Shard
) -> tuple[Tensor, Tensor]:
    """Returns the embedding θ·W, and for each token the largest y and the sum of exp(y − largest). With these two
    numbers the backward pass computes θ again."""
    dtype, tokens = compute_dtype(weight), Tokens(x, shard)
    messages, products = Messages(library, tokens, beta, spread, noise), Products(library, dtype, weight)
    grid = Grid(x.numel(), len(weight), weight.shape[1], weight, dtype)
    theta = OnlineSoftmax(messages.alpha, weight.new_zeros(x.numel(), weight.shape[1], dtype=dtype))
    if fused := _fused(messages, "flow_products", weight):
        fused(*messages.of_tile(slice(None), slice(0, len(weight))), weight, theta.top, theta.total, theta.sums)
    else:
        flow_tile = messages.function("flow_tile")
        for classes in grid.classes():
            rows = weight[classes].to(products.dtype)
            for chunk in grid.chunks():
                e = grid.tile(chunk, classes)
                flow_tile(chunk, classes, False, e, *theta.numbers_of(chunk))
                products.add(theta.rescaled(chunk), e, rows)
    theta.join(shard)
    out = theta.sums.div_(torch.where(tokens.valid, theta.total, torch.nan).unsqueeze(-1))
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
    """The gradient of the weight, θᵀ·grad, in the type `dtype`. The weight has `count` rows."""
    tokens, width = Tokens(x, shard), grad.shape[-1]
    messages, products = Messages(library, tokens, beta, spread, noise), Products(library, stats.dtype, grad)
    grid = Grid(x.numel(), count, width, grad, stats.dtype)
    top, total = (values.contiguous() for values in tokens.vectors(stats).unbind(-1))
    by_weight = for_products(grid, grad, (count, width), dtype)
    if fused := _fused(messages, "flow_products_backward", grad):
        fused(*messages.of_tile(slice(None), slice(0, count)), tokens.vectors(grad), top, total, by_weight)
        return by_weight
    vectors, flow_tile = tokens.vectors(grad).to(products.dtype), messages.function("flow_tile")

    def theta(chunk: slice, classes: slice) -> Tensor:
        tile = grid.tile(chunk, classes)
        flow_tile(chunk, classes, True, tile, top[chunk], total[chunk], None)
        return tile

    multiply_transposed(grid, theta, vectors, products, by_weight)
    return by_weight


def _fused(messages: Messages, name: str, vectors: Tensor) -> Callable | None:
    """The library's kernel for products of θ and vectors of this type and length; None if it has none. One call of the
    kernel takes all tokens and classes."""
    fits = vectors.dtype in HALF and vectors.shape[-1] <= FUSED_WIDTH
    return messages.kernel(name) if fits else None


class LossLogits(Logits):
    """The logits of a loss. If the head has a flow_scale, the method `y` computes the flow's logits again, from the
    seed or the explicit noise."""

    def __init__(
        self,
        library: Any,
        x: Tensor,
        head: LinearHead,
        flow: FlowLogits,
        mask: Tensor | None,
        shard: Shard,
        whole: bool = False,
    ):
        self.tokens, (hidden, weight, _, scale) = Tokens(x, shard, mask), head
        of_tokens = head._replace(hidden=self.tokens.vectors(hidden), flow_scale=self.tokens.scalars(scale))
        super().__init__(library, of_tokens, None, compute_dtype(*head), 1 if scale is None else 2, whole)
        self.flow_grid = self.grid.with_own_memory()
        if scale is not None:
            messages = Messages(library, self.tokens, flow.beta, flow.spread, Noise(flow.flow_seed, flow.flow_noise))
            self.flow_tile = messages.function("flow_tile")
        narrow = hidden.dtype == weight.dtype and weight.dtype in HALF and scale is None
        self.head_sums = kernel_of(library, "head_sums", weight) if narrow else None
        self.sums_tile = tile_function(library, "sums_tile", weight)
        self.slopes_tile = tile_function(library, "slopes_tile", weight)

    def y(self, chunk: Any, classes: slice) -> Tensor:
        y = self.flow_grid.tile(chunk, classes)
        self.flow_tile(chunk, classes, False, y, *NO_SOFTMAX)
        return y

    def messages(self, cost: Cost) -> Messages:
        """The messages y of the draws of L_n."""
        spread = (self.tokens.num_classes * cost.alpha).sqrt()
        return Messages(self.library, self.tokens, cost.alpha, spread, Noise(cost.seed, cost.noise))

    def scale_of(self, reduction: int) -> Tensor:
        """The factor by which the reduction multiplies a sum of losses. The factor is ∞ if no token counts. The
        gradients then use it for no token."""
        one, mask = self.hidden.new_ones((), dtype=widest(self.hidden.device)), self.tokens.mask
        if reduction != MEAN:
            return one
        return one / (self.tokens.shape.numel() if mask is None else mask.sum())

    def reduced(self, losses: Tensor, reduction: int) -> Tensor:
        losses = self.tokens.scatter(torch.where(self.tokens.valid, losses, torch.nan))
        return reduce(losses, self.tokens.mask, reduction).to(self.dtype)


def loss(
    library: Any, x: Tensor, head: LinearHead, flow: FlowLogits, cost: Cost, to: LossTarget, shard: Shard
) -> Tensors:
    """Returns the reduced loss, and the sums of each token, which the backward pass reads."""
    logits = LossLogits(library, x, head, flow, to.mask, shard)
    stats = _sums(logits, cost)
    if cost.alpha is None:
        losses = Row.of(stats[0]).loss(logits.tokens.scalars(cost.rate))
    else:
        losses = cost.n_steps * _divergences(stats)[0].mean(0)
    return logits.reduced(losses, to.reduction), logits.tokens.scatter(stats.transpose(0, 1).contiguous())


def _sums(logits: LossLogits, cost: Cost) -> Tensor:
    """The stored `Sums` of each token, `[1 + n_samples, T, 4]`. Index 0 has the sums of the logits z. Index 1 + i has
    the sums of z + y, where y is the message of draw i; its field z_x is y_x."""
    tokens, stats = logits.tokens, Sums.of_none(logits.hidden, 1 + cost.n_samples, len(logits.hidden))
    if logits.head_sums is not None and cost.alpha is None:
        hidden = logits.hidden.to(logits.weight.dtype)
        logits.head_sums(hidden, logits.weight, logits.bias, tokens.x, tokens.shard.first, stats[0])
    else:
        draws_tile = None if cost.alpha is None else logits.messages(cost).function("draws_tile")
        for chunk, classes, z in logits.tiles():
            logits.sums_tile(z, tokens.x[chunk], tokens.first(classes), stats[0, chunk])
            if draws_tile is not None:
                draws_tile(chunk, classes, stats[1:, chunk], z)
    joined, *others = tokens.shard.gathered(stats)
    for other in others:
        Sums.stored(other).add_to(joined)
    return joined


def _divergences(stats: Tensor) -> tuple[Tensor, Tensor]:
    """For each draw and token `[n_samples, T]`: the loss y_x + LSE(z) − LSE(z + y), and the shift LSE(z + y) − LSE(z).
    LSE(z) is ln Σ exp(z_k) over all classes. The stored sums leave out the class x, so LSE(z) is the logaddexp of
    `Sums.log` and z_x."""
    z, z_and_y = Sums.stored(stats[0]), Sums.stored(stats[1:])
    before, after, y_x = z.log(), z_and_y.log(), z_and_y.z_x
    gap = torch.where(Row.of(stats[0]).max.isnan(), torch.nan, before - z.z_x)
    shift = torch.logaddexp(after, z.z_x + y_x) - torch.logaddexp(before, z.z_x)
    return softplus_fall(gap, after - before - y_x), shift


def loss_backward(
    library: Any,
    grad: Tensor,
    x: Tensor,
    head: LinearHead,
    flow: FlowLogits,
    cost: Cost,
    to: LossTarget,
    stats: Tensor,
    shard: Shard,
    wanted: Sequence[bool],
) -> Tensors:
    """The gradients of the head's tensors, in the types of the tensors. Gradients that are not wanted are empty."""
    logits = LossLogits(library, x, head, flow, to.mask, shard)
    tokens, stats = logits.tokens, logits.tokens.vectors(stats).transpose(0, 1)
    by_loss = grad.to(widest(grad.device)).reshape(*grad.shape, *(1,) * (len(tokens.shape) - grad.dim()))
    factor = torch.where(tokens.valid, logits.scale_of(to.reduction) * tokens.scalars(by_loss), 0)
    by_logits = (_by_logits if cost.alpha is None else _by_logits_of_draws)(logits, stats, cost, factor)
    return _gradients(logits, by_logits, types_of_head(head), wanted)


def _by_logits(logits: LossLogits, stats: Tensor, cost: Cost, factor: Tensor) -> ByLogits:
    tokens = logits.tokens
    slopes = Row.of(stats[0]).slopes(tokens.scalars(cost.rate), factor).to(logits.dtype)
    return lambda z, chunk, classes: logits.slopes_tile(tokens.x[chunk], slopes[chunk], tokens.first(classes), z)


def _by_logits_of_draws(logits: LossLogits, stats: Tensor, cost: Cost, factor: Tensor) -> ByLogits:
    """The gradient of L_n by a logit is the mean over draws of n(p − p'), where p' = softmax(z + y). Each term is
    computed as n·p·(1 − exp(y − shift))."""
    row, (divergences, shift) = Row.of(stats[0]), _divergences(stats)
    factor, log_total = factor * (cost.n_steps / cost.n_samples), row.total().log()
    by_x = factor * p_minus_grown(row.z_x - row.max - log_total, divergences).sum(0)
    slopes = torch.stack([by_x, row.max, log_total, factor], -1).to(logits.dtype)
    shift, slopes_tile = shift.to(logits.dtype).contiguous(), logits.messages(cost).function("draw_slopes_tile")
    return lambda z, chunk, classes: slopes_tile(chunk, classes, slopes[chunk], shift[:, chunk], z)


def loss_with_gradients(
    library: Any, x: Tensor, head: LinearHead, flow: FlowLogits, rate: Tensor | None, to: LossTarget, *wanted: bool
) -> Tensors:
    """L∞ or, without a rate, the reconstruction loss, reduced to a number, and its gradients.

    A tile has all classes of its tokens, so the logits are computed only once. The gradients have the type of the
    arithmetic, since the backward pass multiplies them by the gradient of the loss, which may be the large factor of a
    gradient scaler.
    """
    logits = LossLogits(library, x, head, flow, to.mask, Shard(0, len(head.weight), None), whole=True)
    tokens, stats = logits.tokens, Sums.of_none(logits.hidden, len(logits.hidden))
    rates, factor = tokens.scalars(rate), torch.where(tokens.valid, logits.scale_of(to.reduction), 0)

    def by_logits(z: Tensor, chunk: slice, classes: slice) -> None:
        logits.sums_tile(z, tokens.x[chunk], 0, stats[chunk])
        slopes = Row.of(stats[chunk]).slopes(rates if rates is None else rates[chunk], factor[chunk])
        logits.slopes_tile(tokens.x[chunk], slopes.to(logits.dtype), 0, z)

    gradients = _gradients(logits, by_logits, [logits.dtype] * 4, wanted)
    return logits.reduced(Row.of(stats).loss(rates), to.reduction), *gradients


def _gradients(
    logits: LossLogits, by_logits: ByLogits, dtypes: Sequence[torch.dtype], wanted: Sequence[bool]
) -> Tensors:
    """The gradients of the head's tensors, in the types `dtypes`."""
    weight, hidden, grid, tokens = logits.weight, logits.hidden, logits.grid, logits.tokens
    want_hidden, want_weight, want_bias, want_scale = wanted
    by_hidden = hidden.new_zeros(hidden.shape if want_hidden else (0,), dtype=logits.dtype)
    by_weight = for_products(grid, weight, weight.shape if want_weight else (0,), dtypes[1])
    wide = widest(weight.device)
    by_bias = weight.new_zeros(len(weight) if want_bias else 0, dtype=wide)
    by_scale = weight.new_zeros(len(hidden) if want_scale else 0, dtype=wide)
    for classes in grid.classes():
        sums = by_weight[classes].to(logits.dtype) if want_weight else by_weight
        for chunk in grid.chunks():
            tile = logits.tile(chunk, classes)
            by_logits(tile, chunk, classes)
            if want_hidden:
                logits.products.add(by_hidden[chunk], tile, logits.rows(classes))
            if want_weight:
                logits.products.add(sums, tile.t(), hidden[chunk], chunk.start > 0)
            if want_bias:
                by_bias[classes] += tile.sum(0)  # in its own type, since torch would copy the tile to sum in float64
            if want_scale:
                y = logits.flow_grid.tile(chunk, classes)  # this memory still has the flow's logits
                by_scale[chunk] += y.mul_(tile).sum(1)
        if want_weight and sums.dtype != by_weight.dtype:
            by_weight[classes] = sums
    if want_hidden:
        by_hidden = tokens.scatter(tokens.shard.summed(by_hidden))
    if want_scale:
        by_scale = tokens.scatter(tokens.shard.summed(by_scale))
    return by_hidden.to(dtypes[0]), by_weight, by_bias.to(dtypes[2]), by_scale.to(dtypes[3])
