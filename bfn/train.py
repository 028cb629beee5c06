"""The training loop. All randomness of a step comes from (seed, step): a resumed run repeats the uninterrupted one."""

import csv
import io
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.optim.swa_utils import AveragedModel

from bfn import checkpoint, processes, shards, states
from bfn.alone import RunError, lock, require_room
from bfn.batches import Batches
from bfn.checkpoint import CheckpointError
from bfn.configs import Config, EvaluateConfig, build, flatten
from bfn.data import Data, load_data
from bfn.evaluate import evaluate
from bfn.model import BFN, build_model
from bfn.seeds import VALIDATION, WEIGHTS, derive

STATE_FILE, MODEL_FILE, LOG_FILE = "training.safetensors", "model.safetensors", "log.csv"
# Keys that may change when a run is resumed: they say how long it lasts, not what a step does, or where its data lie.
DURATION = {"train.max_steps", "train.max_seconds", "train.patience"}
PLACES = {"data.folder"}
# They say how the work of a step is divided: another division draws other noise, as good as the first.
DIVISION = {"train.micro_batch", "train.fully_shard"}
FREE = DURATION | PLACES | DIVISION


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
    save. All processes that torchrun or accelerate started share it; the main one reads and writes its files.

    The directory is locked from here to the end of `run`. A locked directory is a RunError.
    fresh: delete the run that the directory holds, if any.
    """

    def __init__(self, config: Config, data: Data, console: Console | None = None, *, fresh: bool = False):
        self.accelerator = processes.start(config.train.cpu, config.train.mixed_precision)
        self.config, self.data, self.out = config, data, Path(config.out)
        self.console = (console or Console()) if processes.is_main() else Console(quiet=True)
        self.at = Position()
        self.log: list[dict[str, Any]] = []
        self.result: tuple[dict[str, Tensor], dict[str, Any]] | None = None  # the best weights, until they are saved
        self.writer = checkpoint.Writer()
        with processes.together():
            self.lock = lock(self.out) if processes.is_main() else io.StringIO()
        try:
            self.begin(fresh)
        except BaseException:
            self.lock.close()
            raise

    def begin(self, fresh: bool) -> None:
        """Build everything, and put into it what the directory holds."""
        tensors, state = self.saved(fresh)
        with processes.together():
            self.divide(state)
            torch.manual_seed(derive(self.config.train.seed, WEIGHTS))
            model = build_model(self.config, self.data).to(self.accelerator.device)
            if tensors:
                states.fit(self.out / STATE_FILE, tensors, model)
            if processes.is_main():
                self.require_room(model)
                self.remove_files(fresh, state)
        self.prepare(model)
        if state:
            self.restore(tensors, state)

    def saved(self, fresh: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors of the run in the directory, which the main process has alone, and its state; nothing of them
        for a new run."""
        tensors: dict[str, Tensor] = {}
        state: dict[str, Any] = {}
        path = self.out / STATE_FILE
        with processes.together():
            if processes.is_main() and path.exists() and not fresh:
                tensors, state = checkpoint.load(path)
                same_run(path, state.get("config", {}), self.config)
                if state.get("tokenizer") != self.data.tokenizer:
                    raise CheckpointError(f"{path} holds a run with other tokens; choose another out=, or --fresh")
                if parts := state.get("shards"):
                    shards.check(self.out / parts["directory"], parts["files"])
        return tensors, processes.from_main(state)

    def remove_files(self, fresh: bool, state: dict[str, Any]) -> None:
        """Remove what an earlier run left, once it is known that this one can start."""
        if fresh:
            for name in (STATE_FILE, MODEL_FILE, LOG_FILE):
                (self.out / name).unlink(missing_ok=True)
        shards.remove_others(self.out, state.get("shards", {}).get("directory"))

    def prepare(self, model: BFN) -> None:
        """Make the average and the optimizer of a model, and share it among the processes."""
        train = self.config.train
        self.bare = model  # without what accelerate wraps around it
        self.ema = AveragedModel(model, multi_avg_fn=self.average)
        if train.fully_shard and processes.count() > 1:
            self.model = self.accelerator.prepare_model(model, evaluation_mode=True)
            for part in (model, self.averaged):
                states.shard(part, self.accelerator.device)
            self.group = dist.new_group(backend="gloo")  # what is written beside training needs one of its own
        else:
            self.model = self.accelerator.prepare(model)
        if train.compiler is not None:  # in its place, so that its parameters keep their names
            model.network.compile(backend=train.compiler)
        betas = (0.9, train.beta_2)
        groups = decay_groups(model, train.decay_vectors)
        self.optimizer = self.accelerator.prepare(
            torch.optim.AdamW(groups, train.learning_rate, betas, weight_decay=train.weight_decay)
        )

    def divide(self, state: dict[str, Any]) -> None:
        """Divide batches as the settings say, or else as the run did so far."""
        train = self.config.train
        if train.micro_batch is None:
            micro = state.get("config", {}).get("train", {}).get("micro_batch")
            train = replace(train, micro_batch=micro)
        self.batches = Batches(self.data, train, processes.rank(), processes.count())
        self.config = replace(self.config, train=replace(train, micro_batch=self.batches.micro))

    def require_room(self, model: BFN) -> None:
        """Refuse to start where the files of a run would not fit beside those that they replace."""
        weights = sum(tensor.nbytes for tensor in model.state_dict().values())
        files = [self.out / name for name in (STATE_FILE, MODEL_FILE)]
        files += [file for directory in shards.directories(self.out) for file in directory.iterdir()]
        there = sum(file.stat().st_size for file in files if file.exists())
        require_room(self.out, 2 * 5 * weights - there)  # weights, their average, two moments, and the best average

    def average(self, averaged: Any, current: Any, count: Any) -> None:
        """EMA whose decay rises to `ema_decay`, so that the first weights are soon forgotten."""
        decay = min(self.config.train.ema_decay, (1 + int(count)) / (10 + int(count)))
        torch._foreach_lerp_(averaged, current, 1 - decay)

    @property
    def averaged(self) -> BFN:
        """The model with the EMA weights."""
        return cast(BFN, self.ema.module)

    @property
    def sharded(self) -> bool:
        return isinstance(self.model, FSDPModule)

    @property
    def end(self) -> str | None:
        """The setting that ends the training here; None if it goes on."""
        train, at = self.config.train, self.at
        if at.step >= train.max_steps:
            return f"train.max_steps={train.max_steps}"
        if train.max_seconds is not None and at.seconds >= train.max_seconds:
            return f"train.max_seconds={train.max_seconds:g}"
        return f"train.patience={train.patience}" if at.stale >= train.patience else None

    @property
    def finished(self) -> bool:
        return self.end is not None

    def run(self) -> None:
        """Train until a limit or early stopping; raises Interrupted, having saved, if any process is asked to stop by
        Ctrl-C or SIGTERM."""
        if self.lock.closed:
            raise RunError(
                f"this trainer has run, and {self.out} is no longer locked; another one continues from there"
            )
        with self.lock, self.writer, processes.asked_to_stop() as asked, self.progress() as show:
            while not self.finished:
                with self.timed():
                    self.step()
                if due := self.at.step % self.config.train.validate_every == 0 or self.finished:
                    with self.timed():
                        self.validate()
                    self.save()
                show()
                stop = processes.total(len(asked), self.accelerator.device) > 0
                if stop and not self.finished:
                    if not due:
                        self.save()
                    self.wait_for_files()
                    raise Interrupted
            self.wait_for_files()

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the time of what is done here, as the processes' mean, so that all of them stop at the same step."""
        started = time.monotonic()
        yield
        seconds = time.monotonic() - started
        self.at.seconds += processes.total(seconds, self.accelerator.device) / processes.count()

    def step(self) -> None:
        """One optimizer step."""
        train, device = self.config.train, self.accelerator.device
        for group in self.optimizer.param_groups:
            group["lr"] = train.learning_rate * min(1.0, (self.at.step + 1) / train.warmup_steps)
        self.model.train()
        self.optimizer.zero_grad()
        passes, losses = len(self.batches.mine), []
        for done, batch in enumerate(self.batches.of(self.at.step)):
            torch.manual_seed(batch.seed)  # for dropout
            with self.gradients_shared(done == passes - 1):
                loss = self.model(batch.x.to(device), batch.t.to(device), seed=batch.seed, n_steps=train.n_steps)
                self.accelerator.backward(loss / passes)
            losses.append(loss.detach())
        self.accelerator.clip_grad_norm_(self.model.parameters(), train.clip_norm)
        self.optimizer.step()
        if not self.optimizer.step_was_skipped:  # as after gradients of fp16 that were not finite
            self.ema.update_parameters(self.bare)
        self.at.step += 1
        self.at.loss_sum += processes.total(torch.stack(losses).mean().item(), device) / processes.count()
        if not math.isfinite(self.at.loss_sum):
            raise FloatingPointError(f"the loss at step {self.at.step} is not finite; try a lower train.learning_rate")

    def gradients_shared(self, last: bool) -> AbstractContextManager[Any]:
        """The processes add up their gradients once in a step, in the last of its passes."""
        if self.sharded:
            self.model.set_requires_gradient_sync(last)
            return nullcontext()
        return nullcontext() if last else self.accelerator.no_sync(self.model)

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
            self.result = states.copied(self.averaged), result | tokens(self.data)

    def save(self) -> None:
        """Have all that resuming needs written while training goes on, the log, and the best weights if they are new.
        What failed in the last writing is raised here."""
        optimizer = cast(torch.optim.Optimizer, self.optimizer.optimizer)
        tensors = states.snapshot(self.bare, self.ema, optimizer, sharded=self.sharded)
        state = {"config": asdict(self.config), "position": asdict(self.at), "log": list(self.log)} | tokens(self.data)
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        result, self.result = self.result, None
        self.wait_for_files()  # then all processes start, or none does
        self.writer.start(self.write, result, tensors, state)

    def write(
        self, result: tuple[dict[str, Tensor], dict[str, Any]] | None, tensors: dict[str, Tensor], state: dict[str, Any]
    ) -> None:
        """Write a checkpoint, of which other processes write their shards only. The training state comes last, so that
        what it speaks of is there, and replaces the old one at once."""
        if self.sharded:
            directory = self.out / f"{shards.PREFIX}{state['position']['step']}"
            shards.write(directory, tensors, self.group)
        if not processes.is_main():
            return
        if self.sharded:
            state["shards"] = {"directory": directory.name, "files": shards.digests(directory)}
            tensors = {}
        if result is not None:
            checkpoint.save(self.out / MODEL_FILE, *result)
        checkpoint.save(self.out / STATE_FILE, tensors, state)
        shards.remove_others(self.out, directory.name if self.sharded else None)
        checkpoint.write_atomically(self.out / LOG_FILE, table(state["log"]).encode())

    def wait_for_files(self) -> None:
        with processes.together():
            self.writer.wait()

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Continue where the run in this directory was saved."""
        optimizer = cast(torch.optim.Optimizer, self.optimizer.optimizer)
        if parts := state.get("shards"):
            states.restore_parts(self.out / parts["directory"], self.bare, self.ema, optimizer)
        else:
            moments = processes.from_main(any(name.startswith("optimizer.") for name in tensors))
            states.restore(tensors, self.bare, self.ema, optimizer, moments)
        try:
            self.at, self.log = Position(**state["position"]), state["log"]
        except (KeyError, TypeError) as error:
            path = self.out / STATE_FILE
            raise CheckpointError(f"checkpoint {path} does not fit this version of bfn: {first_line(error)}") from error
        if self.accelerator.scaler is not None and "scaler" in state:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.console.print(f"continuing {self.out} at step {self.at.step}", highlight=False)

    def best(self) -> BFN:
        """The model with the weights that are the run's result, in all processes; the averages are lost."""
        tensors: dict[str, Tensor] = {}
        with processes.together():
            if processes.is_main():
                tensors, _ = checkpoint.load(self.out / MODEL_FILE)
        states.put(self.averaged, tensors)
        return self.averaged

    @contextmanager
    def progress(self) -> Iterator[Any]:
        """A progress bar or, where there is no terminal, a line for each validation; yields the function that brings it
        up to date."""
        last = TextColumn("{task.description}")
        columns = TextColumn("step"), MofNCompleteColumn(), BarColumn(), TimeElapsedColumn(), last
        steps, terminal = self.config.train.max_steps, self.console.is_terminal
        with Progress(*columns, console=self.console, disable=not terminal) as bar:
            task = bar.add_task("", total=steps)

            def show() -> None:
                bits = f"{self.log[-1]['validation_bits']:.3f} bits, best {self.at.best:.3f}" if self.log else "..."
                bar.update(task, completed=self.at.step, description=f"validation {bits}")
                if not terminal and self.log and self.log[-1]["step"] == self.at.step:
                    self.console.print(f"step {self.at.step}/{steps}, {self.at.seconds:.0f} s: validation {bits}")

            show()
            yield show


