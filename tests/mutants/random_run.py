"""Mutants at random places, each with the tests that run its line."""

import contextlib
import itertools
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tests.mutants.covering import INTERPRETED, PACKAGES, PLAIN, Covering, Test, chosen, covering, module_of
from tests.mutants.mutant import Mutant, drawn
from tests.mutants.native_places import families, native_mutants
from tests.mutants.python_places import parses, python_mutants
from tests.mutants.sandbox import HERE, KILLED, SURVIVED, TIMEOUT, Pool, Sandbox, compiled, first_failure
from tests.mutants.written import parsed

EQUIVALENT = "equivalent"
EQUIVALENTS = parsed((HERE / "equivalents.txt").read_text())
# Seconds and number of the tests that a mutant meets at first, and of those that it meets if it is alive then. The
# first few kill most mutants, and pytest has to read few files for them. What is alive then meets tests of processes.
ROUNDS = ((5.0, 8), (15.0, 40), (60.0, 200))
IN_PROCESSES = 200.0, 200
START = 180.0  # the most seconds for pytest to collect, on a machine that does other things, too
NATIVE_EVERY = 8  # one in so many mutants is C++
CUDA_FILES = [f"tests/kernels/test_{name}.py" for name in ("binary", "ties", "times", "gradients", "accuracy")]
# The files that hold kernels to the reference, and one that calls compiled operators with bad arguments.
TABLE_FILES = [f"tests/kernels/test_{name}.py" for name in ("accuracy", "bins", "errors")]


class Verdict(NamedTuple):
    mutant: Mutant
    verdict: str
    place: str
    old: str
    new: str
    seconds: float
    why: str  # the first line that says why a test failed, or why no test did

    def __str__(self) -> str:
        said = f"{self.verdict} {self.mutant.kind} {self.place}, {self.why} ({self.seconds:.0f} s)"
        return f"{said}\n    - {self.old}\n    + {self.new}"


def runs_on_cpu(test: Test) -> bool:
    """Whether the backend `cpu` is among the test's parameters."""
    return re.search(r"\bcpu\b", test.name.partition("[")[2]) is not None


def reason(path: str, old: str, new: str) -> str | None:
    """The reason why no test can see the change, or None if there is no such reason. The lines have no indentation."""
    return next((e.tests for e in EQUIVALENTS if (e.path, e.old) == (path, old) and e.new in ("", new)), None)


class Judge:
    """Puts a mutant into a sandbox and runs the tests that should see it."""

    def __init__(self, root: Path, covered: Covering):
        self.root, self.covered = root, covered

    def __call__(self, sandbox: Sandbox, mutant: Mutant) -> Verdict | None:
        """The verdict, or None if the change leaves no code that parses or compiles."""
        begin, text = time.monotonic(), (self.root / mutant.path).read_text()
        changed = mutant.put_into(text)
        if mutant.path.endswith(".py") and not parses(changed):
            return None
        with sandbox.changed(mutant.path, changed):
            if compiled(mutant.path) and sandbox.build()[0] != 0:
                return None
            verdict, why = self.tested(sandbox, mutant)
        old, new = mutant.diff(text)
        if verdict == SURVIVED and (known := reason(mutant.path, old, new)):
            verdict, why = EQUIVALENT, known
        place = f"{mutant.path}:{mutant.row(text)}"
        return Verdict(mutant, verdict, place, old, new, time.monotonic() - begin, why)

    def tests(self, mutant: Mutant) -> set[Test]:
        if mutant.path.endswith(".py"):
            return self.covered.of(mutant.path, mutant.lines, mutant.names)
        own, file = families(self.root, mutant.path), f"/test_{module_of(mutant.path)}.py::"
        others = re.compile(rf"\b({'|'.join(families(self.root, '') - own) or '$.'})\.")
        return {
            test
            for test in self.covered.tests
            if test.environment == PLAIN and (file in test.name or (runs_on_cpu(test) and not others.search(test.name)))
        }

    def tested(self, sandbox: Sandbox, mutant: Mutant) -> tuple[str, str]:
        if mutant.path.startswith("csrc/cuda/"):
            return self.tested_on_host(sandbox, mutant)
        tests, seen = self.tests(mutant), set()
        rounds = [(tests, *most) for most in ROUNDS] + [(self.covered.in_processes(mutant.path), *IN_PROCESSES)]
        for some, budget, count in rounds:
            for environment in (PLAIN, INTERPRETED):
                left = [test for test in some - seen if test.environment == environment]
                now = chosen(left, budget, count, module_of(mutant.path))
                seen.update(now)
                if now:
                    settings = dict(part.split("=") for part in environment.split())
                    limit = START + 10 * sum(test.seconds for test in now)
                    code, said = sandbox.test([test.name for test in now], limit, **settings)
                    if code != 0:
                        return KILLED, _why(code, said)
        code, said = self.tested_on_every_case(sandbox, mutant.path)
        if code != 0:
            return KILLED, _why(code, said)
        return SURVIVED, f"by {len(seen)} tests" if tests else "no test runs this line"

    def tested_on_every_case(self, sandbox: Sandbox, path: str) -> tuple[int, str]:
        """Runs all cases of the families of a kernel, since the records have only some of these cases. A file without
        kernels passes at once."""
        triton = re.fullmatch(r"bfn_kernels/(\w+)/triton\w*\.py|bfn_kernels/triton_ops/\w+\.py", path)
        if not triton and not path.startswith("csrc/"):
            return 0, ""
        backend, settings = ("triton", {"TRITON_INTERPRET": "1"}) if triton else ("cpu", {})
        own = {triton[1]} if triton and triton[1] else families(self.root, path)
        more = "" if triton else " or called_directly"
        code, said = self.of_families(sandbox, TABLE_FILES, backend, own | {"test_bins"}, more, **settings)
        return (0, "") if code == pytest.ExitCode.NO_TESTS_COLLECTED else (code, said)

    def of_families(
        self, sandbox: Sandbox, files: Sequence[str], words: str, names: set[str], more: str = "", **settings: str
    ) -> tuple[int, str]:
        """Runs the tests in these files whose names match `words` and contain one of the `names` of families, or match
        the expression `more` of pytest."""
        there = [file for file in files if (self.root / file).exists()]
        named = " or ".join(f"{name}." for name in names)
        return sandbox.test([*there, "-k", f"{words} and ({named}){more}"], **settings)

    def tested_on_host(self, sandbox: Sandbox, mutant: Mutant) -> tuple[str, str]:
        """CUDA's kernels are compiled for the host when the first of these tests asks for them."""
        own = families(self.root, mutant.path)
        code, said = self.of_families(sandbox, CUDA_FILES, "cuda_on_host and float32", own)
        if code == pytest.ExitCode.NO_TESTS_COLLECTED:
            return SURVIVED, "no test calls this file's kernels"
        return (SURVIVED, "") if code == 0 else (KILLED, _why(code, said))


