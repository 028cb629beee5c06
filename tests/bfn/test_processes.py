"""Runs of two processes end as the run of one process does."""

import json
import os
import random
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bfn.configs import EvaluateConfig
from bfn.results.evaluate import evaluate
from bfn.training import checkpoint, processes
from bfn.training.run_lock import lock
from bfn.training.runs import LOG_FILE, MODEL_FILE, STATE_FILE, load_run
from tests.bfn import workers
from tests.bfn.tiny_settings import TINY
from tests.bfn.workers import Group

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
COMMANDS = re.findall("^(?:torchrun|accelerate) .* -m bfn .*", PAGE, re.M)

# Four micro-batches, so that each of two processes adds up the gradients of two.
STEPS = ["train.max_steps=6", "train.validate_every=3", "train.batch_size=32"]
MICRO = "train.micro_batch=8"
MUON = ["train.optimizer=muon", "network.width=32"]
SHARDED = "train.fully_shard=true"


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """settings("train.seed=1") are those of a tiny run in a new directory, which is the last of them."""
    return lambda *more: [*TINY, *STEPS, *more, f"out={tmp_path_factory.mktemp('run')}"]


@pytest.mark.parametrize(
    ("gpu", "settings", "cpu"), [(True, {}, False), (True, {"cpu": True}, True), (False, {}, True)]
)
def test_a_gpu_is_used_if_there_is_one(gpu, settings, cpu, monkeypatch):
    def refuse(*, cpu, **more):
        raise LookupError(f"cpu={cpu}")

    monkeypatch.setattr(processes, "Accelerator", refuse)
    monkeypatch.setattr(processes.torch.accelerator, "is_available", lambda: gpu)
    with pytest.raises(LookupError, match=f"cpu={cpu}"):
        processes.start(**settings)


def out_of(settings):
    return settings[-1].removeprefix("out=")


@pytest.fixture(scope="module")
def alone(settings):
    """The directory of the run of one process."""
    mine = settings(MICRO)
    assert Group(1, workers.train, mine).ends() == [0]
    return out_of(mine)


def assert_alike(out, alone):
    """Weights, averages and moments are those of the run of one process, and so is what the run has measured."""
    for name in (STATE_FILE, MODEL_FILE):
        assert workers.difference(out, alone, name) < 3e-6
    results = [checkpoint.load(Path(path, MODEL_FILE))[1] for path in (out, alone)]
    assert results[0]["step"] == results[1]["step"]
    assert results[0]["validation_bits"] == pytest.approx(results[1]["validation_bits"], abs=1e-5)
    logs = [checkpoint.load(Path(path, STATE_FILE))[1]["log"] for path in (out, alone)]
    for row, wanted in zip(*logs, strict=True):
        assert {**row, "seconds": 0} == pytest.approx({**wanted, "seconds": 0}, abs=1e-5)


@pytest.mark.parametrize("more", [[], [SHARDED]], ids=["ddp", "fsdp2"])
def test_two_processes_end_as_one_of_twice_the_batch_does(more, settings, alone):
    both = settings(MICRO, *more)
    assert Group(2, workers.train, both).ends() == [0, 0]
    assert_alike(out_of(both), alone)


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], [SHARDED]], ids=["ddp", "fsdp2"])
def test_two_processes_take_the_steps_of_one_with_muon(more, settings):
    one, both = settings(MICRO, *MUON), settings(MICRO, *MUON, *more)
    assert Group(1, workers.train_in_float32, one).ends() == [0]
    assert Group(2, workers.train_in_float32, both).ends() == [0, 0]
    assert_alike(out_of(both), out_of(one))


@pytest.mark.slow
@pytest.mark.parametrize(("train", "more"), [(workers.train, []), (workers.train_in_float32, MUON)])
def test_a_run_goes_on_with_other_processes_from_where_a_sigterm_to_any_of_them_stopped_it(train, more, settings):
    whole, run = settings(MICRO, *more), settings(MICRO, *more)
    assert Group(1, train, whole).ends() == [0]
    assert Group(2, train, run, 1, 1).ends() == [130, 130]
    rest = settings(*more)[:-1] + run[-1:]  # the micro-batches are those of the run so far
    assert Group(2, train, [SHARDED, *rest], 3, 0).ends() == [130, 130]
    tensors, state = checkpoint.load(Path(out_of(run), STATE_FILE))
    assert state["position"]["step"] == tensors["optimizer.network.stem.bias.step"] == 4
    assert Group(1, train, rest).ends() == [0]
    assert_alike(out_of(run), out_of(whole))


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], [SHARDED]], ids=["ddp", "fsdp2"])
def test_a_run_that_is_killed_at_any_moment_goes_on_from_its_last_checkpoint(more, settings, tmp_path):
    """BFN_KILLS=20 kills it twenty times."""
    kills, moments = int(os.environ.get("BFN_KILLS", 1)), random.Random(0)
    steps = ["train.validate_every=2", f"train.max_steps={1000 * kills}", "train.patience=1000", MICRO, *more]
    whole, parts = settings(*steps), settings(*steps)
    notes, killed_at = tmp_path / "notes", []
    for _ in range(kills):
        group, before = Group(2, workers.noted_train, parts, notes), saved_steps(notes)
        while saved_steps(notes) == before:  # else there would be no checkpoint to go on from
            assert all(member.exitcode is None for member in group.members)
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 0.3))
        for member in moments.sample(group.members, 2):  # as torchrun kills the others of one that has died
            member.kill()
        group.ends()
        done, at = read_notes(notes), saved_steps(notes)[-1]
        state = checkpoint.load(Path(out_of(parts), STATE_FILE))[1]
        # The note of a checkpoint that has just been written may be missing. While one is written training goes on to
        # the next, and waits there.
        assert state["position"]["step"] in (at, at + 2)
        assert done[-1][1] - at <= 4
        killed_at.append((done[-1][1], at))
    print("killed at step, and the step of the last checkpoint:", *killed_at)
    end = [f"train.max_steps={at + 4}"]
    assert Group(2, workers.train, parts[:-1] + end + parts[-1:]).ends() == [0, 0]
    assert Group(2, workers.train, whole[:-1] + end + whole[-1:]).ends() == [0, 0]
    for name in (STATE_FILE, MODEL_FILE):
        assert workers.difference(out_of(parts), out_of(whole), name) == 0
    assert_alike(out_of(parts), out_of(whole))