def decay_groups(model: BFN, decay_vectors: bool) -> list[dict[str, Any]]:
    """The parameters as AdamW takes them; biases and the weights of norms are not decayed unless asked for."""
    if decay_vectors:
        return [{"params": list(model.parameters())}]
    matrices, vectors = ([p for p in model.parameters() if (p.dim() > 1) == wanted] for wanted in (True, False))
    return [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]


def table(log: list[dict[str, Any]]) -> str:
    """The log as CSV."""
    file = io.StringIO()
    if log:
        writer = csv.DictWriter(file, log[0])
        writer.writeheader()
        writer.writerows(log)
    return file.getvalue()


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def same_run(path: Path, saved: dict[str, Any], config: Config) -> None:
    """Refuse to resume a run under settings that would have made another run."""
    there = flatten(asdict(Config())) | flatten(saved)  # what an older run does not say was as it is by default
    here = flatten(asdict(config))
    for key in sorted(there.keys() | here.keys()):
        decisive = key.partition(".")[0] in ("data", "model", "network", "train") and key not in FREE
        if decisive and there.get(key) != here.get(key):
            raise CheckpointError(
                f"{path} holds a run with {key}={there.get(key)}, not {here.get(key)}; "
                "choose another out=, or start afresh with --fresh"
            )


