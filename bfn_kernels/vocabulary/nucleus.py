"""The nucleus of a token: its likeliest classes, whose probabilities together reach top_p (arXiv 1904.09751).

The smallest logit of the nucleus is found digit by digit. A pass over the tiles of logits adds up the probabilities of
the classes by one digit of their logits, which are read as integers. The next pass takes only the classes that have the
digits found so far. So the memory is one histogram for each token of a tile, and does not grow with K.
"""

import torch
from torch import Tensor

from bfn_kernels.checks import widest
from bfn_kernels.vocabulary.shards import Shard
from bfn_kernels.vocabulary.sums import LEAST, Sums
from bfn_kernels.vocabulary.tile_functions import tile_function
from bfn_kernels.vocabulary.tiles import Logits

DIGIT = 11  # bits of a digit; a histogram of 2¹¹ float64 numbers for each token of a tile takes 16 MiB on a CPU


def sums_of_tiles(logits: Logits, shard: Shard) -> tuple[Tensor, Tensor, Tensor]:
    """Returns three tensors. The first is the largest logit of each token, over all processes. The other two have a
    number for each tile of classes and each token: exp(largest logit of the tile − largest logit), and the tile's sum
    of exp(logit − largest logit)."""
    sums_tile = tile_function(logits.library, "sums_tile", logits.weight)
    tiles = max(1, len([*logits.grid.classes()]))
    tops = logits.hidden.new_full((tiles, len(logits.hidden)), LEAST, dtype=logits.dtype)
    totals = torch.zeros_like(tops, dtype=widest(tops.device))
    no_class = torch.full_like(tops[0], -1, dtype=torch.int64)  # as x, so that the sums leave out no class
    for chunk, classes, z in logits.tiles():
        stats = Sums.of_none(z, len(z))
        sums_tile(z, no_class[chunk], 0, stats)
        sums, tile = Sums.stored(stats), classes.start // logits.grid.class_step
        tops[tile, chunk], totals[tile, chunk] = sums.top, sums.rest + 1
    top = shard.gathered(tops.amax(0)).amax(0)
    factors = tops.sub_(top).exp_()
    return top, factors, totals.mul_(factors)


def least_of_nucleus(logits: Logits, top_p: float, shard: Shard) -> Tensor:
    """The smallest logit of each token's nucleus `[T]`, over all processes."""
    top, _, totals = sums_of_tiles(logits, shard)
    goal = top_p * shard.summed(totals.sum(0))
    least = torch.empty_like(top)
    for chunk in logits.grid.chunks():
        least[chunk] = _of_tokens(logits, chunk, top[chunk].unsqueeze(-1), goal[chunk].unsqueeze(-1), shard)
    return least


def _of_tokens(logits: Logits, chunk: slice, top: Tensor, goal: Tensor, shard: Shard) -> Tensor:
    """The smallest logit of the nucleus of some tokens. goal: top_p times the sum of exp(logit − top)."""
    bits = 8 * top.element_size()
    found, above = _integers(top).zero_(), torch.zeros_like(goal)  # the digits so far, and the sum of larger logits
    left = bits
    while left > 0:
        first, width = left == bits, min(DIGIT, left)
        left -= width
        lowest = -(1 << width - 1) if first else 0  # the first digit has the sign
        sums = goal.new_zeros(len(top), 1 << width)
        for classes in logits.grid.classes():
            z = logits.tile(chunk, classes)
            digits = _integers(z) >> left
            e = z.sub_(top).exp_()
            if not first:
                e.masked_fill_(digits >> width != found, 0)
                digits &= (1 << width) - 1
            sums.scatter_add_(1, (digits - lowest).long(), e.to(sums.dtype))
        from_above = above + shard.summed(sums).flip(1).cumsum(1)
        reached = (from_above >= goal) & (from_above > 0)  # the goal may round to 0
        index = torch.where(reached.any(1), reached.byte().argmax(1), sums.shape[1] - 1).unsqueeze(-1)
        above = torch.where(index > 0, from_above.gather(1, (index - 1).clamp(min=0)), above)
        found = (found << width) | (sums.shape[1] - 1 - index + lowest).to(found.dtype)
    return _flipped(found, bits).view(top.dtype).squeeze(-1)


def _integers(z: Tensor) -> Tensor:
    """Integers of the size of the numbers, in the order of the numbers."""
    bits = 8 * z.element_size()
    return _flipped((z + 0.0).view(torch.int32 if bits == 32 else torch.int64), bits)  # + 0.0 makes 0.0 of −0.0


def _flipped(integers: Tensor, bits: int) -> Tensor:
    """Flips all bits but the sign of negative integers. This turns the bits of a float into an integer of its order,
    and back."""
    return integers ^ ((integers >> bits - 1) & ((1 << bits - 1) - 1))
