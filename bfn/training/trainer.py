"""The training loop. All randomness of a step comes from (seed, step): a resumed run repeats the uninterrupted one.

A step only hands work to the device. About once a second the run looks at what the device has done: it waits for the
losses, counts the time, and learns whether a process was asked to stop.
"""

import io
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from bfn.configs import Config, EvaluateConfig, first_line, flatten
from bfn.data import Data
from bfn.data.values import require_examples
from bfn.model import BFN, build_model
from bfn.results.evaluate import evaluate
from bfn.training import checkpoint, processes, states
from bfn.training.batches import Batches
from bfn.training.checkpoint import CheckpointError, Saved
from bfn.training.compiling import Passes
from bfn.training.derived_seeds import VALIDATION, WEIGHTS, derive
from bfn.training.optimizers import make_optimizer
from bfn.training.progress import Position, progress
from bfn.training.run_lock import RunError, lock
from bfn.training.runs import FILES, LOG_FILE, MODEL_FILE, STATE_FILE, as_csv, require_room, resumable, seen
from bfn.training.speed import PLAIN, Choice
from bfn.training.tuning import Tuning

# A run looks at its losses about once in LOOK_SECONDS, and at least once in LOOK_STEPS.
LOOK_STEPS, LOOK_SECONDS = 1000, 1.0


class Interrupted(Exception):
    """Training was asked to stop. The run has been saved."""