def _why(code: int, said: str) -> str:
    if code == TIMEOUT:
        return said
    return first_failure(said) or f"pytest ended with {code}"


def mutants(root: Path, seed: int, only: str, native: bool, cuda: bool) -> Iterator[Mutant]:
    """The mutants in the order of their turns, C++ among Python; `only` chooses by a part of the file's name."""
    python = drawn(python_mutants(root, PACKAGES, only), seed)
    other = drawn(native_mutants(root, cuda, only) if native else [], seed)
    for number in itertools.count(1):
        one = next(other, None) if number % NATIVE_EVERY == 0 else next(python, None)
        one = one or next(python, None) or next(other, None)
        if one is None:
            return
        yield one


def by_kind(verdicts: Sequence[Verdict]) -> Table:
    shown = Table("kind", KILLED, SURVIVED, EQUIVALENT)
    for kind in sorted({one.mutant.kind for one in verdicts}):
        count = Counter(one.verdict for one in verdicts if one.mutant.kind == kind)
        shown.add_row(kind, *(str(count[verdict]) for verdict in (KILLED, SURVIVED, EQUIVALENT)))
    return shown


@contextlib.contextmanager
def bar(console: Console, what: str) -> Iterator[Progress]:
    columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield progress


def run(root: Path, pool: Pool, chosen: Iterator[Mutant], count: int, console: Console) -> list[Verdict]:
    """Judges so many mutants, and says each verdict as it comes."""
    with bar(console, "which tests run which lines") as progress:
        task = progress.add_task("")

        def tell(file: str, number: int, of: int) -> None:
            progress.update(task, completed=number, total=of)
            console.print(f"{number} of {of}: what {file} runs", markup=False)

        judge = Judge(root, covering(root, pool, tell))
    verdicts = []
    with bar(console, "mutants") as progress:
        for one in progress.track(pool.map(judge, chosen, count), total=count):
            verdicts.append(one)
            console.print(f"{len(verdicts)} of {count} {one}", markup=False)
    return verdicts


def report(verdicts: Sequence[Verdict], console: Console) -> int:
    """Prints the survivors; the exit status is 1 if there are any."""
    survivors = [one for one in verdicts if one.verdict == SURVIVED]
    console.print(by_kind(verdicts))
    for one in survivors:
        console.print(str(one), markup=False)
    console.print(f"{len(survivors)} of {len(verdicts)} mutants survived", markup=False)
    return 1 if survivors else 0
