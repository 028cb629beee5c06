"""Molecules as RDKit sees them: their logP, what samples of them are worth by the measures of MOSES (arXiv 1811.12823),
and a picture of their structures. RDKit is imported where it is needed first."""

import io
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

LOGP = -1.0, 5.0  # the range of logP that bins divide, which has more than 99 % of MOSES
REFERENCES = 10_000  # molecules of a test split that fragments and scaffolds are compared with
DRAWN, COLUMNS = 36, 6  # structures in a picture, and in a row of it


@contextmanager
def rdkit() -> Iterator[Any]:
    """The package RDKit, which in the `with` prints nothing about strings that are no molecules."""
    try:
        from rdkit import Chem, rdBase
    except ModuleNotFoundError as error:
        needs = f"{error.name}, which is not installed: pip install 'bfn-kernels[molecules]'"
        raise RunError(f"molecules need {needs}") from error
    with rdBase.BlockLogs():
        yield Chem


def parsed(strings: Iterable[str]) -> list[Any]:
    """The molecules of strings. One that is empty, or that no molecule has, is None."""
    with rdkit() as chem:
        return [chem.MolFromSmiles(string) if string else None for string in strings]


def log_p(strings: Iterable[str]) -> Tensor:
    """logP by Crippen's rules, the share of octanol to water as a logarithm, float32 [N]."""
    with rdkit():
        from rdkit.Chem.Crippen import MolLogP

        return torch.tensor([MolLogP(molecule) for molecule in parsed(strings)])


@dataclass(frozen=True)
class Molecules:
    """Judges a model of molecules and its samples.

    symbols: the text of each class. read: the strings of a split by its name. tokens: the mean number of tokens per
    place of a row on the test split. trigrams, lengths: bits per token there of a trigram model, and of the lengths,
    which the bound of a model takes as known.
    """

    symbols: Sequence[str]
    read: Callable[[str], list[str]]
    tokens: float
    trigrams: float
    lengths: float

    unit: ClassVar[str] = "bits per token"
    quality: ClassVar[str] = "valid"

    def rival(self, examples: Tensor) -> tuple[str, float]:
        return "trigrams", self.trigrams  # of the test split

    @cached_property
    def training(self) -> set[str]:
        return set(self.read("train"))

    @cached_property
    def references(self) -> dict[str, tuple[Counter[str], Counter[str]]]:
        """The fragments and the scaffolds of some molecules of both test splits."""
        parts = {}
        for split in ("test", "test_scaffolds"):
            strings = self.read(split)
            some = parsed(strings[:: max(1, len(strings) // REFERENCES)][:REFERENCES])
            parts[split] = fragments(some), scaffolds(some)
        return parts

    def worth(self, bound: float) -> float:
        """The bits per token of a bound in bits per dimension, with what the length costs."""
        return bound / self.tokens + self.lengths

    def strings(self, samples: Tensor) -> list[str]:
        """The strings of rows of classes, without their property."""
        return ["".join(self.symbols[c] for c in row[1:]) for row in samples.tolist()]

    def score(self, samples: Tensor) -> tuple[float, float]:
        """The share of samples that are molecules, and its standard error."""
        share = sum(molecule is not None for molecule in parsed(self.strings(samples))) / len(samples)
        return share, math.sqrt(share * (1 - share) / len(samples))

    def measures(self, samples: Tensor) -> dict[str, float]:
        """The measures of MOSES that RDKit alone gives. Those but validity are of valid samples."""
        with rdkit() as chem:
            valid = [molecule for molecule in parsed(self.strings(samples)) if molecule is not None]
            measured = {"validity": len(valid) / len(samples)}
            if not valid:
                return measured
            names = Counter(chem.MolToSmiles(molecule) for molecule in valid)
            measured["uniqueness"] = len(names) / len(valid)
            measured["novelty"] = sum(name not in self.training for name in names) / len(names)
            measured["internal diversity"] = internal_diversity(valid)
            found = fragments(valid), scaffolds(valid)
            for split, reference in self.references.items():
                for part, ours, theirs in zip(("fragments", "scaffolds"), found, reference, strict=True):
                    measured[f"{part}, {split}"] = cosine(ours, theirs)
            values = log_p(names.elements())
            measured["mean logP"], measured["its deviation"] = values.mean().item(), values.std(correction=0).item()
        return measured

    def draw(self, samples: Tensor, path: Path) -> Path:
        """Write the strings of all samples into a file .smi, and draw the structures of the first that are
        molecules."""
        strings = self.strings(samples)
        write_atomically(path.with_suffix(".smi"), "".join(f"{string}\n" for string in strings).encode())
        with rdkit():
            from rdkit.Chem import Draw

            valid = [molecule for molecule in parsed(strings) if molecule is not None]
            picture = Draw.MolsToGridImage(valid[:DRAWN] or [None], COLUMNS, (220, 180))
        content = io.BytesIO()
        picture.save(content, "PNG")
        write_atomically(path, content.getvalue())
        return path


def fragments(molecules: Iterable[Any]) -> Counter[str]:
    """How often each part of molecules occurs that are cut at the bonds of BRICS."""
    with rdkit() as chem:
        from rdkit.Chem.rdmolops import FragmentOnBRICSBonds  # type: ignore[attr-defined]

        return Counter(part for one in molecules for part in chem.MolToSmiles(FragmentOnBRICSBonds(one)).split("."))


def scaffolds(molecules: Iterable[Any]) -> Counter[str]:
    """How often each scaffold of Bemis and Murcko occurs, of those with two rings and more."""
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
    """1 minus the mean Tanimoto similarity of all pairs, each with itself too, of Morgan fingerprints of radius 2."""
    with rdkit():
        from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator

        generator = GetMorganGenerator(radius=2, fpSize=1024)
        prints = torch.tensor([generator.GetFingerprintAsNumPy(one).tolist() for one in molecules]).float()
    common, sizes = prints @ prints.mT, prints.sum(1)
    return 1 - (common / (sizes[:, None] + sizes - common)).mean().item()
