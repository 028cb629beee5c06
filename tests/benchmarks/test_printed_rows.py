"""Every number of a row is computed again from the times that were measured, and every cell from its row."""

import math
from types import SimpleNamespace

import pytest
import torch

from benchmarks import __main__ as runner
from benchmarks import accuracy, csv_files, gate, measure, page, patched, report, runs_report, shares, training
from benchmarks import vocabularies as step_of_sizes
from benchmarks.competitors import BASE, EAGER, PRODUCTS, PUBLISHED, UNFUSED
from benchmarks.devices import Cpu
from benchmarks.loops import AVERAGED, CURRENT, Clock
from benchmarks.runs_report import OURS, THEIRS
from benchmarks.time_to_quality import Race
from benchmarks.timed_cases import CASES
from bfn.configs import load
from tests.benchmarks.test_benchmarks import row, tiny


def timing(median: float) -> measure.Timing:
    """Eleven repetitions: their 20th percentile is half of the median, and their 80th twice the median."""
    return measure.Timing((*[median / 2] * 4, *[median] * 3, *[2 * median] * 4))


@pytest.fixture
def timed(monkeypatch):
    """Each run takes the next power of two of milliseconds. The medians by name."""
    medians = {}

    def timings(named, seconds, device):
        medians.update({name: 1e-3 * 2**i for i, name in enumerate(named)})
        return {name: timing(median) for name, median in medians.items()}

    monkeypatch.setattr(measure, "timings", timings)
    return medians


def texts(table) -> list[list[str]]:
    """The cells of a table, row by row, without its header."""
    return list(map(list, zip(*(column.cells for column in table.columns), strict=True)))


def test_the_numbers_of_a_case(timed):
    case = tiny(next(case for case in CASES if case.op == "discretised.continuous_time_loss"))
    competitors = [c for c in runner.competitors(case, ["cpu", "reference"]) if not c.compiled]
    rows = runner.run_case(case, competitors, Cpu(), quick=True, with_memory=False)
    assert [row.competitor for row in rows] == list(timed)
    tensors, noise = runner.timed_cases.inputs(case)
    # a loss reads its inputs, and writes one number and its gradients
    gradients = sum(tensors[name].nbytes for name in case.diff)
    moved = sum(tensor.nbytes for tensor in tensors.values()) + gradients + 4
    for each in rows:
        ms = 1e3 * timed[each.competitor]
        assert (each.median_ms, each.p20_ms, each.p80_ms) == pytest.approx((ms, ms / 2, 2 * ms))
        assert each.repetitions == 11 and each.bytes_moved == moved
        assert each.gb_per_s == pytest.approx(moved / ms / 1e6)
        assert each.ratio == pytest.approx(timed[each.competitor] / timed["cpu"])
        verdict = gate.check(case, next(c for c in competitors if c.name == each.competitor), tensors, noise)
        assert (each.error, each.tolerance) == (verdict.worst, verdict.tolerance)


def test_the_parts_of_a_training_step(timed):
    found = training.share(training.Workload("digits", (8, 8), 17, 2), Cpu())
    ours = training.available("cpu")[0]
    ms = [1e3 * timed[name] for name in ("network", ours, EAGER, PUBLISHED)]
    assert [found.network_ms, found.ours_ms, found.eager_ms, found.published_ms] == pytest.approx(ms)
    cells = shares.cells(shares.Share("c", 1_500_000, 8, 64, 30.0, 2.0, 5.0, 10.0))
    assert cells == ["c", "1.5 M", "8", "30.0 ms", "2.00 ms", "5.00 ms", "10.0 ms", "25.00%", "6.25%", "1.250×"]


def test_the_steps_of_a_size(timed):
    found = step_of_sizes.measured(300)
    assert (found.rows_ms, found.vectors_ms) == pytest.approx([1e3 * timed[name] for name in ("rows", "vectors")])
    data, config = step_of_sizes.tokens(300), load("text_bpe")
    counts = [
        sum(parameter.numel() for parameter in kind(config, data).parameters())
        for kind in (step_of_sizes.DiscreteBFN, step_of_sizes.VocabularyBFN)
    ]
    assert [found.rows_parameters, found.vectors_parameters] == counts
    cells = step_of_sizes.cells(step_of_sizes.Step(300, 1_500_000, 2_500_000, 30.0, 12.0))
    assert cells == ["300", "1.5 M", "2.5 M", "30.0 ms", "12.0 ms", "2.50"]


def test_the_speed_of_a_copy(timed):
    """A copy reads its numbers and writes them."""
    found = measure.copy_bandwidth(Cpu(), megabytes=1)
    assert found == pytest.approx(2 * 2**20 / timed["copy"] / 1e9)


