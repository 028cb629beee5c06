"""Mutants at random places, each with the tests that name its module, and then with those of its package."""

import functools
import itertools
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tests.mutants.mutant import Mutant, drawn
from tests.mutants.native_places import native_mutants
from tests.mutants.python_places import parses, python_mutants
from tests.mutants.sandbox import HERE, KILLED, SURVIVED, TIMEOUT, Pool, Sandbox, compiled, first_failure
from tests.mutants.written import parsed

EQUIVALENT = "equivalent"
EQUIVALENTS = parsed((HERE / "equivalents.txt").read_text())
PACKAGES = {"bfn": ["tests/bfn"], "bfn_kernels": ["tests/kernels", "tests/fuzz"]}  # and the folders of their tests
LIMIT = 3600.0  # the most seconds for the tests of a package
# CUDA's kernels on the host are slow, and run the same Python as those of the CPU, except for large vocabularies.
FEW = "not cuda_on_host or vocabulary"
FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", re.MULTILINE)  # a line of pytest
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


def reason(path: str, old: str, new: str) -> str | None:
    """The reason why no test can see the change, or None if there is no such reason. The lines have no indentation."""
    return next((e.tests for e in EQUIVALENTS if (e.path, e.old) == (path, old) and e.new in ("", new)), None)


class Selection(NamedTuple):
    arguments: list[str]  # of pytest
    environment: dict[str, str]


def module_of(path: str) -> str:
    """The last part of the name by which a file is imported."""
    return Path(path.removesuffix("/__init__.py")).stem.strip("_")


def selections(root: Path, path: str) -> list[Selection]:
    """The tests that should see a change of the file. Those that are likely to see it come first."""
    if path.startswith("csrc/cuda/"):  # compiled for the host when the first of these tests asks for them
        return [Selection([*CUDA_FILES, "-k", "cuda_on_host and float32"], {})]
    if path.startswith("csrc/"):
        return [Selection([*some, "-k", "cpu or called_directly"], {}) for some in (TABLE_FILES, ["tests/kernels"])]
    if re.fullmatch(r"bfn_kernels/(\w+/triton\w*|triton_ops/\w+)\.py", path):
        return [Selection(some, {"TRITON_INTERPRET": "1"}) for some in (TABLE_FILES, ["tests/kernels"])]
    word = re.compile(rf"\b(test_)?{module_of(path)}\b")
    folders = [folder for folder in PACKAGES[path.split("/")[0]] if (root / folder).exists()]
    files = [file for folder in folders for file in sorted((root / folder).glob("test_*.py"))]
    naming = [str(file.relative_to(root)) for file in files if word.search(f"{file.stem} {file.read_text()}")]
    naming.sort(key=lambda file: not file.endswith(f"test_{module_of(path)}.py"))
    first = [naming] if 0 < len(naming) < len(files) else []
    return [Selection([*some, "-k", FEW], {}) for some in (*first, folders)]


def judged(root: Path, unfit: set[str], sandbox: Sandbox, mutant: Mutant) -> Verdict | None:
    """Puts a mutant into a sandbox and runs the tests that should see it, except those in `unfit`, to which it adds a
    test that also fails without the mutant. Returns None if the change leaves no code that parses or compiles."""
    begin, text = time.monotonic(), (root / mutant.path).read_text()
    changed = mutant.put_into(text)
    if mutant.path.endswith(".py") and not parses(changed):
        return None
    while True:
        with sandbox.changed(mutant.path, changed):
            if compiled(mutant.path) and sandbox.build()[0] != 0:
                return None
            verdict, why, failed = tested(root, unfit, sandbox, mutant.path)
        if failed is None or sandbox.test([failed])[0] == 0:
            break
        unfit.add(failed)
    old, new = mutant.diff(text)
    if verdict == SURVIVED and (known := reason(mutant.path, old, new)):
        verdict, why = EQUIVALENT, known
    place = f"{mutant.path}:{mutant.row(text)}"
    return Verdict(mutant, verdict, place, old, new, time.monotonic() - begin, why)


def tested(root: Path, unfit: set[str], sandbox: Sandbox, path: str) -> tuple[str, str, str | None]:
    """The verdict, the reason, and the name of a test that failed in the plain environment."""
    left_out = [f"--deselect={name}" for name in unfit]
    for arguments, environment in selections(root, path):
        code, said = sandbox.test([*arguments, *left_out], LIMIT, **environment)
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            failed = None if environment else FAILED.search(said)
            return KILLED, _why(code, said), failed and failed[1]
    return SURVIVED, "by all tests that should see it", None


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


def run(root: Path, pool: Pool, chosen: Iterator[Mutant], count: int, console: Console) -> list[Verdict]:
    """Judges so many mutants, and says each verdict as it comes."""
    verdicts = []
    with Progress(console=console, disable=not console.is_terminal) as progress:
        judges = pool.map(functools.partial(judged, root, set()), chosen, count)
        for one in progress.track(judges, total=count):
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
