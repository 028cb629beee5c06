"""Bonds by distance, the measures of molecules in space, and their picture."""

import itertools
import math
import re

import pytest
import torch

from bfn import figures
from bfn.configs import ConfigError
from bfn.molecules_3d import (
    ELEMENTS,
    LENGTHS,
    MARGINS,
    Molecules3D,
    Structures,
    angles,
    divergence,
    is_valid,
    read_xyz,
    seen,
    shares,
    skeleton,
    within_valence,
)


def chain(names, bond=1.5, angle=110.0):
    """A zigzag of elements, whose bonds have one length and one angle."""
    half = math.radians(angle / 2)
    steps = [[bond * math.sin(half), bond * math.cos(half) * (-1) ** i, 0.0] for i in range(len(names) - 1)]
    return torch.tensor([[0.0, 0.0, 0.0], *steps]).cumsum(0), torch.tensor([ELEMENTS.index(name) for name in names])


def star(count):
    """A carbon amid others, at 1.5 Å from it."""
    z = torch.linspace(-0.95, 0.95, count)
    turn = 2.4 * torch.arange(count)
    points = torch.stack([(1 - z**2).sqrt() * turn.cos(), (1 - z**2).sqrt() * turn.sin(), z], 1)
    return torch.cat([torch.zeros(1, 3), 1.5 * points]), torch.zeros(count + 1, dtype=torch.int64)


def joined(*molecules):
    positions, types = (torch.cat(parts) for parts in zip(*molecules, strict=True))
    return Structures.by_distance(positions, types, torch.tensor([len(kinds) for _, kinds in molecules]))


@pytest.mark.parametrize(("pair", "lengths"), LENGTHS.items())
def test_a_pair_of_atoms_has_the_order_of_the_shortest_length_that_it_reaches(pair, lengths):
    names = pair.split()
    for order, (length, margin) in enumerate(zip(lengths, MARGINS, strict=True), 1):
        for more, wanted in ((margin - 0.001, order), (margin + 0.001, order - 1)) if length else ():
            for ends in (names, names[::-1]):
                found = joined(chain(ends, bond=length / 100 + more)).bonds.tolist()
                assert found == ([[0, 1, wanted]] if wanted else [])


def test_every_pair_of_elements_has_a_length():
    pairs = [frozenset(pair) for pair in itertools.combinations_with_replacement(ELEMENTS, 2)]
    assert sorted(map(sorted, pairs)) == sorted(sorted({*pair.split()}) for pair in LENGTHS)


def test_a_list_of_atoms_is_divided_into_molecules():
    parts = chain("CCO"), chain("N"), chain("CN", bond=1.3)
    molecules = joined(*parts)
    assert [one.bonds.tolist() for one in molecules] == [[[0, 1, 1], [1, 2, 1]], [], [[0, 1, 2]]]
    assert molecules.pairs.tolist() == [[0, 1], [1, 2], [4, 5]] and molecules.batch.tolist() == [0, 0, 0, 1, 2, 2]
    chosen = molecules.take(torch.tensor([2, 0, 2]))
    for got, number in zip(chosen, (2, 0, 2), strict=True):
        assert all(map(torch.equal, got, [*molecules][number]))
    assert len(chosen) == 3 and len(molecules.take(torch.tensor([], dtype=torch.int64))) == 0


@pytest.mark.parametrize(
    ("molecule", "wanted"),
    [
        (chain("CCO"), True),
        (chain("C"), True),
        ((torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)), False),
        (chain("CCO", bond=2.0), False),  # not connected
        (star(4), True),
        (star(5), False),  # five bonds of a carbon
        (chain("CCC", bond=1.2), False),  # two triple bonds of one carbon
        (chain("CCC", bond=math.nan), False),
        (chain("CCC", bond=0.0), False),
    ],
)
def test_a_molecule_is_valid_if_it_is_connected_and_rdkit_accepts_its_bonds(molecule, wanted):
    pytest.importorskip("rdkit")
    assert is_valid(*joined(molecule)) is wanted


