"""Compiles the network of a run in another process, while the run trains without a compiler.

The other process makes a training pass and a validation with the compiled network, and drops the results. torch stores
the compiled code on the disk, where the run finds it: the run then compiles in seconds. The process tells the run when
it has made the training pass, so that the run need not wait for the validation. When it has made all passes, it leaves
a mark beside the compiled code. A later run that finds the mark compiles at once.
"""

import hashlib
import inspect
import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from bfn.configs import EvaluateConfig
from bfn.model import BFN
from bfn.results.evaluate import evaluate
from bfn.training import processes
from bfn.training.batches import MicroBatch
from bfn.training.speed import Choice

UNREADABLE = 3  # the status of a process that could not read the passes
LOWEST = 19  # priority
PATIENCE = 5.0  # seconds that a compiler has to remove its unfinished files


@dataclass
class Passes:
    """The passes that a run makes: a training pass with a batch, and a validation of held-out examples. threads: the
    number of the run's threads, for which torch compiles."""

    model: BFN
    choice: Choice
    batch: MicroBatch
    n_steps: int | None
    held_out: Tensor
    validation: EvaluateConfig
    threads: int

    @classmethod
    def of(
        cls,
        model: BFN,
        choice: Choice,
        batch: MicroBatch,
        n_steps: int | None,
        examples: Tensor,
        validation: EvaluateConfig,
    ) -> "Passes":
        """Passes that see all sizes of batches: a validation's last batch may be smaller than the others."""
        sizes = {validation.batch_size, (len(examples) - 1) % validation.batch_size + 1}
        held_out = torch.cat([examples[:size] for size in sorted(sizes, reverse=True)])
        few = replace(validation, repeats=1)
        return cls(model, choice, batch, n_steps, held_out, few, torch.get_num_threads())

    def make(self, trained: Callable[[], Any]) -> None:
        """Makes the passes in this process, with the compiled network. `trained` is called after the training pass."""
        processes.set_up_torch()
        torch.set_num_threads(self.threads)
        device, averaged = self.model.device, deepcopy(self.model).requires_grad_(False)
        for model in (self.model, averaged):
            self.choice.compile(model.network)
        self.model.train()
        with self.choice.autocast(device):
            loss = self.model(self.batch.x, self.batch.t, seed=self.batch.seed, n_steps=self.n_steps)
        loss.backward()
        trained()
        with self.choice.autocast(device):
            evaluate(averaged, self.held_out, self.validation)
        if mark := self.mark():
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()

    @property
    def compiled_before(self) -> bool:
        """Whether torch has the compiled code of these passes on the disk."""
        mark = self.mark()
        return mark is not None and mark.exists()

    def mark(self) -> Path | None:
        """A file that exists if torch has compiled these passes before. Its name depends on the network and its source
        files, on the sizes of batches, the choice, the threads and the version of torch. None if a source file is
        unknown, or if torch does not say where its compiled code is."""
        network, sizes = self.model.network, (self.batch.x.shape, self.held_out.shape, self.validation.batch_size)
        tensors = [(name, tensor.shape, tensor.dtype) for name, tensor in network.state_dict().items()]
        told = torch.__version__, self.choice, self.threads, sizes, network, tensors, self.model.device
        try:
            from torch._inductor.runtime.cache_dir_utils import cache_dir

            files = {inspect.getfile(type(module)) for module in network.modules()}
            sources = [Path(file).read_bytes() for file in sorted(files)]
            return Path(cache_dir()) / "bfn" / hashlib.sha256(repr((told, sources)).encode()).hexdigest()
        except (ImportError, TypeError, OSError):
            return None


class Compilation:
    """A process that makes the passes of a run, so that the compiled code is on the disk. It has the lowest priority,
    and it ends with the run."""

    def __init__(self, passes: Passes):
        self.threads = passes.threads  # of the run, if it leaves no core to the process
        self.on_cpu = all(parameter.is_cpu for parameter in passes.model.parameters())
        self.signal, there = os.pipe()
        command = [sys.executable, "-m", "bfn.training.compiling", str(os.getpid()), str(there)]
        self.errors: IO[bytes] | None = None
        self.process: subprocess.Popen | None = None
        with suppress(Exception):  # a user's network may raise anything; the run compiles by itself
            self.errors = tempfile.TemporaryFile()  # noqa: SIM115 (see `close`)
            with tempfile.TemporaryFile() as file:
                pickle.dump(passes, file)
                file.seek(0)
                # In a session of its own, the process does not get Ctrl-C, which is for the run.
                self.process = subprocess.Popen(
                    command,
                    stdin=file,
                    stdout=subprocess.DEVNULL,
                    stderr=self.errors,
                    start_new_session=True,
                    pass_fds=[there],
                )
        os.close(there)

    @property
    def ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    @property
    def trained(self) -> bool:
        """Whether the process has made the training pass, or has ended."""
        return self.ended or bool(select.select([self.signal], [], [], 0)[0])

    def leave_core(self) -> None:
        """A run that uses all cores of a CPU leaves one of them to the process, and rounds its results differently."""
        if self.on_cpu and 1 < self.threads >= cores():
            torch.set_num_threads(self.threads - 1)

    def share(self) -> None:
        """The run uses all of its threads again."""
        torch.set_num_threads(self.threads)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Pauses the process in a `with` block, which must not compile, since it may hold locks of torch's cache."""
        self.send(signal.SIGSTOP)
        try:
            yield
        finally:
            self.send(signal.SIGCONT)

    def send(self, *numbers: signal.Signals) -> None:
        """Sends signals to the process, if it has not ended, and to the processes of its compiler."""
        if self.process is not None and self.process.poll() is None:
            for number in numbers:
                os.killpg(self.process.pid, number)

    def error(self) -> str:
        """Waits until the process has ended. Returns the last line that it has printed if it could not compile, else
        "". It returns "" also if the passes could not be sent to the process: then the run may compile them."""
        if self.process is None or self.errors is None or self.process.wait() in (0, UNREADABLE):
            return ""
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"status {self.process.returncode}"

    def close(self) -> None:
        """Ends the process, and the processes of its compiler, which remove their unfinished files."""
        self.share()
        self.send(signal.SIGTERM, signal.SIGCONT)
        if self.process is not None and self.process.poll() is None:
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        if self.errors is not None:
            self.errors.close()
        os.close(self.signal)


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def end_with(parent: int) -> None:
    """Ends this process as soon as its parent has ended, which cannot tell it if it was killed."""
    while os.getppid() == parent:
        time.sleep(1)
    os.killpg(os.getpgrp(), signal.SIGTERM)


def step_back() -> None:
    """Gives this process the lowest priority, which the compiler's processes inherit."""
    os.setpriority(os.PRIO_PGRP, 0, LOWEST)
    with suppress(OSError):  # where Linux shares the cores between sessions, this is the priority of the session
        Path("/proc/self/autogroup").write_text(str(LOWEST))


def main(arguments: list[Any]) -> None:
    step_back()
    threading.Thread(target=end_with, args=[int(arguments[1])], daemon=True).start()
    try:
        passes: Passes = pickle.load(sys.stdin.buffer)
    except Exception:  # such as a class of the run's main module
        sys.exit(UNREADABLE)
    try:
        passes.make(lambda: os.write(int(arguments[2]), b"trained"))
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()]  # torch adds hints after the reason
        sys.exit(f"{type(error).__name__}: {' '.join(lines[:2])}")


if __name__ == "__main__":
    main(sys.argv)
