"""The runner of the benchmarks at tiny sizes: a wrong implementation is not timed, and the report shows what was
measured."""

import functools
import math
import random
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from benchmarks import __main__ as runner
from benchmarks import accuracy, closed_forms, csv_files, gate, measure, memory, published_formulas, report, timed_cases
from benchmarks.competitors import (
    COMPILED,
    EAGER,
    PUBLISHED,
    Competitor,
    available,
    competitors,
    kernel,
    parts,
    prepared,
    step,
)
from benchmarks.devices import DEVICES, Cpu, Gpu
from benchmarks.other_revision import OtherRevision
from benchmarks.report import FAILED, OK, Row
from benchmarks.timed_cases import CASES, Case

BACKENDS = [*available(), "reference"]
NODES = next(case for case in CASES if "quadrature" in case.options)
of_few_messages = functools.cache(timed_cases.of_messages.__wrapped__)


@pytest.fixture(autouse=True)
def few_messages(monkeypatch):
    """The table of a thousand messages about an angle takes ten seconds."""
    monkeypatch.setattr(timed_cases, "MESSAGES", 20)
    monkeypatch.setattr(timed_cases, "of_messages", of_few_messages)


def tiny(case: Case) -> Case:
    """Few variables, and no more bins or classes than show the same."""
    small = timed_cases.few(case)
    return replace(small, k=min(small.k, 300))


def uncompiled(case: Case) -> list[Competitor]:
    """Leaves out the compiled competitor, which takes too long here and compiles what `eager` runs."""
    return [competitor for competitor in competitors(case, BACKENDS) if not competitor.compiled]


def test_compiled_agrees_and_is_compiled_once(monkeypatch):
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda call, **options: compile(call, backend="eager", **options))
    case = tiny(next(case for case in CASES if case.op == "discrete.continuous_time_loss"))
    tensors, noise = timed_cases.inputs(case)
    (competitor,) = (c for c in competitors(case, BACKENDS) if c.compiled)
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    assert gate.check(case, competitor, tensors, noise).agrees
    prepared(competitor, case, tensors)()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_names_are_unique():
    assert len({case.name for case in CASES}) == len(CASES)
    assert all(not case.against or case.against in {c.name for c in CASES} for case in CASES)


@pytest.mark.parametrize("module", [closed_forms, published_formulas])
def test_every_op_has_its_forms(module):
    for case in CASES:
        for part in parts(case) if case.weights or case.op.endswith("flow_and_loss") else [case]:
            name = part.op.replace(".", "_")
            assert hasattr(module, name), f"{module.__name__} needs a function {name} for the case {case.name}"


@pytest.mark.parametrize("case", [tiny(case) for case in CASES], ids=[case.name for case in CASES])
def test_all_who_take_part_agree(case):
    tensors, noise = timed_cases.inputs(case)
    names = set()
    for competitor in uncompiled(case):
        names.add(competitor.name)
        verdict = gate.check(case, competitor, tensors, noise)
        assert verdict.agrees, (competitor.name, verdict)
        outputs = prepared(competitor, case, tensors)()
        assert len(outputs) == 1 + len(case.diff)
        assert all(output.isfinite().all() for output in outputs)
    assert {*BACKENDS, *([] if case.within else [EAGER])} <= names


@pytest.mark.parametrize("case", [tiny(case) for case in CASES if case.published and not case.against], ids=str)
def test_published_takes_part_where_it_is_the_target(case):
    assert {PUBLISHED, COMPILED, EAGER} <= {c.name for c in competitors(case, BACKENDS)}


def spoiled(competitor: Competitor, spoil) -> Competitor:
    """Returns the competitor, with a function `spoil` that changes its output."""

    def function(case, reduction):
        call = competitor.function(case, reduction)
        return lambda **tensors: spoil(call(**tensors))

    return replace(competitor, function=function)


def wrong_output(output):
    return 1.01 * output


def wrong_gradient(output):
    return output.detach() + 0.9 * (output - output.detach())


def wrong_in_one_row(output):
    return torch.cat([output[:1], 1.01 * output[1:]])


def not_a_number(output):
    return torch.where(torch.arange(output.shape[-1]) == 1, math.nan, output)


