"""The tables of faults, and the copy of the code that they are put into; the user's own files are never changed."""

import contextlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from fault import Fault

HERE = Path(__file__).resolve().parent
NO_TABLES = {"__main__", "fault", "workshop"}
KILLED, SURVIVED, ERROR = "killed", "SURVIVED", "ERROR"
LIMIT = 900  # the most seconds for a build or a selection of tests


class Outcome(NamedTuple):
    fault: Fault
    verdict: str
    seconds: float
    said: str = ""  # the output of the build or of pytest

    @property
    def reason(self) -> str:
        """The first line of pytest's output that says why a test failed."""
        return next((line[1:].strip() for line in self.said.splitlines() if line.startswith("E  ")), "")


def _table(path: Path) -> ModuleType:
    """Imports a table by its path, since it may have the same name as a package."""
    spec = importlib.util.spec_from_file_location(f"mutants_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def faults() -> list[Fault]:
    """The faults of all tables."""
    tables = (path for path in sorted(HERE.glob("*.py")) if path.stem not in NO_TABLES)
    return [fault for path in tables for fault in _table(path).FAULTS]


def command(tests: str) -> tuple[dict[str, str], list[str]]:
    """Splits a selection of tests into environment variables, written NAME=value as in a shell, and pytest's
    arguments."""
    words = shlex.split(tests)
    count = next((i for i, word in enumerate(words) if not re.match(r"[A-Z_]+=", word)), len(words))
    return dict(word.split("=", 1) for word in words[:count]), words[count:]


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
    files = files_of(fault.tests)
    if not files:
        return f"{fault.path}: {fault.tests!r} names no file of tests/"
    return next((f"{fault.path}: its tests {name} are not there" for name in files if not (root / name).exists()), None)


def files_of(tests: str) -> list[str]:
    """The files of tests that pytest's arguments name."""
    return [word.split("::")[0] for word in command(tests)[1] if word.startswith("tests/")]


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


def compiled(fault: Fault) -> bool:
    """Whether it is in what setup.py compiles without nvcc."""
    return fault.path.startswith("csrc/") and not fault.path.startswith("csrc/cuda/")


class Workshop:
    """A copy of the files that git does not ignore, and of the compiled extensions."""

    def __init__(self, root: Path, folder: Path, jobs: int = 1):
        """jobs: how many files a build may compile at a time."""
        self.root, self.folder, self.jobs = root, folder, jobs
        listed = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split("\0")
        names += [str(path.relative_to(root)) for path in root.glob("bfn_kernels/*.so")]
        for name in filter(None, names):
            if (root / name).is_file():  # git also lists files that were removed
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, folder / name)
        by_content = Path("build", "compiled")
        if (root / by_content).is_dir():
            shutil.copytree(root / by_content, folder / by_content)

    def _run(self, arguments: list[str], **environment: str) -> tuple[int, str]:
        """Runs Python without any cache of compiled code, since a fault may leave the size and time of a file
        unchanged."""
        shutil.rmtree(self.folder / "build" / "inductor", ignore_errors=True)
        ours = {
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(self.folder),
            "MAX_JOBS": str(self.jobs),
            "TORCHINDUCTOR_CACHE_DIR": str(self.folder / "build" / "inductor"),
        }
        try:
            done = subprocess.run(
                [sys.executable, *arguments], cwd=self.folder, env=os.environ | ours | environment, timeout=LIMIT,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return 124, f"{arguments} took more than {LIMIT} s"
        return done.returncode, done.stdout[-4000:]

    def test(self, tests: str) -> tuple[int, str]:
        """The exit status of pytest, and the end of its output."""
        environment, arguments = command(tests)
        return self._run(["-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *arguments], **environment)

    def prepare(self) -> None:
        """Builds the code without a fault, so that one of csrc compiles what includes it alone."""
        code, said = self._build()
        if code != 0:
            raise RuntimeError(said)
        for part in ("build", "bfn_kernels"):
            shutil.copytree(self.folder / part, self.folder / "sound" / part, ignore=lambda *_: {"compiled"})

    def _build(self) -> tuple[int, str]:
        """Builds only the extension that is loaded here, with -O1, which takes a quarter of the time, and without nvcc,
        since CUDA's kernels are tested on the host."""
        code, name = self._run(["-c", "from bfn_kernels.backends import CPU_BUILD; print(CPU_BUILD)"])
        if code != 0:
            return code, name
        options = {"BFN_BUILDS": name.split()[-1], "BFN_NVCC": "", "BFN_CXX_FLAGS": "-O1"}
        return self._run(["setup.py", "-q", "build_ext", "--inplace"], **options)

    def outcome(self, fault: Fault) -> Outcome:
        """A fault is killed if a test fails or the process dies; any other end of pytest says nothing about the
        fault."""
        begin = time.monotonic()
        with self._faulty(fault):
            code, said = self._build() if compiled(fault) else (0, "")
            verdict = ERROR
            if code == 0:
                code, said = self.test(fault.tests)
                verdict = SURVIVED if code == 0 else KILLED if code == 1 or code < 0 else ERROR
        return Outcome(fault, verdict, time.monotonic() - begin, said)

    @contextlib.contextmanager
    def _faulty(self, fault: Fault) -> Iterator[None]:
        """Within it the fault is there; after it the file is as it was, its times too, and so is what was built."""
        path = self.folder / fault.path
        sound, times = path.read_text(), path.stat()
        try:
            path.write_text(sound.replace(fault.old, fault.new))
            yield
        finally:
            path.write_text(sound)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
            if compiled(fault):
                shutil.copytree(self.folder / "sound", self.folder, dirs_exist_ok=True)
