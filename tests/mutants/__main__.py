"""Put small faults into a copy of the code, one at a time, and run the tests that should see each. The exit status is
1 where a fault is seen by none of its tests, and 2 where a fault or its tests are not what they should be."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from workshop import ERROR, KILLED, SURVIVED, Outcome, Workshop, faults, wrong

ROOT = Path(__file__).resolve().parents[2]
STYLES = {KILLED: "green", SURVIVED: "bold red", ERROR: "bold red"}


def table(outcomes: Sequence[Outcome]) -> Table:
    shown = Table("file", "fault", "tests", "outcome", "seconds", title="mutants", show_lines=True)
    for outcome in outcomes:
        fault, style = outcome.fault, STYLES[outcome.verdict]
        change = f"{fault.old.strip()}\n→ {fault.new.strip() or '(nothing)'}"
        verdict = f"[{style}]{outcome.verdict}[/]"
        shown.add_row(fault.path, escape(change), escape(fault.tests), verdict, f"{outcome.seconds:.0f}")
    return shown


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python tests/mutants", description=__doc__)
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="faults with this in file, change or tests")
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 180)
    chosen = [fault for fault in faults() if any(options.only in part for part in fault)]
    # what is compiled comes last: each of those leaves the builds for others behind
    chosen.sort(key=lambda fault: fault.path.startswith("csrc/"))
    if not chosen:
        console.print(f"no fault has {options.only!r} in it")
        return 2
    badly_written = [line for fault in chosen if (line := wrong(fault, ROOT))]
    for line in badly_written:
        console.print(f"error: {line}", markup=False)
    if badly_written:
        return 2
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        workshop = Workshop(ROOT, Path(folder))
        selections = dict.fromkeys(fault.tests for fault in chosen)
        for number, tests in enumerate(selections, 1):
            console.print(f"unmutated {number} of {len(selections)}: {tests}", markup=False)
            code, said = workshop.test(tests)
            if code != 0:
                selections[tests] = f"{said}\nerror: without a fault, pytest {tests} gives {code}"
                console.print(selections[tests], markup=False)
        for number, fault in enumerate(chosen, 1):
            unfit = selections[fault.tests]
            outcome = Outcome(fault, ERROR, 0.0, unfit) if unfit else workshop.outcome(fault)
            outcomes.append(outcome)
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
