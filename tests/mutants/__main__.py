"""Put small faults into a copy of the code, one at a time, and run the tests that should fail. The exit status is 1 if
a fault makes none of its tests fail, and 2 if a fault cannot be put in or its tests cannot run."""

import argparse
import os
import queue
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from fault import Fault
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from workshop import ERROR, KILLED, SURVIVED, Outcome, Workshop, compiled, faults, joined, wrong

ROOT = Path(__file__).resolve().parents[2]
STYLES = {KILLED: "green", SURVIVED: "bold red", ERROR: "bold red"}
Item, Result = TypeVar("Item"), TypeVar("Result")


def table(outcomes: Sequence[Outcome]) -> Table:
    shown = Table("file", "fault", "tests", "outcome", "seconds", title="mutants", show_lines=True)
    for outcome in outcomes:
        fault, style = outcome.fault, STYLES[outcome.verdict]
        change = f"{fault.old.strip()}\n→ {fault.new.strip() or '(nothing)'}"
        verdict = f"[{style}]{outcome.verdict}[/]"
        shown.add_row(fault.path, escape(change), escape(fault.tests), verdict, f"{outcome.seconds:.0f}")
    return shown


class Pool:
    """Several workshops that work at the same time."""

    def __init__(self, workshops: Sequence[Workshop]):
        self._workshops, self._idle = workshops, queue.SimpleQueue()
        for workshop in workshops:
            self._idle.put(workshop)

    def each(self, task: Callable[[Workshop], None]) -> None:
        """Runs the task in every workshop."""
        with ThreadPoolExecutor(len(self._workshops)) as threads:
            list(threads.map(task, self._workshops))

    def map(self, task: Callable[[Workshop, Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Yields the result of the task for each item, in the order of the items."""

        def one(item: Item) -> Result:
            workshop = self._idle.get()
            try:
                return task(workshop, item)
            finally:
                self._idle.put(workshop)

        with ThreadPoolExecutor(len(self._workshops)) as threads:
            yield from threads.map(one, items)


def unfit(pool: Pool, selections: Iterable[str], console: Console) -> dict[str, str]:
    """The output of pytest for each selection of tests that does not pass without a fault."""
    selections = list(dict.fromkeys(selections))
    found = {}
    for number, (tests, (code, said)) in enumerate(
        zip(selections, pool.map(Workshop.test, selections), strict=True), 1
    ):
        console.print(f"without a fault, {number} of {len(selections)}: {tests}", markup=False)
        if code != 0:
            found[tests] = f"{said}\nerror: without a fault, pytest {tests} gives {code}"
            console.print(found[tests], markup=False)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python tests/mutants", description=__doc__)
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="faults with this in file, change or tests")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), metavar="N", help="faults at a time")
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 180)
    chosen = [fault for fault in faults() if any(options.only in part for part in fault)]
    if not chosen:
        console.print(f"no fault has {options.only!r} in it")
        return 2
    badly_written = [line for fault in chosen if (line := wrong(fault, ROOT))]
    for line in badly_written:
        console.print(f"error: {line}", markup=False)
    if badly_written:
        return 2
    outcomes = []
    with ExitStack() as stack:
        folders = [stack.enter_context(tempfile.TemporaryDirectory(prefix="mutants-")) for _ in range(options.workers)]
        jobs = max(1, (os.cpu_count() or 1) // options.workers)
        pool = Pool([Workshop(ROOT, Path(folder), jobs) for folder in folders])
        if any(map(compiled, chosen)):
            pool.each(Workshop.prepare)
        whole = joined(fault.tests for fault in chosen)
        failing = unfit(pool, whole.values(), console)

        def outcome_of(workshop: Workshop, fault: Fault) -> Outcome:
            said = failing.get(whole[fault.tests])
            return Outcome(fault, ERROR, 0.0, said) if said else workshop.outcome(fault)

        for number, outcome in enumerate(pool.map(outcome_of, chosen), 1):
            outcomes.append(outcome)
            fault = outcome.fault
            change = f"{fault.path}: {fault.old.strip()} → {fault.new.strip()}"
            console.print(f"{number} of {len(chosen)} {outcome.verdict} {change}", markup=False)
            if why := outcome.said if outcome.verdict == ERROR else outcome.reason[:150]:
                console.print(f"    {why}", markup=False)
    console.print(table(outcomes))
    verdicts = [outcome.verdict for outcome in outcomes]
    console.print(", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in STYLES), markup=False)
    return 2 if ERROR in verdicts else 1 if SURVIVED in verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
