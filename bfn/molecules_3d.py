"""Molecules in space: their bonds by distance, how samples differ from held-out molecules, and a picture. Hydrogens are
left out, and fill the valences that bonds leave open. So instead of an atom's stability, which counts its hydrogens, we
measure whether the atom has no more bonds than its valence."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from bfn import figures
from bfn.atom_rows import POSITIONS, TYPES, atoms_of, molecules_of
from bfn.configs import ConfigError
from bfn.molecules import rdkit
from bfn.training.checkpoint import write_atomically
from bfn_kernels.nn import Ragged

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ELEMENTS = ("C", "N", "O", "F", "S", "Cl", "Br")
VALENCES = (4, 3, 2, 1, 6, 1, 1)
RADII = (0.38, 0.38, 0.38, 0.33, 0.52, 0.5, 0.56)  # in pictures
COLOURS = ("0.35", "#3050f8", "#e8140c", "#62c030", "#d8b810", "#1fa81f", "#a62929")
# Lengths of single, double and triple bonds in pm, as in the rule of EDM (arXiv 2203.17003); 0: there is no such bond.
LENGTHS = {
    "C C": (154, 134, 120),
    "C N": (147, 129, 116),
    "C O": (143, 120, 113),
    "C F": (135, 0, 0),
    "C S": (182, 160, 0),
    "C Cl": (177, 0, 0),
    "C Br": (194, 0, 0),
    "N N": (145, 125, 110),
    "N O": (140, 121, 0),
    "N F": (136, 0, 0),
    "N S": (168, 0, 0),
    "N Cl": (175, 0, 0),
    "N Br": (214, 0, 0),
    "O O": (148, 121, 0),
    "O F": (142, 0, 0),
    "O S": (151, 0, 0),
    "O Cl": (164, 0, 0),
    "O Br": (172, 0, 0),
    "F F": (142, 0, 0),
    "F S": (158, 0, 0),
    "F Cl": (166, 0, 0),
    "F Br": (178, 0, 0),
    "S S": (204, 0, 0),
    "S Cl": (207, 0, 0),
    "S Br": (225, 0, 0),
    "Cl Cl": (199, 0, 0),
    "Cl Br": (214, 0, 0),
    "Br Br": (228, 0, 0),
}
MARGINS = 0.10, 0.05, 0.03  # ångström; atoms that are closer than a length and its margin have at least this bond
FARTHEST, BINS = 2.5, 100  # the last length of a bond in a histogram, in ångström, and the bins of a histogram
DRAWN, COLUMNS = 24, 8  # samples in a picture, and molecules in a row of it
SIDE, TURN = 11.0, math.pi / 6  # the side of a molecule's cell in ångström, and how far the molecules are turned


class Structure(NamedTuple):
    """A molecule in space.

    positions: In ångström, [N, 3]. types: The numbers of the elements, [N]. bonds: Two atoms and the order of each
    bond, [M, 3].
    """

    positions: Tensor
    types: Tensor
    bonds: Tensor


@dataclass(frozen=True)
class Structures:
    """Molecules in space as one list of atoms, in which the atoms of a molecule are neighbours.

    Attributes:
        positions: In ångström, float32 [atoms, 3].
        types: The number of the element in ELEMENTS, int64 [atoms].
        counts: The number of atoms of each molecule, int64 [molecules].
        bonds: Two atoms, counted from the molecule's first atom, and the order of each bond, int64 [bonds, 3].
        bond_counts: The number of bonds of each molecule, int64 [molecules].
    """

    positions: Tensor
    types: Tensor
    counts: Tensor
    bonds: Tensor
    bond_counts: Tensor

    @classmethod
    def of(cls, molecules: Sequence[Structure]) -> "Structures":
        positions, types, bonds = (torch.cat(parts) for parts in zip(*molecules, strict=True))
        counts, bond_counts = (torch.tensor([len(molecule[i]) for molecule in molecules]) for i in (1, 2))
        return cls(positions, types, counts, bonds, bond_counts)

    @classmethod
    def by_distance(cls, positions: Tensor, types: Tensor, counts: Tensor) -> "Structures":
        """Molecules whose bonds follow from the distances of their atoms."""
        limits, sizes = nearest(), counts.tolist()
        parts = zip(positions.split(sizes), types.split(sizes), strict=True)
        return cls.of([Structure(place, kinds, bonds(place, limits[kinds][:, kinds])) for place, kinds in parts])

    @classmethod
    def of_rows(cls, molecules: Tensor) -> "Structures":
        """Molecules [B, A, 4] as in `bfn.atom_rows`, with bonds that follow from the distances of their atoms."""
        atoms, ragged = atoms_of(molecules)
        return cls.by_distance(atoms[POSITIONS], atoms[TYPES], ragged.sizes)

    def rows(self, places: int) -> Tensor:
        """The molecules without their bonds, [B, places, 4]."""
        return molecules_of({POSITIONS: self.positions, TYPES: self.types}, Ragged(self.batch, len(self)), places)

    def __len__(self) -> int:
        return len(self.counts)

    def __iter__(self) -> Iterator[Structure]:
        parts = (self.positions, self.counts), (self.types, self.counts), (self.bonds, self.bond_counts)
        return map(Structure, *(part.split(counts.tolist()) for part, counts in parts))

    @property
    def batch(self) -> Tensor:
        """The molecule of each atom, int64 [atoms]."""
        return torch.arange(len(self)).repeat_interleave(self.counts)

    @property
    def pairs(self) -> Tensor:
        """The two atoms of each bond, counted from the first atom of all, int64 [bonds, 2]."""
        starts = (self.counts.cumsum(0) - self.counts).repeat_interleave(self.bond_counts)
        return self.bonds[:, :2] + starts[:, None]

    def take(self, chosen: Tensor) -> "Structures":
        """The molecules with these numbers, in this order."""
        atoms, pairs = places(self.counts, chosen), places(self.bond_counts, chosen)
        counts = self.counts[chosen], self.bond_counts[chosen]
        return Structures(self.positions[atoms], self.types[atoms], counts[0], self.bonds[pairs], counts[1])


def places(counts: Tensor, chosen: Tensor) -> Tensor:
    """The places of the members of the chosen groups in a list of groups with these numbers of members."""
    few = counts[chosen]
    shifts = (counts.cumsum(0) - counts)[chosen] - (few.cumsum(0) - few)
    return torch.arange(int(few.sum())) + shifts.repeat_interleave(few)


def nearest() -> Tensor:
    """The distances below which two elements have at least a single, a double and a triple bond, [K, K, 3]."""
    limits = torch.zeros(len(ELEMENTS), len(ELEMENTS), len(MARGINS))
    for pair, lengths in LENGTHS.items():
        one, other = map(ELEMENTS.index, pair.split())
        limits[one, other] = limits[other, one] = torch.tensor(
            [length and length / 100 + margin for length, margin in zip(lengths, MARGINS, strict=True)]
        )
    return limits


def bonds(positions: Tensor, limits: Tensor) -> Tensor:
    """The bonds of one molecule. limits: the distances of `nearest` for each pair of its atoms, [N, N, 3]."""
    orders = ((positions[:, None] - positions).norm(dim=-1, keepdim=True) < limits).sum(-1).triu(1)
    pairs = orders.nonzero()
    return torch.cat([pairs, orders[pairs[:, 0], pairs[:, 1]][:, None]], 1)


def graph(molecule: Structure, *, orders: bool) -> Any:
    """The molecule as RDKit has it, but not yet sanitised. Without `orders`, all bonds are single."""
    with rdkit() as chem:
        made = chem.RWMol()
        for kind in molecule.types.tolist():
            made.AddAtom(chem.Atom(ELEMENTS[kind]))
        for one, other, order in molecule.bonds.tolist():
            made.AddBond(one, other, chem.BondType.values[order if orders else 1])
        return made


def is_valid(molecule: Structure) -> bool:
    """Whether all atoms are connected, and RDKit accepts the bonds."""
    with rdkit() as chem:
        made = graph(molecule, orders=True)
        whole = len(chem.GetMolFrags(made)) == 1
        return whole and not chem.SanitizeMol(made, catchErrors=True)


def skeleton(molecule: Structure) -> str:
    """A name that molecules share if they have the same elements and the same bonds, of any orders. The distances in
    aromatic rings do not tell which of the bonds are double bonds."""
    with rdkit() as chem:
        return chem.MolToSmiles(graph(molecule, orders=False))


def angles(molecule: Structure) -> Tensor:
    """The angles between two bonds of an atom, in degrees, [angles]."""
    one, other = molecule.bonds[:, 0], molecule.bonds[:, 1]
    here, there = torch.cat([one, other]), torch.cat([other, one])
    arms = molecule.positions[there] - molecule.positions[here]
    first, second = (here[:, None] == here).triu(1).nonzero(as_tuple=True)
    return torch.atan2(
        torch.linalg.cross(arms[first], arms[second]).norm(dim=-1), (arms[first] * arms[second]).sum(-1)
    ).rad2deg()


def within_valence(molecules: Structures) -> float:
    """The share of atoms whose bonds have no more orders than the valence of the element."""
    ends, orders = molecules.pairs.T.flatten(), molecules.bonds[:, 2].repeat(2)
    taken = torch.zeros_like(molecules.types).index_add_(0, ends, orders)
    return (taken <= torch.tensor(VALENCES)[molecules.types]).float().mean().item()


def shares(molecules: Structures) -> dict[str, Tensor]:
    """The histograms of bond lengths, of bond angles and of elements, each divided by its sum."""
    lengths = (molecules.positions[molecules.pairs].diff(dim=1)).norm(dim=-1)
    found = {
        "bond lengths": torch.histc(lengths, BINS, 0, FARTHEST),
        "bond angles": torch.histc(torch.cat([*map(angles, molecules)]), BINS, 0, 180),
        "elements": torch.bincount(molecules.types, minlength=len(ELEMENTS)).float(),
    }
    return {name: counts / counts.sum().clamp(min=1) for name, counts in found.items()}


def divergence(p: Tensor, q: Tensor) -> float:
    """The Jensen–Shannon divergence of two distributions in bits, from 0 to 1."""
    middle = (p + q) / 2
    return sum(torch.special.xlogy(each, each / middle).nansum().item() for each in (p, q)) / 2 / math.log(2)


@dataclass(frozen=True)
class Molecules3D:
    """Judges samples of molecules in space. The bonds follow from distances, in samples and in held-out molecules.

    Attributes:
        train: The training molecules.
        others: Held-out molecules, which are judged in the same way as samples.
        held_out: Held-out molecules, with which all others are compared.
        places: The places of a molecule in a row.
    """

    train: Structures
    others: Structures
    held_out: Structures
    places: int

    unit: ClassVar[str] = "bits per atom"
    quality: ClassVar[str] = "validity"

    def worth(self, bound: float) -> float:
        """A bound in bits per number of a row, converted to bits per atom."""
        return bound * 4 * self.places / torch.cat([self.others.counts, self.held_out.counts]).double().mean().item()

    def rival(self, examples: Tensor) -> tuple[str, float]:
        """The cost of atoms that do not depend on each other. The positions are normal, with the mean 0 in each
        molecule and the spread of training atoms, and the elements have the frequencies of training atoms."""
        atoms, ragged = atoms_of(examples)
        positions = ragged.centred(atoms[POSITIONS].double())
        dimensions = 3 * (self.train.counts - 1).sum()
        variance = self.train.positions.double().square().sum() / dimensions
        shares = torch.bincount(self.train.types, minlength=len(ELEMENTS)).double() + 0.5
        nats = positions.square().sum() / (2 * variance) - (shares / shares.sum()).log()[atoms[TYPES]].sum()
        nats += 3 * (ragged.sizes - 1).sum() / 2 * (2 * math.pi * variance).log()
        return "independent atoms", nats.item() / math.log(2) / len(positions)

    @cached_property
    def known(self) -> set[str]:
        return set(map(skeleton, self.train))

    @cached_property
    def reference(self) -> dict[str, Tensor]:
        return shares(by_distance(self.held_out))

    @property
    def independent(self) -> Structures:
        """Molecules with the numbers of atoms of the held-out ones, whose atoms do not depend on each other. Their
        positions are normal with the spread of training atoms, and each has the element of a random training atom."""
        counts, generator = self.held_out.counts, torch.Generator().manual_seed(0)
        atoms = int(counts.sum())
        kinds = self.train.types[torch.randint(len(self.train.types), (atoms,), generator=generator)]
        positions = self.train.positions.std() * torch.randn(atoms, 3, generator=generator)
        return Structures.by_distance(positions, kinds, counts)

    @cached_property
    def rivals(self) -> dict[str, dict[str, float]]:
        """The measures of independent atoms, and of held-out molecules."""
        drawn = {"independent atoms": self.independent, "held-out data": by_distance(self.others)}
        return {who: self.judged(molecules) for who, molecules in drawn.items()}

    def judged(self, molecules: Structures) -> dict[str, float]:
        """The share of valid molecules, and the other measures. Uniqueness and novelty are shares of the valid."""
        valid = [molecule for molecule in molecules if is_valid(molecule)]
        measured = {self.quality: len(valid) / len(molecules), "atoms within their valence": within_valence(molecules)}
        if valid:
            names = set(map(skeleton, valid))
            measured["uniqueness"] = len(names) / len(valid)
            measured["novelty"] = len(names - self.known) / len(names)
        for name, found in shares(molecules).items():
            measured[f"divergence of {name}"] = divergence(found, self.reference[name])
        return measured

    def score(self, samples: Tensor) -> tuple[float, float, dict[str, float]]:
        """The share of valid molecules, its standard error, and the other measures."""
        measured = self.judged(Structures.of_rows(samples))
        share = measured.pop(self.quality)
        return share, math.sqrt(share * (1 - share) / len(samples)), measured

    def measures(self, samples: Tensor) -> dict[str, float]:
        """The measures of samples, of independent atoms and of held-out molecules."""
        rows = {"samples": self.judged(Structures.of_rows(samples)), **self.rivals}
        return {f"{who}, {name}": value for who, measured in rows.items() for name, value in measured.items()}

    def draw(self, samples: Tensor, path: Path) -> Path:
        """Writes all samples into a file .xyz, and draws samples of all sizes above held-out molecules."""
        drawn = Structures.of_rows(samples)
        write_atomically(path.with_suffix(".xyz"), "".join(map(xyz, drawn)).encode())
        rows = math.ceil(min(DRAWN, len(drawn)) / COLUMNS)
        figure, axes = figures.panels((12, 1.5 * (rows + 1) + 1), 2, 1, height_ratios=[rows, 1])
        for place, molecules, count, title in zip(
            axes, (drawn, self.others), (DRAWN, COLUMNS), ("Samples", "Held-out molecules"), strict=True
        ):
            number = min(count, len(molecules))
            spread = torch.arange(number) * len(molecules) // number  # samples are in the order of their sizes
            chosen = by_distance(molecules.take(spread))
            valid = draw_grid(place, chosen, COLUMNS)
            place.set_title(f"{title}, {sum(valid)} of {len(valid)} valid")
        return figures.write(figure, path)


def by_distance(molecules: Structures) -> Structures:
    return Structures.by_distance(molecules.positions, molecules.types, molecules.counts)


def xyz(molecule: Structure) -> str:
    """The molecule in the format XYZ: the number of atoms, an empty line, and an atom in each further line."""
    rows = zip(molecule.types.tolist(), molecule.positions.tolist(), strict=True)
    lines = [f"{ELEMENTS[kind]} {x:.4f} {y:.4f} {z:.4f}\n" for kind, (x, y, z) in rows]
    return f"{len(lines)}\n\n{''.join(lines)}"


def read_xyz(path: Path) -> Tensor:
    """The atoms of the first molecule in a file of the format XYZ, [N, 4]: positions and numbers of elements."""
    try:
        count, _, *lines = path.read_text().splitlines()
        rows = [line.split() for line in lines[: int(count)]]
        if unknown := sorted({name for name, *_ in rows} - {*ELEMENTS}):
            raise ValueError(f"it has {', '.join(unknown)}")
        atoms = [[*map(float, numbers), ELEMENTS.index(name)] for name, *numbers in rows]
    except (ValueError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no file XYZ of the elements {', '.join(ELEMENTS)}: {error}") from error
    if len(atoms) != int(count) or not atoms or {*map(len, atoms)} != {4}:
        raise ConfigError(f"{path} must have {count} atoms with three coordinates each, at least one atom")
    found = torch.tensor(atoms)
    if not found.isfinite().all():
        raise ConfigError(f"{path} must have finite coordinates")
    return found


def draw_grid(axes: "Axes", molecules: Structures, columns: int) -> list[bool]:
    """Draws molecules into a grid. Returns whether each is valid."""
    rows = math.ceil(len(molecules) / columns)
    axes.set(xlim=(-0.5 * SIDE, (columns - 0.5) * SIDE), ylim=((0.5 - rows) * SIDE, 0.5 * SIDE), aspect="equal")
    axes.set_axis_off()
    corners = (torch.tensor([n % columns * SIDE, -(n // columns) * SIDE]) for n in range(len(molecules)))
    return [draw_molecule(axes, molecule, corner) for molecule, corner in zip(molecules, corners, strict=True)]


def draw_molecule(axes: "Axes", molecule: Structure, corner: Tensor) -> bool:
    """Draws balls and sticks around a place of the picture, the nearer ones over the farther ones. A molecule that is
    not valid has a grey background. Returns whether the molecule is valid."""
    from matplotlib.patches import Circle, Rectangle

    valid = is_valid(molecule)
    if not valid:
        x, y = (corner - 0.48 * SIDE).tolist()
        axes.add_patch(Rectangle((x, y), 0.96 * SIDE, 0.96 * SIDE, color="0.93", zorder=0))
    if not molecule.positions.isfinite().all():
        return valid
    places = seen(molecule.positions)
    flat, depth = places[:, :2] + corner, 2 + places[:, 2].sigmoid()
    for one, other, order in molecule.bonds.tolist():
        along = flat[other] - flat[one]
        across = 0.09 * torch.stack([-along[1], along[0]]) / along.norm().clamp(min=0.1)
        for shift in range(1 - order, order, 2):  # one line, two lines or three lines
            x, y = (flat[[one, other]] + shift * across).T.tolist()
            axes.plot(x, y, color="0.55", linewidth=1.5, zorder=depth[[one, other]].mean().item())
    for place, kind, near in zip(flat.tolist(), molecule.types.tolist(), depth.tolist(), strict=True):
        axes.add_patch(Circle(place, RADII[kind], facecolor=COLOURS[kind], edgecolor="0.2", linewidth=0.5, zorder=near))
    return valid


def seen(positions: Tensor) -> Tensor:
    """The positions turned so that the molecule is longest from left to right, and nearly flat."""
    at = positions - positions.mean(0)
    x, y, z = (at @ torch.linalg.svd(at).Vh.T).T
    cos, sin = math.cos(TURN), math.sin(TURN)
    return torch.stack([x, cos * y - sin * z, sin * y + cos * z], 1)
