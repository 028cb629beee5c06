"""Molecules in space: fragments of the molecules of MOSES, to which RDKit gives positions."""

import itertools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.progress import track

from bfn.configs import Config, ConfigError
from bfn.data.files import find_file, locked
from bfn.data.moses import MOLSETS, read, shuffled
from bfn.data.splits import Data
from bfn.molecules import parsed, rdkit
from bfn.molecules_3d import ELEMENTS, Molecules3D, Structure, Structures
from bfn.training.checkpoint import load, save

SMALLEST, LARGEST = 5, 12  # atoms of a fragment
VALIDATION, TEST = 1000, 2000  # the largest numbers of molecules in these splits
FEWEST = 20  # the smallest data.count: two molecules are then held out
SEED = 49  # of each conformer
ITERATIONS = 500  # of the force field; a molecule that needs more is left out


class Splits(NamedTuple):
    train: Structures
    validation: Structures
    test: Structures


def conformers(config: Config) -> Data:
    """Molecules in space, as `bfn.atom_rows` has them."""
    train, validation, test = splits(config)
    half = torch.arange(len(test))
    judge = Molecules3D(train, test.take(half[::2]), test.take(half[1::2]), LARGEST)
    rows = train.rows(LARGEST), validation.rows(LARGEST), test.rows(LARGEST)
    _, rival = judge.rival(rows[-1])
    sizes = train.counts.sort().values
    return Data(*rows, 0, rival / judge.worth(1.0), sizes=sizes, judge=judge)


def splits(config: Config) -> Splits:
    """data.count different fragments of 5 to 12 atoms, in fixed random splits.

    One process makes the molecules once, and then all processes read them from a file next to that of MOSES. A
    fragment of one split may be a part of a fragment of another split.
    """
    source, count = find_file(config, [MOLSETS.file], [""]), config.data.count
    if count is None or count < FEWEST:
        raise ConfigError(f"data.count={count} must be the number of molecules to make, at least {FEWEST}")
    path = source.parent / f"conformers_{count}.safetensors"
    if not path.exists():
        with locked(source.parent / ".conformers.lock"):
            if not path.exists():
                save(path, vars(make(source, count)), {})
    tensors, _ = load(path)
    whole = Structures(**tensors)
    few, more = min(VALIDATION, count // 10), min(TEST, count // 10)
    order = torch.arange(len(whole))
    return Splits(*map(whole.take, (order[few + more :], order[:few], order[few : few + more])))


def make(source: Path, count: int) -> Structures:
    """The conformers of `count` fragments, in a random order, less those for which RDKit finds no conformer."""
    found: dict[str, None] = {}
    with rdkit():
        for molecule in parsed(shuffled(read(source, "train"))):
            found.update(dict.fromkeys(fragments(molecule)))
            if len(found) >= count:
                break
        else:
            raise ConfigError(f"data.count={count} must be at most {len(found)}, the number of all fragments")
        names = shuffled(list(found)[:count])
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # RDKit releases Python's lock
            made = list(track(pool.map(conformer, names), "making conformers, once", count))
    return Structures.of([one for one in made if one is not None])


def fragments(molecule: Any) -> Iterator[str]:
    """The canonical SMILES of the parts of 5 to 12 atoms that one cut or two cuts of single bonds outside rings make.
    Hydrogens take the places of the bonds."""
    with rdkit() as chem:
        single = [
            bond.GetIdx()
            for bond in molecule.GetBonds()
            if bond.GetBondType() == chem.BondType.SINGLE and not bond.IsInRing()
        ]
        for cuts in itertools.chain(*(itertools.combinations(single, number) for number in (1, 2))):
            cut = chem.FragmentOnBonds(molecule, cuts, dummyLabels=[(0, 0)] * len(cuts))
            for part in chem.GetMolFrags(cut, asMols=True, sanitizeFrags=False):
                ends = [atom for atom in part.GetAtoms() if atom.GetAtomicNum() == 0]
                # A part with one end after two cuts is also a part after one cut.
                if len(ends) == len(cuts) and SMALLEST <= part.GetNumAtoms() - len(ends) <= LARGEST:
                    for atom in ends:
                        atom.SetAtomicNum(1)
                    yield chem.MolToSmiles(chem.RemoveHs(part))


def conformer(name: str) -> Structure | None:
    """The molecule with positions by ETKDG and the force field MMFF94, or None if RDKit finds none."""
    with rdkit() as chem:
        from rdkit.Chem.rdDistGeom import EmbedMolecule, ETKDGv3  # type: ignore[attr-defined]
        from rdkit.Chem.rdForceFieldHelpers import MMFFOptimizeMolecule  # type: ignore[attr-defined]

        molecule, method = chem.AddHs(chem.MolFromSmiles(name)), ETKDGv3()
        method.randomSeed = SEED  # type: ignore[assignment]
        if EmbedMolecule(molecule, method) or MMFFOptimizeMolecule(molecule, maxIters=ITERATIONS):
            return None
        positions = torch.from_numpy(molecule.GetConformer().GetPositions()).float()
        molecule = chem.RemoveHs(molecule)  # the hydrogens are the last atoms
        chem.Kekulize(molecule, clearAromaticFlags=True)
        types = [ELEMENTS.index(atom.GetSymbol()) for atom in molecule.GetAtoms()]
        bonds = [
            (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), int(bond.GetBondTypeAsDouble()))
            for bond in molecule.GetBonds()
        ]
    positions = positions[: len(types)]
    return Structure(positions - positions.mean(0), torch.tensor(types), torch.tensor(bonds))
