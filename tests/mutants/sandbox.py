"""A copy of the code, in which it may be changed, built and tested; the user's own files are never touched."""

import contextlib
import os
import queue
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

HERE = Path(__file__).resolve().parent
LIMIT = 900  # the most seconds for a build or a selection of tests
TIMEOUT = 124  # the exit status of what took longer
KILLED, SURVIVED = "killed", "SURVIVED"
Item, Result = TypeVar("Item"), TypeVar("Result")


def compiled(path: str) -> bool:
    """Whether it is in what setup.py compiles without nvcc."""
    return path.startswith("csrc/") and not path.startswith("csrc/cuda/")


def first_failure(said: str) -> str:
    """The first line of pytest's output that says why a test failed; "" if there is none."""
    return next((line[1:].strip() for line in said.splitlines() if line.startswith("E  ")), "")


class Sandbox:
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

    @property
    def environment(self) -> dict[str, str]:
        """Without any cache of compiled code, since a change may leave the size and time of a file as they were."""
        return {
            "OMP_NUM_THREADS": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # with ninja
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(self.folder),
            "MAX_JOBS": str(self.jobs),
            "TORCHINDUCTOR_CACHE_DIR": str(self.folder / "build" / "inductor"),
        }

    def run(self, arguments: Sequence[str], limit: float = LIMIT, **environment: str) -> tuple[int, str]:
        """The exit status of Python and the end of its output."""
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=os.environ | self.environment | environment,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        with process:
            try:
                said, _ = process.communicate(timeout=limit)
                return process.returncode, said[-4000:]
            except subprocess.TimeoutExpired:
                return TIMEOUT, f"it took more than {limit:.0f} s"
            finally:  # whatever it has started
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    def test(self, arguments: Sequence[str], limit: float = LIMIT, **environment: str) -> tuple[int, str]:
        """The exit status of pytest, which the first failure ends, and the end of its output."""
        shutil.rmtree(self.folder / "build" / "inductor", ignore_errors=True)
        return self.run(["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *arguments], limit, **environment)

    def prepare(self) -> None:
        """Builds the code without a change, so that one of csrc compiles what includes it alone."""
        code, said = self.build()
        if code != 0:
            raise RuntimeError(said)
        for part in ("build", "bfn_kernels"):
            shutil.copytree(self.folder / part, self.folder / "sound" / part, ignore=lambda *_: {"compiled"})

    def build(self) -> tuple[int, str]:
        """Builds only the extension that is loaded here, with -O1, which takes a quarter of the time, and without nvcc,
        since CUDA's kernels are tested on the host."""
        code, name = self.run(["-c", "from bfn_kernels.backends import CPU_BUILD; print(CPU_BUILD)"])
        if code != 0:
            return code, name
        options = {"BFN_BUILDS": name.split()[-1], "BFN_NVCC": "", "BFN_CXX_FLAGS": "-O1"}
        return self.run(["setup.py", "-q", "build_ext", "--inplace"], **options)

    @contextlib.contextmanager
    def changed(self, path: str, text: str) -> Iterator[None]:
        """Within it the file has this text; after it the file is as it was, its times too, and so is what was built."""
        file = self.folder / path
        sound, times = file.read_text(), file.stat()
        try:
            file.write_text(text)
            yield
        finally:
            file.write_text(sound)
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
            if compiled(path):
                shutil.copytree(self.folder / "sound", self.folder, dirs_exist_ok=True)


class Pool:
    """Several sandboxes that work at the same time."""

    def __init__(self, sandboxes: Sequence[Sandbox]):
        self._sandboxes, self._idle = sandboxes, queue.SimpleQueue()
        for sandbox in sandboxes:
            self._idle.put(sandbox)

    def each(self, task: Callable[[Sandbox], None]) -> None:
        """Runs the task in every sandbox."""
        with ThreadPoolExecutor(len(self._sandboxes)) as threads:
            list(threads.map(task, self._sandboxes))

    def _one(self, task: Callable[[Sandbox, Item], Result], item: Item) -> Result:
        sandbox = self._idle.get()
        try:
            return task(sandbox, item)
        finally:
            self._idle.put(sandbox)

    def map(
        self, task: Callable[[Sandbox, Item], Result], items: Iterable[Item], count: int | None = None
    ) -> Iterator[Result]:
        """Yields the results of the task as they come, for each item; with a `count` until so many are not None."""
        items, found = iter(items), 0
        with ThreadPoolExecutor(len(self._sandboxes)) as threads:
            pending = set()
            while True:
                at_once = len(self._sandboxes) if count is None else min(len(self._sandboxes), count - found)
                while len(pending) < at_once and (item := next(items, None)) is not None:
                    pending.add(threads.submit(self._one, task, item))
                if not pending:
                    return
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for result in (future.result() for future in done):
                    if result is not None:
                        found += 1
                        yield result


@contextlib.contextmanager
def pool(root: Path, folder_of: Callable[[], contextlib.AbstractContextManager[str]], workers: int) -> Iterator[Pool]:
    """So many sandboxes, each in a folder of its own."""
    with contextlib.ExitStack() as stack:
        folders = [stack.enter_context(folder_of()) for _ in range(workers)]
        jobs = max(1, (os.cpu_count() or 1) // workers)
        yield Pool([Sandbox(root, Path(folder), jobs) for folder in folders])
