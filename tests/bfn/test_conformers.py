"""Molecules in space: which fragments are cut out of strings, and that their positions are those of their atoms."""

import importlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from bfn.configs import Config, ConfigError, DataConfig
from bfn.molecules_3d import Structures, graph
from bfn.training.checkpoint import CheckpointError
from bfn.training.run_lock import RunError
from tests.bfn import tiny_files

made = importlib.import_module("bfn.data.conformers")
COUNT = 40
FILE = f"conformers_{COUNT}.safetensors"


@pytest.fixture
def rdkit():
    pytest.importorskip("rdkit")


@pytest.fixture
def config(tmp_path):
    return Config(data=DataConfig(name="conformers", folder=str(tiny_files.moses(tmp_path / "data")), count=COUNT))


def smiles(molecule):
    """The string of a molecule from its elements and its bonds."""
    chem = pytest.importorskip("rdkit.Chem")
    whole = graph(molecule, orders=True)
    chem.SanitizeMol(whole)
    return chem.MolToSmiles(whole)


def cut(string):
    chem = pytest.importorskip("rdkit.Chem")
    return set(made.fragments(chem.MolFromSmiles(string)))


@pytest.mark.parametrize(
    ("string", "wanted"),
    [
        ("OCCCCCN", {"CCCCCN", "CCCCCO", "CCCCN", "CCCCO", "CCCCC"}),  # the last after two cuts
        ("C=CCCCC", {"C=CCCC"}),  # no cut of the double bond
        ("Cn1cccc1", {"c1cc[nH]c1"}),  # a hydrogen takes the place of the carbon
        ("C1CCCCCCCCC1", set()),  # no cut in a ring, which two cuts would divide
        ("CCCC", set()),  # too few atoms
        ("C" * 14, {"C" * length for length in range(5, 13)}),  # not 13, which one cut leaves
    ],
)
def test_fragments_are_what_one_cut_or_two_cuts_leave(string, wanted):
    assert cut(string) == wanted


def test_molecules_are_different_fragments_whose_positions_fit_their_bonds(rdkit, config):
    splits = made.splits(config)
    assert [len(split) for split in splits] == [32, 4, 4]
    molecules = [molecule for split in splits for molecule in split]
    names = [smiles(molecule) for molecule in molecules]
    source = made.find_file(config, [made.MOLSETS.file], [""])
    possible = {name for string in set(made.read(source, "train")) for name in cut(string)}
    assert len(set(names)) == COUNT and set(names) <= possible
    for split in splits:
        found = Structures.by_distance(split.positions, split.types, split.counts)
        for molecule, near in zip(split, found, strict=True):
            assert 5 <= len(molecule.types) <= 12
            assert molecule.positions.mean(0).abs().max() < 1e-5
            bonded = {tuple(sorted(bond[:2])) for bond in molecule.bonds.tolist()}
            assert bonded == {tuple(bond[:2]) for bond in near.bonds.tolist()}
        assert split.positions.dtype == torch.float32 and split.types.dtype == split.counts.dtype == torch.int64


def test_molecules_are_the_same_on_every_run_with_any_number_of_threads(rdkit, config, monkeypatch):
    source = made.find_file(config, [made.MOLSETS.file], [""])
    runs = []
    for threads in (1, 3):
        monkeypatch.setattr(os, "cpu_count", lambda threads=threads: threads)
        runs.append(vars(made.make(source, COUNT)))
    for name, part in runs[0].items():
        assert part.equal(runs[1][name]), name


def test_a_molecule_without_a_conformer_is_left_out(rdkit, config, monkeypatch):
    source, real = made.find_file(config, [made.MOLSETS.file], [""]), made.conformer
    whole = [*made.make(source, COUNT)]
    numbers = iter(range(COUNT))
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    monkeypatch.setattr(made, "conformer", lambda name: None if next(numbers) == 3 else real(name))
    found = [*made.make(source, COUNT)]
    del whole[3]
    assert len(found) == len(whole) and all(map(torch.equal, found[3], whole[3]))


def test_one_of_several_processes_makes_the_file_and_later_runs_read_it(config, monkeypatch):
    calls = []

    def make(source, count):
        calls.append(count)
        return Structures.of([one_molecule(number) for number in range(count)])

    monkeypatch.setattr(made, "make", make)
    with ThreadPoolExecutor(2) as pool:  # locks of two opened files exclude each other in one process, too
        runs = list(pool.map(lambda _: made.splits(config), range(2)))
    assert calls == [COUNT]
    for splits in (*runs, made.splits(config)):
        numbers = torch.cat([split.positions[:, 0] for split in (splits.validation, splits.test, splits.train)])
        assert numbers.tolist() == list(range(COUNT))
    path = Path(config.data.folder) / FILE
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="does not match its checksum"):
        made.splits(config)


def one_molecule(number):
    return made.Structure(torch.tensor([[float(number), 0, 0]]), torch.tensor([0]), torch.zeros(0, 3).long())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": None}, "data.count=None must be the number of molecules to make, at least 20"),
        ({"count": 19}, "data.count=19 must be the number"),
        ({"folder": None}, r"'bfn data download conformers' .* puts it into .*/moses\."),
    ],
)
def test_settings_that_make_no_molecules_are_one_line(change, message, config):
    for name, value in change.items():
        setattr(config.data, name, value)
    with pytest.raises(ConfigError, match=message):
        made.splits(config)


def test_more_molecules_than_there_are_fragments_are_refused(rdkit, config):
    config.data.count = 10_000
    with pytest.raises(ConfigError, match=r"data.count=10000 must be at most \d+, the number of all fragments"):
        made.splits(config)


def test_rdkit_that_is_missing_is_one_line(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(RunError, match="molecules need rdkit, which is missing: pip install rdkit"):
        made.splits(config)
