"""The training loop. All randomness of a step comes from (seed, step): a resumed run repeats the uninterrupted one."""

import io
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.optim.swa_utils import AveragedModel

from bfn.configs import Config, EvaluateConfig, first_line
from bfn.data import Data
from bfn.model import BFN, build_model
from bfn.results.evaluate import evaluate
from bfn.training import checkpoint, processes, states
from bfn.training.batches import Batches
from bfn.training.checkpoint import CheckpointError, Saved
from bfn.training.progress import Position, progress
from bfn.training.run_lock import RunError, lock
from bfn.training.runs import FILES, LOG_FILE, MODEL_FILE, STATE_FILE, as_csv, require_room, resumable, tokens
from bfn.training.seeds import VALIDATION, WEIGHTS, derive


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
        self.result: Saved | None = None  # the best weights, until they are saved
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
        main = processes.is_main()
        with processes.together():
            tensors, state = resumable(self.out, self.config, self.data) if main and not fresh else ({}, {})
        state = processes.from_main(state)
        with processes.together():
            self.divide(state)
            torch.manual_seed(derive(self.config.train.seed, WEIGHTS))
            model = build_model(self.config, self.data).to(self.accelerator.device)
            if tensors:
                states.fit(self.out / STATE_FILE, tensors, model)
            if main:
                require_room(self.out, model)
                if fresh:  # now that it is known that this run can start
                    for name in FILES:
                        (self.out / name).unlink(missing_ok=True)
        self.prepare(model)
        if state:
            self.restore(tensors, state)

    def divide(self, state: dict[str, Any]) -> None:
        """Divide batches as the settings say, or else as the run did so far."""
        train = self.config.train
        micro = train.micro_batch or state.get("config", {}).get("train", {}).get("micro_batch")
        self.batches = Batches(self.data, replace(train, micro_batch=micro), processes.rank(), processes.count())
        self.config = replace(self.config, train=replace(train, micro_batch=self.batches.micro))

    def prepare(self, model: BFN) -> None:
        """Make the average and the optimizer of a model, and share it among the processes."""
        train = self.config.train
        self.bare = model  # without what accelerate wraps around it
        self.ema = AveragedModel(model, multi_avg_fn=self.average)
        if train.fully_shard and processes.count() > 1:
            self.model = self.accelerator.prepare_model(model, evaluation_mode=True)
            for part in (model, self.averaged):
                states.shard(part, self.accelerator.device)
        else:
            self.model = self.accelerator.prepare(model)
        if train.compiler is not None:  # in its place, so that its parameters keep their names
            model.network.compile(backend=train.compiler)
        groups, betas = decay_groups(model, train.decay_vectors), (0.9, train.beta_2)
        self.adamw = torch.optim.AdamW(groups, train.learning_rate, betas, weight_decay=train.weight_decay)
        self.optimizer = self.accelerator.prepare(self.adamw)  # which scales the gradients of fp16

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Continue where the run in this directory was saved."""
        states.restore(tensors, self.bare, self.ema, self.adamw)
        try:
            self.at, self.log = Position(**state["position"]), state["log"]
        except (KeyError, TypeError) as error:
            path = self.out / STATE_FILE
            raise CheckpointError(f"checkpoint {path} does not fit this version of bfn: {first_line(error)}") from error
        if self.accelerator.scaler is not None and "scaler" in state:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.console.print(f"continuing {self.out} at step {self.at.step}", highlight=False)

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

    def run(self) -> None:
        """Train until a limit or early stopping; raises Interrupted, having saved, if any process is asked to stop by
        Ctrl-C or SIGTERM."""
        train = self.config.train
        if self.lock.closed:
            raise RunError(
                f"this trainer has run, and {self.out} is no longer locked; another one continues from there"
            )
        stop, bar = False, progress(self.console, train.max_steps)
        with self.lock, self.writer, processes.asked_to_stop() as asked, bar as show:
            show(self.at, self.log)
            while self.end is None and not stop:
                self.timed(self.step)
                if due := self.at.step % train.validate_every == 0 or self.end is not None:
                    self.timed(self.validate)
                stop = processes.total(len(asked), self.accelerator.device) > 0
                if due or stop:
                    self.save()
                show(self.at, self.log)
            self.wait_for_files()
        if self.end is None:
            raise Interrupted

    def timed(self, work: Callable[[], None]) -> None:
        """Do some work and count its time, as the processes' mean, so that all of them stop at the same step."""
        started = time.monotonic()
        work()
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
        return nullcontext() if last or self.sharded else self.accelerator.no_sync(self.model)

    def validate(self) -> None:
        """Bound of the EMA weights on the validation split; the weights that are best there are the run's result."""
        train, at = self.config.train, self.at
        settings = EvaluateConfig(train.n_steps, repeats=16, seed=derive(train.seed, VALIDATION))
        with self.accelerator.autocast():
            bound = evaluate(self.averaged, self.data.validation, settings, self.accelerator.device)
        steps = at.step - (self.log[-1]["step"] if self.log else 0)
        self.log.append(
            {
                "step": at.step,
                "seconds": round(at.seconds, 2),
                "train_bits": at.loss_sum / steps / math.log(2),  # messages only, with dropout, since the last row
                "validation_bits": bound.bits,
                "validation_error": bound.error,
            }
        )
        at.loss_sum, at.stale = 0.0, at.stale + 1
        if bound.bits < at.best:
            at.best, at.best_step, at.stale = bound.bits, at.step, 0
            result = {"config": asdict(self.config), "step": at.step, "validation_bits": bound.bits}
            self.result = states.copied(self.averaged), result | tokens(self.data)

    def save(self) -> None:
        """Have all that resuming needs written while training goes on, the log, and the best weights if they are new.
        If the last writing failed, its error is raised here."""
        tensors = states.snapshot(self.bare, self.ema, self.adamw)
        state = {"config": asdict(self.config), "position": asdict(self.at), "log": list(self.log)} | tokens(self.data)
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        result, self.result = self.result, None
        self.wait_for_files()  # then all processes start, or none does
        if processes.is_main():
            self.writer.start(self.write, result, tensors, state)

    def write(self, result: Saved | None, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Write a checkpoint. The training state comes after the weights that it speaks of."""
        if result is not None:
            checkpoint.save(self.out / MODEL_FILE, *result)
        checkpoint.save(self.out / STATE_FILE, tensors, state)
        checkpoint.write_atomically(self.out / LOG_FILE, as_csv(state["log"]))

    def wait_for_files(self) -> None:
        with processes.together():
            self.writer.wait()

    def best(self) -> BFN:
        """The model with the weights that are the run's result, in all processes; the averages are lost."""
        tensors: dict[str, Tensor] = {}
        with processes.together():
            if processes.is_main():
                tensors, _ = checkpoint.load(self.out / MODEL_FILE)
        states.put(self.averaged, tensors)
        return self.averaged


def decay_groups(model: BFN, decay_vectors: bool) -> list[dict[str, Any]]:
    """The parameters as AdamW takes them; biases and the weights of norms are not decayed unless asked for."""
    if decay_vectors:
        return [{"params": list(model.parameters())}]
    matrices, vectors = ([p for p in model.parameters() if (p.dim() > 1) == wanted] for wanted in (True, False))
    return [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
