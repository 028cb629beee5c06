"""Published formulas and what takes their place: they agree, and what is reported is what was measured. With
BFN_CLIENTS=<a folder with checkouts, each called as the option --checkout calls it> their own functions are called."""

import io
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from benchmarks import csv_files, measure
from benchmarks.clients import __main__ as tool
from benchmarks.clients import atoms, client_rows, joint, places, reals
from benchmarks.clients.checkouts import Compared
from benchmarks.clients.client import TOLERANCE, disagreement, own_disagreement
from benchmarks.devices import Cpu
from bfn_kernels import continuous

CHECKOUTS = os.environ.get("BFN_CLIENTS")
LISTED = (*places.PLACES, *places.LATER)
each_client = pytest.mark.parametrize("place", range(len(LISTED)), ids=lambda i: LISTED[i].client)
# A checkout of one file. Annotations and imports may need packages that are not installed, and nothing but imports and
# the function is executed.
FLOW = """
import not_installed
import torch

raise RuntimeError


def sampling_tensor_discreteBayesianFlow_mbcltbf(time: not_installed.Tensor, tokens, beta1, dict_size, torder):
    valid = torch.arange(dict_size).sub(13.5).abs() < 10
    beta = (beta1 * time**torder)[..., None]
    mean = torch.where(valid, beta * (20 * tokens - 1), -torch.inf)
    return (mean + (20 * beta).sqrt() * torch.randn_like(mean)).softmax(-1)
"""


def small(place, dtype=torch.float64):
    torch.manual_seed(place)
    return tool.makers(64, dtype)[place]()


@each_client
def test_a_client_agrees(place):
    """Of the same noise in float64; and one that computes something else is noticed."""
    client = small(place)
    assert disagreement(client) <= TOLERANCE
    wrong = replace(client, theirs=lambda *noise: [1.001 * part for part in client.theirs(*noise)])
    assert disagreement(wrong) > TOLERANCE
    last = replace(client, theirs=lambda *noise: [*client.theirs(*noise)[:-1], math.nan * client.theirs(*noise)[-1]])
    assert not disagreement(last) <= TOLERANCE


@each_client
def test_a_client_draws_its_own_noise(place):
    client = small(place, torch.float32)
    for call in (client.theirs, *client.ours.values()):
        assert all(part.isfinite().all() for part in call())


def test_noise_that_is_not_drawn_is_noticed():
    noise = joint.each(noise=torch.zeros(2, 1))
    with joint.drawing((continuous, "flow_sample", noise)):
        assert [continuous.flow_sample(torch.zeros(1), 0.5, sigma_1=0.1, seed=1).item() for _ in noise] == [0, 0]
    less = pytest.raises(AssertionError, match="flow_sample was called less often")
    with less, joint.drawing((continuous, "flow_sample", noise)):
        continuous.flow_sample(torch.zeros(1), 0.5, sigma_1=0.1)


def test_what_does_not_vary_has_no_spread():
    torch.manual_seed(0)
    client = atoms.types_by_draws(4, torch.float32, 2, 3.0)
    mean, spread, gradient = client_rows.variation(client.ours["8 nodes"], 3)
    assert mean > 0 and spread == gradient == 0
    assert client_rows.variation(client.ours["200 draws"], 3)[1] > 0


def test_the_table_has_a_row_of_each_competitor():
    client = atoms.types_by_draws(2, torch.float32, 2, 3.0)
    rows = client_rows.measured(client, 0.001, 2, 9, Cpu())
    assert [row.competitor for row in rows] == ["theirs", "200 draws", "8 nodes", "continuous time"]
    assert rows[0].ratio == 1 and all(math.isclose(row.ratio, rows[0].median_ms / row.median_ms) for row in rows)
    assert all(row.network_ms == rows[0].network_ms > 0 for row in rows)
    share = rows[0].median_ms / (rows[0].median_ms + rows[0].network_ms)
    assert client_rows.cells(rows[0])[3] == f"{share:.2%}"
    assert client_rows.cells(replace(rows[0], network_ms=math.nan))[3] == ""
    console = Console(width=tool.WIDTH, file=io.StringIO())
    console.print(client_rows.table(rows))
    assert console.file.getvalue().count(client.name) == len(rows)


@each_client
def test_a_client_has_a_network(place):
    """Or its calls are runs, which call one themselves."""
    client = small(place, torch.float32)
    if client.network is None:
        assert " run of " in client.name and all(
            math.isnan(row.share) for row in client_rows.measured(client, 0.001, 2, 64, Cpu())
        )
    else:
        assert all(output.isfinite().all() for output in client.network(64)())


