"""Runs that are refused, each with an error of one line: another run has the directory, files cannot be written, the
processes were not started as bfn needs them, or a package is missing."""

import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from bfn import cli
from bfn.data import load_data
from bfn.training import processes
from bfn.training.checkpoint import CheckpointError
from bfn.training.processes import COUNTS, GROUP
from bfn.training.run_lock import LOCK_FILE, RunError, lock
from bfn.training.runs import LOG_FILE, MODEL_FILE, STATE_FILE
from bfn.training.trainer import Trainer
from tests.bfn.command import bfn
from tests.bfn.tiny_settings import TINY

# Tries to lock the directory that it is given. Prints "locked" and holds the lock until it is killed, or prints the
# error and ends.
OTHER = """
import sys, time
from pathlib import Path
from bfn.training.run_lock import RunError, lock
try:
    file = lock(Path(sys.argv[1]))
    print("locked", flush=True)
    time.sleep(60)
except RunError as error:
    print(error, flush=True)
"""


@pytest.fixture
def train(short_validations):
    """train("--fresh") runs `bfn train` of tiny digits."""
    return lambda *arguments: bfn("train", "digits", "train.max_steps=1", *TINY, *arguments)


def assert_one_line(result, message):
    """The command failed, and the message is all that it wrote to stderr. Its progress bar goes to stdout."""
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert result.stderr.count("\n") == 1 and re.fullmatch(f"error: {message}\n", result.stderr), result.stderr


@pytest.fixture
def other_process():
    """other_process(directory) is a process that has tried to lock it, and what it said."""
    started = []

    def start(directory):
        process = subprocess.Popen([sys.executable, "-c", OTHER, str(directory)], stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("name", COUNTS)
def test_processes_that_cannot_find_each_other_are_refused_before_any_work(name, train, tiny, tmp_path, monkeypatch):
    config = tiny("digits")
    (tmp_path / STATE_FILE).write_bytes(b"old")
    monkeypatch.setattr(cli, "data_of", lambda config, fresh: pytest.fail("work was done"))
    monkeypatch.setenv(name, "2")
    lost = f"{name}=2, and without .*RANK.* several processes cannot find each other; .*"
    assert_one_line(train("--fresh", f"out={tmp_path}"), lost)
    assert [path.name for path in tmp_path.iterdir()] == [STATE_FILE]
    monkeypatch.setattr(processes, "Accelerator", lambda **settings: pytest.fail("work was done"))
    with pytest.raises(RunError, match=f"{name}=2"):
        Trainer(config, None)


@pytest.mark.parametrize("command", [["sample", "nowhere"], ["plot", "nowhere"], ["convert", "nowhere", "there"]])
def test_commands_for_one_process_are_refused_to_several(command, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert_one_line(bfn(*command), "this command runs in one process, and WORLD_SIZE=2: .*")


def test_of_several_processes_on_a_machine_only_one_speaks(monkeypatch):
    """The process whose LOCAL_RANK is 0 prints the error."""
    for rank, said in (("0", 1), ("1", 0)):
        monkeypatch.setenv("LOCAL_RANK", rank)
        result = bfn("train", "nothing")
        assert result.exit_code == 1 and result.stderr.count("\n") == said


@pytest.mark.parametrize(
    ("started", "joined", "kind", "message"),
    [
        (2, 1, "NO", "there are 2 processes, of which accelerate joins 1"),
        (2, 2, "FSDP", "bfn does not train by accelerate's FSDP; .* set train.fully_shard=true"),
        (2, 2, "DEEPSPEED", "bfn does not train by accelerate's DEEPSPEED"),
    ],
)
def test_a_wrong_setup_of_accelerate_is_refused(started, joined, kind, message, tiny, monkeypatch):
    """accelerate must join all processes that were started, and must not bring FSDP or DeepSpeed of its own."""
    for name in GROUP:
        monkeypatch.setenv(name, str(started))
    accelerator = SimpleNamespace(num_processes=joined, distributed_type=DistributedType(kind))
    monkeypatch.setattr(processes, "Accelerator", lambda **settings: accelerator)
    with pytest.raises(RunError, match=message):
        Trainer(tiny("digits"), None)


def test_fp16_is_refused_on_the_cpu(tiny):
    # accelerate refuses a second precision in a process, so the precision of earlier tests is forgotten here
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        with pytest.raises(RunError, match=r"train.mixed_precision=fp16 needs a GPU"):
            Trainer(tiny("digits", "train.mixed_precision=fp16", "train.cpu=true"), None)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def test_a_disk_without_room_for_two_checkpoints_is_refused(train, tmp_path, monkeypatch):
    def free(size):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=size))

    free(0)
    refused = train(f"out={tmp_path}")
    assert_one_line(
        refused, rf"{tmp_path} needs (.*) MB for two checkpoints, and its disk has 0.0 MB free; make room.*"
    )
    assert [path.name for path in tmp_path.iterdir()] == [LOCK_FILE]
    free(sys.maxsize)
    assert train(f"out={tmp_path}").exit_code == 0
    written = sum((tmp_path / name).stat().st_size for name in (STATE_FILE, MODEL_FILE)) / 1e6
    needed = float(re.search("needs ([0-9.]+) MB", refused.stderr)[1])
    assert 2 * 0.9 * written < needed < 2 * 1.1 * written
    free((needed - written) * 1.1e6)  # enough, since the new checkpoints replace the run's old ones
    assert train(f"out={tmp_path}", "train.max_steps=2").exit_code == 0