def test_atoms_have_no_more_bonds_than_their_valence():
    assert within_valence(joined(star(4))) == 1
    assert within_valence(joined(star(5), chain("CC", bond=1.3))) == pytest.approx(7 / 8)
    assert within_valence(joined(chain("OOO", bond=1.2))) == pytest.approx(2 / 3)


def test_lengths_angles_and_elements_are_counted():
    found = shares(joined(chain("CCCO", bond=1.43, angle=104.4), chain("N")))
    assert found["bond lengths"].nonzero().tolist() == [[57]]  # of bins of 0.025 Å
    assert found["bond angles"].nonzero().tolist() == [[58]]  # of bins of 1.8°
    torch.testing.assert_close(found["elements"], torch.tensor([3.0, 1, 1, 0, 0, 0, 0]) / 5)
    points = star(4)[0][1:] / 1.5
    wanted = [(one @ other).acos().rad2deg() for one, other in itertools.combinations(points, 2)]
    torch.testing.assert_close(angles(*joined(star(4))).sort().values, torch.stack(wanted).sort().values)
    assert not shares(joined(chain("C")))["bond lengths"].any()


def test_the_divergence_is_that_of_jensen_and_shannon_in_bits():
    p, q = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.0, 0.5, 0.5])
    assert divergence(p, p) == 0 and divergence(p, q) == pytest.approx(0.5)
    assert divergence(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])) == pytest.approx(1)


def test_skeletons_are_equal_if_elements_and_bonds_are():
    pytest.importorskip("rdkit")
    one, turned, double, other = joined(
        chain("CCO"),
        chain("OCC"),
        chain("CCO", bond=1.2),
        chain("COC", bond=1.4),
    )
    assert skeleton(one) == skeleton(turned) == skeleton(double) != skeleton(other)


def judge():
    train = joined(*[chain("CCO")] * 4, *[chain("CNC")] * 4)
    return Molecules3D(
        train,
        joined(chain("CCN"), star(5)),
        joined(*[chain("CCOCNC", bond=1.45)] * 20),
        places=7,
    )


def test_measures_of_samples_of_independent_atoms_and_of_held_out_molecules():
    pytest.importorskip("rdkit")
    judged, samples = (
        judge(),
        joined(
            chain("CCO"),
            chain("OCC"),
            chain("NCC"),
            star(5),
            chain("CC", bond=2.0),
        ),
    )
    share, error, more = judged.score(samples.rows(7))
    assert (share, error) == (0.6, pytest.approx(math.sqrt(0.6 * 0.4 / 5)))
    assert more["uniqueness"] == pytest.approx(2 / 3) and more["novelty"] == 0.5
    assert more["atoms within their valence"] == pytest.approx(16 / 17)
    measures = judged.measures(samples.rows(7))
    assert measures["samples, validity"] == 0.6 and measures["held-out data, validity"] == 0.5
    wanted = divergence(torch.tensor([8.0, 1, 0]) / 9, torch.tensor([4.0, 1, 1]) / 6)
    assert measures["held-out data, divergence of elements"] == pytest.approx(wanted)
    assert measures["independent atoms, validity"] < 0.5
    assert measures["independent atoms, divergence of bond lengths"] > 0.2
    alike = judged.score(judged.held_out.rows(7))[2]
    assert all(alike[f"divergence of {what}"] == 0 for what in ("bond lengths", "bond angles", "elements"))


def test_samples_of_which_none_is_valid_have_no_uniqueness():
    pytest.importorskip("rdkit")
    share, error, more = judge().score(joined(chain("CC", bond=math.nan), star(6)).rows(7))
    assert (share, error) == (0, 0) and "uniqueness" not in more
    assert all(math.isfinite(value) for value in more.values())


def test_independent_atoms_have_the_spread_and_the_elements_of_training_atoms():
    drawn, train = judge().independent, judge().train
    assert drawn.counts.tolist() == [6] * 20 and set(drawn.types.tolist()) == {0, 1, 2}
    assert drawn.positions.std() == pytest.approx(train.positions.std().item(), rel=0.15)


