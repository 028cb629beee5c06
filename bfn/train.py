"""The training loop. All randomness of a step comes from (seed, step): a resumed run repeats the uninterrupted one."""

import csv
import io
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from bfn import checkpoint
from bfn.alone import RunError, lock, refuse_several_processes
from bfn.checkpoint import CheckpointError
from bfn.configs import Config, EvaluateConfig, build, flatten
from bfn.data import Data, load_data
from bfn.evaluate import evaluate, spread_times
from bfn.model import BFN, build_model
from bfn.seeds import derive

STATE_FILE, MODEL_FILE, LOG_FILE = "training.safetensors", "model.safetensors", "log.csv"
# Each part of a run has a seed of its own: train.seed folded with one of these numbers.
WEIGHTS, ORDER, STEPS, VALIDATION, DRAWS = range(5)
# Keys that may change when a run is resumed: they say how long it lasts, not what a step does, or where its data lie.
DURATION = {"train.max_steps", "train.max_seconds", "train.patience"}
PLACES = {"data.folder"}


@dataclass
class Position:
    """How far a run has come; together with the tensors this is all that resuming needs."""

    step: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0  # nats per dimension, summed over the steps since the last validation
    best: float = math.inf  # validation bound of the best EMA weights, bits per dimension
    best_step: int = 0
    stale: int = 0  # validations since best_step


class Interrupted(Exception):
    """Training was asked to stop, and has saved."""


