"""How far a run has come, and what a terminal shows of it."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PERIOD = 300.0  # the pace of the last PERIOD seconds tells the time left


@dataclass
class Position:
    """The position of a run. Checkpoints hold it."""

    step: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0  # nats per dimension, summed over the steps since the last validation
    best: float = math.inf  # validation bound of the best EMA weights, bits per dimension
    best_step: int = 0
    stale: int = 0  # validations since best_step
    compiled_from: int | None = None  # the steps before the network was compiled; None if there was no change
    averaged: int = 0  # steps in the average of the weights, which leaves out the steps that fp16 skips


@contextmanager
def progress(
    console: Console, steps: int, seconds: float | None = None
) -> Iterator[Callable[[Position, list[dict[str, Any]]], None]]:
    """Yields a function that shows a position and the log up to it: in a progress bar or, without a terminal, in a line
    for each validation. The bar counts steps or seconds, whichever will reach its limit first at the pace so far.

    Args:
        console: Where to show it.
        steps: The largest number of steps.
        seconds: The largest number of seconds, if there is one.
    """
    limits = {"step": steps} if seconds is None or math.isinf(seconds) else {"second": seconds, "step": steps}
    first, left, last = (TextColumn(text) for text in ("{task.fields[unit]}", "left,", "{task.description}"))
    columns = first, MofNCompleteColumn(), BarColumn(None), TimeRemainingColumn(), left, last
    hidden = not console.is_terminal
    with Progress(*columns, console=console, disable=hidden, expand=True, speed_estimate_period=PERIOD) as bar:
        task = bar.add_task("", visible=False, unit="")

        def show(at: Position, log: list[dict[str, Any]]) -> None:
            bits = f"{log[-1]['validation_bits']:.3f} bits, best {at.best:.3f}" if log else "..."
            done = {"step": at.step, "second": at.seconds}
            unit = max(limits, key=lambda unit: done[unit] / limits[unit])
            completed, total, description = min(done[unit], limits[unit]), limits[unit], f"validation {bits}"
            bar.update(task, visible=True, unit=unit, completed=completed, total=total, description=description)
            if hidden and log and log[-1]["step"] == at.step:
                console.print(f"step {at.step}/{steps}, {at.seconds:.0f} s: validation {bits}")

        yield show
