"""Makes sure that a run has its directory for itself: a second run that writes there would spoil its files."""

import fcntl
import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import IO

LOCK_FILE = ".lock"
# The environment variables in which torchrun and MPI say how many processes they started.
COUNTS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
# The environment variables in which torchrun, and accelerate by it, say how the processes find each other.
GROUP = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class RunError(RuntimeError):
    """A run that cannot be started or go on here; the message says why."""


def several_processes() -> str:
    """WORLD_SIZE=2, say, if the environment says that this is one of several processes, and else nothing."""
    counts = {name: os.environ.get(name, "") for name in COUNTS}
    return next((f"{name}={n}" for name, n in counts.items() if n.isdigit() and int(n) > 1), "")


def refuse_several_processes() -> None:
    """Raises a RunError if this process is one of several, which would all write the same files."""
    if found := several_processes():
        raise RunError(f"this is the work of one process, and {found}: start it without torchrun or MPI")


def refuse_lost_processes() -> None:
    """Raises a RunError if this process is one of several that were not told how to find each other: each of them would
    do the work of all."""
    missing = [name for name in GROUP if name not in os.environ]
    if missing and (found := several_processes()):
        raise RunError(
            f"{found}, and without {', '.join(missing)} several processes cannot find each other; start them by "
            "torchrun or accelerate"
        )


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


def require_room(directory: Path, size: int) -> None:
    """Raises a RunError if the disk has no room for so many bytes."""
    free = shutil.disk_usage(directory).free
    if free < size:
        raise RunError(
            f"{directory} needs {size / 1e6:.1f} MB for two checkpoints, and its disk has {free / 1e6:.1f} MB free; "
            "make room, or choose another out="
        )