def test_what_is_measured_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "clients", lambda divisor, dtype, only: [reals.policy(2, dtype)])
    monkeypatch.setattr(measure, "begun", lambda device: {"heap": measure.TRAINED})
    assert tool.main(["--quick", "--out", str(tmp_path)]) == 0
    rows = csv_files.read(client_rows.Row, tmp_path / "clients.csv")
    assert [row.competitor for row in rows] == ["theirs", "ops"] and all(row.network_ms > 0 for row in rows)
    assert csv_files.read_machine(client_rows.Row, tmp_path / "clients.csv")["heap"] == measure.TRAINED


def test_each_place_has_a_client():
    """By the name that the client has at its full size."""
    clients = tool.clients(1, torch.float32)
    assert [client.place for client in clients] == list(LISTED)
    for client, place in zip(clients, LISTED, strict=True):
        assert [other for other in clients if other.name.startswith(place.client)] == [client]
        assert place.calls.keys() <= client.ours.keys()
        assert (client.own is None) == (place.code.name == "")


def test_the_page_has_the_times_of_each_place():
    """Of the call that a line names; what is not measured has no times."""
    place = places.FLAGS
    name, network = f"{place.client} classes", {"network_ms": 97.0}
    rows = [
        client_rows.Row(name, call, ms, 3 / ms, **network) for call, ms in (("theirs", 3), ("8 nodes", 1), ("x", 2))
    ]
    lines = {(line[0], line[3]): line for line in client_rows.placed(rows, places.PLACES)}
    assert len(lines) == sum(len(place.calls) for place in places.PLACES)
    line = lines["MolPilot", place.calls["8 nodes"]]
    assert line[4:] == ["3.00 ms", "1.00 ms", "3.0", "3.00% → 1.02%"]
    assert f"/blob/{place.code.revision}/{place.file}#L{place.line})" in line[2]
    assert lines["AbBFN2", places.ANTIBODIES.calls["ops"]][4:] == ["–", "–", "–", "–"]


@pytest.mark.skipif(CHECKOUTS is None, reason="BFN_CLIENTS names no folder with checkouts")
@each_client
def test_own_functions_agree(place):
    client = small(place)
    if client.own is None or not (folder := Path(str(CHECKOUTS)) / client.place.code.name).is_dir():
        pytest.skip(f"no checkout of {client.place.code.title}")
    assert own_disagreement(client, folder) <= TOLERANCE


@pytest.fixture
def proteins(tmp_path):
    """A checkout of ProfileBFN, whose one file a test may change."""
    path = tmp_path / "theirs" / places.PROTEINS.file
    path.parent.mkdir(parents=True)
    path.write_text(FLOW)
    return path


def checked_out(tmp_path):
    return tool.main(["--checkout", f"profilebfn={tmp_path / 'theirs'}", "--out", str(tmp_path)])


def test_a_checkout_is_compared(proteins, tmp_path, capsys):
    """And nothing is timed. Another factor, or noise that is not drawn, is noticed."""
    assert checked_out(tmp_path) == 0
    (row,) = csv_files.read(Compared, tmp_path / "checkouts.csv")
    assert (row.code, row.function) == ("ProfileBFN", places.PROTEINS.function) and row.difference < 1e-12
    assert not (tmp_path / "clients.csv").exists() and "ProfileBFN" in capsys.readouterr().out
    proteins.write_text(FLOW.replace("20 * tokens", "33 * tokens"))
    assert checked_out(tmp_path) == 1
    assert csv_files.read(Compared, tmp_path / "checkouts.csv")[0].difference > 0.01
    proteins.write_text(FLOW.replace("torch.randn_like(mean)", "0"))
    with pytest.raises(AssertionError, match="drew less noise"):
        checked_out(tmp_path)


def test_what_is_no_checkout_is_refused(proteins, tmp_path, capsys):
    for argument in ("chembnf=.", f"profilebfn={tmp_path / 'nothing'}", "profilebfn"):
        with pytest.raises(SystemExit):
            tool.main(["--checkout", argument])
        error = capsys.readouterr().err
        assert ("no folder" if "nothing" in argument else "chembfn, molcraft") in error
    proteins.write_text(FLOW.replace("def sampling", "def other"))
    assert checked_out(tmp_path) == 2
    assert "bflow.py does not define sampling_tensor" in capsys.readouterr().err
    proteins.unlink()
    assert checked_out(tmp_path) == 2
    assert "there is no file" in capsys.readouterr().err


def test_help_says_that_code_is_executed(capsys):
    with pytest.raises(SystemExit):
        tool.main(["--help"])
    assert "is executed, so pass only code that you trust" in " ".join(capsys.readouterr().out.split())
