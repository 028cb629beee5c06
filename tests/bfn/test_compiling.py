"""The process that compiles the network beside a run."""

import importlib
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from bfn.training import compiling, speed, tuning
from bfn.training.compiling import Compilation
from tests.bfn.test_speed import COMPILED, CPU, EAGER, PLAIN, trainer

pytestmark = pytest.mark.usefixtures("short_validations")


def compilation(tiny, monkeypatch, network=None):
    """The process of a tiny run with the backend "eager", and the run."""
    monkeypatch.setattr(tuning, "choices", lambda train, device: [PLAIN, EAGER])
    run, _ = trainer(tiny, "train.batch_size=4")
    run.bare.network = network or run.bare.network
    return Compilation(run.passes(EAGER)), run


def stat_of(process):
    """What Linux tells about a process: its state comes first, and its priority is number 16."""
    return Path(f"/proc/{process.process.pid}/stat").read_text().rpartition(")")[2].split()


def test_a_run_compiles_by_itself_what_cannot_be_sent_to_a_process(tiny, monkeypatch):
    class Local(nn.Module):
        pass

    process, _ = compilation(tiny, monkeypatch, Local())
    assert process.process is None and process.ended and process.error() == ""
    process.close()


def test_a_process_makes_all_passes(tiny, monkeypatch, tmp_path):
    """The process also signals that it has made the training pass, and leaves a mark."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    process, run = compilation(tiny, monkeypatch)
    assert select.select([process.signal], [], [], 300)[0]  # at the lowest priority, which a busy machine lets wait
    assert stat_of(process)[16] == "19" and process.trained  # the run comes first
    assert process.error() == "" and process.ended and os.read(process.signal, 9) == b"trained"
    assert run.passes(EAGER).mark().exists()
    process.close()


def test_the_process_waits_while_passes_are_timed(tiny, monkeypatch):
    process, run = compilation(tiny, monkeypatch, Waits())
    run.tuning.beside = process
    run.tuning.use(EAGER)
    seen = []

    def work():
        time.sleep(0.1)  # a signal takes effect a moment after it is sent
        seen.append(stat_of(process)[0])
        if len(seen) == 3:
            raise KeyError

    with pytest.raises(KeyError):
        run.tuning.timed(work, CPU, 4)
    time.sleep(0.1)
    assert seen[0] != "T" and seen[1:] == ["T", "T"] and stat_of(process)[0] != "T"
    process.close()
    with process.paused():  # a process that has ended
        pass


def test_a_run_leaves_a_core_to_the_process(tiny, monkeypatch):
    """Only if the run uses all cores."""
    monkeypatch.setattr(tuning, "choices", lambda train, device: [PLAIN, EAGER])
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **more: None)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        run, _ = trainer(tiny)
        for cores, threads in ((2, 1), (1, 1), (3, 2)):
            monkeypatch.setattr(compiling, "cores", lambda cores=cores: cores)
            process = Compilation(run.passes(EAGER))
            assert torch.get_num_threads() == 2
            process.leave_core()
            process.leave_core()
            assert torch.get_num_threads() == threads
            process.share()
            assert torch.get_num_threads() == 2
            process.close()
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("fixed", [False, True])
def test_a_run_leaves_a_core_after_a_minute(tiny, monkeypatch, fixed):
    """Not before, and never if the settings say when the run changes over: its results would be others."""
    monkeypatch.setattr(tuning, "choices", lambda train, device: [PLAIN, EAGER])
    left = []
    beside = SimpleNamespace(trained=False, leave_core=lambda: left.append(run.at.seconds))
    monkeypatch.setattr(tuning, "Compilation", lambda passes: beside)
    run, _ = trainer(tiny, "train.max_steps=100000", "train.max_seconds=null", *["train.compile_from=1000"] * fixed)
    run.begin_steps()
    run.at.step, run.at.seconds = speed.PASSES + 1, 7.0
    run.tuning.after_steps(1.0)
    assert run.tuning.beside is beside
    for run.at.seconds in (8.0, 6.9 + speed.COMPILING, 7.1 + speed.COMPILING):
        run.tuning.after_steps(1.0)
    assert left == ([] if fixed else [7.1 + speed.COMPILING])


def test_a_mark_is_of_one_network_and_size_and_source(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    monkeypatch.syspath_prepend(tmp_path)
    code = "import torch\nclass Own(torch.nn.Linear):\n    pass\n"
    (tmp_path / "own_network.py").write_text(code)
    own = importlib.import_module("own_network").Own
    marks = []
    for settings, network in (([], None), ([], own(2, 3)), ([], own(2, 4)), (["train.batch_size=4"], own(2, 3))):
        run, _ = trainer(tiny, f"out={tmp_path / str(len(marks))}", *settings)
        run.bare.network = network or run.bare.network
        marks.append(run.passes(EAGER).mark())
        assert marks[-1] == run.passes(EAGER).mark() != run.passes(COMPILED).mark()
    (tmp_path / "own_network.py").write_text(code + "    # another\n")
    marks.append(run.passes(EAGER).mark())
    assert len(set(marks)) == 5 and all(mark.parent == tmp_path / "compiled" / "bfn" for mark in marks)
    run.bare.network = type("Unknown", (nn.Linear,), {"__module__": "nowhere"})(2, 3)
    assert run.passes(EAGER).mark() is None


@pytest.mark.slow
def test_a_process_that_fails_tells_why(tiny, monkeypatch):
    process, _ = compilation(tiny, monkeypatch, nn.Linear(3, 2))
    assert process.error() == "TypeError: Linear.forward() takes 2 positional arguments but 3 were given"
    process.close()


@pytest.mark.slow
def test_a_process_ends_with_a_run_that_is_killed(tiny, monkeypatch, tmp_path):
    """The passes wait for an hour in a network. The process that starts them is killed."""
    code = f"""
import os, signal, time
import tests.bfn.test_compiling as here
from tests.bfn.tiny_settings import TINY
from bfn.training import compiling
from bfn.configs import load
from bfn.data import load_data
from bfn.training.trainer import Trainer

config = load("digits", [*TINY, "out={tmp_path}/run"])
run = Trainer(config, load_data(config))
run.bare.network = here.Waits()
process = compiling.Compilation(run.passes(here.PLAIN))
print(process.process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    got = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert got.returncode == -signal.SIGKILL
    for _ in range(300):
        if not Path(f"/proc/{int(got.stdout)}").exists():
            return
        time.sleep(0.1)
    pytest.fail("the process goes on")


class Waits(nn.Module):
    def forward(self, *args):
        time.sleep(3600)
