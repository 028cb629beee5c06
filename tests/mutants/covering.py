"""Which tests run a line of Python: found once for each file of tests, and kept in build/ while that file and all that
its tests ran are as they were."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from tests.mutants.sandbox import Pool, Sandbox

PACKAGES = ("bfn", "bfn_kernels")
PLAIN, INTERPRETED = "", "TRITON_INTERPRET=1"
FOLDERS = {PLAIN: ("tests/bfn", "tests/kernels", "tests/fuzz"), INTERPRETED: ("tests/kernels",)}


class Test(NamedTuple):
    seconds: float
    name: str  # as pytest says it
    environment: str  # PLAIN or INTERPRETED

    @property
    def function(self) -> str:
        return self.name.partition("[")[0]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.exists() else ""


def record(sandbox: Sandbox, what: tuple[str, str]) -> dict:
    """Runs a file of tests, and says what its tests ran. Tests that fail without a change are not among them."""
    environment, file = what
    to = sandbox.folder / "record.json"
    to.unlink(missing_ok=True)
    settings = dict(part.split("=") for part in environment.split()) | {"BFN_RECORD": str(to)}
    _, said = sandbox.test(["-p", "recorder", file], stop=False, **settings)
    found = json.loads(to.read_text()) if to.exists() else {"tests": [], "lines": {}, "why": said[-500:]}
    helpers = [str(p.relative_to(sandbox.folder)) for p in (sandbox.folder / file).parent.glob("*.py")]
    depends = {file, *found["lines"], *(p for p in helpers if not Path(p).name.startswith("test_"))}
    by = {path: digest(sandbox.folder / path) for path in sorted(depends)}
    return {"file": file, "environment": environment, "by": by, **found}


class Covering:
    def __init__(self, records: Iterable[dict], root: Path):
        self.root = root
        self.tests: list[Test] = []
        self.by_line: dict[tuple[str, int], set[Test]] = {}
        for one in records:
            tests = [Test(seconds, name, one["environment"]) for name, seconds in one["tests"]]
            self.tests += tests
            for path, lines in one["lines"].items():
                for line, numbers in lines.items():
                    self.by_line.setdefault((path, int(line)), set()).update(tests[n] for n in numbers)
        self.of_imports = set(self.tests).difference(*self.by_line.values())  # which look at what an import made

    @cached_property
    def texts(self) -> dict[str, list[str]]:
        return {path: (self.root / path).read_text().splitlines() for path in {path for path, _ in self.by_line}}

    def of(self, path: str, lines: Iterable[int], names: Sequence[str] = ()) -> set[Test]:
        """The tests that run one of the lines; with names, those too that run no line of any file, or a line with one
        of these, or else anything in the file. If there are none, which may be since another process runs the line,
        those of the files of tests that name the module or processes."""
        found = self._of_lines((path, line) for line in lines)
        if names:
            word = re.compile(rf"\b({'|'.join(names)})\b")
            found |= self._of_lines(
                (other, number)
                for other, text in self.texts.items()
                for number, line in enumerate(text, 1)
                if word.search(line)
            ) or self._of_lines(place for place in self.by_line if place[0] == path)
            found |= self.of_imports
        return found or self._that_name(module_of(path))

    def in_processes(self, path: str) -> set[Test]:
        """The tests that start processes, in the folder of tests of the file's package. The records lack the
        lines that run in other processes."""
        folder = "tests/bfn/" if path.startswith("bfn/") else "tests/kernels/"
        files = {test.name.partition("::")[0] for test in self.tests if test.name.startswith(folder)}
        starting = {file for file in files if "subprocess" in (self.root / file).read_text()}
        return {test for test in self.tests if test.environment == PLAIN and test.name.partition("::")[0] in starting}

    def _that_name(self, module: str) -> set[Test]:
        """The tests of files with this word, or of the file for this module, and those of several processes."""
        word = re.compile(rf"\b((test_)?{module}|processes)\b")
        files = {test.name.partition("::")[0] for test in self.tests}
        naming = {file for file in files if word.search(f"{Path(file).stem} {(self.root / file).read_text()}")}
        return {test for test in self.tests if test.name.partition("::")[0] in naming}

    def _of_lines(self, places: Iterable[tuple[str, int]]) -> set[Test]:
        return set().union(*(self.by_line.get(place, ()) for place in places))


def module_of(path: str) -> str:
    """The last part of the name by which a file is imported."""
    return Path(path.removesuffix("/__init__.py")).stem.strip("_")


def chosen(tests: Iterable[Test], budget: float, count: int, name: str = "") -> list[Test]:
    """As many as the seconds allow, at most `count`: of every function the cheapest test first, then the next. Those
    that have the name in theirs come before others."""
    turns: dict[str, int] = {}
    order = []
    for test in sorted(tests):
        turns[test.function] = turns.get(test.function, -1) + 1
        order.append((turns[test.function], name not in test.name, test))
    affordable, seconds = [], 0.0
    for *_, test in sorted(order)[:count]:
        seconds += test.seconds
        if affordable and seconds > budget:
            break
        affordable.append(test)
    return affordable


def files_of_tests(root: Path) -> list[tuple[str, str]]:
    """The files of tests, with the environment in which they are run."""
    return [
        (environment, str(path.relative_to(root)))
        for environment, folders in FOLDERS.items()
        for folder in folders
        for path in sorted((root / folder).glob("test_*.py"))
    ]


def path_of_record(root: Path, environment: str, file: str) -> Path:
    name = f"{'interpreted.' if environment else ''}{file.removesuffix('.py').replace('/', '.')}.json"
    return root / "build" / "covering" / name


def covering(root: Path, pool: Pool, tell: Callable[[str, int, int], None]) -> Covering:
    """What tests run; it tells how many files of tests it has looked at, of how many."""
    there, missing = [], []
    for what in files_of_tests(root):
        path = path_of_record(root, *what)
        one = json.loads(path.read_text()) if path.exists() else None
        sound = one and all(digest(root / other) == then for other, then in one["by"].items())
        there.append(one) if sound else missing.append(what)
    for number, one in enumerate(pool.map(record, missing), 1):
        path = path_of_record(root, one["environment"], one["file"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(one))
        there.append(one)
        tell(one["file"], number, len(missing))
    return Covering(there, root)
