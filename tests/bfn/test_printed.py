"""Every number that a command prints is computed again, from the files of its run and from its other output."""

import csv
import io
import itertools
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console

from bfn import cli, figures
from bfn.configs import Config, DataConfig, EvaluateConfig
from bfn.results import plots, tables
from bfn.results.evaluate import Bound, evaluate
from bfn.results.tables import Drawn, Measured
from bfn.training import checkpoint
from bfn.training.progress import Position, progress
from bfn.training.runs import LOG_FILE, STATE_FILE, load_run
from tests.bfn.command import bfn
from tests.bfn.tiny_settings import TINY, validate_briefly

TOKEN, TICK = 2.5, 1.75  # bytes, seconds
FEW = [*TINY, "train.compiler=null", "train.mixed_precision=no", "train.max_steps=6", "train.validate_every=2"]


def with_tokens(data):
    """The data, as if they were tokens of several bytes each."""
    return replace(data, token_bytes=TOKEN, rivals=lambda: {"another model": 1.75})


def clock(patched, module, step):
    """Replaces the clock of a module. It moves by `step` seconds whenever it is read."""
    ticks = itertools.count()
    read = lambda: step * next(ticks)  # noqa: E731
    patched.setattr(module, SimpleNamespace(monotonic=read, perf_counter=read))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The directory of a tiny run on tokens, and what training said. Nothing is drawn."""
    out, data_of, spoils = tmp_path_factory.mktemp("runs") / "digits", cli.data_of, iter((0.0, 0.0, 1.0))

    def spoiled(*of):  # so that the best weights are not the last ones
        bound = evaluate(*of)
        return replace(bound, messages=bound.messages + next(spoils))

    with pytest.MonkeyPatch.context() as patched:
        validate_briefly(patched)
        clock(patched, "bfn.training.trainer.time", TICK)
        patched.setattr(figures, "write", lambda figure, path: path)
        patched.setattr("bfn.training.trainer.evaluate", spoiled)
        patched.setattr(cli, "data_of", lambda *of, **more: with_tokens(data_of(*of, **more)))
        result = bfn("train", "digits", *FEW, f"out={out}")
    assert result.exit_code == 0, result.output
    return out, result.output


@pytest.fixture
def loaded(monkeypatch):
    """Makes the commands load data of tokens. Each call of the network adds a number to the list."""
    calls, load = [], cli.load_run

    def load_tokens(*of):
        model, settings, data = load(*of)
        model.network.register_forward_hook(lambda *_: calls.append(1))
        return model, settings, with_tokens(data)

    monkeypatch.setattr(cli, "load_run", load_tokens)
    return calls


def cells(output: str) -> dict[str, list[str]]:
    """The rows of the tables in an output: the cells that follow the first cell of each row."""
    rows = [[cell.strip() for cell in line.strip("│┃ ").split("│")] for line in output.splitlines() if "│" in line]
    return {row[0]: row[1:] for row in rows}


def texts(table) -> list[list[str]]:
    """The cells of a table, row by row, after its header."""
    return list(map(list, zip(*([column.header, *column.cells] for column in table.columns), strict=True)))


def test_what_training_says_of_its_steps_is_in_its_files(run):
    out, output = run
    with open(out / LOG_FILE, newline="") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    position = checkpoint.load(out / STATE_FILE)[1]["position"]
    bits = [row["validation_bits"] for row in rows]
    lines = [  # a row of the log has the seconds before its validation, which takes TICK
        f"step {row['step']:.0f}/6, {row['seconds'] + TICK:.0f} s: "
        f"validation {row['validation_bits']:.3f} bits, best {min(bits[: i + 1]):.3f}"
        for i, row in enumerate(rows)
    ]
    assert len(rows) == 3 and [line for line in output.splitlines() if line.startswith("step")] == lines
    assert len({line.split(",")[1] for line in lines}) == 3  # the seconds differ
    assert f"trained 6 steps in {position['seconds']:.0f} s; train.max_steps=6 ended it" in output.splitlines()
    best = rows[bits.index(min(bits))]["step"]
    assert f"best weights: of step {best:.0f}" in output.splitlines() and position["best"] == min(bits)


def check_bound(output: str, bound: Bound, data) -> None:
    """The table of a bound on data of tokens."""
    table = cells(output)
    assert f"{len(data.test)} held-out examples" in output and bound.examples == len(data.test)
    messages, reconstruction = float(table["messages"][0]), float(table["reconstruction"][0])
    total, error = map(float, table["bound"][0].split(" ± "))
    assert total == pytest.approx(messages + reconstruction, abs=2e-4)
    assert (messages, reconstruction) == pytest.approx((bound.messages, bound.reconstruction), abs=1e-4)
    assert error == pytest.approx(bound.error, abs=1e-4) and error > 0.001
    per_byte = [float(number) for number in table["bound, bits per byte"][0].split(" ± ")]
    assert per_byte == pytest.approx([total / TOKEN, error / TOKEN], abs=1e-4)
    assert table["factorised baseline"] == [f"{data.baseline:.4f}"]
    assert table["unigrams, bits per byte"] == [f"{data.baseline / TOKEN:.4f}"]
    assert table["another model"] == ["1.7500"] and table["another model, bits per byte"] == [f"{1.75 / TOKEN:.4f}"]


def test_the_bound_of_a_run_is_what_its_model_has(run, loaded):
    out, said = run
    model, settings, data = load_run(out)
    bound = evaluate(model, data.test, settings.evaluate)
    for output in (said, bfn("evaluate", out).output):
        check_bound(output, bound, data)
    lines = [
        f"held-out bits per dimension: {bound.bits:.3f} (factorised baseline {data.baseline:.2f})",
        f"held-out bits per byte: {bound.bits / TOKEN:.3f} (unigrams {data.baseline / TOKEN:.3f})",
    ]
    assert not set(lines) - set(said.splitlines())


@pytest.mark.parametrize("how", [["sample.n_steps=3"], ["--sampler", "ode2", "--tolerance", "0.5"]], ids=len)
def test_what_sampling_says_of_its_time_and_its_calls(how, run, loaded, monkeypatch, tmp_path):
    monkeypatch.setattr(figures, "write", lambda figure, path: path)
    clock(monkeypatch, "bfn.cli.time", 6.5)
    result = bfn("sample", run[0], "sample.count=13", *how, "--to", tmp_path / "drawn.png")
    assert result.exit_code == 0 and "13 samples in 6.5 s, 2 a second" in result.output.splitlines()
    assert len(np.load(tmp_path / "drawn.npy")) == 13
    counted = re.findall(r"^calls of the network: (\d+)$", result.output, re.M)
    assert counted == ([] if len(how) == 1 else [str(len(loaded))]) and len(loaded) > 2


def test_a_guided_step_counts_as_two_calls(run, loaded, monkeypatch, tmp_path):
    """As in the table of samplers, where molecules have guidance."""
    monkeypatch.setattr(figures, "write", lambda figure, path: path)
    monkeypatch.setattr("bfn.sample.guiding", lambda model, options: {"guidance": 0.5})
    monkeypatch.setattr("bfn.model.guiding", lambda model, options: {})
    guided = ["sample.guide=logp=3", "sample.count=2", "--to", tmp_path / "drawn.png"]
    result = bfn("sample", run[0], "--sampler", "ode2", "--tolerance", "0.5", *guided)
    assert result.exit_code == 0, result.output
    assert f"calls of the network: {len(loaded)}" in result.output.splitlines()
    loaded.clear()
    model, settings, data = cli.load_run(run[0], guided[:1])
    row = tables.drawn(model, replace(data, test=data.test[:5]), settings.sample)
    assert row.calls == len(loaded) == 2 * (settings.sample.n_steps + 1) and row.sampler == "ancestral, logp=3"


def test_a_comparison_says_what_each_run_took_and_how_it_was_judged(run, loaded, monkeypatch):
    monkeypatch.setattr(figures, "write", lambda figure, path: path)
    clock(monkeypatch, "bfn.results.tables.time", 1.25)
    judged, calls, told_apart = [], [], tables.told_apart

    def judge(samples, held_out, **more):
        calls.append(len(loaded) - sum(calls))
        assert len(samples) == len(held_out)
        judged.append(told_apart(samples, held_out, **more))
        return judged[-1]

    monkeypatch.setattr(tables, "told_apart", judge)
    result = bfn("compare", run[0], "--samplers", "ode1", "--steps", "2,4")
    assert result.exit_code == 0, result.output
    rows = [line for line in result.output.splitlines() if line.startswith("│ ode1")]
    shown = [[cell.strip() for cell in row.strip("│ ").split("│")] for row in rows]
    assert shown == [
        ["ode1", str(count), "1.2", f"{share:.3f} ± {error:.3f}"]
        for count, (share, error) in zip(calls, judged, strict=True)
    ]
    assert calls == [3, 5]


def test_every_cell_of_the_table_of_bounds():
    """A bound has an error in bits and one in nats; the factorised receiver has its own."""
    data = SimpleNamespace(shape=(4, 8), baseline=3.5)
    rows = [
        Measured(10, Bound(1.5, 0.25, 0.0125, 77), Bound(1.75, 0.5, 0.0375, 77)),
        Measured(None, Bound(1.25, 0.125, 0.025, 77), None),
    ]
    table = tables.bounds_table(rows, data, Config(data=DataConfig(name="text")))
    nats = 32 * math.log(2)
    assert table.title == "text, 77 held-out examples of 32 dimensions"
    assert table.caption == f"factorised baseline: 3.5000 bits per dimension, {3.5 * nats:.2f} nats"
    assert texts(table) == [
        ["n", "messages", "reconstruction", "bits per dimension", "nats per example", "factorised receiver"],
        ["10", "1.5000", "0.2500", "1.7500 ± 0.0125", f"{1.75 * nats:.2f} ± {0.0125 * nats:.2f}", "2.2500 ± 0.0375"],
        ["∞", "1.2500", "0.1250", "1.3750 ± 0.0250", f"{1.375 * nats:.2f} ± {0.025 * nats:.2f}", "–"],
    ]


def test_every_cell_of_the_table_of_a_bound_with_a_judge():
    judge = SimpleNamespace(unit="nats", rival=lambda test: ("estimate", test / 2), worth=lambda bits: 10 * bits)
    data = SimpleNamespace(baseline=3.5, rivals=lambda: {"trigrams": 2.75}, token_bytes=None, judge=judge, test=9.0)
    settings = Config(evaluate=EvaluateConfig(n_steps=25))
    parts = {"places": Bound(0.5, 0.125, 0.01, 77), "types": Bound(1.0, 0.125, 0.01, 77)}
    table = tables.bound_table(Bound(1.5, 0.25, 0.0125, 77), data, settings, parts)
    assert table.title == "digits, 77 held-out examples, 25 steps"
    rows = dict(texts(table)[1:])
    assert rows == {
        "messages": "1.5000",
        "reconstruction": "0.2500",
        "bound": "1.7500 ± 0.0125",
        "factorised baseline": "3.5000",
        "trigrams": "2.7500",
        "bound, nats": "17.5000",
        "  of places": "6.2500",
        "  of types": "11.2500",
        "estimate, nats": "4.5000",
    }


def test_every_cell_of_the_tables_of_samples():
    rows = [
        Drawn("a", 11, 0.25, "validity", 0.5, 0.125, {"novelty": 0.75}),
        Drawn("b", 21, 2.0, "validity", 0.25, 0.0625),
    ]
    table = tables.samplers_table(rows, Config())
    assert table.title == f"digits, as many samples as held-out examples, at most {tables.SAMPLES}"
    assert texts(table) == [
        ["sampler", "network calls", "seconds", "validity", "novelty"],
        ["a", "11", "0.2", "0.500 ± 0.125", "0.750"],
        ["b", "21", "2.0", "0.250 ± 0.062", "–"],
    ]
    assert texts(tables.measures_table({"validity": 0.5, "novelty": 0.0625}))[1:] == [
        ["validity", "0.500"],
        ["novelty", "0.062"],
    ]


def test_a_terminal_shows_the_step_and_the_last_and_the_best_bound():
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=120)
    with progress(console, 8) as show:
        show(Position(step=5, best=1.25), [{"step": 4, "validation_bits": 1.5}])
    text = console.file.getvalue()
    assert "5/8" in text and "validation 1.500 bits, best 1.250" in text


@pytest.fixture
def figure(monkeypatch):
    """The figures that are drawn, which are not written."""
    drawn = []
    monkeypatch.setattr(figures, "write", lambda figure, path: drawn.append(figure))
    return drawn


@pytest.mark.parametrize("pair", ["digits"], indirect=True)
def test_the_band_of_the_loss_at_every_time_is_its_standard_error(pair, tmp_path, figure):
    model, data = pair
    losses, forward = [], model.forward

    def noted(*of, **more):
        losses.append(forward(*of, **more))
        return losses[-1]

    model.forward = noted
    plots.plot_times(model, replace(data, test=data.test[:9]), tmp_path, seed=0, count=4)
    (axes,) = figure[0].axes
    means, bits = axes.lines[0].get_ydata(), torch.stack(losses) / math.log(2) / math.prod(data.shape)
    assert means == pytest.approx(bits.mean(1).tolist(), rel=1e-5)
    assert f"of 9 held-out examples: {bits.mean():.3f} bits in all" in axes.get_title()
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    errors = bits.std(1) / 3
    assert (band.min(), band.max()) == pytest.approx(
        ((bits.mean(1) - errors).min().item(), (bits.mean(1) + errors).max().item()), rel=1e-5
    )


def test_the_bars_of_pictures_are_standard_errors(tmp_path, figure):
    bounds = [Measured(n, Bound(1.5 + 1 / (n or 1e9), 0.2, 0.5 / (n or 1), 16), None) for n in (10, 25, None)]
    plots.plot_bounds(bounds, SimpleNamespace(baseline=2.4), tmp_path)
    plots.plot_samplers([Drawn("a", n, 0.1, "validity", 0.5, 0.25 / n) for n in (5, 20)], tmp_path)
    for drawn, centres, errors in zip(figure, ([1.8, 1.74], [0.5, 0.5]), ([0.05, 0.02], [0.05, 0.0125]), strict=True):
        (bars,) = drawn.axes[0].containers
        (lines,) = bars[2]
        assert bars[0].get_ydata() == pytest.approx(centres)
        assert [(low, high) for (_, low), (_, high) in lines.get_segments()] == [
            pytest.approx((centre - error, centre + error)) for centre, error in zip(centres, errors, strict=True)
        ]
