"""Crystals for tests: prototypes, a joint model of coordinates, types and lattice, and how far a sample is from one."""

import gzip
import importlib.util
import json
import math
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bfn_kernels.nn import Circular, Continuous, Discrete, Joint, Ragged
from bfn_kernels.schedules import VonMisesAccuracy

TYPES, SIGMA_1, MESSAGES, ACCURACY = 4, 0.1, 20, 100.0
AFLOW = "analysis/prototypes/aflow_prototypes.json.gz"  # in pymatgen


class Crystal(NamedTuple):
    """The lattice is the logarithms of three lengths in units of 4 Å and the cosines of three angles, `[6]`. Types are
    numbered from the rarest one on, `[N]`. Coordinates are fractional, `[N, 3]`."""

    lattice: Tensor
    types: Tensor
    coordinates: Tensor


def crystal(lengths, degrees, elements, coordinates) -> Crystal:
    lattice = [math.log(length / 4) for length in lengths] + [math.cos(math.radians(angle)) for angle in degrees]
    kinds = sorted({*elements}, key=lambda element: (elements.count(element), element))
    types = [kinds.index(element) for element in elements]
    return Crystal(torch.tensor(lattice), torch.tensor(types), torch.tensor(coordinates, dtype=torch.float32))


def by_hand() -> list[Crystal]:
    fcc, cubic, hexagonal = (60, 60, 60), (90, 90, 90), (90, 90, 120)
    zero, quarter, half, three_quarters = ([number / 4] * 3 for number in range(4))
    one, other = (1 / 3, 2 / 3), (2 / 3, 1 / 3)
    wurtzite = [(*one, 0), (*other, 0.5), (*one, 0.375), (*other, 0.875)]
    nickel_arsenide = [zero, (0, 0, 0.5), (*one, 0.25), (*other, 0.75)]
    return [
        crystal([4.12] * 3, cubic, ["Cs", "Cl"], [zero, half]),
        crystal([2.52] * 3, fcc, ["C", "C"], [zero, quarter]),
        crystal([3.86] * 3, fcc, ["Ca", "F", "F"], [zero, quarter, three_quarters]),
        crystal([3.01, 3.01, 3.26], hexagonal, ["Al", "B", "B"], [zero, (*one, 0.5), (*other, 0.5)]),
        crystal([3.82, 3.82, 6.26], hexagonal, ["Zn", "Zn", "S", "S"], wurtzite),
        crystal([3.62, 3.62, 5.03], hexagonal, ["Ni", "Ni", "As", "As"], nickel_arsenide),
        crystal([3.75] * 3, cubic, ["Au", *["Cu"] * 3], [zero, (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)]),
    ]


def aflow_file() -> Path | None:
    """The prototypes in pymatgen, which is not imported, since that takes seconds."""
    package = importlib.util.find_spec("pymatgen")
    folders = package.submodule_search_locations if package else []
    return next((file for folder in folders if (file := Path(folder, AFLOW)).exists()), None)


def aflow(sizes=range(2, 5)) -> list[Crystal]:
    """The prototypes of AFLOW with so many atoms."""
    found = []
    for entry in json.loads(gzip.decompress(aflow_file().read_bytes())):
        lattice, sites = entry["snl"]["lattice"], entry["snl"]["sites"]
        if len(sites) in sizes:
            lengths, angles = ([lattice[name] for name in names.split()] for names in ("a b c", "alpha beta gamma"))
            elements = [site["species"][0]["element"] for site in sites]
            found.append(crystal(lengths, angles, elements, [site["abc"] for site in sites]))
    return found


