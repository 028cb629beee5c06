"""Peak extra memory: by how much a call raises the resident set of a separate process, including threads' buffers.

These processes are forked from a server that has imported torch and run nothing. The server uses small pages, so that a
small buffer is not counted as a huge page.
"""

import ctypes
import gc
import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.forkserver import ensure_running
from typing import Any

import torch

from benchmarks import timed_cases
from benchmarks.competitors import competitors, prepared
from benchmarks.timed_cases import Case
from bfn_kernels.backends import BACKENDS

HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"  # torch's switch that puts large tensors in huge pages
Run = Callable[[], tuple]
_context = multiprocessing.get_context("forkserver")


def start_server() -> None:
    """Starts the server. This must run before anything is allocated. From here on, this process puts all large tensors
    in huge pages, and the processes of the server use small pages."""
    os.environ.pop(HUGE_PAGES, None)
    _context.set_forkserver_preload(["benchmarks.__main__"])
    ensure_running()
    os.environ[HUGE_PAGES] = "1"


def peak_of(run: Run) -> int | None:
    """Calls `run`. Returns the bytes by which the call raises the peak of this process's resident set, or None if the
    system does not report them."""
    gc.collect()
    before = _reset()
    results = run()  # the results count as well
    peak = _status("VmHWM")
    del results
    return None if before is None or peak is None else peak - before


def _reset() -> int | None:
    """Resets the peak of the resident set. Returns the current bytes of the set, or None if the system cannot reset the
    peak."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        with open("/proc/self/clear_refs", "w") as clear:
            clear.write("5")
    except (OSError, AttributeError):
        return None
    return _status("VmRSS")


def peak_in_a_process(make: Callable[..., tuple[Run, Run]], *arguments: Any, seconds: float = 120) -> int | None:
    """The same as `peak_of` in a new process; None also if this process was killed or took too long. make(*arguments)
    returns the call, and a call with few rows that first starts the threads and loads the code. `make` must be a
    function of a module."""
    receiver, sender = _context.Pipe(duplex=False)
    child = _context.Process(target=_child, args=(make, arguments, sender), daemon=True)
    child.start()
    sender.close()
    try:
        return receiver.recv() if receiver.poll(seconds) else None
    except EOFError:
        return None
    finally:
        child.kill()
        child.join()


def _child(make: Callable[..., tuple[Run, Run]], arguments: tuple, result: Connection) -> None:
    run, few = make(*arguments)
    torch.zeros(2**22).add_(1)  # this and `few` start threads and load code, which must not count
    few()
    result.send(peak_of(run))


def runs_of(case: Case, name: str) -> tuple[Run, Run]:
    """The call of a competitor in a case, and a call with few rows."""
    competitor = next(c for c in competitors(case, list(BACKENDS)) if c.name == name)
    few = timed_cases.few(case)
    return tuple(prepared(competitor, of, timed_cases.inputs(of)[0]) for of in (case, few))  # type: ignore[return-value]


def _status(key: str) -> int | None:
    """The bytes that /proc/self/status has under a key, or None if the system does not report them."""
    try:
        with open("/proc/self/status") as lines:
            return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key)), None)
    except OSError:
        return None
