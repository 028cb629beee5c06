"""The operators of sampling with a large vocabulary, composed of tiles like the operators of `composed`. First, sums
over tiles of logits decide what each token sends. Then one pass over the state takes the step, and embeds the new
state. Logits are made again where they are needed.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from bfn_kernels import noise as random
from bfn_kernels.call.checks import compute_dtype, valid_classes
from bfn_kernels.records import MEAN, MODE, HeadBefore, LinearHead, Noise, Sent, Solver
from bfn_kernels.vocabulary.shards import Shard
from bfn_kernels.vocabulary.sums import LEAST, Sums
from bfn_kernels.vocabulary.tile_functions import tile_function
from bfn_kernels.vocabulary.tiles import Exponentials, Grid, Logits


def mode(library: Any, head: LinearHead, state: Tensor | None, shard: Shard) -> Tensor:
    logits = _logits(library, head, state, compute_dtype(*head))
    return _mode(logits, shard)[0].view(head.hidden.shape[:-1])


def step(
    library: Any,
    state: Tensor,
    head: LinearHead,
    solver: Solver,
    head_before: HeadBefore,
    embedding: Tensor | None,
    what: Sent,
    noise: Noise,
    shard: Shard,
    out: Tensor,
    embedded_out: Tensor | None,
) -> None:
    lead = state.shape[:-1]
    dtype = compute_dtype(state, *head, solver.previous, *head_before, embedding)
    keep, alpha, spread, ahead = (
        row if row is None else row.expand(lead).flatten().contiguous()
        for row in (solver.keep, solver.take, solver.std, solver.extrapolation)
    )
    grids = 1 if solver.previous is None else 2
    logits = _logits(library, head, state, dtype, grids)
    sent, shares = torch.full_like(alpha, -1, dtype=torch.int64), None
    if what.choice == MEAN:
        before = None
        if solver.previous is not None:
            scale, y = head_before
            previous = head._replace(hidden=solver.previous, flow_scale=scale)
            before = _Shares(_logits(library, previous, y, dtype, grids), shard)
        shares = _Shares(logits, shard, before, ahead)
    elif what.choice == MODE:
        sent, finite = _mode(logits, shard)
        sent = torch.where(finite, sent, -1)
    else:
        uniforms = random.class_uniform(lead, noise.seed) if what.draw_noise is None else what.draw_noise
        sent = _drawn(logits, shard, uniforms.flatten().to(dtype))
    if what.known is not None and what.known_mask is not None:
        mask = what.known_mask.expand(lead)
        index, valid = valid_classes("known", what.known, shard.num_classes, mask)
        sent = torch.where(mask.flatten(), index.flatten(), sent)
        alpha = torch.where(valid.flatten(), alpha, torch.nan)
    old, new = (each.reshape(len(sent), len(head.weight)) for each in (state, out))  # copies, if rows have no order
    embedded = None
    if embedding is not None and embedded_out is not None:
        embedded = embedded_out.to(dtype).view(len(sent), embedding.shape[1]).zero_()  # itself where it has that type
    of_rows = Solver(keep, alpha, spread)
    _sweep(library, logits.grid, shard, old, sent, shares, of_rows, noise, new, embedding, embedded)
    if embedded is not None and embedded_out is not None:
        embedded_out.copy_(embedded.view(embedded_out.shape))
    if new.data_ptr() != out.data_ptr():
        out.copy_(new.view(out.shape))


def _logits(library: Any, head: LinearHead, y: Tensor | None, dtype: torch.dtype, grids: int = 1) -> Logits:
    """The logits of a head that follow the state y, if the head has a factor for it."""
    hidden, _, _, scale = head
    scale = None if scale is None else scale.flatten()
    of_tokens = head._replace(hidden=hidden.reshape(-1, hidden.shape[-1]), flow_scale=scale)
    if scale is None or y is None:
        return Logits(library, of_tokens, None, dtype, grids)
    rows = y.reshape(len(of_tokens.hidden), y.shape[-1])
    return Logits(library, of_tokens, lambda part, classes: rows[part, classes], dtype, grids)


def _mode(logits: Logits, shard: Shard) -> tuple[Tensor, Tensor]:
    """The first of the likeliest classes of each token, and whether its logit is a number."""
    most = logits.hidden.new_full((len(logits.hidden),), -torch.inf, dtype=logits.dtype)
    mode = torch.zeros_like(most, dtype=torch.int64)
    for part, classes, z in logits.tiles():
        top, place = z.max(-1)
        higher = ~((top <= most[part]) | most[part].isnan())  # the first NaN counts as the highest
        mode[part] = torch.where(higher, place + classes.start, mode[part])
        most[part] = torch.where(higher, top, most[part])
    most, place = shard.gathered(most).max(0)
    return shard.gathered(shard.first + mode).gather(0, place.unsqueeze(0)).squeeze(0), most.isfinite()


def _sums(logits: Logits) -> tuple[Tensor, Tensor]:
    """For each tile of classes and each token, the largest logit and the sum of the exponentials by it."""
    sums_tile = tile_function(logits.library, "sums_tile", logits.weight)
    tops = logits.hidden.new_full(
        (max(1, len([*logits.grid.classes()])), len(logits.hidden)), LEAST, dtype=logits.dtype
    )
    totals = torch.zeros_like(tops, dtype=torch.float64)
    nothing = torch.full_like(tops[0], -1, dtype=torch.int64)  # no class is left out
    for part, classes, z in logits.tiles():
        stats = Sums.of_none(z, len(z))
        sums_tile(z, nothing[part], 0, stats)
        sums, tile = Sums(*stats.unbind(-1)), classes.start // logits.grid.class_step
        tops[tile, part], totals[tile, part] = sums.top, sums.rest + 1
    return tops, totals


def _drawn(logits: Logits, shard: Shard, uniforms: Tensor) -> Tensor:
    """The class of each token that its uniform draws, as `noise.draw_class` does; −1 where p is NaN. The process that
    has it is found first, then the tile, whose logits are made again."""
    tops, totals = _sums(logits)
    most = shard.gathered(tops.amax(0)).amax(0)
    shares = tops.sub_(most).exp_()
    sums = totals.mul_(shares).cumsum_(0)
    ends = shard.gathered(sums[-1]).cumsum(0)
    place, want = _first_above(ends, uniforms * ends[-1], shard.gathered(shares.amax(0)))
    tile, want = _first_above(sums, want, shares)
    tile = torch.where(place == shard.place, tile, -1)
    drawn = torch.zeros_like(tile)
    for number, classes in enumerate(logits.grid.classes()):
        for tokens in _tokens_where(tile == number, logits.grid):
            e = logits.tile(tokens, classes).sub_(most[tokens].unsqueeze(-1)).exp_().t()
            place, _ = _first_above(e.double().cumsum_(0), want[tokens], e)
            found = place + shard.first + classes.start
            drawn[tokens] = torch.where(tile[tokens] == number, found, drawn[tokens])
    return torch.where((most > LEAST) & ends[-1].isfinite(), shard.summed(drawn), -1)


def _first_above(sums: Tensor, want: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Where the growing sums first exceed `want`, or else the last place whose share is above 0; and by how much `want`
    exceeds the sum before it."""
    place, last = (sums <= want).sum(0), len(sums) - 1 - (shares > 0).flip(0).byte().argmax(0)
    place = torch.where(place < len(sums), place, last)
    before = sums.gather(0, (place - 1).clamp(min=0).unsqueeze(0)).squeeze(0)
    return place, want - torch.where(place > 0, before, 0)


