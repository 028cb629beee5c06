"""A process that has imported what takes long and is never changed, and runs pytest in copies of itself: half the time
of a small test is the import of torch. It reads requests from its standard input, and writes the exit statuses."""

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy  # noqa: F401
import pytest
import torch  # noqa: F401


def run(arguments: list[str], environment: dict[str, str], to: str) -> None:
    """In the copy: what `python -m pytest` does, with its output in a file."""
    os.setsid()
    with open(to, "wb") as file, open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(environment)
    sys.argv = ["pytest", *arguments]
    code = pytest.main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(code))


def status(pid: int, limit: float) -> int | None:
    """The exit status of the copy, below 0 for a signal; None if it takes longer. What it has started ends with it."""
    end = time.monotonic() + limit
    try:
        while time.monotonic() < end:
            found, code = os.waitpid(pid, os.WNOHANG)
            if found:
                return os.waitstatus_to_exitcode(code)
            time.sleep(0.05)
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def main() -> None:
    sys.path.insert(0, str(Path.cwd()))
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            run(asked["arguments"], asked["environment"], asked["to"])
        code = status(pid, asked["limit"])
        if code is None:
            os.waitpid(pid, 0)
        print(json.dumps(code), flush=True)


if __name__ == "__main__":
    main()