class Network(nn.Module):
    """A graph network that does not see where the origin is, and moves its prediction with it.

    It starts with the input distributions' means as its predictions, and changes them by as much as they are uncertain.
    If it is blind, each part is predicted as if nothing were known about the other parts.
    """

    def __init__(self, width: int = 64, blind: bool = False):
        super().__init__()

        def layers(size: int, out: int) -> nn.Sequential:
            return nn.Sequential(nn.Linear(size, width), nn.SiLU(), nn.Linear(width, out))

        self.blind = blind
        self.inner, self.messages = layers(TYPES + 3 + 6 + 1, width), nn.ModuleList()
        for _ in range(2):
            self.messages.append(layers(2 * width + 8 * 3, width))
        self.types, self.crystal = layers(width, TYPES), layers(width + 6 + 1, 6)
        self.votes = layers(2 * width + 8 * 3, 6)
        for last in (self.votes[-1], self.crystal[-1]):
            nn.init.zeros_(last.weight)

    def forward(self, theta, t, batch):
        if not self.blind:
            return self.predicted(theta, t, batch)
        hidden = {name: torch.zeros_like(value) for name, value in theta.items()}
        return {name: self.predicted(hidden | {name: theta[name]}, t, batch)[name] for name in theta}

    def predicted(self, theta, t, batch):
        (mean, log), t, rows = theta["coordinates"].unbind(-1), t.unsqueeze(-1), Ragged(batch, len(t))
        atoms = self.inner(torch.cat([theta["types"], log, theta["lattice"][batch], t[batch]], -1))
        i, j = (batch.unsqueeze(-1) == batch).nonzero(as_tuple=True)
        angles = 2 * math.pi * (mean[j] - mean[i])
        waves = torch.cat([wave(k * angles) for k in range(1, 5) for wave in (torch.sin, torch.cos)], -1)
        of_pairs, share = Ragged(i, len(batch)), 1 / rows.sizes[batch].unsqueeze(-1)
        for message in self.messages:
            atoms = atoms + share * of_pairs.sums(message(torch.cat([atoms[i], atoms[j], waves], -1)))
        sine, cosine = self.votes(torch.cat([atoms[i], atoms[j], waves], -1)).chunk(2, -1)
        shift = share * of_pairs.sums(sine * angles.sin() + cosine * angles.cos())
        lattice = self.crystal(torch.cat([rows.sums(share * atoms), theta["lattice"], t], -1))
        return {
            "coordinates": mean + 0.2 * shift,
            "types": self.types(atoms),
            "lattice": theta["lattice"] + SIGMA_1**t * lattice,
        }


def model_of_crystals(blind: bool = False) -> Joint:
    torch.manual_seed(0)
    return Joint(
        Network(blind=blind),
        coordinates=Circular(None, VonMisesAccuracy.linear_entropy(MESSAGES, ACCURACY), period=1.0),
        types=Discrete(None, beta_1=3.0, num_classes=TYPES),
        lattice=Continuous(None, sigma_1=SIGMA_1, clip=None, parametrisation="data"),
        of_examples=["lattice"],
    )


def batch_of(crystals: list[Crystal], count: int, generator: torch.Generator) -> tuple[dict[str, Tensor], Ragged]:
    """Crystals at random, each with an origin at random."""
    chosen = [crystals[i] for i in torch.randint(len(crystals), (count,), generator=generator)]
    rows = Ragged.of_counts([len(each.types) for each in chosen])
    moved = torch.cat([each.coordinates for each in chosen]) + torch.rand(count, 3, generator=generator)[rows.batch]
    x = {"coordinates": moved - moved.round(), "types": torch.cat([each.types for each in chosen])}
    return x | {"lattice": torch.stack([each.lattice for each in chosen])}, rows


def losses(model: Joint, x: dict[str, Tensor], rows: Ragged, seed: int) -> dict[str, Tensor]:
    return model.loss_by_part(x, batch=rows.batch, reduction="examples", seed=seed)


def train(model: Joint, crystals: list[Crystal], n_steps: int, count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    for step in range(n_steps):
        optimizer.zero_grad()
        sum(losses(model, *batch_of(crystals, count, generator), seed=step).values()).backward()
        optimizer.step()
        schedule.step()


def crystals_of(x: dict[str, Tensor], counts: list[int]) -> list[Crystal]:
    atoms = x["types"].split(counts), x["coordinates"].split(counts)
    return [Crystal(*each) for each in zip(x["lattice"], *atoms, strict=True)]


def distance(one: Crystal, other: Crystal) -> float:
    """The root mean square of the differences of lattices and coordinates, whichever is larger, over all origins and
    orders of atoms for which all types agree. Infinity if there is no such order."""
    best = math.inf
    for order in permutations(range(len(one.types))):
        if torch.equal(one.types[[*order]], other.types):
            apart = one.coordinates[[*order]] - other.coordinates
            turns = torch.polar(torch.ones_like(apart), 2 * math.pi * apart)
            apart = (turns / turns.mean(0)).angle() / (2 * math.pi)
            best = min(best, apart.square().mean().sqrt().item())
    return max(best, (one.lattice - other.lattice).square().mean().sqrt().item())


def share_near(found: list[Crystal], crystals: list[Crystal], limit: float) -> float:
    """The share of crystals that are nearer to one of others than the limit."""
    alike = [[other for other in crystals if len(other.types) == len(each.types)] for each in found]
    pairs = zip(found, alike, strict=True)
    return sum(any(distance(each, other) < limit for other in others) for each, others in pairs) / len(found)
