"""Peak extra memory: by how much a call raises the resident set of a process of its own, including threads' buffers.

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

import torch

from benchmarks import cases
from benchmarks.cases import Case
from benchmarks.competitors import competitors, prepared
from bfn_kernels.backends import BACKENDS

HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"  # torch's switch that puts large tensors in huge pages
_context = multiprocessing.get_context("forkserver")


def start_server() -> None:
    """Starts the server; this must run before anything is allocated. From here on, this process puts all large tensors
    in huge pages, whoever makes them; the processes of the server use small ones."""
    os.environ.pop(HUGE_PAGES, None)
    _context.set_forkserver_preload(["benchmarks.__main__"])
    ensure_running()
    os.environ[HUGE_PAGES] = "1"


def peak_of(run: Callable[[], tuple]) -> int | None:
    """The bytes by which a call raises the resident set of this process; None if the system does not say."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        with open("/proc/self/clear_refs", "w") as clear:
            clear.write("5")  # resets the peak
        before = _status("VmRSS")
        kept = run()  # the results count as well
        peak = _status("VmHWM")
    except (OSError, AttributeError):
        return None
    del kept
    return peak - before


def peak_in_a_process(case: Case, name: str, seconds: float = 120) -> int | None:
    """The same as `peak_of` in a new process; None also if that process was killed."""
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
    # this starts the threads and loads the code, which must not count
    torch.zeros(2**22).add_(1)
    few = cases.few(case)
    prepared(competitor, few, cases.inputs(few)[0])()
    result.send(peak_of(run))


def _status(key: str) -> int:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
