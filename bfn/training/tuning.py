"""When a run changes over to a compiled network: it trains without a compiler until another process has compiled."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from bfn.configs import ConfigError, TrainConfig
from bfn.training import processes
from bfn.training.compiling import Compilation, Passes
from bfn.training.progress import Position
from bfn.training.speed import CACHED, COMPILING, PASSES, PLAIN, Choice, choices, choose, pays, room, timed


class Tuning:
    """The precision and the compiler of a run, which change only its speed and its rounding.

    choice: what the run uses. later: the compiled choice that the run may still change over to.

    Args:
        train: The settings.
        at: The position of the run.
        networks: The networks that use the choice.
        left: Takes the seconds of one step, and returns the seconds that the rest of the run takes.
        try_out: Takes a choice and a number of passes, and returns the seconds of each pass.
        passes: Takes a choice, and returns the passes that compile all that the run will call.
        say: Prints a line for the user.
    """

    def __init__(
        self,
        train: TrainConfig,
        at: Position,
        networks: list[nn.Module],
        left: Callable[[float], float],
        try_out: Callable[[Choice, int], list[float]],
        passes: Callable[[Choice], Passes],
        say: Callable[[str], None],
    ):
        self.train, self.at, self.networks = train, at, networks
        self.left, self.try_out, self.passes, self.say = left, try_out, passes, say
        self.choice = PLAIN
        self.later: Choice | None = None
        self.beside: Compilation | None = None  # the process that compiles, while it is there
        self.started = math.inf  # the run's seconds when it decided whether a process compiles; inf before

    def begin(self, device: torch.device, before: Choice | None) -> None:
        """Choose how the run starts. A continued run keeps its choice `before`, if the settings still allow it."""
        first, *others = choices(self.train, device)
        self.device, self.first_step, fixed = device, self.at.step, self.train.compile_from is not None
        if fixed and not others:
            raise ConfigError(f"train.compile_from={self.train.compile_from} needs a compiler, and this run has none")
        if before is not None and before in (others if fixed else (first, *others)):
            return self.use(before)
        self.use(first)
        self.later = next(iter(others), None)
        if before is not None and before != first:
            self.say(f"continues with {first}; until here: {before}")

    def use(self, choice: Choice) -> None:
        self.choice = choice
        for network in self.networks:
            choice.compile(network)

    @property
    def decided(self) -> Choice | None:
        """The choice that a continued run keeps; None if it may still change over."""
        return self.choice if self.later is None else None

    def after_steps(self, seconds: float) -> None:
        """Start the other process, once the times of some steps are known, or change over when it has made the training
        pass. If torch has compiled the passes before, change over without this process. All processes of the run call
        this with equal arguments, after the same step. seconds: of a step."""
        if self.later is None:
            return
        fixed, trained = self.train.compile_from, self.beside is not None and self.beside.trained
        if trained if fixed is None else self.at.step >= fixed:
            self.change_over()
        elif self.started == math.inf and self.at.step > self.first_step + PASSES:
            self.started = self.at.seconds
            # torch compiles other graphs for several processes, and accelerate's for fp16
            single = processes.count() == 1 and self.later.precision != "fp16"
            passes = self.passes(self.later) if single else None
            cached = passes is not None and passes.compiled_before
            if fixed is None and not pays(self.left(seconds), CACHED if cached else COMPILING):
                self.later = None
            elif passes is not None and not cached and room(self.device):
                self.beside = Compilation(passes)
            elif fixed is None:
                self.change_over()
        elif self.beside is not None and fixed is None and self.at.seconds - self.started >= COMPILING:
            self.beside.leave_core()  # the run has trained for as long as a compilation takes

    def change_over(self) -> None:
        """From this step on, use the compiled network if it is faster or if `train.compile_from` says so. If the other
        process has not compiled it, this process does."""
        assert self.later is not None
        later, self.later = self.later, None
        error = "" if self.beside is None or not self.beside.ended else self.beside.error()
        if self.beside is not None:
            self.beside.share()  # torch compiles for the number of threads
        if error:
            self.say(f"{self.choice}: the network cannot be compiled ({error})")
        elif self.train.compile_from is None:
            self.use(choose([self.choice, later], lambda seconds: math.inf, self.try_out, self.say))
        else:
            self.use(later)
        if self.choice == later:
            self.at.compiled_from = self.at.step
            self.say(f"compiled from step {self.at.step + 1} on")
        else:
            self.close()

    def timed(self, work: Callable[[], Any], device: torch.device, passes: int) -> list[float]:
        """The seconds of each pass, which calls `work` once. Except in a first pass that compiles, the other process
        does nothing, so that a pass takes as long as it will when that process has ended."""
        first = timed(work, device, int(self.choice.compiler is not None))
        with nullcontext() if self.beside is None else self.beside.paused():
            return first + timed(work, device, passes - len(first))

    def __enter__(self) -> "Tuning":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def close(self) -> None:
        """End the other process."""
        if self.beside is not None:
            self.beside.close()
            self.beside = None
