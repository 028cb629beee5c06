"""The operators of sampling with a large vocabulary. Like the operators of `composed`, they compute one tile at a time
(see `tiles`). A step first computes the logits, to find what each token sends: a class, or probabilities. Then one pass
over the state computes the new state and its embedding. Logits are not stored but computed again when they are needed.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from bfn_kernels import noise as random
from bfn_kernels.checks import compute_dtype, valid_classes
from bfn_kernels.records import MEAN, MODE, SAMPLE, HeadBefore, LinearHead, Noise, Sent, Solver
from bfn_kernels.vocabulary.nucleus import least_of_nucleus, sums_of_tiles
from bfn_kernels.vocabulary.shards import Shard
from bfn_kernels.vocabulary.sums import LEAST
from bfn_kernels.vocabulary.tile_functions import tile_function
from bfn_kernels.vocabulary.tiles import NO_SOFTMAX, Logits, OnlineSoftmax, likeliest


def mode(library: Any, head: LinearHead, state: Tensor | None, shard: Shard) -> Tensor:
    logits = _logits(library, head, state, compute_dtype(*head))
    return likeliest(logits.tiles(), logits.hidden, logits.dtype, shard)[0].view(head.hidden.shape[:-1])


def sample(
    library: Any,
    head: LinearHead,
    state: Tensor | None,
    top_p: float,
    seed: Tensor | None,
    draw_noise: Tensor | None,
    shard: Shard,
) -> Tensor:
    logits, lead = _logits(library, head, state, compute_dtype(*head)), head.hidden.shape[:-1]
    sent = Sent(SAMPLE, draw_noise=draw_noise)
    return _sent_classes(logits, shard, lead, sent, top_p, Noise(seed)).view(lead)


def step(
    library: Any,
    state: Tensor,
    head: LinearHead,
    solver: Solver,
    head_before: HeadBefore,
    embedding: Tensor | None,
    sent: Sent,
    top_p: float,
    noise: Noise,
    shard: Shard,
    *outputs: Tensor | None,
) -> None:
    """Writes z' = keep·z + α(Kp − 1) + std·ξ into the first output, where α is `solver.take` and ξ are normals. p is
    the one-hot vector of the class that a token sends or, if tokens send probabilities, the result of `_Probabilities`.
    Writes the embedding of z' into the second output, if it is not None."""
    out, embedded_out = outputs
    lead, step_tile = state.shape[:-1], tile_function(library, "step_tile", state)
    dtype = compute_dtype(state, *head, solver.previous, *head_before, embedding)
    keep, alpha, std, extrapolation = (
        row if row is None else row.expand(lead).flatten().contiguous()
        for row in (solver.keep, solver.take, solver.std, solver.extrapolation)
    )
    grids = 1 if solver.previous is None else 2
    logits, p = _logits(library, head, state, dtype, grids), None
    if sent.choice == MEAN:
        previous = None
        if solver.previous is not None:
            scale, y = head_before
            previous_head = head._replace(hidden=solver.previous, flow_scale=scale)
            previous = _Probabilities(_logits(library, previous_head, y, dtype, grids), shard)
        p = _Probabilities(logits, shard, previous, extrapolation)
    x = _sent_classes(logits, shard, lead, sent, top_p, noise)
    if sent.known is not None:
        mask = sent.known_mask.expand(lead)
        known, valid = valid_classes("known", sent.known, shard.num_classes, mask)
        x = torch.where(mask.flatten(), known.flatten(), x)
        alpha = torch.where(valid.flatten(), alpha, torch.nan)
    count, grid = len(x), logits.grid
    z, z_out = (value.reshape(count, len(head.weight)) for value in (state, out))  # copies, if the strides require it
    explicit = noise.noise if noise.noise is None else noise.noise.reshape(count, shard.num_classes)
    rows, softmax = torch.arange(count, device=x.device), None
    if embedded_out is not None:
        sums = embedded_out.to(dtype).view(count, embedding.shape[1]).zero_()  # maybe `embedded_out` itself
        softmax = OnlineSoftmax(alpha, sums)
    for classes in grid.classes():
        first, last = shard.first + classes.start, shard.first + classes.stop
        vectors = None if embedding is None else embedding[classes].to(dtype)
        for chunk in grid.chunks():
            numbers = grid.tile(chunk, classes) if p is None else p.tile(chunk, classes)
            *of_tokens, factor = (value if value is None else value[chunk] for value in (x, rows, alpha, std, keep))
            messages = *of_tokens, noise.seed, first, shard.num_classes  # the fields of TileMessages
            eps = explicit if explicit is None else explicit[chunk, first:last]
            tiles = z[chunk, classes], z_out[chunk, classes], numbers
            exponentials = NO_SOFTMAX if softmax is None else softmax.numbers_of(chunk)
            step_tile(*messages, factor, eps, p is not None, False, *tiles, *exponentials)
            if softmax is not None:
                softmax.rescaled(chunk).addmm_(numbers, vectors)  # step_tile wrote exp(z' − top) to numbers
    if softmax is not None:
        softmax.join(shard)
        embedded_out.copy_(softmax.sums.div_(softmax.total.unsqueeze(-1)).view(embedded_out.shape))
    if z_out.data_ptr() != out.data_ptr():
        out.copy_(z_out.view(out.shape))


