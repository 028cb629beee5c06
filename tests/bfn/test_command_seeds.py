"""The seeds of the settings: every command draws from one of them, and 0 is as good a seed as any other."""

import itertools
import re
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from bfn import figures
from bfn.configs import EvaluateConfig
from bfn.results import plots
from bfn.results.evaluate import evaluate
from bfn.training import derived_seeds
from bfn.training.derived_seeds import derive
from tests.bfn.command import bfn
from tests.bfn.test_batches import batches_of
from tests.bfn.test_evaluate import Fixed
from tests.bfn.tiny_settings import TINY, validate_briefly

SEEDS = ("train.seed", "evaluate.seed", "sample.seed")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The directory of a tiny run of one step, and the samples that training drew. It has no pictures."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    few = ["evaluate.repeats=1", "sample.n_steps=2", "sample.count=2", "train.max_steps=1"]
    with pytest.MonkeyPatch.context() as patched:
        validate_briefly(patched)
        patched.setattr(figures, "write", lambda figure, path: path)
        result = bfn("train", "digits", *TINY, *few, f"out={out}")
    assert result.exit_code == 0, result.output
    return out, np.load(out / "samples.npy")


@pytest.fixture
def pictured(monkeypatch):
    """The numbers that pictures show, which are not written: curves, and samples whose flow they show."""
    found, sample = [], plots.sample

    def write(figure, path):
        found.extend(line.get_ydata() for axes in figure.axes for line in axes.lines if path.name == "times.png")
        return path

    def drawn(*arguments, **keywords):
        found.append(sample(*arguments, **keywords).numpy())
        return torch.from_numpy(found[-1])

    monkeypatch.setattr(figures, "write", write)
    monkeypatch.setattr(plots, "sample", drawn)
    monkeypatch.setattr(plots, "PillowWriter", MagicMock())
    return found


def printed(out, output, pictured):
    return [np.array([*map(float, re.findall(r"\d+\.\d{3,4}", output))])]


def drawn(out, output, pictured):
    return [np.load(out / "samples.npy")]


def shown(out, output, pictured):
    return pictured


# Each command, the seed that it draws from, and its results, each of which depends on that seed.
COMMANDS = {
    ("evaluate",): ("evaluate.seed", printed),
    ("evaluate", "--table", "--steps", "2"): ("evaluate.seed", printed),
    ("sample",): ("sample.seed", drawn),
    ("sample", "--sampler", "ode2"): ("sample.seed", drawn),
    ("sample", "--sampler", "ode2", "--tolerance", "0.5"): ("sample.seed", drawn),
    ("compare", "--samplers", "ode1", "--steps", "2"): ("sample.seed", printed),
    ("plot",): ("sample.seed", shown),
}


@pytest.mark.parametrize(
    ("command", "key", "results"), [(c, *of) for c, of in COMMANDS.items()], ids=map(" ".join, COMMANDS)
)
def test_a_command_draws_from_its_seed_and_from_no_other(command, key, results, run, pictured):
    out, _ = run

    def of(*settings):
        torch.manual_seed(next(numbers))
        pictured.clear()
        result = bfn(command[0], out, *command[1:], *settings)
        assert result.exit_code == 0, result.output
        return [array.copy() for array in results(out, result.output, pictured)]

    numbers = itertools.count()
    others = [f"{name}=1" for name in SEEDS if name != key]
    first, again, other = of(f"{key}=0"), of(f"{key}=0", *others), of(f"{key}=1")
    assert len(first) == len(again) == len(other) >= 1
    for one, same, different in zip(first, again, other, strict=True):
        assert np.array_equal(one, same) and not np.array_equal(one, different)


def test_training_ends_with_the_samples_that_the_command_draws(run):
    out, samples = run
    assert bfn("sample", out).exit_code == 0
    assert np.array_equal(np.load(out / "samples.npy"), samples)


def test_a_bound_has_the_times_of_its_seed():
    def times(seed):
        model = Fixed()
        evaluate(model, torch.rand(5, 2), EvaluateConfig(repeats=2, seed=seed))
        return torch.stack(model.times)

    assert torch.equal(times(0), times(0)) and not torch.equal(times(0), times(1))


def test_a_step_has_the_times_of_the_run_s_seed():
    first, again, other = (batches_of(0, seed=seed)[0].t for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_each_time_of_a_picture_has_noise_of_its_own(pair, tmp_path, monkeypatch):
    model, data = pair
    noises, forward = [], model.forward
    monkeypatch.setattr(figures, "write", lambda figure, path: path)
    monkeypatch.setattr(model, "forward", lambda *of, seed, **more: noises.append(seed) or forward(*of, **more))
    for seed in (0, 1):
        plots.plot_times(model, data, tmp_path, seed=seed, count=3)
    assert len(set(noises)) == 6


def test_the_parts_of_a_run_have_seeds_of_their_own():
    parts = [number for name, number in vars(derived_seeds).items() if name.isupper()]
    assert len(parts) == len(set(parts)) >= 5
    paths = [(), *((part,) for part in parts), *((part, step) for part in parts for step in range(3))]
    assert len({derive(seed, *path) for seed in (0, 1) for path in paths}) == 2 * len(paths)
