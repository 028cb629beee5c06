"""Faults that a person has thought of: the tables of faults/, and what becomes of each."""

import re
import shlex
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from tests.mutants.sandbox import HERE, KILLED, SURVIVED, Pool, Sandbox, compiled, first_failure

ERROR = "ERROR"


class Fault(NamedTuple):
    """`old` stands exactly once in the file `path`, and `new` takes its place; `tests` are pytest's arguments."""

    path: str
    old: str
    new: str
    tests: str


def parsed(table: str) -> list[Fault]:
    """The faults of a table. A table has the path of a file, then for each fault the old lines (-), the new lines (+)
    and the arguments of pytest (:). In the table of equivalents, (:) is the reason why no test can fail."""
    found: list[Fault] = []
    path, old, new, before = "", [], [], ""
    for line in table.splitlines():
        mark, rest = line[:1], line[2:]
        if mark == "-":
            old, new = ([*old, rest], new) if before == "-" else ([rest], [])
        elif mark == "+":
            new.append(rest)
        elif mark == ":":
            found.append(Fault(path, "\n".join(old), "\n".join(new), rest))
        elif line and mark != "#":
            path = line
        before = mark
    return found


class Outcome(NamedTuple):
    fault: Fault
    verdict: str
    seconds: float
    said: str = ""  # the output of the build or of pytest

    def __str__(self) -> str:
        change = f"{self.fault.old.strip()} → {self.fault.new.strip() or '(nothing)'}"
        return f"{self.verdict} {self.fault.path}: {change} ({self.seconds:.0f} s), by {self.fault.tests}"


def faults() -> list[Fault]:
    """The faults of all tables."""
    return [fault for path in sorted((HERE / "faults").glob("*.txt")) for fault in parsed(path.read_text())]


def command(tests: str) -> tuple[dict[str, str], list[str]]:
    """Splits a selection of tests into environment variables, written NAME=value as in a shell, and pytest's
    arguments."""
    words = shlex.split(tests)
    count = next((i for i, word in enumerate(words) if not re.match(r"[A-Z_]+=", word)), len(words))
    return dict(word.split("=", 1) for word in words[:count]), words[count:]


def tested(sandbox: Sandbox, tests: str) -> tuple[int, str]:
    """The exit status of pytest for a selection of tests, and the end of its output."""
    environment, arguments = command(tests)
    return sandbox.test(arguments, **environment)


def wrong(fault: Fault, root: Path) -> str | None:
    """What is wrong with the entry of a fault, or None."""
    path = root / fault.path
    if not path.is_file():
        return f"{fault.path}: there is no such file"
    count = path.read_text().count(fault.old)
    if count != 1:
        return f"{fault.path}: {fault.old!r} must stand there once, and does {count} times"
    if fault.old == fault.new:
        return f"{fault.path}: {fault.old!r} is not changed"
    files = [word.split("::")[0] for word in command(fault.tests)[1] if word.startswith("tests/")]
    if not files:
        return f"{fault.path}: {fault.tests!r} names no file of tests/"
    return next((f"{fault.path}: its tests {name} are not there" for name in files if not (root / name).exists()), None)


def joined(selections: Iterable[str]) -> dict[str, str]:
    """For each selection the one that it is a part of: all that have the same files and environment, in one."""
    groups: dict[str, list[str]] = {}
    for tests in dict.fromkeys(selections):
        groups.setdefault(tests.partition(" -k ")[0], []).append(tests)
    whole = {}
    for files, alike in groups.items():
        words = [command(tests)[1] for tests in alike]
        chosen = [f"({one[one.index('-k') + 1]})" for one in words if "-k" in one]
        keywords = f" -k {shlex.quote(' or '.join(chosen))}" if len(chosen) == len(alike) else ""
        whole |= dict.fromkeys(alike, files + keywords)
    return whole


def outcome(sandbox: Sandbox, fault: Fault) -> Outcome:
    """A fault is killed if a test fails or the process dies; any other end of pytest says nothing about the fault."""
    begin = time.monotonic()
    sound = (sandbox.folder / fault.path).read_text()
    with sandbox.changed(fault.path, sound.replace(fault.old, fault.new)):
        code, said = sandbox.build() if compiled(fault.path) else (0, "")
        verdict = ERROR
        if code == 0:
            code, said = tested(sandbox, fault.tests)
            verdict = SURVIVED if code == 0 else KILLED if code == 1 or code < 0 else ERROR
    return Outcome(fault, verdict, time.monotonic() - begin, said)


def unfit(pool: Pool, selections: Iterable[str], console: Console) -> dict[str, str]:
    """The output of pytest for each selection of tests that does not pass without a fault."""
    selections = list(dict.fromkeys(selections))
    found = {}

    def run(sandbox: Sandbox, tests: str) -> tuple[str, int, str]:
        return tests, *tested(sandbox, tests)

    for number, (tests, code, said) in enumerate(pool.map(run, selections), 1):
        console.print(f"without a fault, {number} of {len(selections)}: {tests}", markup=False)
        if code != 0:
            found[tests] = f"{said}\nerror: without a fault, pytest {tests} gives {code}"
            console.print(found[tests], markup=False)
    return found


def run(pool: Pool, chosen: Sequence[Fault], console: Console) -> list[Outcome]:
    """What becomes of each fault, if its tests pass without it."""
    whole = joined(fault.tests for fault in chosen)
    failing = unfit(pool, whole.values(), console)

    def outcome_of(sandbox: Sandbox, fault: Fault) -> Outcome:
        said = failing.get(whole[fault.tests])
        return Outcome(fault, ERROR, 0.0, said) if said else outcome(sandbox, fault)

    outcomes = []
    for one in pool.map(outcome_of, chosen):
        outcomes.append(one)
        console.print(f"{len(outcomes)} of {len(chosen)} {one}", markup=False)
        if why := one.said if one.verdict == ERROR else first_failure(one.said)[:150]:
            console.print(f"    {why}", markup=False)
    return outcomes


def report(outcomes: Sequence[Outcome], console: Console) -> int:
    """Prints the faults that were not killed. Returns the exit status: 2 if the tests of a fault gave no verdict, else
    1 if a fault survived, else 0."""
    for one in outcomes:
        if one.verdict != KILLED:
            console.print(str(one), markup=False)
    verdicts = [one.verdict for one in outcomes]
    console.print(", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in (KILLED, SURVIVED, ERROR)))
    return 2 if ERROR in verdicts else 1 if SURVIVED in verdicts else 0