def _logits(library: Any, head: LinearHead, y: Tensor | None, dtype: torch.dtype, grids: int = 1) -> Logits:
    """The logits of a head, with all tokens in one dimension. With a flow_scale, flow_scale·y is added to them."""
    *lead, width = head.hidden.shape
    hidden = head.hidden.reshape(math.prod(lead), width)  # not -1, which reshape cannot infer if width is 0
    scale = head.flow_scale if head.flow_scale is None else head.flow_scale.flatten()
    state = y if y is None else y.reshape(len(hidden), y.shape[-1])
    return Logits(library, head._replace(hidden=hidden, flow_scale=scale), state, dtype, grids)


def _sent_classes(logits: Logits, shard: Shard, lead: torch.Size, sent: Sent, top_p: float, noise: Noise) -> Tensor:
    """The class that each token sends `[T]`. It is −1 if the softmax of the token is NaN, or if tokens send
    probabilities."""
    if sent.choice == MEAN:
        return logits.hidden.new_full((len(logits.hidden),), -1, dtype=torch.int64)
    if sent.choice == MODE:
        mode, finite = likeliest(logits.tiles(), logits.hidden, logits.dtype, shard)
        return torch.where(finite, mode, -1)
    uniforms = random.class_uniform(lead, noise.seed) if sent.draw_noise is None else sent.draw_noise
    return _drawn(logits, shard, uniforms.flatten().to(logits.dtype), top_p)


def _drawn(logits: Logits, shard: Shard, uniforms: Tensor, top_p: float) -> Tensor:
    """Draws a class for each token from its uniform, as `noise.draw_class` does. The class is −1 if the softmax is
    NaN. The function first finds the process that has the class, then the tile, and computes the logits of this tile
    again. With a top_p below 1, the logits lose all classes outside of the nucleus."""
    if top_p < 1:
        logits.least = least_of_nucleus(logits, top_p, shard)
    top, factors, totals = sums_of_tiles(logits, shard)
    cumulative = totals.cumsum_(0)
    of_processes = shard.gathered(cumulative[-1]).cumsum(0)
    process, target = _first_above(of_processes, uniforms * of_processes[-1], shard.gathered(factors.amax(0)))
    tile, target = _first_above(cumulative, target, factors)
    tile = torch.where(process == shard.rank, tile, -1)
    drawn = torch.zeros_like(tile)
    for number, classes in enumerate(logits.grid.classes()):
        for tokens in _tokens_where(tile == number, logits):
            e = logits.tile(tokens, classes).sub_(top[tokens].unsqueeze(-1)).exp_().t()
            index, _ = _first_above(e.to(target.dtype).cumsum_(0), target[tokens], e)
            drawn[tokens] = torch.where(tile[tokens] == number, index + shard.first + classes.start, drawn[tokens])
    return torch.where((top > LEAST) & of_processes[-1].isfinite(), shard.summed(drawn), -1)


def _first_above(cumulative: Tensor, target: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """Returns an index, and the target minus the cumulative sum before this index. It is the index of the first
    cumulative sum above the target or, if there is none, of the last factor above 0."""
    index, last = (cumulative <= target).sum(0), len(cumulative) - 1 - (factors > 0).flip(0).byte().argmax(0)
    index = torch.where(index < len(cumulative), index, last)
    before = cumulative.gather(0, (index - 1).clamp(min=0).unsqueeze(0)).squeeze(0)
    return index, target - torch.where(index > 0, before, 0)


def _tokens_where(mask: Tensor, logits: Logits) -> Iterator[slice | Tensor]:
    """Chunks of the tokens where the mask is True. On a GPU, finding these tokens would cost a synchronisation, so that
    the chunks have all tokens. With a nucleus they do, too: products with fewer tokens may round logits differently,
    and its smallest logit would seem to lie outside."""
    if not mask.is_cpu or (logits.least is not None and mask.any()):
        yield from logits.grid.chunks()
    elif mask.any():
        yield from mask.nonzero().squeeze(-1).split(logits.grid.token_step)


class _Probabilities:
    """The probabilities p of the tokens' classes or, with `previous`, p + extrapolation·(p − p_prev), a tile at a
    time."""

    def __init__(
        self,
        logits: Logits,
        shard: Shard,
        previous: "_Probabilities | None" = None,
        extrapolation: Tensor | None = None,
    ):
        self.logits, self.previous, self.extrapolation = logits, previous, extrapolation
        self.slopes_tile = tile_function(logits.library, "slopes_tile", logits.weight)
        top, _, totals = sums_of_tiles(logits, shard)
        total = shard.summed(totals.sum(0))
        top, zero = torch.where(top > LEAST, top, torch.nan), torch.zeros_like(top)
        # From these five numbers (see `sums.Row.slopes`), `slopes_tile` computes the probability exp(logit −
        # top)/total.
        self.slopes = torch.stack([zero, top, zero, total.reciprocal().to(top.dtype), zero], -1)
        self.no_class = torch.full_like(top, -1, dtype=torch.int64)  # as x, so that no class is treated as x

    def tile(self, chunk: slice, classes: slice) -> Tensor:
        p = self.logits.tile(chunk, classes)
        self.slopes_tile(self.no_class[chunk], self.slopes[chunk], 0, p)
        if self.previous is None:
            return p
        previous = self.previous.tile(chunk, classes)
        return p.add_(torch.sub(p, previous, out=previous).mul_(self.extrapolation[chunk].unsqueeze(-1)))