def test_one_process_that_torchrun_started_is_not_refused(tiny, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    config = tiny("digits")
    Trainer(config, load_data(config)).lock.close()


def test_a_second_run_in_a_directory_is_refused_until_the_first_is_done(train, tiny, tmp_path):
    config = tiny("digits", f"out={tmp_path}", "train.max_steps=1", "train.validate_every=1")
    data = load_data(config)
    first = Trainer(config, data)
    (tmp_path / STATE_FILE).write_bytes(b"old")
    at_work = f"another run is at work in {tmp_path}; wait for it, or choose another out="
    assert_one_line(train("--fresh", f"out={tmp_path}"), at_work)
    assert (tmp_path / STATE_FILE).read_bytes() == b"old"
    asked, save = [], first.save

    def save_while_another_asks():
        asked.append(train(f"out={tmp_path}"))
        save()

    first.save = save_while_another_asks
    first.run()
    assert_one_line(asked[0], at_work)
    lock(tmp_path).close()  # nobody holds it
    with pytest.raises(RunError, match=f"this trainer has run, and {tmp_path} is no longer locked"):
        first.run()


def test_a_trainer_that_cannot_be_made_does_not_keep_its_directory(tiny, tmp_path):
    config = tiny("digits", f"out={tmp_path}")
    (tmp_path / STATE_FILE).write_bytes(b"damaged")
    with pytest.raises(CheckpointError) as failed:
        Trainer(config, load_data(config))
    lock(tmp_path).close()
    # the traceback still refers to the trainer, so the lock was closed by the trainer and not by garbage collection
    assert failed.tb is not None


def test_the_lock_keeps_other_processes_out_and_ends_with_its_process(tmp_path, other_process):
    held = lock(tmp_path)
    assert "another run is at work" in other_process(tmp_path)[1]
    held.close()
    killed, said = other_process(tmp_path)
    assert said == "locked"
    with pytest.raises(RunError, match="another run is at work"):
        lock(tmp_path)
    killed.kill()
    killed.wait()
    lock(tmp_path).close()


def test_fresh_deletes_the_run_and_nothing_else(tiny, tmp_path):
    config = tiny("digits", f"out={tmp_path}")
    for name in (STATE_FILE, MODEL_FILE, LOG_FILE, "notes.txt"):
        (tmp_path / name).write_text("old")
    trainer = Trainer(config, load_data(config), fresh=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [LOCK_FILE, "notes.txt"]
    assert trainer.at.step == 0
    trainer.lock.close()


@pytest.mark.parametrize("out", ["file", "file/below", LOCK_FILE])
def test_an_out_that_cannot_be_written_is_one_line(out, train, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / LOCK_FILE / LOCK_FILE).mkdir(parents=True)  # a directory is in the place of the lock file
    out = tmp_path / out
    assert_one_line(train(f"out={out}"), f"{out} cannot hold a run, choose another out=: (File|Not|Is) .*")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", [STATE_FILE, MODEL_FILE, LOG_FILE, "samples.png"])
def test_a_full_disk_is_one_line_that_names_the_file(name, train, tmp_path):
    os.symlink("/dev/full", tmp_path / f".{name}.partial")  # writing there fails as on a full disk
    result = train(f"out={tmp_path}")
    assert_one_line(result, f"{tmp_path / name}: No space left on device")
    assert not (tmp_path / name).exists()


@pytest.fixture
def without():
    """without("typer") makes typer impossible to import, and forgets the modules of bfn that were imported."""
    before = dict(sys.modules)

    def hide(missing):
        for name in before:
            if name.partition(".")[0] == "bfn" or name.startswith(f"{missing}."):
                del sys.modules[name]
        sys.modules[missing] = None

    yield hide
    sys.modules.clear()
    sys.modules.update(before)


@pytest.mark.parametrize(
    "missing", ["accelerate", "matplotlib", "numpy", "omegaconf", "rich", "safetensors", "sklearn", "typer", "yaml"]
)
def test_a_missing_extra_is_one_line(missing, tmp_path, monkeypatch, without):
    without(missing)
    monkeypatch.setattr(sys, "argv", ["bfn", "train", "digits", f"out={tmp_path}", "train.max_steps=1", *TINY])
    with pytest.raises(SystemExit) as stopped:
        import_module("bfn.__main__").main()
    assert stopped.value.code == (
        f"error: bfn needs {missing}, which is missing; in the checkout, "
        "pip install --no-build-isolation '.[train]' installs it"
    )


def test_a_missing_extra_is_all_that_the_command_says():
    """numpy is imported before torch, which takes long."""
    code = "import sys, runpy; sys.modules['numpy'] = None; runpy.run_module('bfn', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert re.fullmatch(r"error: .*numpy.*pip install .*'\.\[train\]' installs it\n", done.stderr)


@pytest.mark.parametrize("missing", ["bfn.results.plots", "pydoc_data"])
def test_a_module_that_no_extra_installs_is_a_traceback(missing, tmp_path, monkeypatch, without):
    without(missing)
    monkeypatch.setattr(sys, "argv", ["bfn", "train", "text", f"out={tmp_path}", "train.max_steps=1", *TINY])
    with pytest.raises(ModuleNotFoundError, match=missing):
        import_module("bfn.__main__").main()


def test_the_console_script_is_the_one_that_is_tested():
    script = re.search(r'^bfn = "(.*):(.*)"$', (Path(__file__).parents[2] / "pyproject.toml").read_text(), re.M)
    assert script and callable(getattr(import_module(script[1]), script[2])) and script[1] == "bfn.__main__"
