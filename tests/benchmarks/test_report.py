"""The page of a run, a comparison with another revision, and the share that the ops have of a training step."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import __main__ as runner
from benchmarks import csv_files, other_revision, page, report, shares, training
from benchmarks.competitors import BASE, EAGER
from benchmarks.devices import Cpu
from benchmarks.report import STOPPED, Target
from benchmarks.timed_cases import CASES
from tests.benchmarks.test_benchmarks import row, tiny

MACHINE = {"processor": "of a test", "copy_gb_per_s": "10.0"}


def written(folder: Path, rows, machine=MACHINE, found=None) -> str:
    csv_files.write(report.Row, rows, machine, folder / "results.csv")
    return page.write(folder, found).read_text()


def test_the_page_has_the_tables(tmp_path):
    rows = [
        row(error=1e-6, gb_per_s=5.0, peak_extra_bytes=2**21, allowed_bytes=2**22),
        row(competitor=EAGER, median_ms=24.0),
        row(case="discretised L∞ K=64", k=64, peak_extra_bytes=2**21, gb_per_s=4.0),
        row(case="discretised L∞ K=64", k=64, competitor=EAGER, status=STOPPED, median_ms=math.nan),
    ]
    targets = [Target("fast", "≥ 3×", "12.0×", True), Target("small", "≤ 1", "2", False)]
    text = written(tmp_path, rows, found=targets)
    assert text.count("<table>") == 4
    markdown = (tmp_path / "report.md").read_text()
    assert "| discretised L∞ K=16 | 32×3072 | 2.00 ms | 24.0 ms | – | – | 12.0× | – | 1e-06 |" in markdown
    assert "| discretised L∞ K=64 | 32×3072 | 2.00 ms | – | – | – | – | – | nan |" in markdown
    assert "| discretised L∞ K=16 | 2.0 | – | – | – | 4.0 |" in markdown
    assert "| small | ≤ 1 | 2 | **not met** |" in markdown and "of a test" in markdown
    assert "Beside revision" not in markdown and "do not pay" not in markdown


def test_peaks_that_were_not_measured_have_no_table(tmp_path):
    written(tmp_path, [row()])
    assert "## Peak extra memory" not in (tmp_path / "report.md").read_text()


def test_a_page_that_is_rebuilt_has_targets_but_not_of_a_gpu(tmp_path):
    for machine, has_targets in ((MACHINE, True), (MACHINE | {"gpu": "of a test"}, False)):
        written(tmp_path, [row()], machine)
        assert ("## Targets" in (tmp_path / "report.md").read_text()) == has_targets


def test_a_revision_that_was_faster_is_told(tmp_path):
    rows = [row(), row(competitor=BASE, median_ms=1.5)]
    written(tmp_path, rows, MACHINE | {"base": "1234567"})
    markdown = (tmp_path / "report.md").read_text()
    assert "Beside revision 1234567" in markdown
    assert "| discretised L∞ K=16 | 2.00 ms | 1.50 ms | 0.75 |" in markdown


@pytest.fixture(scope="module")
def itself():
    """These kernels as those of another revision."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(other_revision, "built", lambda *_, **__: other_revision.ROOT)
        process = other_revision.OtherRevision("1234567", "cpu", "cpu")
    yield process
    process.close()


@pytest.mark.slow
def test_a_revision_has_a_process_of_its_own(itself):
    case = tiny(CASES[0])
    verdict = itself.check(case)
    assert not isinstance(verdict, str) and verdict.agrees
    assert 0 < itself.clock(3) < 1


def test_a_revision_that_is_not_there_is_one_line(capsys):
    with pytest.raises(SystemExit):
        runner.main(["--base", "no-such-revision"])
    assert "--base: 'no-such-revision' is no revision of the repository" in capsys.readouterr().err


@pytest.mark.slow
def test_a_revision_that_has_not_the_op_says_so(itself):
    said = itself.check(replace(tiny(CASES[0]), op="discretised.new_loss"))
    assert "new_loss" in said
    assert not isinstance(itself.check(tiny(CASES[0])), str)


def test_the_share_of_a_step(tmp_path, monkeypatch, capsys):
    work = training.Workload("digits", (8, 8), 17, 2)
    monkeypatch.setattr(training, "WORKLOADS", (work,))
    monkeypatch.setattr(Cpu, "seconds", 0.01)
    assert training.main(["--out", str(tmp_path / "training.csv")]) == 0
    (found,) = csv_files.read(shares.Share, tmp_path / "training.csv")
    assert (found.config, found.examples, found.variables) == ("digits", 2, 64)
    assert 0 < found.of_step(found.published_ms) < 1
    assert found.gain(found.ours_ms) == 1
    assert found.gain(found.ours_ms + found.network_ms) > 1
    assert "digits" in capsys.readouterr().out
    csv_files.write(report.Row, [row()], MACHINE, tmp_path / "results.csv")
    assert f"| {' | '.join(shares.cells(found))} |" in page.page(tmp_path)


def test_no_share_of_a_step_is_written_if_no_configuration_is_chosen(tmp_path, capsys):
    (tmp_path / "training.csv").write_text("of an earlier run")
    with pytest.raises(SystemExit):
        training.main(["--only", "nothing", "--out", str(tmp_path / "training.csv")])
    assert "--only 'nothing' is in the name of no configuration" in capsys.readouterr().err
    assert (tmp_path / "training.csv").read_text() == "of an earlier run"


def test_workloads_are_those_of_their_configurations():
    for work in training.WORKLOADS:
        case = work.case()
        assert case.shape == (work.examples, math.prod(work.shape))
        assert {"beta_1", "sigma_1"} & set(case.options)
        assert case.family == {2: "binary", 27: "discrete"}.get(work.classes, "discretised")