class Trainer:
    """A run in the directory `config.out`: a new one, or the one that the directory holds, continued from its last
    save.

    The directory is locked from here to the end of `run`. A locked directory is a RunError, and so are several
    processes.
    fresh: delete the run that the directory holds, if any.
    """

    def __init__(self, config: Config, data: Data, console: Console | None = None, *, fresh: bool = False):
        refuse_several_processes()
        self.config, self.data, self.out = config, data, Path(config.out)
        self.console = console or Console()
        train = config.train
        self.accelerator = Accelerator(mixed_precision=train.mixed_precision, cpu=train.cpu)
        if self.accelerator.num_processes > 1:
            raise RunError(f"bfn trains in one process, and accelerate has {self.accelerator.num_processes}")
        torch.manual_seed(derive(train.seed, WEIGHTS))
        model = build_model(config, data).to(self.accelerator.device)
        self.ema = AveragedModel(model, multi_avg_fn=self.average)
        betas = (0.9, train.beta_2)
        groups = decay_groups(model, train.decay_vectors)
        optimizer = torch.optim.AdamW(groups, train.learning_rate, betas, weight_decay=train.weight_decay)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.at = Position()
        self.order = (-1, torch.empty(0))  # an epoch, and the order of its examples
        self.log: list[dict[str, Any]] = []
        self.lock = lock(self.out)
        try:
            if fresh:
                for name in (STATE_FILE, MODEL_FILE, LOG_FILE):
                    (self.out / name).unlink(missing_ok=True)
            elif (self.out / STATE_FILE).exists():
                self.restore()
        except BaseException:
            self.lock.close()
            raise

    def average(self, averaged: Any, current: Any, count: Any) -> None:
        """EMA whose decay rises to `ema_decay`, so that the first weights are soon forgotten."""
        decay = min(self.config.train.ema_decay, (1 + int(count)) / (10 + int(count)))
        torch._foreach_lerp_(averaged, current, 1 - decay)

    @property
    def averaged(self) -> BFN:
        """The model with the EMA weights."""
        return cast(BFN, self.ema.module)

    @property
    def finished(self) -> bool:
        train = self.config.train
        timed_out = train.max_seconds is not None and self.at.seconds >= train.max_seconds
        return self.at.step >= train.max_steps or timed_out or self.at.stale >= train.patience

    def run(self) -> None:
        """Train until a limit or early stopping; raises Interrupted, having saved, on Ctrl-C or SIGTERM."""
        if self.lock.closed:
            raise RunError(
                f"this trainer has run, and {self.out} is no longer locked; another one continues from there"
            )
        with self.lock, asked_to_stop() as asked, self.progress() as show:
            while not self.finished:
                started = time.monotonic()
                self.step()
                self.at.seconds += time.monotonic() - started
                if self.at.step % self.config.train.validate_every == 0 or self.finished:
                    started = time.monotonic()
                    self.validate()
                    self.at.seconds += time.monotonic() - started
                    self.save()
                show()
                if asked and not self.finished:
                    self.save()
                    raise Interrupted

    def step(self) -> None:
        """One optimizer step."""
        train = self.config.train
        seed = derive(train.seed, STEPS, self.at.step)
        torch.manual_seed(seed)  # for dropout
        x = self.batch().to(self.accelerator.device)
        t = spread_times(len(x), torch.Generator().manual_seed(seed), train.n_steps).to(x.device)
        for group in self.optimizer.param_groups:
            group["lr"] = train.learning_rate * min(1.0, (self.at.step + 1) / train.warmup_steps)
        self.model.train()
        loss = self.model(x, t, seed=seed, n_steps=train.n_steps)
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.model.parameters(), train.clip_norm)
        self.optimizer.step()
        self.ema.update_parameters(self.accelerator.unwrap_model(self.model))
        self.at.step += 1
        self.at.loss_sum += loss.item()
        if not math.isfinite(self.at.loss_sum):
            raise FloatingPointError(f"the loss at step {self.at.step} is not finite; try a lower train.learning_rate")

    def batch(self) -> Tensor:
        """The examples of this step: every epoch shuffles anew and drops what does not fill a batch."""
        examples = self.data.train
        size = min(self.config.train.batch_size, len(examples))
        epoch, index = divmod(self.at.step, len(examples) // size)
        if self.order[0] != epoch:
            generator = torch.Generator().manual_seed(derive(self.config.train.seed, ORDER, epoch))
            self.order = epoch, torch.randperm(len(examples), generator=generator)
        chosen = examples[self.order[1][index * size : (index + 1) * size]]
        if self.data.draw is None:
            return chosen
        return self.data.draw(
            chosen, torch.Generator().manual_seed(derive(self.config.train.seed, DRAWS, self.at.step))
        )

    def validate(self) -> None:
        """Bound of the EMA weights on the validation split; the weights that are best there are the run's result."""
        train = self.config.train
        settings = EvaluateConfig(train.n_steps, repeats=16, seed=derive(train.seed, VALIDATION))
        with self.accelerator.autocast():
            bound = evaluate(self.averaged, self.data.validation, settings, self.accelerator.device)
        steps = self.at.step - (self.log[-1]["step"] if self.log else 0)
        train_bits = self.at.loss_sum / steps / math.log(2)
        self.at.loss_sum, self.at.stale = 0.0, self.at.stale + 1
        self.log.append(
            {
                "step": self.at.step,
                "seconds": round(self.at.seconds, 2),
                "train_bits": train_bits,  # messages only, with dropout, mean over the steps since the last row
                "validation_bits": bound.bits,
                "validation_error": bound.error,
            }
        )
        if bound.bits < self.at.best:
            self.at.best, self.at.best_step, self.at.stale = bound.bits, self.at.step, 0
            result = {"config": asdict(self.config), "step": self.at.step, "validation_bits": bound.bits}
            checkpoint.save(self.out / MODEL_FILE, self.averaged.state_dict(), result)

    def save(self) -> None:
        """Write all that resuming needs, and the log."""
        tensors = prefixed("model.", self.accelerator.unwrap_model(self.model).state_dict())
        tensors |= prefixed("ema.", self.ema.state_dict())
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= prefixed(f"optimizer.{index}.", moments)
        state = {"config": asdict(self.config), "position": asdict(self.at), "log": self.log}
        checkpoint.save(self.out / STATE_FILE, tensors, state)
        table = io.StringIO()
        if self.log:
            writer = csv.DictWriter(table, self.log[0])
            writer.writeheader()
            writer.writerows(self.log)
        checkpoint.write_atomically(self.out / LOG_FILE, table.getvalue().encode())

    def restore(self) -> None:
        """Continue where the run in this directory was saved; its configuration must be ours."""
        path = self.out / STATE_FILE
        tensors, state = checkpoint.load(path)
        same_run(path, state.get("config", {}), self.config)
        optimizer = self.optimizer.state_dict()
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in unprefixed("optimizer.", tensors).items():
            index, _, moment = name.partition(".")
            moments.setdefault(int(index), {})[moment] = tensor
        try:
            self.accelerator.unwrap_model(self.model).load_state_dict(unprefixed("model.", tensors))
            self.ema.load_state_dict(unprefixed("ema.", tensors))
            self.optimizer.load_state_dict(optimizer | {"state": moments})
            self.at, self.log = Position(**state["position"]), state["log"]
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"checkpoint {path} does not fit this version of bfn: {first_line(error)}") from error
        self.console.print(f"continuing {self.out} at step {self.at.step}", highlight=False)

    @contextmanager
    def progress(self) -> Iterator[Any]:
        """A progress bar; yields the function that brings it up to date."""
        last = TextColumn("{task.description}")
        columns = TextColumn("step"), MofNCompleteColumn(), BarColumn(), TimeElapsedColumn(), last
        with Progress(*columns, console=self.console) as bar:
            task = bar.add_task("", total=self.config.train.max_steps)

            def show() -> None:
                bits = f"{self.log[-1]['validation_bits']:.3f} bits, best {self.at.best:.3f}" if self.log else "..."
                bar.update(task, completed=self.at.step, description=f"validation {bits}")

            show()
            yield show


