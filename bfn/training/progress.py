"""What a terminal shows of a run while it trains."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from bfn.training.trainer import Trainer


@contextmanager
def progress(trainer: "Trainer") -> Iterator[Callable[[], None]]:
    """A progress bar or, where there is no terminal, a line for each validation; yields the function that brings it up
    to date."""
    console, steps = trainer.console, trainer.config.train.max_steps
    last = TextColumn("{task.description}")
    columns = TextColumn("step"), MofNCompleteColumn(), BarColumn(), TimeElapsedColumn(), last
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=steps)

        def show() -> None:
            at, log = trainer.at, trainer.log
            bits = f"{log[-1]['validation_bits']:.3f} bits, best {at.best:.3f}" if log else "..."
            bar.update(task, completed=at.step, description=f"validation {bits}")
            if not console.is_terminal and log and log[-1]["step"] == at.step:
                console.print(f"step {at.step}/{steps}, {at.seconds:.0f} s: validation {bits}")

        show()
        yield show