def test_a_picture_shows_all_bonds_and_atoms_and_marks_what_is_not_valid(tmp_path, monkeypatch):
    pytest.importorskip("rdkit")
    drawn, write = [], figures.write
    monkeypatch.setattr(figures, "write", lambda figure, path: drawn.append(figure) or write(figure, path))
    samples = joined(chain("CCO"), chain("CN", bond=1.3), star(5), chain("CC", bond=math.nan))
    path = judge().draw(samples.rows(7), tmp_path / "samples.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    top, bottom = drawn[0].axes
    assert top.get_title() == "Samples, 2 of 4 valid" and bottom.get_title() == "Held-out molecules, 1 of 2 valid"
    names = [type(patch).__name__ for patch in top.patches]
    assert names.count("Circle") == 3 + 2 + 6 and names.count("Rectangle") == 2
    assert len(top.lines) == 2 + 2 + 5
    lines = path.with_suffix(".xyz").read_text().splitlines()
    assert lines[:3] == ["3", "", "C 0.0000 0.0000 0.0000"] and lines[4].startswith("O ") and lines[5] == "2"


def test_a_picture_shows_samples_of_all_sizes(tmp_path, monkeypatch):
    """Samples are in the order of their sizes, and large molecules are valid less often."""
    pytest.importorskip("rdkit")
    drawn, write = [], figures.write
    monkeypatch.setattr(figures, "write", lambda figure, path: drawn.append(figure) or write(figure, path))
    judge().draw(joined(*[chain("CC")] * 30, *[star(5)] * 30).rows(7), tmp_path / "samples.png")
    assert drawn[0].axes[0].get_title() == "Samples, 12 of 24 valid"


def test_a_picture_shows_the_longest_side_of_a_molecule():
    places = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 4.0], [0.0, 1.0, 2.0], [0.3, 0.0, 2.0]])
    turned = seen(places)
    torch.testing.assert_close(torch.cdist(turned, turned), torch.cdist(places, places))
    assert (turned[1] - turned[0]).abs()[0] > 3.9 and turned.mean(0).abs().max() < 1e-6
    assert seen(torch.zeros(1, 3)).shape == (1, 3)


def test_the_cost_of_independent_atoms_is_that_of_their_densities():
    """Two atoms of carbon at ±d have one free coordinate vector, (x₁ − x₂)/√2, whose density is normal."""
    pair = joined(*[(torch.tensor([[d, 0.0, 0.0], [-d, 0.0, 0.0]]), torch.zeros(2, dtype=torch.int64)) for d in (1, 2)])
    name, bits = Molecules3D(pair, pair, pair, 3).rival(pair.rows(3))
    variance = (2 * 1.0 + 2 * 4.0) / (2 * 3)
    normal = torch.distributions.Normal(0, variance**0.5)
    free = torch.tensor([[2**0.5, 0, 0], [2 * 2**0.5, 0, 0]])
    nats = -normal.log_prob(free).sum() - 4 * math.log(4.5 / (4 + 7 / 2))
    assert name == "independent atoms" and bits == pytest.approx(nats.item() / math.log(2) / 4)
    assert Molecules3D(pair, pair, pair, 3).worth(1.0) == 12 / 2


def test_a_file_of_a_fragment_is_read_or_refused(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text("2\nname\nC 0 1 2.5\nBr -1 0 1e-3\nO 0 0 0\n")
    torch.testing.assert_close(read_xyz(path), torch.tensor([[0, 1, 2.5, 0], [-1, 0, 1e-3, 6]]))
    for text in ("", "x\n\n", "1\n\nXx 0 0 0\n", "2\n\nC 0 0 0\n", "1\n\nC 0 0\n", "1\n\nC 0 0 nan\n", "0\n\n"):
        path.write_text(text)
        with pytest.raises(ConfigError, match=re.escape(str(path))):
            read_xyz(path)
