"""Published formulas and what takes their place: they agree, and what is reported is what was measured."""

import io
import math
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from benchmarks import clients, files, measure


@pytest.mark.parametrize("place", range(5))
def test_a_client_agrees(place):
    """Of the same noise in float64; and one that computes something else is noticed."""
    torch.manual_seed(place)
    client = clients.clients(64, torch.float64)[place]
    assert clients.disagreement(client) <= clients.TOLERANCE
    wrong = replace(client, theirs=lambda *noise: [1.001 * part for part in client.theirs(*noise)])
    assert clients.disagreement(wrong) > clients.TOLERANCE
    last = replace(client, theirs=lambda *noise: [*client.theirs(*noise)[:-1], math.nan * client.theirs(*noise)[-1]])
    assert not clients.disagreement(last) <= clients.TOLERANCE


def test_what_does_not_vary_has_no_spread():
    torch.manual_seed(0)
    client = clients.types_by_draws(4, torch.float32, 2, 3.0)
    mean, spread, gradient = clients.variation(client.ours["8 nodes"], 3)
    assert mean > 0 and spread == gradient == 0
    assert clients.variation(client.ours["200 draws"], 3)[1] > 0


def test_the_table_has_a_row_of_each_competitor():
    client = clients.types_by_draws(2, torch.float32, 2, 3.0)
    rows = clients.measured(client, 0.001, 2, divisor=9)
    assert [row.competitor for row in rows] == ["theirs", "200 draws", "8 nodes", "continuous time"]
    assert rows[0].ratio == 1 and all(math.isclose(row.ratio, rows[0].median_ms / row.median_ms) for row in rows)
    assert all(row.network_ms == rows[0].network_ms > 0 for row in rows)
    share = rows[0].median_ms / (rows[0].median_ms + rows[0].network_ms)
    assert clients.cells(rows[0])[3] == f"{share:.2%}" and clients.cells(replace(rows[0], network_ms=math.nan))[3] == ""
    console = Console(width=clients.WIDTH, file=io.StringIO())
    console.print(clients.table(rows))
    assert console.file.getvalue().count(client.name) == len(rows)


@pytest.mark.parametrize("place", range(5))
def test_a_client_has_a_network(place):
    client = clients.clients(64, torch.float32)[place]
    assert all(output.isfinite().all() for output in client.network(64)())


def test_what_is_measured_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(clients, "clients", lambda divisor, dtype: [clients.policy(2, dtype)])
    monkeypatch.setattr(measure, "begun", lambda device: {"heap": measure.TRAINED})
    assert clients.main(["--quick", "--out", str(tmp_path)]) == 0
    rows = files.read(clients.Row, tmp_path / "clients.csv")
    assert [row.competitor for row in rows] == ["theirs", "ops"] and all(row.network_ms > 0 for row in rows)
    assert files.read_machine(clients.Row, tmp_path / "clients.csv")["heap"] == measure.TRAINED