def decay_groups(model: BFN, decay_vectors: bool) -> list[dict[str, Any]]:
    """The parameters as AdamW takes them; biases and the weights of norms are not decayed unless asked for."""
    if decay_vectors:
        return [{"params": list(model.parameters())}]
    matrices, vectors = ([p for p in model.parameters() if (p.dim() > 1) == wanted] for wanted in (True, False))
    return [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def unprefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def same_run(path: Path, saved: dict[str, Any], config: Config) -> None:
    """Refuse to resume a run under settings that would have made another run."""
    there, here = flatten(saved), flatten(asdict(config))
    for key in sorted(there.keys() | here.keys()):
        decisive = key.partition(".")[0] in ("data", "model", "network", "train") and key not in DURATION | PLACES
        if decisive and there.get(key) != here.get(key):
            raise CheckpointError(
                f"{path} holds a run with {key}={there.get(key)}, not {here.get(key)}; "
                "choose another out=, or start afresh with --fresh"
            )


@contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """A list that fills on Ctrl-C or SIGTERM, so that no step is cut in half; a second one acts at once."""
    asked: list[int] = []
    old: dict[int, Any] = {}

    def handler(number: int, frame: Any) -> None:
        asked.append(number)
        signal.signal(number, old[number])

    if threading.current_thread() is threading.main_thread():
        old = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, previous in old.items():
            signal.signal(number, previous)


def load_run(
    path: Path, overrides: list[str] | None = None, device: torch.device | str = "cpu"
) -> tuple[BFN, Config, Data]:
    """The best model of a run, from its directory or its model file, with its configuration and data."""
    path = path / MODEL_FILE if path.is_dir() else path
    tensors, state = checkpoint.load(path)
    if "config" not in state:
        raise CheckpointError(f"checkpoint {path} holds no configuration")
    config = build(state["config"], overrides or [], where=str(path))
    data = load_data(config)
    model = build_model(config, data).to(device)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"checkpoint {path} does not fit its configuration: {first_line(error)}") from error
    return model, config, data