@pytest.mark.parametrize("spoil", [wrong_output, wrong_gradient, wrong_in_one_row, not_a_number])
@pytest.mark.parametrize("op", ["discretised.continuous_time_loss", "discrete.discrete_time_loss"])
def test_the_gate_refuses(op, spoil):
    case = tiny(next(case for case in CASES if case.op == op))
    tensors, noise = timed_cases.inputs(case)
    good = competitors(case, BACKENDS)[0]
    assert gate.check(case, good, tensors, noise).agrees
    verdict = gate.check(case, spoiled(good, spoil), tensors, noise)
    assert not verdict.agrees
    assert not verdict.worst <= verdict.tolerance
    assert list(verdict.errors) == ["output", *(f"gradient of {name}" for name in case.diff)]


def test_the_error_is_that_of_the_worst_row():
    want = torch.tensor([[3.0, 4.0], [300.0, 400.0]], dtype=torch.float64)
    got = want + torch.tensor([[0.05, 0.0], [0.0, 0.5]])
    assert gate.compare(got, want) == pytest.approx(0.01)
    assert gate.compare(got, want, share=0.5) == 0
    assert gate.compare(got[:, :1], want) == math.inf
    got[1, 1] = math.nan
    assert math.isnan(gate.compare(got, want))
    assert math.isnan(gate.compare(got, want, share=0.5))


@pytest.mark.slow
def test_a_failed_gate_has_no_time_and_status_1(monkeypatch, tmp_path, capsys):
    case = tiny(CASES[0])
    honest = competitors(case, ["cpu"])
    monkeypatch.setattr(runner, "competitors", lambda *_: [spoiled(honest[0], wrong_output), honest[1]])
    monkeypatch.setattr(runner, "CASES", [case])
    assert runner.main(["--no-memory", "--quick", "--out", str(tmp_path)]) == 1
    rows = {row.competitor: row for row in csv_files.read(report.Row, tmp_path / "results.csv")}
    assert rows[honest[0].name].status == FAILED
    assert math.isnan(rows[honest[0].name].median_ms)
    assert rows[EAGER].status == OK
    assert rows[EAGER].median_ms > 0
    assert "FAILED" in capsys.readouterr().out


def test_what_is_timed_is_the_mean_of_what_the_gate_saw():
    drawn = lambda case: "n_samples" in case.options or "flow" in case.op or case.weights  # noqa: E731
    for case in (tiny(case) for case in CASES if case.diff and not drawn(case)):
        tensors, _ = timed_cases.inputs(case)
        for competitor in uncompiled(case):
            timed = prepared(competitor, case, tensors)()
            each = step(competitor.function(case, "none"), gate.leaves(competitor, case, tensors), {})
            torch.testing.assert_close(timed[0], each[0].mean(), rtol=1e-5, atol=0)
            for mean_gradient, gradient in zip(timed[1:], each[1:], strict=True):
                size = gradient.abs().max().item()
                torch.testing.assert_close(mean_gradient * each[0].numel(), gradient, rtol=1e-4, atol=1e-5 * size)


def test_statistics():
    values = list(range(1, 102))
    random.Random(0).shuffle(values)
    timing = measure.Timing(tuple(map(float, values)))
    assert (timing.median, timing.percentile(20), timing.percentile(80)) == (51, 21, 81)
    assert timing.repetitions == 101


def clocked(clock) -> Cpu:
    """A device with that clock."""
    device = Cpu()
    device.clock = lambda run, calls=1: clock(run, calls)
    return device


def test_repetitions_take_turns():
    order = []
    found = measure.timings(
        {"a": lambda: "a", "b": lambda: "b"}, 0.1, clocked(lambda run, _: order.append(run()) or 0.02)
    )
    assert [timing.repetitions for timing in found.values()] == [5, 5]
    assert order[-10:] == ["a", "b"] * 5
    assert found["a"].median == 0.02


def test_threads_of_another_process_stop_before_they_could_disturb_a_run(monkeypatch):
    did = []

    class Elsewhere(OtherRevision):
        __init__ = object.__init__  # without a process

        def clock(self, calls=1):
            did.append("base")
            return 0.1

    monkeypatch.setattr(measure, "_wait", lambda seconds: did.append("wait"))
    here = clocked(lambda run, _: did.append(run()) or 0.1)
    measure.timings({"a": lambda: "a", "b": lambda: "b", "base": Elsewhere()}, 0.3, here)
    assert did[-10:] == ["wait", "a", "b", "wait", "base"] * 2