def tokens(data: Data) -> dict[str, str]:
    """The part of a checkpoint that names the tokens of its data, without which weights have no meaning."""
    return {} if data.tokenizer is None else {"tokenizer": data.tokenizer}


def data_of(config: Config, *, fresh: bool = False) -> Data:
    """The data of a run that begins or, in the tokens that it began with, is continued."""
    tokenizer = None
    if not fresh:
        with suppress(CheckpointError, ValueError, AttributeError):  # a trainer says what is wrong with a checkpoint
            tokenizer = checkpoint.state(Path(config.out) / STATE_FILE).get("tokenizer")
    return load_data(config, tokenizer)


def load_run(
    path: Path, overrides: list[str] | None = None, device: torch.device | str = "cpu"
) -> tuple[BFN, Config, Data]:
    """The best model of a run, from its directory or its model file, with its configuration and data."""
    if not path.exists():
        raise CheckpointError(f"there is no checkpoint {path}; give the directory of a run, such as {Config.out}")
    path = path / MODEL_FILE if path.is_dir() else path
    tensors, state = checkpoint.load(path)
    if "config" not in state:
        raise CheckpointError(f"checkpoint {path} holds no configuration")
    config = build(state["config"], overrides or [], where=str(path))
    data = load_data(config, state.get("tokenizer"))
    model = build_model(config, data).to(device)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"checkpoint {path} does not fit its configuration: {first_line(error)}") from error
    return model, config, data
