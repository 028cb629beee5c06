"""Makes sure that a run is the work of one process, since two that write to one directory would spoil its files."""

import fcntl
import os
from contextlib import ExitStack
from pathlib import Path
from typing import IO

LOCK_FILE = ".lock"
# The environment variables in which torchrun and MPI say how many processes they started.
COUNTS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


class RunError(RuntimeError):
    """A run that cannot be started here; the message says why."""


def refuse_several_processes() -> None:
    """Raises a RunError if the environment says that this process is one of several."""
    for name in COUNTS:
        count = os.environ.get(name, "")
        if count.isdigit() and int(count) > 1:
            raise RunError(f"bfn trains in one process, and {name}={count}: start it without torchrun or MPI")


def lock(directory: Path) -> IO[str]:
    """Locks the directory until the returned file is closed, at the latest by the end of the process."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            file = held.enter_context(open(directory / LOCK_FILE, "a"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held.pop_all()
    except BlockingIOError as error:
        raise RunError(f"another run is at work in {directory}; wait for it, or choose another out=") from error
    except OSError as error:
        raise RunError(f"{directory} cannot hold a run, choose another out=: {error.strerror}") from error
    return file
