"""Time to quality: the published loop and ours start from the same weights, and a run leaves its files. With
BFN_OFFICIAL=<a checkout of github.com/nnaisense/bayesian-flow-networks> our transcription is compared with their model.
"""

import csv
import itertools
import math
import os
import shutil
import struct
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import csv_files, docs_numbers, grey, loops, memory, runs_report, time_to_quality
from benchmarks.loops import AVERAGED, CURRENT, Timed
from benchmarks.published_model import as_published, published_model
from benchmarks.runs_report import OURS, THEIRS, Drawn, Point, Run
from bfn.configs import Config
from bfn.data import Data, load_data
from bfn.model import BFN, build_model
from tests.bfn.workers import FORKS

OFFICIAL = os.environ.get("BFN_OFFICIAL")
TEXT = "the quality of mercy is not strained "


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Tiny files of both data sets."""
    (tmp_path / "shakespeare.txt").write_text(TEXT * 120)
    for part, count in (("train", 200), ("t10k", 12)):
        levels = torch.randint(256, (count, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))
        header = struct.pack(">4BIII", 0, 0, 8, 3, *levels.shape)
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(header + levels.numpy().tobytes())
    return {"mnist": tmp_path, "text": tmp_path}


@pytest.fixture(params=list(time_to_quality.EXPERIMENTS))
def config(request, folders, tmp_path) -> Config:
    of = time_to_quality.EXPERIMENTS[request.param]
    return time_to_quality.config_of(of, folders[of.folder], str(tmp_path / "run"), quick=True)


def moved(config: Config, data: Data) -> BFN:
    """A model whose output is not zero."""
    torch.manual_seed(0)
    model = build_model(config, data).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


@torch.no_grad()
def test_the_transcribed_model_has_our_loss(config):
    data = load_data(config)
    model = moved(config, data)
    theirs = published_model(model.network, config.model, data, None)
    x = data.test[:4].repeat(2, *[1] * len(data.shape))
    torch.manual_seed(1)
    pairs = [(theirs(as_published(x, data)).item(), model(x).item()) for _ in range(16)]
    means, errors = (f(torch.tensor(pairs)) for f in (lambda p: p.mean(0), lambda p: p.std(0) / len(pairs) ** 0.5))
    assert abs(means[0] - means[1]) < 4 * errors.norm()


def test_the_transcribed_model_samples_what_it_can_learn(config):
    data = load_data(config)
    theirs = published_model(moved(config, data).network, config.model, data, None)
    shape = as_published(data.test[:3], data).shape
    samples = theirs.sample(tuple(shape), 3)
    assert samples.shape == shape
    values = data.num_classes * (samples + 1) / 2 - 0.5 if config.model.kind == "discretised" else samples.float()
    torch.testing.assert_close(values, values.round(), atol=1e-3, rtol=0)
    assert values.min() >= 0 and values.max() < data.num_classes


@pytest.mark.skipif(OFFICIAL is None, reason="BFN_OFFICIAL names no checkout of the published code")
@pytest.mark.parametrize("n_steps", [None, 20])
def test_the_transcribed_model_is_theirs(config, n_steps, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    data = load_data(config)
    network = moved(config, data).network
    x = as_published(data.test[:2], data)

    def of(official: Path | None) -> tuple[Tensor, Tensor, Tensor]:
        model = published_model(network, config.model, data, official)
        torch.manual_seed(1)
        loss = model(x, n_steps=n_steps)
        (gradient, *_) = torch.autograd.grad(loss, list(network.parameters())[-1:])
        return loss.detach(), gradient, model.sample(tuple(x.shape), 3).float()

    for ours, theirs in zip(of(None), of(Path(OFFICIAL)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_both_loops_start_from_the_same_weights_and_learn(folders, tmp_path, monkeypatch):
    config = time_to_quality.config_of(
        time_to_quality.EXPERIMENTS["shakespeare"], folders["text"], str(tmp_path / "run"), quick=True
    )
    data = load_data(config)
    torch_settings = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    try:
        found = {name: make(config, data, None) for name, make in loops.LOOPS.items()}
        first = {name: loop.weights() for name, loop in found.items()}
        for weights in (first[THEIRS][CURRENT], first[OURS][AVERAGED], first[THEIRS][AVERAGED]):
            torch.testing.assert_close(weights, first[OURS][CURRENT], rtol=0, atol=0)
        before = {key: value.clone() for key, value in first[OURS][CURRENT].items()}
        for loop in found.values():
            timed = Timed(loop)
            timed.begin()
            until = timed.train(0.0).seconds + 1e-9
            clock = timed.train(until)
            assert len(clock.steps) == 1 and clock.seconds == pytest.approx(clock.begun + clock.steps[0])
            assert timed.train(until) == clock  # whose time is over
            key = "layers.0.qkv.weight"
            assert not torch.equal(loop.weights()[CURRENT][key], before[key])
    finally:
        torch.set_float32_matmul_precision(torch_settings[0])
        torch.backends.cudnn.benchmark = torch_settings[1]


def test_turns_get_longer_until_the_end():
    ends = list(time_to_quality.turns(100.0, 5.0))
    assert ends == [5.0, 10.0, 20.0, 40.0, 70.0, 100.0]
    assert max(b - a for a, b in itertools.pairwise(ends)) == time_to_quality.LONGEST


def point(seconds: float, bits: float) -> Point:
    return Point("mnist", OURS, seconds, 0, bits, 0.0, bits, bits)


def test_seconds_to_a_bound():
    curve = [point(0, 4.0), point(10, 4.0), point(20, 2.0), point(30, 3.0)]
    assert [runs_report.seconds_to(curve, bits) for bits in (4.0, 3.0, 2.0)] == [0, 15, 20]
    assert math.isnan(runs_report.seconds_to(curve, 1.9))


def test_samples_that_are_as_good_say_how_much_faster_they_are():
    goal = Drawn("mnist", THEIRS, "ancestral", 50, 101, 80.0, 0.6, 0.03)
    good, bad = (Drawn("mnist", OURS, "ode2", 50, 11, 8.0, share, 0.04) for share in (0.65, 0.651))
    cells = list(runs_report.drawn_cells([goal, good, bad]))
    assert [row[-1] for row in cells] == ["1.0×", "10.0×", "not as good"]


def test_a_loop_that_is_never_as_good_has_no_time():
    theirs = Run("mnist", THEIRS, 10**6, 8, 100, 50.0, 0.0, 2.0, 500.0, 490.0, 510.0, 2**20, 1.0, 0.1, 1.0, 50.0)
    ours = Run("mnist", OURS, 10**6, 8, 300, 50.0, 10.0, 7.5, 130.0, 125.0, 140.0, 2**21, 1.1, 0.1, 1.0, math.nan)
    assert runs_report.speed_cells(theirs, ours)[3:] == ["500 ms", "130 ms", "3.8×", "1", "2", "10"]
    assert runs_report.quality_cells(theirs, ours)[-4:] == ["1.0000", "50", "–", "–"]


def test_a_page_has_the_tables_and_what_ops_alone_bring(tmp_path):
    shutil.copy(docs_numbers.SHOWN / "training.csv", tmp_path)
    run = Run("mnist", THEIRS, 10**6, 8, 100, 50.0, 0.0, 2.0, 500.0, 490.0, 510.0, 2**20, 1.0, 0.1, 1.0, 50.0)
    csv_files.write(Run, [run, replace(run, loop=OURS, steps_per_s=5.0)], {"threads": "2"}, tmp_path / "runs.csv")
    drawn = Drawn("mnist", THEIRS, "ancestral", 50, 101, 80.0, 0.6, 0.03)
    csv_files.write(Drawn, [drawn], {}, tmp_path / "samples.csv")
    speed, *others = (docs_numbers.time_to_quality(title)(tmp_path).splitlines() for title in runs_report.parts([], []))
    assert [line.split(" | ")[5] for line in speed[2:]] == ["2.5×", docs_numbers.full_size(tmp_path)]
    assert [len(lines) for lines in others] == [3, 3]


def test_patches_of_images(folders, tmp_path):
    of = time_to_quality.EXPERIMENTS["bins"]
    data = load_data(time_to_quality.config_of(of, folders["mnist"], str(tmp_path), quick=True))
    assert data.shape == (7, 7, 16) and data.num_classes == 256
    levels = torch.arange(28 * 28).view(1, 28, 28)
    place = grey.patched(levels)[0, 2, 3]
    assert torch.equal(place.view(4, 4), levels[0, 8:12, 12:16])


@pytest.mark.slow
def test_a_quick_run(folders, tmp_path, monkeypatch):
    """Its two processes are forked, since new ones would import torch."""
    monkeypatch.setattr(loops.multiprocessing, "get_context", lambda method: FORKS)
    out = tmp_path / "out"
    arguments = ["--text", str(folders["text"]), "--quick", "--only", "shakespeare", "--out", str(out)]
    assert time_to_quality.main(arguments) == 0
    rows = {}
    for name in ("curves", "runs", "samples"):
        with open(out / f"{name}.csv", newline="") as file:
            rows[name] = list(csv.DictReader(file))
    assert [row["loop"] for row in rows["runs"]] == [THEIRS, OURS]
    for row in rows["runs"]:
        assert int(row["steps"]) > 0 and float(row["step_p20_ms"]) <= float(row["step_ms"]) <= float(row["step_p80_ms"])
    starts = {row["loop"]: row["bits"] for row in reversed(rows["curves"]) if row["step"] == "0"}
    assert starts[THEIRS] == starts[OURS]
    assert {row["sampler"] for row in rows["samples"]} == {"ancestral", *time_to_quality.SAMPLERS}
    assert (out / "runs.png").read_bytes().startswith(b"\x89PNG")
    report = (out / "report.txt").read_text()
    assert "transcription of the published code" in report and "Samples of the same weights" in report


def test_a_run_without_data_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        time_to_quality.main(["--mnist", str(tmp_path), "--only", "shakespeare"])
    assert "no experiment is left" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["clear_refs", "VmHWM"])
def test_a_loop_runs_even_if_the_system_does_not_say_its_peak(missing, monkeypatch, tmp_path):
    """`peak_of` calls the function even if it cannot measure the peak, since the function runs the loop."""
    sizes = {key: size for key, size in {"VmRSS": 3, "VmHWM": 5}.items() if key != missing}
    (tmp_path / "status").write_text("".join(f"{key}: {size} kB\n" for key, size in sizes.items()))
    (tmp_path / "clear_refs").touch()

    def opened(path, mode="r"):
        if Path(path).name == missing:
            raise FileNotFoundError(path)
        return open(tmp_path / Path(path).name, mode)

    made = []
    monkeypatch.setattr(memory, "open", opened, raising=False)
    assert memory.peak_of(lambda: made.append(1)) is None and made == [1]
    missing = ""
    (tmp_path / "status").write_text("VmRSS: 3 kB\nVmHWM: 5 kB\n")
    assert memory.peak_of(lambda: made.append(2)) == 2048 and made == [1, 2]
