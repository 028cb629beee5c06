"""The operators of sampling with a large vocabulary, composed of tiles as those of `composed` are.

Sums over tiles of logits say first what each token sends. Then one sweep over the state takes the step, and makes
the embedding of what it leaves. Logits are made again where they are needed.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from bfn_kernels import noise as random
from bfn_kernels import records
from bfn_kernels.call.checks import compute_dtype, valid_classes
from bfn_kernels.discrete.reference import one_hot
from bfn_kernels.records import MEAN, MODE, HeadBefore, LinearHead, Noise, Sent, Solver
from bfn_kernels.vocabulary.operators import SUMS
from bfn_kernels.vocabulary.sums import LEAST, Sums
from bfn_kernels.vocabulary.tiles import Grid, Logits, Shard, exponentials, joined, kernel_of


def mode(library: Any, head: LinearHead, state: Tensor | None, shard: records.Shard) -> Tensor:
    logits = _logits(library, head, state, compute_dtype(*head))
    return _mode(logits, Shard(*shard))[0].view(head.hidden.shape[:-1])


def step(
    library: Any,
    state: Tensor,
    head: LinearHead,
    solver: Solver,
    head_before: HeadBefore,
    embedding: Tensor | None,
    what: Sent,
    noise: Noise,
    shard_fields: records.Shard,
    out: Tensor,
    embedded_out: Tensor | None,
) -> None:
    shard, lead = Shard(*shard_fields), state.shape[:-1]
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
            before = _Shares(library, _logits(library, previous, y, dtype, grids), shard)
        shares = _Shares(library, logits, shard, before, ahead)
    elif what.choice == MODE:
        sent, finite = _mode(logits, shard)
        sent = torch.where(finite, sent, -1)
    else:
        uniforms = random.class_uniform(lead, noise.seed) if what.draw_noise is None else what.draw_noise
        sent = _drawn(library, logits, shard, uniforms.flatten().to(dtype))
    if what.known is not None and what.known_mask is not None:
        mask = what.known_mask.expand(lead)
        index, valid = valid_classes("known", what.known, shard.num_classes, mask)
        sent = torch.where(mask.flatten(), index.flatten(), sent)
        alpha = torch.where(valid.flatten(), alpha, torch.nan)
    old, rows = (each.reshape(len(sent), len(head.weight)) for each in (state, out))  # copies, if rows have no order
    step = _Step(library, shard, logits.grid, sent, Solver(keep, alpha, spread), noise, old, rows)
    if embedding is None or embedded_out is None:
        step.sweep(shares)
    else:
        embedded = embedded_out.to(dtype).view(len(sent), embedding.shape[1])  # itself where it has that type
        step.sweep(shares, embedding, embedded.zero_())
        embedded_out.copy_(embedded.view(embedded_out.shape))
    if rows.data_ptr() != out.data_ptr():
        out.copy_(rows.view(out.shape))


def _logits(library: Any, head: LinearHead, y: Tensor | None, dtype: torch.dtype, grids: int = 1) -> Logits:
    """The logits of a head that follow the state y, if the head has a factor for it."""
    hidden, _, _, scale = head
    of_tokens = head._replace(
        hidden=hidden.reshape(-1, hidden.shape[-1]), flow_scale=None if scale is None else scale.flatten()
    )
    if scale is None or y is None:
        return Logits(library, of_tokens, None, dtype, grids)
    rows = y.reshape(len(of_tokens.hidden), y.shape[-1])
    return Logits(library, of_tokens, lambda part, classes: rows[part, classes], dtype, grids)


def _mode(logits: Logits, shard: Shard) -> tuple[Tensor, Tensor]:
    """The first of the likeliest classes of each token, and whether its logit is a number."""
    most = logits.hidden.new_full((len(logits.hidden),), -torch.inf, dtype=logits.dtype)
    mode = torch.zeros_like(most, dtype=torch.int64)
    for classes in logits.grid.classes():
        rows = logits.rows(classes)
        for part in logits.grid.parts():
            top, place = logits.tile(part, classes, rows).max(-1)
            higher = ~((top <= most[part]) | most[part].isnan())  # the first NaN counts as the highest
            mode[part] = torch.where(higher, place + classes.start, mode[part])
            most[part] = torch.where(higher, top, most[part])
    most, place = shard.gathered(most).max(0)
    return shard.gathered(shard.first + mode).gather(0, place.unsqueeze(0)).squeeze(0), most.isfinite()


def _sums(library: Any, logits: Logits) -> tuple[Tensor, Tensor]:
    """For each tile of classes and each token, the largest logit and the sum of the exponentials by it."""
    kernel, count = kernel_of(library, "sums_tile", logits.weight), max(1, len([*logits.grid.classes()]))
    tops = logits.hidden.new_full((count, len(logits.hidden)), LEAST, dtype=logits.dtype)
    totals = torch.zeros_like(tops, dtype=torch.float64)
    for tile, classes in enumerate(logits.grid.classes()):
        rows = logits.rows(classes)
        for part in logits.grid.parts():
            z = logits.tile(part, classes, rows)
            if kernel is None:
                sums = Sums.of_others(z)
            else:
                stats = totals.new_zeros(len(z), SUMS)
                stats[:, 1] = LEAST
                kernel(z, stats.new_full((len(z),), -1, dtype=torch.int64), 0, stats)
                sums = Sums(*stats[:, 1:].unbind(-1))
            tops[tile, part], totals[tile, part] = sums.top, sums.rest + 1
    return tops, totals


def _drawn(library: Any, logits: Logits, shard: Shard, uniforms: Tensor) -> Tensor:
    """The class of each token that its uniform draws, as `noise.draw_class` does; −1 where p is NaN. The process that
    has it is found first, then the tile, whose logits are made again."""
    tops, totals = _sums(library, logits)
    most = shard.gathered(tops.amax(0)).amax(0)
    shares = tops.sub_(most).exp_()
    sums = totals.mul_(shares).cumsum_(0)
    ends = shard.gathered(sums[-1]).cumsum(0)
    place, want = _first_above(ends, uniforms * ends[-1], shard.gathered(shares.amax(0)))
    tile, want = _first_above(sums, want, shares)
    tile = torch.where(place == shard.place, tile, -1)
    drawn = torch.zeros_like(tile)
    for number, classes in enumerate(logits.grid.classes()):
        rows = None
        for tokens in _tokens_where(tile == number, logits.grid):
            rows = logits.rows(classes) if rows is None else rows
            e = logits.tile(tokens, classes, rows).sub_(most[tokens].unsqueeze(-1)).exp_().t()
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

    def __init__(
        self, library: Any, logits: Logits, shard: Shard, before: "_Shares | None" = None, ahead: Tensor | None = None
    ):
        self.logits, self.before, self.ahead = logits, before, ahead
        self.kernel = kernel_of(library, "slopes_tile", logits.weight)
        tops, totals = _sums(library, logits)
        top = shard.gathered(tops.amax(0)).amax(0)
        total = shard.summed(totals.mul_(tops.sub_(top).exp_()).sum(0))
        self.top = torch.where(top > LEAST, top, torch.nan)
        self.by = total.reciprocal().to(top.dtype)
        nothing = torch.zeros_like(top)
        self.slopes = torch.stack([nothing, self.top, nothing, self.by, nothing], -1)

    def tile(self, part: slice, classes: slice) -> Tensor:
        z = self.logits.tile(part, classes, self.logits.rows(classes))
        if self.kernel is None:
            p = z.sub_(self.top[part].unsqueeze(-1)).exp_().mul_(self.by[part].unsqueeze(-1))
        else:
            self.kernel(torch.full((len(z),), -1, device=z.device), self.slopes[part], 0, z)
            p = z
        if self.before is None or self.ahead is None:
            return p
        other = self.before.tile(part, classes)
        return p.add_(torch.sub(p, other, out=other).mul_(self.ahead[part].unsqueeze(-1)))


class _Step:
    """z' = keep·z + α(Kp − 1) + spread·ξ of the states of tokens `[T, K]`, where p is e of the class `sent` or, where
    that is −1, the shares; without any it is NaN."""

    def __init__(
        self, library: Any, shard: Shard, grid: Grid, sent: Tensor, solver: Solver, noise: Noise, state: Tensor,
        out: Tensor,
    ):  # fmt: skip
        self.shard, self.grid, self.sent, self.state, self.out = shard, grid, sent, state, out
        self.keep, self.alpha, self.spread, *_ = solver
        self.seed, self.noise = noise
        if self.noise is not None:
            self.noise = self.noise.reshape(len(sent), shard.num_classes)
        self.kernel = kernel_of(library, "step_tile", state)
        self.rows = torch.arange(len(sent), device=sent.device)
        self.top = self.alpha.new_full(sent.shape, torch.finfo(self.alpha.dtype).min)
        self.total, self.kept = torch.zeros_like(self.alpha), torch.ones_like(self.alpha)

    def sweep(self, shares: _Shares | None, embedding: Tensor | None = None, embedded: Tensor | None = None) -> None:
        """Writes the new states, and adds their embedding to `embedded` `[T, d]`, which is 0."""
        for classes in self.grid.classes():
            vectors = None if embedding is None else embedding[classes].to(self.alpha.dtype)
            for part in self.grid.parts():
                p = None if shares is None else shares.tile(part, classes)
                numbers = self.tile(part, classes, p, vectors is not None)
                if vectors is not None and embedded is not None:
                    embedded[part].mul_(self.kept[part].unsqueeze(-1)).addmm_(numbers, vectors)
        if embedded is not None:
            _, total, sums = joined(self.shard, self.top, self.total, embedded)
            torch.div(sums, total.unsqueeze(-1), out=embedded)

    def tile(self, part: slice, classes: slice, p: Tensor | None, seen: bool) -> Tensor:
        """Takes the step of a tile; where the new state is `seen`, the result are its exponentials, by the largest
        number so far."""
        of_tokens = [row if row is None else row[part] for row in (self.sent, self.alpha, self.spread, self.keep)]
        sums = self.top[part], self.total[part], self.kept[part]
        state, out = self.state[part, classes], self.out[part, classes]
        first, count, num_classes = self.shard.first + classes.start, state.shape[1], self.shard.num_classes
        noise = None if self.noise is None else self.noise[part, first : first + count]
        numbers = self.grid.tile(part, classes) if p is None else p
        if self.kernel is not None:
            sent, *others = of_tokens
            self.kernel(
                sent, self.rows[part], *others, self.seed, noise, first, num_classes, p is not None, state, numbers,
                out, *(sums if seen else (None,) * 3),
            )  # fmt: skip
            return numbers
        sent, alpha, spread, keep = (row if row is None else row.unsqueeze(-1) for row in of_tokens)
        one = one_hot(of_tokens[0] - first, count).to(numbers.dtype)
        centre = torch.where(sent < 0, torch.nan if p is None else p, one)
        new = alpha * (num_classes * centre - 1)
        if spread is not None:
            new += spread * (self.normals(part, first, count) if noise is None else noise)
        new += state if keep is None else keep * state
        out.copy_(new)
        return exponentials(out.to(numbers.dtype, copy=True), *sums) if seen else numbers

    def normals(self, part: slice, first: int, count: int) -> Tensor:
        rows, num_classes, dtype = self.rows[part], self.shard.num_classes, self.alpha.dtype
        return random.class_normal_tile(rows, first, count, num_classes, self.seed, random.SENDER, 0, dtype)