class Trainer:
    """A run in the directory `config.out`. If the directory holds a run, it is continued from its last checkpoint. All
    processes that torchrun or accelerate started share the run. The main process reads and writes its files.

    The constructor locks the directory, and `run` releases it at its end. If the directory is locked already, the
    constructor raises a RunError.
    fresh: delete the run that the directory holds, if any.
    """

    def __init__(self, config: Config, data: Data, console: Console | None = None, *, fresh: bool = False):
        self.accelerator = processes.start(config.train.cpu, config.train.mixed_precision)
        self.device = self.accelerator.device
        self.config, self.data, self.out = config, data, Path(config.out)
        self.console = (console or Console()) if processes.is_main() else Console(quiet=True)
        self.at = Position()
        self.before: Choice | None = None  # the choice of a continued run before it was interrupted
        self.losses: list[Tensor] = []  # the loss of each step since the last look
        self.log: list[dict[str, Any]] = []
        self.result: Saved | None = None  # the best weights, until they are saved
        self.writer = ThreadPoolExecutor(1)
        self.writing: Future[None] | None = None  # the writing of the last checkpoint
        with processes.together():
            self.lock = lock(self.out) if processes.is_main() else io.StringIO()
        try:
            self.begin(fresh)
        except BaseException:
            self.lock.close()
            raise

    def begin(self, fresh: bool) -> None:
        """Build the model and all else, and restore the run that the directory holds, if any."""
        main = processes.is_main()
        with processes.together():
            tensors, state = resumable(self.out, self.config, self.data) if main and not fresh else ({}, {})
        state = processes.from_main(state)
        with processes.together():
            self.divide(state)
            torch.manual_seed(derive(self.config.train.seed, WEIGHTS))
            model = build_model(self.config, self.data).to(self.device)
            if tensors:
                states.fit(self.out / STATE_FILE, tensors, model, self.config.train)
            if main:
                require_room(self.out, model)
                if fresh:  # only now, since the checks above have shown that this run can start
                    for name in FILES:
                        (self.out / name).unlink(missing_ok=True)
        self.prepare(model)
        if state:
            self.restore(tensors, state)
        networks = [model.network for model in (self.bare, self.averaged)]
        self.tuning = Tuning(self.config.train, self.at, networks, self.left, self.try_out, self.passes, self.say)

    def divide(self, state: dict[str, Any]) -> None:
        """Split batches into micro-batches. Their size comes from the settings, or else from the run's saved state."""
        train = self.config.train
        micro = train.micro_batch or state.get("config", {}).get("train", {}).get("micro_batch")
        train = replace(train, micro_batch=micro)
        self.batches = Batches(self.data, train, processes.rank(), processes.count(), self.device)
        self.config = replace(self.config, train=replace(train, micro_batch=self.batches.micro))

    def prepare(self, model: BFN) -> None:
        """Make the optimizer and a copy for the average of the weights, and distribute the model over the processes."""
        train = self.config.train
        self.bare = model  # without accelerate's wrapper
        self.averaged = deepcopy(model).requires_grad_(False)  # the model with the average of the weights (EMA)
        if train.fully_shard and processes.count() > 1:
            self.model = self.accelerator.prepare_model(model, evaluation_mode=True)
            for one in (model, self.averaged):
                states.shard(one, self.device)
        else:
            self.model = self.accelerator.prepare(model)
        # A fused optimizer skips a step of fp16 whose gradients are not finite, and accelerate does not notice it.
        self.bare_optimizer = make_optimizer(model, train, fused=self.accelerator.scaler is None)
        self.optimizer = self.accelerator.prepare(self.bare_optimizer)  # it removes the scale of fp16's gradients

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Continue where the run in this directory was saved."""
        states.restore(tensors, self.bare, self.averaged, self.bare_optimizer, self.config.train)
        try:
            position = state["position"]
            self.at, self.log = Position(**{"averaged": position["step"]} | position), state["log"]
        except (KeyError, TypeError) as error:
            path = self.out / STATE_FILE
            raise CheckpointError(f"checkpoint {path} does not fit this version of bfn: {first_line(error)}") from error
        train = state["config"]["train"]
        before = state.get("choice", (train.get("mixed_precision", "no"), train.get("compiler")))
        self.before = before and Choice(*before)
        if self.accelerator.scaler is not None and "scaler" in state:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.say(f"continuing {self.out} at step {self.at.step}")

    @property
    def sharded(self) -> bool:
        return isinstance(self.bare, FSDPModule)

    @property
    def end(self) -> str | None:
        """The setting that ends the training at this step; None if training goes on."""
        train, at = self.config.train, self.at
        if at.step >= train.max_steps:
            return f"train.max_steps={train.max_steps}"
        if train.max_seconds is not None and at.seconds >= train.max_seconds:
            return f"train.max_seconds={train.max_seconds:g}"
        return f"train.patience={train.patience}" if at.stale >= train.patience else None

    def run(self) -> None:
        """Train until a limit or early stopping. If Ctrl-C or SIGTERM asks any process to stop, the run is saved and
        Interrupted is raised."""
        train, at = self.config.train, self.at
        if self.lock.closed:
            raise RunError(
                f"this trainer has run, and {self.out} is no longer locked; to continue the run, make a new Trainer"
            )
        stop, bar = False, progress(self.console, train.max_steps, train.max_seconds)
        freed = self.group_released()
        with self.lock, self.writer, processes.asked_to_stop() as asked, freed, self.tuning, bar as show:
            show(at, self.log)
            self.begin_clock()
            self.begin_steps()
            while self.end is None and not stop:
                self.step()
                validating = at.step % train.validate_every == 0 or at.step == train.max_steps
                due = at.step in (self.next_look, train.compile_from) or (asked and processes.count() == 1)
                if not (validating or due):
                    continue
                stop = self.look(asked)
                validating = validating or self.end is not None
                if validating:
                    self.validate()
                    self.count_time()
                if validating or stop:
                    self.save()
                show(at, self.log)
                self.begin_clock()
            if self.end is not None and not self.log:  # continued only to stop at the step that it had reached
                self.validate()
                self.save()
            self.wait_for_files()
        if self.end is None:
            raise Interrupted

    def begin_steps(self) -> None:
        self.tuning.begin(self.device, self.before)
        self.next_look = self.at.step + 1

    @contextmanager
    def group_released(self) -> Iterator[None]:
        """After the body, no model refers to the process group. If DistributedDataParallel had the last reference, its
        destructor would hold the GIL and wait for a thread that waits for the GIL (torch 2.13)."""
        try:
            yield
        finally:
            self.model = self.bare
            if processes.count() > 1:
                self.accelerator.free_memory()

    def left(self, seconds: float) -> float:
        """The seconds that the run has left if a step takes this number of seconds."""
        train, at = self.config.train, self.at
        most = math.inf if train.max_seconds is None else train.max_seconds - at.seconds
        return min(most, seconds * (train.max_steps - at.step)) if at.step < train.max_steps else 0.0

    def try_out(self, choice: Choice, passes: int) -> list[float]:
        """Measure forward and backward passes on the next step's batch, and drop their gradients. Returns the seconds
        of each pass, averaged over the processes."""
        buffers = [buffer.clone() for buffer in self.bare.buffers()]
        self.tuning.use(choice)
        try:
            with processes.together():  # a compiler may fail in one process
                tried = self.tuning.timed(lambda: self.gradients(shared=False), self.device, passes)
        finally:
            self.optimizer.zero_grad()
            for buffer, before in zip(self.bare.buffers(), buffers, strict=True):
                buffer.copy_(before)
        return processes.means(tried, self.device)

    def say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False)

    def begin_clock(self) -> None:
        """Count time from here on."""
        self.clock = time.monotonic()

    def count_time(self, *numbers: float) -> list[float]:
        """Add the time since the clock began, averaged over the processes, so that all of them stop at the same step.
        Returns this mean time and the means of `numbers`."""
        means = processes.means([time.monotonic() - self.clock, *numbers], self.device)
        self.at.seconds += means[0]
        self.begin_clock()
        return means

    def look(self, asked: Sequence[int] = ()) -> bool:
        """Wait until the steps since the last look are done, and add up their losses and their time. All processes call
        this at the same step, and communicate once. Returns whether any process was asked to stop."""
        losses = torch.stack(self.losses).tolist()  # waits until the device has finished these steps
        seconds, stopping, *means = self.count_time(len(asked), *losses)
        for step, loss in enumerate(means, self.at.step - len(means) + 1):
            if not math.isfinite(loss):
                raise self.cause(step)
            self.at.loss_sum += loss
        self.losses.clear()
        in_a_second = len(losses) * LOOK_SECONDS / max(seconds, 1e-9)
        self.next_look = self.at.step + min(LOOK_STEPS, max(1, int(in_a_second)))
        self.tuning.after_steps(1 / max(in_a_second, 1e-9))
        return stopping > 0

    def cause(self, step: int) -> Exception:
        """Why the loss of a step, counted from 1, is not finite: its examples, the settings, or what was learned."""
        with processes.together():
            for batch in self.batches.of(step - 1):
                require_examples(batch.x, self.data.num_classes, f"data.name={self.config.data.name!r}: step {step}")
        if step > 1:
            return FloatingPointError(f"the loss at step {step} is not finite; try a lower train.learning_rate")
        settings = flatten({"model": asdict(self.config.model)}).items()
        causes = [f"{key}={value}" for key, value in settings if value is not None and key != "model.kind"]
        why = f"The loss overflows because of {' or because of '.join([*causes, 'the network'])}."
        return FloatingPointError(f"the loss at step 1 is not finite. No step was made before. {why}")

    def step(self) -> None:
        """One optimizer step. Nothing in it waits for the device, except fp16's scaler."""
        train, rate = self.config.train, self.learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.losses.append(self.gradients())
        self.accelerator.clip_grad_norm_(self.model.parameters(), train.clip_norm)
        self.optimizer.step()
        if not self.optimizer.step_was_skipped:  # fp16 skips a step whose gradients are not finite
            self.average()
        self.at.step += 1

    def learning_rate(self) -> float:
        """The learning rate of the next step, which all processes agree on."""
        train, at = self.config.train, self.at
        high, low = train.learning_rate, train.final_learning_rate
        if low is not None:
            done = max(at.step / train.max_steps, at.seconds / (train.max_seconds or math.inf))
            high = low + (high - low) * (1 + math.cos(math.pi * min(1.0, done))) / 2
        return high * min(1.0, (at.step + 1) / train.warmup_steps)

    def gradients(self, *, shared: bool = True) -> Tensor:
        """Compute the gradients of this step's batch into the parameters' `grad`. Returns this process's mean loss.
        shared: whether the gradients are averaged over the processes."""
        self.model.train()
        self.optimizer.zero_grad()
        passes, losses = len(self.batches.mine), []
        for done, batch in enumerate(self.batches.of(self.at.step)):
            torch.manual_seed(batch.seed)  # for dropout
            with self.gradients_shared(shared and done == passes - 1):
                with self.tuning.choice.autocast(self.device):
                    loss = self.model(batch.x, batch.t, seed=batch.seed, n_steps=self.config.train.n_steps)
                self.accelerator.backward(loss / passes)
            losses.append(loss.detach())
        return torch.stack(losses).mean()

    @torch.no_grad()
    def average(self) -> None:
        """Update the average of the weights (EMA). Its decay rises to `ema_decay`, so that the average soon forgets the
        first weights."""
        count = self.at.averaged
        decay = min(self.config.train.ema_decay, (1 + count) / (10 + count)) if count > 0 else 0.0
        torch._foreach_lerp_(list(self.averaged.parameters()), list(self.bare.parameters()), 1 - decay)
        for averaged, current in zip(self.averaged.buffers(), self.bare.buffers(), strict=True):
            averaged.copy_(current)
        self.at.averaged += 1

    def gradients_shared(self, last: bool) -> AbstractContextManager[Any]:
        """A context for one pass. Gradients are averaged over the processes in the last pass of a step only."""
        if self.sharded:
            self.model.set_requires_gradient_sync(last)
        return nullcontext() if last or self.sharded else self.accelerator.no_sync(self.model)

    @property
    def validation(self) -> EvaluateConfig:
        """The settings of a validation. Its batches have nearly equal sizes, so that a compiled network sees few
        sizes."""
        train, examples = self.config.train, len(self.data.validation)
        settings = EvaluateConfig(train.n_steps, repeats=16, seed=derive(train.seed, VALIDATION))
        settings.batch_size = math.ceil(examples / math.ceil(examples / settings.batch_size))
        return settings

    def passes(self, choice: Choice) -> Passes:
        """The passes that compile all that this run will call."""
        batch = next(iter(self.batches.of(self.at.step)))
        return Passes.of(self.bare, choice, batch, self.config.train.n_steps, self.data.validation, self.validation)

    def validate(self) -> None:
        """Compute the bound of the averaged weights on the validation data. The best weights are the run's result."""
        at = self.at
        with self.tuning.choice.autocast(self.device), self.accelerator.autocast():
            bound = evaluate(self.averaged, self.data.validation, self.validation)
        # A checkpoint of weights that are not finite could not be continued. A bound may also overflow in 16 bits.
        if math.isnan(bound.bits) and processes.means([not states.finite(self.averaged)], self.device)[0] > 0:
            raise FloatingPointError(f"weights are not finite at step {at.step}; try a lower train.learning_rate")
        steps = at.step - (self.log[-1]["step"] if self.log else 0)
        self.log.append(
            {
                "step": at.step,
                "seconds": round(at.seconds, 2),
                # the mean loss of messages since the last row, with dropout and without the reconstruction loss
                "train_bits": at.loss_sum / steps / math.log(2),
                "validation_bits": bound.bits,
                "validation_error": bound.error,
            }
        )
        at.loss_sum, at.stale = 0.0, at.stale + 1
        if bound.bits < at.best:
            at.best, at.best_step, at.stale = bound.bits, at.step, 0
            result = {"config": asdict(self.config), "step": at.step, "validation_bits": bound.bits}
            self.result = states.copied(self.averaged), result | {"tokenizer": self.data.tokenizer}

    def save(self) -> None:
        """Start to write the training state, the log and, if they are new, the best weights. Training goes on
        meanwhile. If the previous writing failed, its error is raised here."""
        tensors = states.snapshot(self.bare, self.averaged, self.bare_optimizer)
        state: dict[str, Any] = {"config": asdict(self.config), "position": asdict(self.at)}
        state |= {
            "choice": self.tuning.decided,
            "log": list(self.log),
            "data": seen(self.data),
            "tokenizer": self.data.tokenizer,
        }
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        result, self.result = self.result, None
        self.wait_for_files()  # raises in all processes if the previous writing failed
        if processes.is_main():
            self.writing = self.writer.submit(self.write, result, tensors, state)

    def write(self, result: Saved | None, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Write a checkpoint. The best weights come first, since the training state refers to them."""
        if result is not None:
            checkpoint.save(self.out / MODEL_FILE, *result)
        checkpoint.save(self.out / STATE_FILE, tensors, state)
        checkpoint.write_atomically(self.out / LOG_FILE, as_csv(state["log"]))

    def wait_for_files(self) -> None:
        """Wait until the last checkpoint is written. If that failed, its error is raised here, once."""
        with processes.together():
            writing, self.writing = self.writing, None
            if writing is not None:
                writing.result()

    def best(self) -> BFN:
        """The averaged model with the run's best weights, which replace the current averages in all processes."""
        tensors: dict[str, Tensor] = {}
        with processes.together():
            if processes.is_main():
                tensors, _ = checkpoint.load(self.out / MODEL_FILE)
        states.put(self.averaged, tensors)
        PLAIN.compile(self.averaged.network)  # else data of other sizes would compile it again
        return self.averaged