def test_short_calls_are_timed_together():
    calls = []
    measure.timings({"a": lambda: None}, 0.01, clocked(lambda run, n: calls.append(n) or 1e-5))
    assert calls == [1] * 3 + [100] * 10


def test_a_long_call_is_not_made_once_more_than_is_needed():
    made = []
    device = clocked(lambda run, _: made.append(run) or 9.0)
    assert measure.timings({"a": lambda: None}, 1.5, device)["a"].repetitions == len(made) == 3


def test_a_gpu_is_timed_by_its_events_with_a_cold_cache(monkeypatch):
    did = []

    class Event:
        def __init__(self, enable_timing):
            self.name = f"event {enable_timing}"

        record = lambda self: did.append("record")  # noqa: E731
        synchronize = lambda self: did.append("synchronize")  # noqa: E731
        elapsed_time = lambda self, other: 3.0  # noqa: E731

    monkeypatch.setattr(torch.cuda, "Event", Event)
    gpu = object.__new__(Gpu)
    gpu.flushed = SimpleNamespace(zero_=lambda: did.append("flush"))
    assert gpu.clock(lambda: did.append("run"), 2) == pytest.approx(3e-3)
    assert did == ["flush", "record", "run", "record", "synchronize"] * 2
    calls = []
    gpu.clock = lambda run, n=1: calls.append(n) or 1e-6
    measure.timings({"a": lambda: None}, 1e-5, gpu)
    assert set(calls) == {1}


WITH_PEERS = [case for case in CASES if not case.within and (case.loss or case.family != "circular")]  # see the test


@pytest.mark.parametrize("case", [tiny(case) for case in WITH_PEERS], ids=[case.name for case in WITH_PEERS])
def test_peers_follow_the_device(case, monkeypatch):
    """The peers make every tensor on the device of their inputs; tensors on another one cannot be joined with these.
    Those that draw angles are left out, since a rejection looks at its draws."""
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", False)
    tensors, noise = timed_cases.inputs(case, device="meta")
    peers = [competitor for competitor in uncompiled(case) if competitor.name not in BACKENDS]
    assert peers
    for competitor in peers:
        leaves = gate.leaves(competitor, case, tensors)
        for explicit in ({}, competitor.noise(noise, tensors)):
            outputs = step(competitor.function(case, "none"), leaves, explicit)
            assert {output.device.type for output in outputs} == {"meta"}


@pytest.mark.slow
def test_a_run_on_a_gpu_that_is_not_there(monkeypatch, tmp_path, capsys):
    class Pretended(Cpu):
        machine = lambda self: {"gpu": "none"}  # noqa: E731

    assert runner.main(["--device", "cuda"]) == 2
    assert "sees no GPU" in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(DEVICES, "cuda", Pretended)
    monkeypatch.setattr(runner, "available", lambda device: {"cuda": ["cpu"]}[device])
    monkeypatch.setattr(timed_cases, "ON_GPU", 2)
    case = replace(tiny(CASES[0]), shape=timed_cases.TEXT8)
    monkeypatch.setattr(runner, "CASES", [case])
    arguments = ["--device", "cuda", "--without", "compiled", "--without", "published", "--no-memory"]
    assert runner.main([*arguments, "--out", str(tmp_path)]) == 0
    rows = csv_files.read(report.Row, tmp_path / "results.csv")
    assert [(row.competitor, row.status, row.shape) for row in rows] == [(n, OK, "104×256") for n in ("cpu", EAGER)]
    text = (tmp_path / "report.txt").read_text()
    assert "gpu            none" in text and "What must hold" not in text
    copying = float(next(line for line in text.splitlines() if "copy_gb_per_s" in line).split()[1])
    words = " ".join(text.split())  # a narrow table breaks its title into lines
    speed, share = re.search(rf"share of a copy's .*?{re.escape(case.name)} (\S+), (\d+)%", words).groups()
    assert float(share) == pytest.approx(100 * float(speed) / copying, abs=100 / copying)


def test_cases_are_larger_on_a_gpu():
    for case in CASES:
        larger = math.prod(timed_cases.on_gpu(case).shape) // math.prod(case.shape)
        small = case.shape in timed_cases.ENLARGED
        assert larger == (timed_cases.ON_GPU if small and "n_samples" not in case.options else 1)


