"""The training loops that are compared, each in a separate process: the published loop, and the loop of `bfn`.

A loop has the methods `begin`, which prepares it, `step`, `weights` and `sample`. The clock of a process runs only
during `begin` and `step`, so that loops can take turns on the same cores.
"""

import contextlib
import copy
import importlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from accelerate import Accelerator
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks import memory
from benchmarks.published_model import as_published, published_model
from benchmarks.runs_report import OURS, THEIR_OPTIMIZER, THEIRS, WARM
from bfn.configs import Config
from bfn.data import Data, load_data
from bfn.model import build_model
from bfn.sample import fast, sample
from bfn.training.compiling import Compilation
from bfn.training.derived_seeds import WEIGHTS, derive
from bfn.training.optimizers import decay_groups
from bfn.training.speed import PLAIN, choices
from bfn.training.trainer import Trainer

AVERAGED, CURRENT = "averaged", "current"  # the two sets of weights of a loop
Weights = dict[str, dict[str, Tensor]]  # the network's tensors, for each set


class Examples(Dataset):
    """Training examples one by one. `Data.draw` makes an example anew each time."""

    def __init__(self, data: Data, seed: int):
        self.data, self.generator = data, torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self.data.train)

    def __getitem__(self, index: int) -> Tensor:
        x = self.data.train[index]
        return x if self.data.draw is None else self.data.draw(x, self.generator)


def without_end(loader: Any) -> Iterator[Tensor]:
    while True:
        yield from loader


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    for averaged, current in zip(average.parameters(), model.parameters(), strict=True):
        averaged.sub_((1 - decay) * (averaged - current))


