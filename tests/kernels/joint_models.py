"""Joint models and data for tests: parts that a network keeps apart, and atoms of molecules of different sizes."""

import torch
from torch import nn

from bfn_kernels import discretised
from bfn_kernels.nn import Binary, Circular, Continuous, Discrete, Discretised, Joint
from bfn_kernels.nn.ragged import Ragged
from bfn_kernels.schedules import LogarithmicAccuracy, VonMisesAccuracy

ANGLES = VonMisesAccuracy([0.5, 1.0, 2.0, 4.0])
KINDS = {
    "positions": lambda network=None: Continuous(network, sigma_1=0.1, clip=None),
    "data": lambda network=None: Continuous(network, sigma_1=0.1, parametrisation="data"),
    "levels": lambda network=None: Discretised(network, sigma_1=0.2, num_bins=16),
    "types": lambda network=None: Discrete(network, schedule=LogarithmicAccuracy(5, 3.0), num_classes=5),
    "flags": lambda network=None: Binary(network, beta_1=4.0),
    "angles": lambda network=None: Circular(network, ANGLES, period=1.0),
}
SHAPES = {"positions": (6, 4, 3), "data": (6, 3), "levels": (6, 2), "types": (6, 4), "flags": (6, 5), "angles": (6, 3)}
BY_RULE = [name for name in KINDS if name != "angles"]


class Apart(nn.Module):
    """A network that sees no part when it puts out another one."""

    def __init__(self, names):
        super().__init__()
        sizes = {
            "positions": (3, 3),
            "data": (3, 3),
            "levels": (2, 4),
            "types": (5, 5),
            "flags": (5, 5),
            "angles": (2, 1),
        }
        torch.manual_seed(0)
        layers = {name: nn.Linear(*sizes[name]) for name in sizes}
        self.layers = nn.ModuleDict({name: layers[name] for name in names})

    def one(self, name, theta, t, cond=None):
        out = self.layers[name](theta) * (1 + t.view(-1, *(1,) * (theta.dim() - 1)))
        out = out if cond is None else out + 0.1 * cond.view(-1, *(1,) * (out.dim() - 1)).to(out.dtype)
        return {"levels": lambda: out.unflatten(-1, (2, 2)), "angles": lambda: out.squeeze(-1)}.get(name, lambda: out)()

    def forward(self, theta, t, cond=None):
        times = t if isinstance(t, dict) else dict.fromkeys(theta, t)
        return {name: self.one(name, each, times[name], cond) for name, each in theta.items()}


def joint(names=KINDS, **options) -> Joint:
    return Joint(Apart(names), **options, **{name: KINDS[name]() for name in names})


def alone(model: Joint, name: str):
    """The module of a part with its share of the joint network. It starts where the joint model does."""
    one = KINDS[name](lambda theta, t, cond=None: model.network.one(name, theta, t, cond))
    one.solver_start = model.solver_start
    return one


def data(names=KINDS):
    generator = torch.Generator().manual_seed(1)
    x = {name: torch.rand(SHAPES[name], generator=generator) * 2 - 1 for name in names}
    kinds = {
        "levels": lambda each: discretised.from_levels((8 * each + 8).long().clamp(0, 15), num_bins=16),
        "types": lambda each: (each.abs() * 5).long(),
        "flags": lambda each: (each > 0).long(),
    }
    return {name: kinds.get(name, lambda same: same)(each) for name, each in x.items()}


T = torch.tensor([0.0, 0.25, 0.5, 0.75, 0.5, 0.25])  # starts of steps of angles


COUNTS = [3, 0, 1, 4]
ATOMS = {"positions": (8, 3), "types": (8,), "lattice": (4, 2)}  # shapes


class Sums(nn.Module):
    """A network of rows that sees the sum of each example, as a graph network does, or of each padded example."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.positions, self.types, self.lattice = nn.Linear(8, 3), nn.Linear(8, 5), nn.Linear(2, 2)

    def forward(self, theta, t, cond=None, batch=None, mask=None):
        rows = torch.cat([theta["positions"], theta["types"]], -1)
        if batch is None:
            rows = torch.where(mask.unsqueeze(-1), rows, 0)
            rows = rows + 0.1 * rows.sum(1, keepdim=True) + t.view(-1, 1, 1)
        else:
            sums = rows.new_zeros(len(t), 8).index_add(0, batch, rows)
            rows = rows + 0.1 * sums[batch] + t[batch].unsqueeze(-1)
        lattice = self.lattice(theta["lattice"]) + t.unsqueeze(-1)
        return {"positions": self.positions(rows), "types": self.types(rows), "lattice": lattice}


def of_atoms(network=None) -> Joint:
    parts = {"positions": KINDS["positions"](), "types": KINDS["types"](), "lattice": Continuous(None, sigma_1=0.1)}
    return Joint(network or Sums(), centred=["positions"], of_examples=["lattice"], **parts)


def atoms(order=None):
    """Molecules with a lattice, and the molecule of each atom."""
    torch.manual_seed(3)
    rows = Ragged.of_counts(COUNTS)
    order = torch.arange(8) if order is None else order
    x = {"positions": rows.centred(torch.randn(8, 3))[order], "types": torch.randint(5, (8,))[order]}
    return x | {"lattice": torch.rand(4, 2)}, rows.batch[order]


def padded(value, mask):
    return value.new_zeros(*mask.shape, *value.shape[1:]).masked_scatter(
        mask.view(*mask.shape, *(1,) * (value.dim() - 1)).expand(*mask.shape, *value.shape[1:]), value
    )