@pytest.mark.slow
def test_peak_extra_memory():
    case = replace(CASES[0], shape=(32, 1000), k=64)
    peak = memory.peak_in_a_process(memory.runs_of, case, EAGER)
    z = 32 * 1000 * 63 * 4
    assert z < peak < 8 * z


def row(**more) -> Row:
    base = Row("discretised L∞ K=16", "discretised L∞", "op", "32×3072", "float32", 16, True, "cpu", OK)
    measured = {"median_ms": 2.0, "p20_ms": 1.5, "p80_ms": math.pi, "repetitions": 7, "held_to": "a, b"}
    return replace(base, **measured | more)


def test_csv_comes_back(tmp_path):
    rows = [row(), row(status=FAILED, note='wrong, "so"', backward=False, peak_extra_bytes=3.0)]
    csv_files.write(report.Row, rows, {"machine": "this, one"}, tmp_path / "results.csv")
    back = csv_files.read(report.Row, tmp_path / "results.csv")
    # NaN, which is what was not measured, is not equal to itself
    assert [repr(r) for r in back] == [repr(r) for r in rows]
    assert (tmp_path / "results.csv").read_text().count("this, one") == 2


def test_targets():
    base = Case("discretised.continuous_time_loss", (32, 3072), 16, spread=2)
    table = [replace(base, published=10, closed=4), replace(base, k=256), replace(base, spread=0, small=True, closed=1)]
    one, two, few = (case.name for case in table)
    rows = [
        row(case=one),
        row(case=one, competitor=EAGER, median_ms=9.0),
        row(case=one, competitor=COMPILED, median_ms=7.0),
        row(case=one, competitor=PUBLISHED, median_ms=20.0),
        row(case=two, k=256, median_ms=5.0, peak_extra_bytes=3.0, allowed_bytes=2.0),
        row(case=few, median_ms=0.11),
        row(case=few, competitor=EAGER, median_ms=0.1),
    ]
    errors = {"8 nodes": accuracy.Errors(1e-4, 0, 0), "10 draws": accuracy.Errors(0.1, 0, 0)}
    found = report.targets(table, rows, "cpu", errors)
    assert [(t.limit, t.measured, t.met) for t in found[:5]] == [
        ("≥ 10×", "10.0×", True),
        ("≥ 4×", "3.5×", False),
        ("≥ 1×", "0.9×", False),
        ("≤ 2", "2.50", False),
        ("< 0.01", "0.001", True),
    ]
    assert found[5].met is False
    assert "0 of 1" in found[5].measured
    stopped = [replace(r, status=FAILED) if r.competitor == PUBLISHED else r for r in rows]
    assert report.targets(table, stopped, "cpu", errors)[0].met is None


def test_tables_fit_and_say_what_was_measured():
    rows = [row(ratio=1.0), row(competitor=PUBLISHED, ratio=321.0), row(competitor=COMPILED, status=FAILED, note="[x]")]
    console = Console(width=runner.WIDTH, record=True)
    console.print(report.results_table(rows))
    text = console.export_text()
    lines = text.splitlines()
    assert max(map(len, lines)) <= 120
    assert "…" not in text
    assert "cpu 2.00 ms 1.50 ms 3.14 ms 7 1.0" in " ".join(next(line for line in lines if "cpu" in line).split())
    assert any(PUBLISHED in line and "321" in line for line in lines)
    assert any(COMPILED in line and "[x]" in line for line in lines)


def test_durations():
    assert [report.duration(ms) for ms in (0.00123, 0.0456, 12.34, 1234.5, math.nan)] == [
        "1.23 µs", "45.6 µs", "12.3 ms", "1.23 s", "–",
    ]  # fmt: skip


def test_the_fine_rule_agrees_with_many_nodes():
    case = replace(NODES, shape=(4, 3), k=16)
    tensors, _ = timed_cases.inputs(case)
    wide = {k: v.double() for k, v in tensors.items()}
    want = accuracy.fine_rule(tensors, case.k)
    got = kernel("reference", replace(case, options={"quadrature": 100}), "none")(**wide)
    assert accuracy.Errors.of(got, want).worst < 1e-4
    few = kernel("reference", replace(case, options={"quadrature": 2}), "none")(**wide)
    assert accuracy.Errors.of(few, want).rms > 1e-3
