"""Peak extra memory: how far a call lifts the resident set of a process of its own, threads' buffers included.

The server that those processes are forked from has imported torch and run nothing; it has small pages, so that a
small buffer counts as what it is.
"""

import ctypes
import gc
import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.forkserver import ensure_running

import torch

from benchmarks import cases
from benchmarks.cases import Case
from benchmarks.competitors import competitors, prepared
from bfn_kernels.backends import BACKENDS

HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"  # torch's own switch: large tensors in huge pages
_context = multiprocessing.get_context("forkserver")


def start_server() -> None:
    """Before anything is allocated: its processes have small pages, this one from here on huge ones for what is large,
    whoever makes it."""
    os.environ.pop(HUGE_PAGES, None)
    _context.set_forkserver_preload(["benchmarks.__main__"])
    ensure_running()
    os.environ[HUGE_PAGES] = "1"


def peak_of(run: Callable[[], tuple]) -> int | None:
    """Bytes by which a call lifts this process; None where the system does not tell."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        with open("/proc/self/clear_refs", "w") as clear:
            clear.write("5")  # the peak starts from here
        before = _status("VmRSS")
        kept = run()  # its results are part of it
        peak = _status("VmHWM")
    except (OSError, AttributeError):
        return None
    del kept
    return peak - before


def peak_in_a_process(case: Case, name: str, seconds: float = 120) -> int | None:
    """The same in a fresh one; None where it was killed, too."""
    here, there = _context.Pipe(duplex=False)
    child = _context.Process(target=_child, args=(case, name, there), daemon=True)
    child.start()
    there.close()
    try:
        return here.recv() if here.poll(seconds) else None
    except EOFError:
        return None
    finally:
        child.kill()
        child.join()


def _child(case: Case, name: str, result: Connection) -> None:
    competitor = next(c for c in competitors(case, list(BACKENDS)) if c.name == name)
    run = prepared(competitor, case, cases.inputs(case)[0])
    # after this, threads and code are there
    torch.zeros(2**22).add_(1)
    few = cases.few(case)
    prepared(competitor, few, cases.inputs(few)[0])()
    result.send(peak_of(run))


def _status(key: str) -> int:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
