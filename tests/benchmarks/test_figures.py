"""Every figure of the benchmarks in README.md and docs/ comes from a file under benchmarks/results."""

import csv
import re
from pathlib import Path

import pytest

from benchmarks import clients, experiments, files, page, patched, report, shares, vocabularies
from benchmarks.competitors import EAGER
from benchmarks.report import OK
from bfn import model

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
SHOWN = RESULTS / "epyc-2-threads"  # the run that README.md and docs/benchmarks.md show


def rows():
    return files.read(report.Row, SHOWN / "results.csv")


def told() -> dict[str, set[tuple[str, str]]]:
    """For each op our median and that of eager PyTorch in every case, as a page writes them."""
    found: dict[str, dict] = {}
    for row in rows():
        if row.status == OK:
            found.setdefault(row.op, {}).setdefault(row.case, {})[row.competitor] = row.median_ms
    return {
        op: {
            (report.duration(times["cpu"]), report.duration(times[EAGER])) for times in cases.values() if EAGER in times
        }
        for op, cases in found.items()
    }


def test_readme():
    lines = re.findall(r"^\|.*\| ([^|]+) \| ([^|]+) \| × [\d.]+ \|$", (ROOT / "README.md").read_text(), re.M)
    assert len(lines) == 5
    assert set(lines) <= set().union(*told().values())


def test_ops():
    lines = re.findall(r"^\| `(\w+\.\w+)`.*\| ([^|]+) \| ([^|]+) \|$", (ROOT / "docs" / "ops.md").read_text(), re.M)
    lines = [line for line in lines if line[1].strip()]
    assert len(lines) > 10
    for op, *times in lines:
        assert tuple(times) in told()[op], op


def test_benchmarks():
    assert page.times(rows(), "cpu") in (ROOT / "docs" / "benchmarks.md").read_text()


def test_vocabularies():
    assert page.vocabularies(rows(), "cpu") in (ROOT / "docs" / "benchmarks.md").read_text()


def test_vectors_from_many_classes_on():
    steps = files.read(vocabularies.Step, SHOWN / "vocabularies.csv")
    text = (ROOT / "docs" / "training.md").read_text()
    assert page.markdown_table(vocabularies.COLUMNS, map(vocabularies.cells, steps)) in text
    assert all((step.num_classes >= model.LARGE) == (step.vectors_ms < step.rows_ms) for step in steps)


def test_training():
    runs = map(experiments.cells, files.read(experiments.Run, SHOWN / "experiments.csv"))
    assert page.markdown_table(experiments.COLUMNS, runs) in (ROOT / "docs" / "training.md").read_text()


def test_what_was_read_from_a_terminal():
    """Figures that no program wrote to a file stand in one that says how they were measured, and where they are."""
    with open(RESULTS / "told.csv", newline="") as file:
        for row in csv.DictReader(file):
            assert row["figure"] in " ".join((ROOT / row["page"]).read_text().split()), row


def test_where_kernels_pay():
    lines = map(shares.cells, files.read(shares.Share, SHOWN / "training.csv"))
    assert page.markdown_table(shares.COLUMNS, lines) in (ROOT / "docs" / "where_kernels_pay.md").read_text()


@pytest.mark.parametrize(("guide", "count"), [("molecules", 2), ("smiles", 2), ("policies", 1)])
def test_guides(guide, count):
    rows = files.read(clients.Row, SHOWN / "clients.csv")
    names = dict.fromkeys(row.client for row in rows)
    tables = [
        page.markdown_table(clients.COLUMNS, (clients.cells(row) for row in rows if row.client == name))
        for name in names
    ]
    text = (ROOT / "docs" / "guides" / f"{guide}.md").read_text()
    assert sum(table in text for table in tables) == count


def test_published_code():
    lines = map(patched.cells, files.read(patched.Row, SHOWN / "patched.csv"))
    text = (ROOT / "docs" / "guides" / "official.md").read_text()
    assert page.markdown_table(patched.COLUMNS, lines) in text


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*/results.csv")), ids=lambda path: path.parent.name)
def test_results_are_of_a_whole_run_in_which_nobody_was_wrong(path):
    found = files.read(report.Row, path)
    assert {row.status for row in found} <= {OK, report.STOPPED}
    assert "False" in path.read_text().splitlines()[1].split(",")  # of `quick`