def test_errors_are_those_of_their_definitions():
    want = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
    off = torch.tensor([0.3, 0.2, 0.0], dtype=torch.float64)  # 0.3, 0.1 and 0 of 1 + |want|
    found = accuracy.Errors.of(want + off, want)
    assert (found.rms, found.worst) == pytest.approx((math.sqrt((0.09 + 0.01) / 3), 0.3))
    assert found.p95 == pytest.approx(0.1 + 0.9 * 0.2)
    table = report.errors_table({"a": accuracy.Errors(0.001, 0.02, 0.3)})
    assert texts(table) == [["a", "1.0e-03", "2.0e-02", "3.0e-01"]]


class Loop:
    """Stands in for the process of a loop."""

    def __init__(self, clock: Clock):
        self.clock = clock

    def ask(self, name, *arguments):
        return {"peak": 12345, "weights": {AVERAGED: b"a", CURRENT: b"c"}}[name]


def test_the_numbers_of_a_race(monkeypatch):
    """The bound is of the better of two sets of weights, with its own error."""
    clocks = {THEIRS: Clock(50.0, 2.0, (0.5, 1.0, 1.5)), OURS: Clock(40.0, 10.0, (0.25, 0.25, 0.5, 1.0))}
    bounds = iter([(4.0, 0.1), (5.0, 0.2), (3.0, 0.3), (2.0, 0.4), (6.0, 0.5), (5.0, 0.6), (1.0, 0.7), (1.5, 0.8)])
    held = SimpleNamespace(bits=lambda weights: next(bounds))
    race = Race("mnist", 5, {name: Loop(clock) for name, clock in clocks.items()}, held, None)
    race.clocks = clocks
    for loop, seconds, step in ((THEIRS, 0.0, 0), (THEIRS, 50.0, 3), (OURS, 0.0, 0), (OURS, 40.0, 4)):
        race.point(loop, seconds, step)
    assert [(point.bits, point.error) for point in race.points] == [(4.0, 0.1), (2.0, 0.4), (5.0, 0.6), (1.0, 0.7)]
    assert [(p.averaged_bits, p.current_bits) for p in race.points] == [(4.0, 5.0), (3.0, 2.0), (6.0, 5.0), (1.0, 1.5)]
    theirs, ours = race.summary(load("mnist", ["train.batch_size=64"]), 77)
    assert (theirs.steps, theirs.seconds, theirs.begun_seconds, theirs.batch, theirs.parameters) == (3, 50, 2, 64, 77)
    assert (theirs.steps_per_s, ours.steps_per_s) == (1.0, 2.0)
    assert (theirs.step_ms, theirs.step_p20_ms, theirs.step_p80_ms) == pytest.approx((1000, 700, 1300))
    assert theirs.peak_bytes == 12345 and {row.seed for row in (theirs, ours, *race.points)} == {5}
    (quality,) = runs_report.qualities(race.points, (50.0,))
    assert (quality.target_seconds, quality.own_seconds) == pytest.approx((50.0, 30.0))  # 5 bits to 1 bit in 40 s
    assert runs_report.quality_cells([quality])[4:6] == ["2.0000 ± 0.4000", "1.0000 ± 0.7000"]


def test_the_cells_of_other_tables(tmp_path):
    rows = [row(gb_per_s=5.0), row(competitor=BASE, median_ms=3.0), row(competitor=EAGER, median_ms=24.0)]
    assert texts(report.base_table(rows, "cpu", "1234567")) == [
        ["discretised L∞ K=16", "2.00 ms", "3.00 ms", "[default]1.50[/]"]
    ]
    assert texts(report.bandwidth_table(rows, ["cpu"], 20.0)) == [["discretised L∞ K=16", "5, 25%"]]
    rows = [row(), row(competitor=PRODUCTS, median_ms=8.0), row(competitor=UNFUSED, median_ms=5.0)]
    assert page.vocabularies(rows, "cpu").splitlines()[-1] == (
        "| discretised L∞ K=16 | 2.00 ms | 8.00 ms | 5.00 ms | 0.25 | 2.5× |"
    )
    numbers = {"before_ms": 30.0, "after_ms": 12.0, "before_peak_bytes": 3 * 2**20, "after_peak_bytes": 2**20}
    others = dict.fromkeys(("before_p20_ms", "before_p80_ms", "after_p20_ms", "after_p80_ms"), 1.0)
    of = patched.Row("c", "sampling", 8, 1_500_000, **numbers, **others, repetitions=3, before_nats=1.5, after_nats=2.5)
    assert patched.cells(of) == [
        "c",
        "sampling, 1.50 M, a step",
        "8",
        "30.0 ms",
        "12.0 ms",
        "2.5",
        "3",
        "1",
        "1.5, 2.5",
    ]
    csv_files.write(patched.Row, [of], {}, tmp_path / "patched.csv")
    assert [patched.cells(back) for back in csv_files.read(patched.Row, tmp_path / "patched.csv")] == [
        patched.cells(of)
    ]
