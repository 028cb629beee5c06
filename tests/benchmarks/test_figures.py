"""Every figure of the benchmarks in README.md and docs/ comes from a file under benchmarks/results."""

import re
from pathlib import Path

import pytest

from benchmarks import page, report, shares
from benchmarks.competitors import EAGER
from benchmarks.report import OK

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
SHOWN = RESULTS / "epyc-2-threads"  # the run that README.md and docs/benchmarks.md show


def rows():
    return report.read_csv(SHOWN / "results.csv")


def told(op: str) -> set[tuple[str, str]]:
    """Our median and that of eager PyTorch, as a page writes them, in each case of an op."""
    found = {}
    for row in rows():
        if row.op == op and row.status == OK:
            found.setdefault(row.case, {})[row.competitor] = report.duration(row.median_ms)
    return {(times["cpu"], times[EAGER]) for times in found.values() if EAGER in times}


def test_readme():
    lines = re.findall(r"^\| `(\w+\.\w+)`.*\| ([^|]+) \| ([^|]+) \|$", (ROOT / "README.md").read_text(), re.M)
    assert len(lines) > 5
    for op, ours, eager in lines:
        assert (ours, eager) in told(op), op


def test_docs():
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    assert page.times(rows(), "cpu") in text
    found = shares.read(SHOWN / "training.csv")
    assert page.markdown_table(shares.COLUMNS, map(shares.cells, found)) in text


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*/results.csv")), ids=lambda path: path.parent.name)
def test_results_are_of_a_whole_run_in_which_nobody_was_wrong(path):
    found = report.read_csv(path)
    assert {row.status for row in found} <= {OK, report.STOPPED}
    assert "False" in path.read_text().splitlines()[1].split(",")  # of `quick`
