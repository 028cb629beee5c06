"""Time to quality: the published loop and ours start from the same weights, and a run leaves its files. With
BFN_OFFICIAL=<a checkout of github.com/nnaisense/bayesian-flow-networks> our transcription is compared with their model.
"""

import contextlib
import csv
import itertools
import math
import os
import shutil
import struct
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from benchmarks import csv_files, docs_numbers, grey, loops, memory, runs_report, time_to_quality
from benchmarks.loops import CURRENT, Timed
from benchmarks.published_model import as_published, published_model
from benchmarks.runs_report import OURS, THEIRS, WARM, Drawn, Point, Quality, Run
from bfn.configs import Config
from bfn.data import Data, load_data
from bfn.model import BFN, build_model
from bfn.training.speed import PLAIN, Choice
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
    return time_to_quality.config_of(of, THEIRS, folders[of.folder], str(tmp_path / "run"), quick=True)


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


def test_all_loops_start_from_the_same_weights_and_learn(folders, tmp_path, monkeypatch):
    of = time_to_quality.EXPERIMENTS["shakespeare"]
    monkeypatch.setattr(loops.Warm, "__init__", loops.Ours.__init__)  # the settings have no compiler
    torch_settings = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    try:
        found = {}
        for name, make in loops.LOOPS.items():
            config = time_to_quality.config_of(of, name, folders["text"], str(tmp_path / name), quick=True)
            assert config.train.optimizer == ("muon" if name in (OURS, WARM) else "adamw")
            found[name] = make(config, load_data(config), None)
        first = {name: loop.weights() for name, loop in found.items()}
        for weights in (weights for of_loop in first.values() for weights in of_loop.values()):
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


@pytest.mark.parametrize("status", [0, 1])
def test_a_warm_loop_begins_after_another_process_has_compiled(status, monkeypatch):
    """With the choice that the run itself will make. Without the compiled code, the loop would not be warm."""
    made = []

    def compilation(passes):
        made.append(passes)
        ended, waited = SimpleNamespace(returncode=status), lambda: made.append("waited") or "no compiler"
        return SimpleNamespace(error=waited, process=ended, close=lambda: made.append("closed"))

    def ours(self, config, data, official):
        self.trainer = SimpleNamespace(device=torch.device("cpu"), passes=lambda choice: choice)

    monkeypatch.setattr(loops.Ours, "__init__", ours)
    monkeypatch.setattr(loops, "Compilation", compilation)
    monkeypatch.setattr(loops, "choices", lambda train, device: [PLAIN, Choice(*train)])
    expected = pytest.raises(RuntimeError, match="no compiler") if status else contextlib.nullcontext()
    with expected:
        loops.Warm(SimpleNamespace(train=("bf16", "inductor")), None, None)
    assert made == [Choice("bf16", "inductor"), "waited", *([] if status else ["closed"])]


def test_turns_get_longer_and_end_where_loops_are_compared():
    ends = list(time_to_quality.turns((65.0, 130.0), 5.0))
    assert ends == [5.0, 10.0, 20.0, 40.0, 65.0, 95.0, 125.0, 130.0]
    assert max(b - a for a, b in itertools.pairwise(ends)) == time_to_quality.LONGEST


def point(seconds: float, bits: float, loop: str = OURS) -> Point:
    return Point("mnist", loop, 0, seconds, 0, bits, 0.0, bits, bits)


def test_seconds_to_a_bound():
    curve = [point(0, 4.0), point(10, 4.0), point(20, 2.0), point(30, 3.0)]
    assert [runs_report.seconds_to(curve, bits) for bits in (4.0, 3.0, 2.0)] == [0, 15, 20]
    assert math.isnan(runs_report.seconds_to(curve, 1.9))


def test_a_loop_is_compared_with_the_published_loop_after_equal_seconds():
    """The last step of a turn may end later. The published loop may have reached its last bound before."""
    theirs = [point(0, 4.0, THEIRS), point(10, 2.0, THEIRS), point(21, 3.0, THEIRS)]
    ours, worse = [point(0, 4.0), point(11, 2.5), point(20, 2.0)], [point(0, 4.0, WARM), point(20, 3.5, WARM)]
    found = list(runs_report.qualities([*theirs, *ours, *worse], (10.0, 20.0)))
    assert [(row.loop, row.seconds, row.bits, row.target_bits, row.target_seconds) for row in found] == [
        (OURS, 10, 2.5, 2.0, 10),
        (WARM, 10, 4.0, 2.0, 10),
        (OURS, 20, 2.0, 3.0, 5),
        (WARM, 20, 3.5, 3.0, 5),
    ]
    assert [row.own_seconds for row in found] == pytest.approx([20, math.nan, 11 * 2 / 3, math.nan], nan_ok=True)