class Published:
    """The loop of the published train.py, without its progress bar, validation and checkpoints."""

    def __init__(self, config: Config, data: Data, official: Path | None):
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
        self.data, self.train = data, config.train
        torch.manual_seed(derive(self.train.seed, WEIGHTS))  # as in bfn's Trainer, for the same weights
        network = build_model(config, data).network
        model = published_model(network, config.model, data, official)
        torch.manual_seed(self.train.seed)
        groups = decay_groups(model.parameters(), self.train.decay_vectors)
        rates: dict[str, Any] = {"betas": (0.9, self.train.beta_2), "weight_decay": self.train.weight_decay}
        optimizer = torch.optim.AdamW(groups, self.train.learning_rate, **rates)
        examples = Examples(data, self.train.seed)
        loader: Any = DataLoader(examples, self.train.batch_size, shuffle=True, drop_last=True)
        self.average = copy.deepcopy(model)
        self.accelerator = Accelerator(gradient_accumulation_steps=1, cpu=True)
        self.model, self.optimizer, loader = self.accelerator.prepare(model, optimizer, loader)
        self.batches = without_end(loader)

    def begin(self) -> str:
        self.model.train()
        return "float32, not compiled"

    def turn(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def close(self) -> None:
        pass

    def step(self) -> None:
        with self.accelerator.accumulate(self.model):
            batch = as_published(next(self.batches), self.data)
            loss = self.model(batch, n_steps=self.train.n_steps)
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients:
                self.accelerator.clip_grad_norm_(self.model.parameters(), self.train.clip_norm)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        loss.item()  # the published loop logs it
        update_average(self.average, self.model, self.train.ema_decay)

    def weights(self) -> Weights:
        pairs = ((AVERAGED, self.average), (CURRENT, self.accelerator.unwrap_model(self.model)))
        return {name: model.net.network.state_dict() for name, model in pairs}  # type: ignore[union-attr]

    def sample(self, weights: dict[str, Tensor], count: int, n_steps: int, sampler: str) -> Tensor:
        """sampler: not used, since the published code has only the ancestral sampler."""
        model: Any = self.average.eval()
        model.net.network.load_state_dict(weights)
        shape = as_published(torch.empty(count, *self.data.shape), self.data).shape
        return model.sample(tuple(shape), n_steps).reshape(count, *self.data.shape)


class Ours:
    """The loop of `bfn train`."""

    def __init__(self, config: Config, data: Data, official: Path | None):
        self.trainer = Trainer(config, data, Console(stderr=True))

    def begin(self) -> str:
        self.trainer.begin_clock()
        self.trainer.begin_steps()
        return str(self.trainer.tuning.choice)

    def step(self) -> None:
        self.trainer.step()
        if self.trainer.at.step >= self.trainer.next_look:
            self.trainer.look()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """The process that compiles works only inside the body, since the loops take turns on the same cores."""
        self.send(signal.SIGCONT)
        try:
            yield
        finally:
            self.send(signal.SIGSTOP)

    def close(self) -> None:
        self.trainer.tuning.close()

    def send(self, number: signal.Signals) -> None:
        if self.trainer.tuning.beside is not None:
            self.trainer.tuning.beside.send(number)

    def weights(self) -> Weights:
        pairs = ((AVERAGED, self.trainer.averaged), (CURRENT, self.trainer.bare))
        return {name: model.network.state_dict() for name, model in pairs}

    def sample(self, weights: dict[str, Tensor], count: int, n_steps: int, sampler: str) -> Tensor:
        model = self.trainer.averaged
        model.network.load_state_dict(weights)
        PLAIN.compile(model.network)
        with fast(model, self.trainer.config, count, n_steps + 1, self.trainer.say):  # as `bfn sample` does
            return sample(model, count, n_steps, seed=0, sampler=sampler)


class Warm(Ours):
    """The loop of `bfn train`, after an earlier run has compiled the same network."""

    def __init__(self, config: Config, data: Data, official: Path | None):
        super().__init__(config, data, official)
        *_, compiled = choices(config.train, self.trainer.device)
        beside = Compilation(self.trainer.passes(compiled))
        error = beside.error()  # waits until it has ended
        if beside.process is None or beside.process.returncode != 0:
            raise RuntimeError(f"the network cannot be compiled in another process: {error or 'it cannot be sent'}")
        beside.close()


# The names of loops, and what makes them.
LOOPS: dict[str, Callable[[Config, Data, Path | None], Any]] = {
    THEIRS: Published,
    OURS: Ours,
    WARM: Warm,
    THEIR_OPTIMIZER: Ours,
}


class Clock(NamedTuple):
    """The seconds that a loop has run: in all, in `begin`, and in each step."""

    seconds: float
    begun: float
    steps: tuple[float, ...]


class Timed:
    """A loop and its clock."""

    def __init__(self, loop: Any):
        self.loop, self.begun = loop, 0.0
        self.steps: list[float] = []

    def begin(self) -> str:
        self.begun, description = timed(self.loop.begin)
        return description

    def train(self, until: float) -> Clock:
        """Makes steps until the clock shows so many seconds."""
        seconds = self.begun + sum(self.steps)
        with self.loop.turn():
            while seconds < until:
                self.steps.append(timed(self.loop.step)[0])
                seconds += self.steps[-1]
        return Clock(seconds, self.begun, tuple(self.steps))

    def weights(self) -> dict[str, bytes]:
        """The weights as bytes, which a process can send."""
        return {
            name: safetensors.torch.save({key: value.contiguous() for key, value in of.items()})
            for name, of in self.loop.weights().items()
        }

    def sample(self, weights: bytes, *arguments: Any) -> tuple[float, bytes]:
        """The seconds that sampling took, and the samples. arguments: of the loop's `sample`."""
        tensors = safetensors.torch.load(weights)
        seconds, samples = timed(lambda: self.loop.sample(tensors, *arguments))
        return seconds, safetensors.torch.save({"samples": samples.contiguous()})


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


class Process:
    """A loop in a separate process. `process.ask("train", 30.0)` calls the method `train` of the loop's `Timed` there.

    "begin" builds the loop and begins it. "peak" ends training. It returns by how many bytes the process grew after its
    code and data were loaded, or None if the system does not say. Samples can be drawn after "peak".
    """

    def __init__(self, name: str, config: Config, official: Path | None):
        context = multiprocessing.get_context("spawn")
        self.pipe, other_end = context.Pipe()
        self.process = context.Process(target=serve, args=(other_end, name, config, official), daemon=True)
        self.process.start()
        other_end.close()

    def ask(self, name: str, *arguments: Any) -> Any:
        self.pipe.send((name, arguments))
        answer = self.pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        self.pipe.close()
        self.process.join(10)
        self.process.kill()


def serve(pipe: Connection, name: str, config: Config, official: Path | None) -> None:
    """Answers until the pipe is closed."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(config.out) / "compiled")  # an empty cache
    importlib.import_module("torch._inductor.compile_fx")  # before the peak of memory, which must not include code
    data = load_data(config)
    made: list[Timed] = []

    def until_peak() -> tuple:
        """Makes the loop and calls its methods, until the peak is requested."""
        while True:
            method, arguments = pipe.recv()
            if method == "peak":
                return ()
            try:
                if not made:
                    made.append(Timed(LOOPS[name](config, data, official)))
                pipe.send(getattr(made[0], method)(*arguments))
            except Exception as error:
                pipe.send(error)

    with contextlib.suppress(EOFError):
        pipe.send(memory.peak_of(until_peak))
        made[0].loop.close()
        until_peak()
