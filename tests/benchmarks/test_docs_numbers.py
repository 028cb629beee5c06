"""Every figure of the benchmarks in README.md and docs/ comes from a file under benchmarks/results."""

import csv
import shutil
from dataclasses import replace

import pytest

from benchmarks import csv_files, docs_numbers, report, vocabularies
from benchmarks.clients import client_rows as clients
from benchmarks.docs_numbers import FIGURES, ROOT, SHOWN
from benchmarks.report import OK
from bfn import model

RESULTS = SHOWN.parent


@pytest.mark.parametrize(("page", "text"), FIGURES, ids=[f"{page}-{i}" for i, (page, _) in enumerate(FIGURES)])
def test_a_page_says_what_its_file_says(page, text):
    found = text(SHOWN)
    assert len(found.splitlines()) in (1, *range(3, 100))  # a line, or a table that is not empty
    assert found in (ROOT / page).read_text(), f"{page} must have this text:\n{found}"


def test_a_page_is_brought_up_to_date(tmp_path, monkeypatch):
    """Of a folder with other times, which were taken without a training step before."""
    before, text = tmp_path / "before", (ROOT / "docs" / "guides" / "molecules.md").read_text()
    shutil.copytree(SHOWN, before)
    (tmp_path / "docs" / "guides").mkdir(parents=True)
    (tmp_path / "docs" / "guides" / "molecules.md").write_text(text)
    after = tmp_path / "after"
    after.mkdir()
    found = [replace(row, median_ms=123.4) for row in csv_files.read(clients.Row, SHOWN / "clients.csv")]
    machine = csv_files.read_machine(clients.Row, SHOWN / "clients.csv")
    del machine["heap"]
    csv_files.write(clients.Row, found, machine, after / "clients.csv")
    of_molecules = [figure for figure in FIGURES if figure[0].endswith("molecules.md")]
    monkeypatch.setattr(docs_numbers, "FIGURES", of_molecules)
    monkeypatch.setattr(docs_numbers, "ROOT", tmp_path)
    monkeypatch.setattr(docs_numbers, "SHOWN", after)
    assert docs_numbers.main([str(before)]) == 0
    new = (tmp_path / "docs" / "guides" / "molecules.md").read_text()
    assert new.count("| 123 |") == 7 and "timed in a fresh process" in new
    assert all(make(after) in new for _, make in of_molecules)


def test_vectors_from_many_classes_on():
    steps = csv_files.read(vocabularies.Step, SHOWN / "vocabularies.csv")
    assert all((step.num_classes >= model.LARGE) == (step.vectors_ms < step.rows_ms) for step in steps)


def test_what_was_read_from_a_terminal():
    """Figures that no program wrote to a file stand in one that says how they were measured, and where they are."""
    with open(RESULTS / "figures.csv", newline="") as file:
        for row in csv.DictReader(file):
            assert row["figure"] in " ".join((ROOT / row["page"]).read_text().split()), row


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*/results.csv")), ids=lambda path: path.parent.name)
def test_results_are_of_a_whole_run_in_which_nobody_was_wrong(path):
    found = csv_files.read(report.Row, path)
    assert {row.status for row in found} <= {OK, report.STOPPED}
    assert "False" in path.read_text().splitlines()[1].split(",")  # of `quick`
