"""How far a run has come, and what a terminal shows of it."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


@dataclass
class Position:
    """The position of a run. Checkpoints hold it."""

    step: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0  # nats per dimension, summed over the steps since the last validation
    best: float = math.inf  # validation bound of the best EMA weights, bits per dimension
    best_step: int = 0
    stale: int = 0  # validations since best_step
    averaged: int = 0  # steps in the average of the weights, which leaves out the steps that fp16 skips


@contextmanager
def progress(console: Console, steps: int) -> Iterator[Callable[[Position, list[dict[str, Any]]], None]]:
    """Yields a function that shows a position and the log up to it: in a progress bar or, without a terminal, in a line
    for each validation."""
    first, last = TextColumn("step"), TextColumn("{task.description}")
    columns = first, MofNCompleteColumn(), BarColumn(), TimeElapsedColumn(), last
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=steps)

        def show(at: Position, log: list[dict[str, Any]]) -> None:
            bits = f"{log[-1]['validation_bits']:.3f} bits, best {at.best:.3f}" if log else "..."
            bar.update(task, completed=at.step, description=f"validation {bits}")
            if not console.is_terminal and log and log[-1]["step"] == at.step:
                console.print(f"step {at.step}/{steps}, {at.seconds:.0f} s: validation {bits}")

        yield show
