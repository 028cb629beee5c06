"""Makes sure that a run has its directory for itself: a second run would spoil the files of the first."""

import fcntl
from contextlib import ExitStack
from pathlib import Path
from typing import IO

LOCK_FILE = ".lock"


class RunError(RuntimeError):
    """The error of a run that cannot start or go on. The message says why."""


def lock(directory: Path) -> IO[str]:
    """Locks the directory until the returned file is closed or the process ends."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            file = stack.enter_context(open(directory / LOCK_FILE, "a"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            stack.pop_all()  # the file stays open
    except BlockingIOError as error:
        raise RunError(f"another run is at work in {directory}; wait for it, or choose another out=") from error
    except OSError as error:
        raise RunError(f"{directory} cannot hold a run, choose another out=: {error.strerror}") from error
    return file
