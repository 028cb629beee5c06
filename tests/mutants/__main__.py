"""Puts small changes, one at a time, into a copy of the code, and checks that tests notice each: the faults of the
tables in faults/, or with --random so many at random places."""

import argparse
import itertools
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from tests.mutants import random_run, written
from tests.mutants.mutant import Mutant
from tests.mutants.sandbox import Sandbox, compiled, pool

ROOT = Path(__file__).resolve().parents[2]


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="what has this in its file, change or tests")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), metavar="N", help="changes at a time")
    parser.add_argument("--random", type=int, metavar="N", help="N changes at random places")
    parser.add_argument("--seed", type=int, default=0, help="which places")
    parser.add_argument("--skip", type=int, default=0, metavar="N", help="so many first places, of a run that was cut")
    parser.add_argument("--python", action="store_true", help="random places in Python alone")
    parser.add_argument("--cuda", action="store_true", help="of csrc the CUDA kernels, too: minutes each")
    return parser.parse_args(arguments)


def faults_to_try(options: argparse.Namespace, console: Console) -> list[written.Fault]:
    """The faults of the tables that are asked for, none if one of them is badly written."""
    chosen = [fault for fault in written.faults() if any(options.only in field for field in fault)]
    if not chosen:
        console.print(f"no fault has {options.only!r} in it")
    badly_written = [line for fault in chosen if (line := written.wrong(fault, ROOT))]
    for line in badly_written:
        console.print(f"error: {line}", markup=False)
    return [] if badly_written else chosen


def main(arguments: Sequence[str] | None = None) -> int:
    options = parsed(arguments)
    console = Console(width=None if sys.stdout.isatty() else 180)
    more: Iterator[Mutant] = iter(())
    if options.random is None:
        first = faults_to_try(options, console)
    else:
        more = random_run.mutants(ROOT, options.seed, options.only, not options.python, options.cuda)
        more = itertools.islice(more, options.skip, None)
        first = list(itertools.islice(more, 2 * options.random))
    if not first:
        return 2
    with pool(ROOT, lambda: tempfile.TemporaryDirectory(prefix="mutants-"), options.workers) as sandboxes:
        if any(compiled(one.path) for one in first):
            sandboxes.each(Sandbox.prepare)
        if options.random is None:
            return written.report(written.run(sandboxes, first, console), console)
        verdicts = random_run.run(ROOT, sandboxes, itertools.chain(first, more), options.random, console)
        return random_run.report(verdicts, console)


if __name__ == "__main__":
    sys.exit(main())
