"""A network for atoms in space, E(n)-equivariant as the network of Satorras et al. (arXiv 2102.09844)."""

import torch
from torch import Tensor, nn

from bfn.configs import ConfigError
from bfn.networks.layers import TimeEmbedding, zero_init
from bfn_kernels import Limits
from bfn_kernels.nn import Ragged

RADIAL, FARTHEST = 32, 3.0  # Gaussians of a distance, and the mean of the last; beyond it, distances look alike
EARLIEST = Limits().t_min  # an earlier time counts as this one where it divides; the noise is not used before it
TINY = 1e-6  # added to squared distances, since the root has no gradient at 0


def pairs(atoms: Ragged) -> tuple[Tensor, Tensor]:
    """All ordered pairs of different atoms of one example: the first atoms, sorted, and the second atoms, [E] each."""
    numbers, order = torch.arange(len(atoms.batch), device=atoms.batch.device), atoms.batch.argsort(stable=True)
    starts = (atoms.sizes.cumsum(0) - atoms.sizes)[atoms.batch]  # of the atom's example, in the order of examples
    others = atoms.sizes[atoms.batch] - 1
    first = numbers.repeat_interleave(others)
    rank = torch.arange(len(first), device=first.device) - (others.cumsum(0) - others)[first]
    own = torch.empty_like(order).scatter_(0, order, numbers) - starts
    return first, order[starts[first] + rank + (rank >= own[first])]  # the atom itself is skipped


class Layer(nn.Module):
    """Messages between all atoms of an example, by which features and positions change, each with a residual sum."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.norm, self.ends = nn.LayerNorm(width), nn.Linear(width, 2 * width)
        self.radial = nn.Linear(RADIAL, width, bias=False)
        self.message = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.gates, self.shift = nn.Linear(width, heads), zero_init(nn.Linear(width, 1, bias=False))
        self.update = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, x: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        away = x.index_select(0, first) - x.index_select(0, second)
        distance = (away.square().sum(-1, keepdim=True) + TINY).sqrt()
        normed = self.norm(h)
        # The first linear layer of a message is applied to atoms instead of pairs, which are ten times as many.
        here, there = self.ends(normed).chunk(2, -1)
        ends = here.index_select(0, first) + there.index_select(0, second)
        message = self.message(ends + self.radial(gaussians(distance)))
        gates = self.gates(message).sigmoid()[..., None]
        gated = (message.unflatten(-1, (gates.shape[-2], -1)) * gates).flatten(-2)
        heard = torch.zeros_like(h).index_add_(0, first, gated)
        x = x.index_add(0, first, away * (self.shift(message) / (distance + 1)))
        return h + self.dropout(self.update(torch.cat([normed, heard], -1))), x


def gaussians(distance: Tensor) -> Tensor:
    """Gaussians of distances [E, 1] with evenly spaced means, [E, RADIAL]."""
    means = torch.linspace(0, FARTHEST, RADIAL, device=distance.device)
    return ((distance - means) * ((RADIAL - 1) / FARTHEST)).square().mul(-0.5).exp()


class Equivariant(nn.Module):
    """Input distributions of atoms and times [B] -> the noise in the positions and logits of the types.

    The atoms of all examples are one list, in any order, and `batch` [N] is the example of each atom. `positions`
    [N, 3] are the means of the input distributions, `types` [N, K] the probabilities. The noise turns with the
    positions, does not change if an example is shifted, and has mean 0 in each example.
    """

    def __init__(self, classes: int, *, width: int, depth: int, heads: int, dropout: float):
        super().__init__()
        if width % heads:
            raise ConfigError(f"network.width={width} must be a multiple of network.heads={heads}")
        self.embed, self.time = nn.Linear(classes, width), TimeEmbedding(width)
        self.layers = nn.ModuleList(Layer(width, heads, dropout) for _ in range(depth))
        self.gains, self.growth = zero_init(nn.Linear(width, 3)), nn.Parameter(torch.tensor(4.0))
        self.norm, self.head = nn.LayerNorm(width), zero_init(nn.Linear(width, classes))

    def forward(self, theta: dict[str, Tensor], t: Tensor, batch: Tensor) -> dict[str, Tensor]:
        time, atoms = self.time(t), Ragged(batch, len(t))
        start, (first, second) = atoms.centred(theta["positions"]), pairs(atoms)
        h, x = self.embed(theta["types"]) + time[batch], start
        for layer in self.layers:
            h, x = layer(h, x, first, second)
        # At first the positions are noise, whose spread rises as √t. Later the layers move the atoms to a molecule.
        # This way becomes shorter with time, and the noise is a multiple of the way that grows exponentially.
        whole, moved, own = self.gains(time)[batch].split(1, -1)
        each = t[batch, None]
        noise = whole * start * each.clamp(min=EARLIEST).rsqrt() + (moved + self.growth * each).exp() * (start - x)
        evidence = theta["types"].clamp(min=1e-9).log()  # of an atom's own messages
        return {
            "positions": atoms.centred(noise),
            "types": self.head(self.norm(h)) + (1 + own) * evidence,
        }
