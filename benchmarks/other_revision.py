"""The kernels of another revision as one more competitor. They run in a separate process, with the cases of this
revision, and this process times them."""

import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from io import BytesIO
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks import gate, heap, timed_cases
from benchmarks.competitors import of_backend, prepared
from benchmarks.devices import DEVICES
from benchmarks.gate import Verdict
from benchmarks.timed_cases import Case
from bfn_kernels.backends import CPU_BUILD

ROOT = Path(__file__).parent.parent


class OtherRevision:
    """A process with the kernels of another revision. It has one case at a time; calling this object runs the case."""

    def __init__(self, revision: str, backend: str, device: str):
        """revision: as `resolved` returns it."""
        self.revision, self.backend = revision, backend
        folder = built(revision, cuda=device == "cuda")
        self.pipe, other_end = Pipe()
        # with -m, the working directory is the first place that Python imports from
        command = [sys.executable, "-m", "benchmarks.other_revision", str(other_end.fileno()), device]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(command, cwd=folder, env=environment, pass_fds=[other_end.fileno()])
        other_end.close()

    def check(self, case: Case) -> Verdict | str:
        """The verdict of the gate on a case, or the reason why the case cannot run. `clock` then times this case."""
        self.pipe.send((case, self.backend))
        return self.pipe.recv()

    def clock(self, calls: int = 1) -> float:
        self.pipe.send(calls)
        return self.pipe.recv()

    def __call__(self) -> tuple:
        self.clock()
        return ()

    def close(self) -> None:
        self.pipe.close()
        self.process.wait()


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True).stdout


def resolved(revision: str) -> str:
    """The short hash of a revision. Raises ValueError if this repository does not have it."""
    try:
        return git("rev-parse", "--short", "--verify", "--quiet", f"{revision}^{{commit}}").decode().strip()
    except (OSError, subprocess.CalledProcessError):
        raise ValueError(f"{revision!r} is no revision of the repository {ROOT}") from None


def built(revision: str, cuda: bool = False) -> Path:
    """The folder with the kernels of a revision. They are built if the folder does not have them."""
    folder = ROOT / "build" / "base" / revision
    builds = ",".join([str(CPU_BUILD), *(["_cuda"] if cuda else [])])
    if not (folder / f"done {builds}").exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(fileobj=BytesIO(git("archive", revision))) as archive:
            # without its benchmarks: the process imports today's
            members = [member for member in archive if not member.name.startswith("benchmarks")]
            archive.extractall(folder, members, filter="data")
        environment = os.environ | {"BFN_BUILDS": builds} | ({} if cuda else {"BFN_NVCC": ""})
        command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        print(f"building {revision}, which takes a minute", file=sys.stderr)
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{revision} does not build:\n{done.stdout}{done.stderr}")
        (folder / f"done {builds}").touch()
    return folder


def reason(error: Exception) -> str:
    """The type of an error, and the first line of its message."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def serve(pipe: Connection, device: str) -> None:
    """Answers a case with the gate's verdict, and a number of calls with the mean seconds of a call."""
    heap.warm()  # as in the process of today's kernels
    clock = DEVICES[device]().clock
    run: Callable[[], tuple] = tuple  # until the first case
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        if isinstance(request, int):
            pipe.send(clock(run, request))
            continue
        case, backend = request
        try:
            tensors, noise = timed_cases.inputs(case, device=device)
            competitor = of_backend(backend, case)
            answer: Verdict | str = gate.check(case, competitor, tensors, noise)
            run = prepared(competitor, case, tensors)
            run()
        except Exception as error:  # such as an op that this revision does not have
            answer = reason(error)
        pipe.send(answer)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), sys.argv[2])
