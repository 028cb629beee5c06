"""Groups of processes as torchrun starts them, and the functions that they run. They are forked from a process that has
imported all they need, which saves seconds for each."""

import gc
import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from bfn import cli
from bfn.configs import load
from bfn.data import load_data
from bfn.training import checkpoint, processes
from bfn.training.trainer import Interrupted, Trainer

FORKS = multiprocessing.get_context("forkserver")
# The last of them is imported by every optimizer, and takes half of a short run's time.
FORKS.set_forkserver_preload(["bfn.cli", "sklearn.datasets", "sklearn.model_selection", "torch._dynamo"])


class Group:
    """`count` processes that call work(*arguments)."""

    def __init__(self, count, work, *arguments):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        self.members = [FORKS.Process(target=enter, args=(r, count, port, work, arguments)) for r in range(count)]
        for member in self.members:
            member.start()

    def ends(self):
        """The exit codes; a group that hangs is an error."""
        deadline = time.monotonic() + 120
        for member in self.members:
            member.join(max(0, deadline - time.monotonic()))
        hanging = [member for member in self.members if member.exitcode is None]
        for member in hanging:
            member.kill()
        assert not hanging
        return [member.exitcode for member in self.members]


def enter(rank, count, port, work, arguments):
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # else accelerate warns
    if count > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
        os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    if rank > 0:
        checkpoint.write_atomically = forbidden
    work(*arguments)


def forbidden(path, content):
    raise AssertionError(f"{path} is written by a process that is not the first")


def trainer_of(settings):
    """A trainer of digits, of which few are there to validate."""
    config = load("digits", settings)
    data = load_data(config)
    return Trainer(config, replace(data, validation=data.validation[:40]))


def train(settings, stop_at=None, stopped=1):
    """Trains; process `stopped` gets a SIGTERM during step `stop_at`. The exit code is 130 then, as that of `bfn`."""
    trainer = trainer_of(settings)
    step = trainer.step

    def last_step():
        if trainer.at.step == stop_at and processes.rank() == stopped:
            os.kill(os.getpid(), signal.SIGTERM)
        step()

    trainer.step = last_step
    try:
        trainer.run()
    except Interrupted:
        sys.exit(130)
    finally:
        assert not any(type(found) is DistributedDataParallel for found in gc.get_objects())  # leaving might hang
        processes.leave()


def train_in_float32(*arguments):
    """`train`, but Muon computes in float32, since the rounding of bfloat16 would hide how different two runs are."""
    torch.Tensor.bfloat16 = torch.Tensor.clone
    train(*arguments)


def noted_train(settings, notes):
    """Trains, and the main process notes which step it has done, and of which a checkpoint has been written."""
    trainer = trainer_of(settings)
    if processes.is_main():
        file = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        step, write = trainer.step, trainer.write

        def noted_step():
            step()
            os.write(file, f"step {trainer.at.step}\n".encode())

        def noted_write(result, tensors, state):
            write(result, tensors, state)
            os.write(file, f"saved {state['position']['step']}\n".encode())

        trainer.step, trainer.write = noted_step, noted_write
    trainer.run()


def command(said, arguments):
    """`bfn` with these arguments in the directory of the file `said`, to which is appended what it says."""
    os.chdir(said.parent)
    file = open(said, "a")  # noqa: SIM115 (until the process ends)
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    cli.app(arguments)


def agree(out):
    """What each process has of sums, of the main process's value, and of an error of the second process."""
    processes.start(cpu=True)
    rank, result = processes.rank(), {}
    result["means"] = processes.means([rank + 0.5, 1.0], torch.device("cpu"))
    result["sum"] = processes.add_up(torch.tensor([1.0, rank])).tolist()
    result["main"] = [processes.from_main({"rank": rank}), processes.is_main(), processes.count()]
    for failing in (range(0), range(1, 2), range(2)):
        try:
            with processes.together():
                if rank in failing:
                    raise OSError(f"disk {rank} is full")
            result[f"error {len(failing)}"] = None
        except (OSError, RuntimeError) as error:
            result[f"error {len(failing)}"] = f"{type(error).__name__}: {error}"
    Path(out, str(rank)).write_text(json.dumps(result))
    processes.leave()


def difference_of_two(settings, tmp_path):
    """The `difference` between the results of a run of one process and of a run of two processes."""
    alone, both = ([*settings, f"out={tmp_path / str(count)}"] for count in (1, 2))
    trainer_of(alone).run()
    assert Group(2, train, both).ends() == [0, 0]
    return difference(tmp_path / "1", tmp_path / "2", "model.safetensors")


def difference(one, other, name):
    """The distance between the weights, averages and moments of a checkpoint in two directories, over their norm.

    It is a norm over all numbers, since a single weight may differ by more. AdamW divides a gradient by its own size,
    and so takes a full step even if the gradient is hardly larger than its rounding error."""
    tensors, others = (checkpoint.load(Path(out, name))[0] for out in (one, other))
    assert tensors.keys() == others.keys()
    one, other = (
        torch.cat([of[key].flatten().double() for key in sorted(tensors) if not key.endswith(".step")])
        for of in (tensors, others)
    )
    return ((one - other).norm() / other.norm()).item()