def _tokens_where(mask: Tensor, grid: Grid) -> Iterator[slice | Tensor]:
    """Tokens among which are those of the mask. On a CPU there are no others; elsewhere, where finding them would cost
    a synchronisation, they are all."""
    if not mask.is_cpu:
        yield from grid.parts()
    elif mask.any():
        yield from mask.nonzero().squeeze(-1).split(grid.token_step)


class _Shares:
    """The probabilities p of tokens' classes, a tile at a time, or p + ahead·(p − p_prev)."""

    def __init__(self, logits: Logits, shard: Shard, before: "_Shares | None" = None, ahead: Tensor | None = None):
        self.logits, self.before, self.ahead = logits, before, ahead
        self.slopes_tile = tile_function(logits.library, "slopes_tile", logits.weight)
        tops, totals = _sums(logits)
        top = shard.gathered(tops.amax(0)).amax(0)
        total = shard.summed(totals.mul_(tops.sub_(top).exp_()).sum(0))
        top, zero = torch.where(top > LEAST, top, torch.nan), torch.zeros_like(top)
        self.slopes = torch.stack([zero, top, zero, total.reciprocal().to(top.dtype), zero], -1)
        self.nothing = torch.full_like(top, -1, dtype=torch.int64)  # no class has another slope

    def tile(self, part: slice, classes: slice) -> Tensor:
        p = self.logits.tile(part, classes)
        self.slopes_tile(self.nothing[part], self.slopes[part], 0, p)
        if self.before is None or self.ahead is None:
            return p
        other = self.before.tile(part, classes)
        return p.add_(torch.sub(p, other, out=other).mul_(self.ahead[part].unsqueeze(-1)))


def _sweep(
    library: Any,
    grid: Grid,
    shard: Shard,
    state: Tensor,
    sent: Tensor,
    shares: _Shares | None,
    solver: Solver,
    noise: Noise,
    out: Tensor,
    embedding: Tensor | None,
    embedded: Tensor | None,
) -> None:
    """Writes z' = keep·z + α(Kp − 1) + spread·ξ of the states of tokens `[T, K]`, where p is e of the class `sent` or,
    where that is −1, the shares; without any it is NaN. Writes the embedding of z' into `embedded` `[T, d]`, which
    is 0."""
    (keep, alpha, spread, *_), step_tile = solver, tile_function(library, "step_tile", state)
    rows, sums = torch.arange(len(sent), device=sent.device), Exponentials(alpha)
    explicit = noise.noise if noise.noise is None else noise.noise.reshape(len(sent), shard.num_classes)
    for classes in grid.classes():
        first, last = shard.first + classes.start, shard.first + classes.stop
        vectors = None if embedding is None else embedding[classes].to(alpha.dtype)
        for part in grid.parts():
            shared = shares is not None
            numbers = shares.tile(part, classes) if shared else grid.tile(part, classes)
            of_tokens = (each if each is None else each[part] for each in (sent, rows, alpha, spread, keep))
            eps = explicit if explicit is None else explicit[part, first:last]
            step_tile(
                *of_tokens, noise.seed, eps, first, shard.num_classes, shared, state[part, classes], numbers,
                out[part, classes], *((None, None, None) if embedded is None else sums.of(part)),
            )  # fmt: skip
            if embedded is not None and vectors is not None:  # the numbers are exp(z' − top)
                embedded[part].mul_(sums.kept[part].unsqueeze(-1)).addmm_(numbers, vectors)
    if embedded is not None:
        torch.div(sums.joined(shard, embedded), sums.total.unsqueeze(-1), out=embedded)