def read_notes(path):
    """[("step", 1), ("step", 2), ("saved", 2), ...]"""
    lines = path.read_text().splitlines() if path.exists() else []
    return [(what, int(step)) for what, step in (line.split() for line in lines)]


def saved_steps(notes):
    """The steps of the checkpoints that have been written."""
    return [step for what, step in read_notes(notes) if what == "saved"]


def test_processes_agree(tmp_path):
    assert Group(2, workers.agree, str(tmp_path)).ends() == [0, 0]
    first, second = (json.loads((tmp_path / str(rank)).read_text()) for rank in range(2))
    assert first["means"] == second["means"] == [1.0, 1.0] and first["sum"] == second["sum"] == [2.0, 1.0]
    assert first["main"] == [{"rank": 0}, True, 2] and second["main"] == [{"rank": 0}, False, 2]
    assert first["error 0"] is second["error 0"] is None
    assert second["error 1"] == "OSError: disk 1 is full"
    assert first["error 1"] == "RunError: process 1 of the run failed: disk 1 is full"
    assert first["error 2"] == "OSError: disk 0 is full"
    assert second["error 2"] == "RunError: process 0 of the run failed: disk 0 is full"


def test_what_the_main_process_cannot_do_is_one_line_of_all(settings, tmp_path):
    run, said = settings(), tmp_path / "said"
    with lock(tmp_path):
        assert Group(2, workers.command, said, ["train", "digits", *run, f"out={tmp_path}"]).ends() == [1, 1]
    assert said.read_text() == f"error: another run is at work in {tmp_path}; wait for it, or choose another out=\n"


def test_a_disk_that_fills_up_ends_the_run_in_all_processes(settings, tmp_path):
    run, said = settings(), tmp_path / "said"
    (tmp_path / f".{STATE_FILE}.partial").symlink_to("/dev/full")
    assert Group(2, workers.command, said, ["train", "digits", *run, f"out={tmp_path}"]).ends() == [1, 1]
    assert said.read_text().endswith(f"error: {tmp_path / STATE_FILE}: No space left on device\n")
    assert (tmp_path / MODEL_FILE).exists() and not (tmp_path / LOG_FILE).exists()


@pytest.mark.slow
def test_the_commands_of_the_page_share_a_run(settings, tmp_path):
    by_torchrun, by_accelerate, sharded, evaluated = COMMANDS
    short = ["evaluate.repeats=2", "sample.count=1", "sample.n_steps=1", "train.validate_every=2"]
    here = [*settings(MICRO, *short)[:-1]]
    state, said = tmp_path / "runs" / "digits" / STATE_FILE, tmp_path / "said"

    def launch(command, steps):
        command = [*shlex.split(command), *here, f"train.max_steps={steps}"]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        with open(said, "w") as file:
            return subprocess.Popen(
                command,
                cwd=tmp_path,
                stdout=file,
                stderr=file,
                env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
            )

    stopped = launch(by_torchrun, 1000)  # with many more steps, a slow machine would compile the network for a minute
    while not state.exists():
        assert stopped.poll() is None, said.read_text()
        time.sleep(0.1)
    stopped.terminate()
    assert stopped.wait(180) != 0
    at = checkpoint.load(state)[1]["position"]["step"]
    assert said.read_text().count("interrupted and saved") == said.read_text().count(f"saved at step {at};") == 1

    assert launch(by_accelerate, at + 1).wait(180) == 0, said.read_text()
    assert said.read_text().count(f"continuing runs/digits at step {at}\n") == 1
    assert said.read_text().count(f"trained {at + 1} steps") == said.read_text().count("samples: ") == 1
    assert (state.parent / "samples.png").exists()

    def forked(command, *more):
        said.unlink()
        assert Group(2, workers.command, said, [*command.partition("-m bfn ")[2].split(), *more]).ends() == [0, 0]
        return re.findall(r"bound\D+(\d\.\d{4}) ±", said.read_text())

    bounds = forked(sharded, *here, f"train.max_steps={at + 2}")
    assert len(bounds) == 1 and forked(evaluated) == bounds
    model, _, data = load_run(state.parent)
    assert float(bounds[0]) == pytest.approx(evaluate(model, data.test, EvaluateConfig(repeats=2)).bits, abs=6e-5)