def test_samples_are_compared_with_the_fewest_published_steps_that_are_as_good():
    """As good within the standard error of the difference, 0.05."""
    theirs = [
        Drawn("mnist", THEIRS, "ancestral", 50, calls, calls, share, 0.03)
        for calls, share in ((11, 0.75), (26, 0.7), (51, 0.65), (101, 0.66))
    ]
    ours = [Drawn("mnist", OURS, "ode2", 50, 11, 10.0, share, 0.04) for share in (0.699, 0.701, 0.61, 0.59)]
    cells = list(runs_report.drawn_cells([*theirs, *ours]))
    assert [row[-2:] for row in cells[4:]] == [["26", "2.6×"], ["11", "1.1×"], ["51", "5.1×"], ["> 101", "> 10.1×"]]
    assert [row[2] for row in cells[3:5]] == ["published, ancestral", "bfn, ode2"]


def run(loop: str, seed: int, steps_per_s: float, peak: float = 2.0**20) -> Run:
    return Run("mnist", loop, seed, 10**6, 8, 100, 50.0, 0.0, steps_per_s, 500.0, 490.0, 510.0, peak)


def quality(seed: int, own_seconds: float) -> Quality:
    return Quality("mnist", OURS, seed, 60.0, 1.0, 0.1, 1.1, 0.1, 50.0, own_seconds)


def test_a_table_has_the_medians_over_the_seeds():
    """A loop that is never as good in most seeds has no time."""
    theirs, ours = (
        [run(loop, seed, steps * (seed + 1)) for seed in range(3)] for loop, steps in ((THEIRS, 2), (OURS, 5))
    )
    speed = runs_report.speed_cells(ours, theirs)
    assert speed[4:] == ["500 ms", "10", "2.5×", "1", "0.0"]
    cells = runs_report.quality_cells([quality(0, 10.0), quality(1, 50.0), quality(2, math.nan)])
    assert cells[2:] == ["3", "60", "1.1000 ± 0.1000", "1.0000 ± 0.1000", "50", "50", "1.0×"]
    assert runs_report.quality_cells([quality(0, 10.0), *[quality(1, math.nan)] * 2])[-3:] == ["50", "–", "–"]


def test_a_page_has_the_tables_and_what_ops_alone_bring(tmp_path):
    shutil.copy(docs_numbers.SHOWN / "training.csv", tmp_path)
    csv_files.write(Run, [run(THEIRS, 0, 2.0), run(OURS, 0, 5.0)], {"threads": "2"}, tmp_path / "runs.csv")
    rows = [quality(0, 10.0), replace(quality(0, 10.0), seconds=120.0)]
    csv_files.write(Quality, rows, {}, tmp_path / "quality.csv")
    drawn = Drawn("mnist", THEIRS, "ancestral", 50, 101, 80.0, 0.6, 0.03)
    csv_files.write(Drawn, [drawn], {}, tmp_path / "samples.csv")
    titles = runs_report.parts([], [], [])
    speed, *others = (docs_numbers.time_to_quality(title)(tmp_path).splitlines() for title in titles)
    assert [line.split(" | ")[6] for line in speed[2:]] == ["1.0×", "2.5×", docs_numbers.full_size(tmp_path)]
    assert [len(lines) for lines in others] == [4, 3]


def test_patches_of_images(folders, tmp_path):
    of = time_to_quality.EXPERIMENTS["bins"]
    data = load_data(time_to_quality.config_of(of, THEIRS, folders["mnist"], str(tmp_path), quick=True))
    assert data.shape == (7, 7, 16) and data.num_classes == 256
    levels = torch.arange(28 * 28).view(1, 28, 28)
    place = grey.patched(levels)[0, 2, 3]
    assert torch.equal(place.view(4, 4), levels[0, 8:12, 12:16])


@pytest.mark.slow
def test_a_quick_run(folders, tmp_path, monkeypatch):
    """Its processes are forked, since new ones would import torch."""
    monkeypatch.setattr(loops.multiprocessing, "get_context", lambda method: FORKS)
    out = tmp_path / "out"
    arguments = ["--text", str(folders["text"]), "--quick", "--two", "--only", "shakespeare", "--out", str(out)]
    assert time_to_quality.main(arguments) == 0
    rows = {}
    for name in ("curves", "runs", "quality", "samples"):
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
