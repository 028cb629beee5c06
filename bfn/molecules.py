"""What RDKit computes of molecules: their logP, the measures of MOSES (arXiv 1811.12823) for samples, and a picture of
their structures. RDKit is imported only when it is needed."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from bfn.training.checkpoint import write_atomically
from bfn.training.run_lock import RunError

LOGP = -1.0, 5.0  # the range of logP that is divided into bins; more than 99 % of MOSES lies in it
REFERENCES = 10_000  # molecules of each test split with which fragments and scaffolds are compared
DRAWN, COLUMNS = 36, 6  # structures in a picture, and in a row of it


@contextmanager
def rdkit() -> Iterator[Any]:
    """The package RDKit. Inside the `with`, it prints nothing about strings that are no molecules."""
    try:
        from rdkit import Chem, rdBase
    except ModuleNotFoundError as error:
        raise RunError(f"molecules need {error.name}, which is missing: pip install {error.name}") from error
    with rdBase.BlockLogs():
        yield Chem


def parsed(strings: Iterable[str]) -> Iterator[Any]:
    """Yields the molecule of each string, or None if the string is empty or describes no molecule. A molecule takes
    30 kB, so the function does not return a list."""
    with rdkit() as chem:
        yield from (chem.MolFromSmiles(string) if string else None for string in strings)


def log_p(strings: Iterable[str]) -> Tensor:
    """logP by Crippen's rules, float32 [N]: log10 of the ratio of the concentrations in octanol and in water."""
    with rdkit():
        from rdkit.Chem.Crippen import MolLogP  # type: ignore[attr-defined]

        return torch.tensor([MolLogP(molecule) for molecule in parsed(strings)])


@dataclass(frozen=True)
class Molecules:
    """Judges a model of molecules and its samples.

    Attributes:
        symbols: The text of each class.
        read: Returns the strings of a split, by the split's name.
        tokens: The share of places in the test split's rows that hold a token.
        trigrams: Bits per token of a trigram model on the test split.
        lengths: Bits per token for the lengths of the test split, which a model's bound takes as known.
    """

    symbols: Sequence[str]
    read: Callable[[str], list[str]]
    tokens: float
    trigrams: float
    lengths: float

    unit: ClassVar[str] = "bits per token"
    quality: ClassVar[str] = "validity"

    def rival(self, examples: Tensor) -> tuple[str, float]:
        return "trigrams", self.trigrams  # of the test split, whatever the examples are

    @cached_property
    def training(self) -> set[str]:
        return set(self.read("train"))

    @cached_property
    def references(self) -> dict[str, tuple[Counter[str], Counter[str]]]:
        """The fragments and the scaffolds of some molecules of both test splits."""
        parts = {}
        for split in ("test", "test_scaffolds"):
            strings = self.read(split)
            some = list(parsed(strings[:: max(1, len(strings) // REFERENCES)][:REFERENCES]))
            parts[split] = fragments(some), scaffolds(some)
        return parts

    def worth(self, bound: float) -> float:
        """A bound in bits per dimension, converted to bits per token and with the cost of the length added."""
        return bound / self.tokens + self.lengths

    def strings(self, samples: Tensor) -> list[str]:
        """The string of each row of classes. The first class of a row is its property, which is left out."""
        return ["".join(self.symbols[c] for c in row[1:]) for row in samples.tolist()]

    def valid(self, samples: Tensor) -> list[Any]:
        """The samples that are molecules."""
        return [molecule for molecule in parsed(self.strings(samples)) if molecule is not None]

    def score(self, samples: Tensor) -> tuple[float, float, dict[str, float]]:
        """The share of samples that are molecules, its standard error, and the `summary` of these molecules."""
        valid = self.valid(samples)
        share = len(valid) / len(samples)
        return share, math.sqrt(share * (1 - share) / len(samples)), self.summary(valid)

    def summary(self, valid: list[Any]) -> dict[str, float]:
        """The measures of valid molecules, except those that compare with the test splits."""
        if not valid:
            return {}
        with rdkit() as chem:
            names = Counter(chem.MolToSmiles(molecule) for molecule in valid)
        measured = {"uniqueness": len(names) / len(valid)}
        measured["novelty"] = sum(name not in self.training for name in names) / len(names)
        measured["internal diversity"] = internal_diversity(valid)
        values = log_p(names.elements())
        measured["mean logP"], measured["its deviation"] = values.mean().item(), values.std(correction=0).item()
        return measured

    def measures(self, samples: Tensor) -> dict[str, float]:
        """The measures of MOSES that RDKit alone gives. Validity is of all samples, all else of the valid samples."""
        valid = self.valid(samples)
        measured = {self.quality: len(valid) / len(samples), **self.summary(valid)}
        if valid:
            found = fragments(valid), scaffolds(valid)
            for split, reference in self.references.items():
                for part, ours, theirs in zip(("fragments", "scaffolds"), found, reference, strict=True):
                    measured[f"{part}, {split}"] = cosine(ours, theirs)
        return measured

    def draw(self, samples: Tensor, path: Path) -> Path:
        """Writes the strings of all samples into a .smi file, and draws the structures of the first valid ones."""
        strings = self.strings(samples)
        write_atomically(path.with_suffix(".smi"), "".join(f"{string}\n" for string in strings).encode())
        with rdkit():
            from rdkit.Chem import Draw

            picture = Draw.MolsToGridImage(self.valid(samples)[:DRAWN] or [None], COLUMNS, (220, 180))
        write_atomically(path, lambda file: picture.save(file, "PNG"))
        return path


def fragments(molecules: Iterable[Any]) -> Counter[str]:
    """How often each fragment occurs if molecules are cut at their BRICS bonds."""
    with rdkit() as chem:
        from rdkit.Chem.rdmolops import FragmentOnBRICSBonds  # type: ignore[attr-defined]

        return Counter(part for one in molecules for part in chem.MolToSmiles(FragmentOnBRICSBonds(one)).split("."))


def scaffolds(molecules: Iterable[Any]) -> Counter[str]:
    """How often each scaffold of Bemis and Murcko occurs that has at least two rings."""
    with rdkit() as chem:
        from rdkit.Chem.Scaffolds.MurckoScaffold import GetScaffoldForMol

        found = (GetScaffoldForMol(molecule) for molecule in molecules)
        return Counter(chem.MolToSmiles(one) for one in found if one.GetRingInfo().NumRings() >= 2)


def cosine(first: Counter[str], second: Counter[str]) -> float:
    """The cosine of the angle between two vectors of counts; nan if one is empty."""
    product = sum(count * second[name] for name, count in first.items())
    norms = math.prod(math.sqrt(sum(count**2 for count in counts.values())) for counts in (first, second))
    return product / norms if norms else math.nan


def internal_diversity(molecules: Sequence[Any]) -> float:
    """1 minus the mean Tanimoto similarity of all pairs, including each molecule with itself. Similarity is between
    Morgan fingerprints of radius 2."""
    with rdkit():
        from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator

        generator = GetMorganGenerator(radius=2, fpSize=1024)
        prints = torch.tensor([generator.GetFingerprintAsNumPy(one).tolist() for one in molecules]).float()
    common, sizes = prints @ prints.mT, prints.sum(1)
    return 1 - (common / (sizes[:, None] + sizes - common)).mean().item()
