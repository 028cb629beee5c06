"""Peak extra memory: how far a call lifts the resident set of a process of its own, threads' buffers included.

The server that those processes are forked from has imported torch and run nothing; it has 4 KiB pages, so that a
small buffer counts as what it is.
"""

import ctypes
import gc
import multiprocessing
import os
from multiprocessing.connection import Connection

import torch

from benchmarks import cases
from benchmarks.cases import Case
from benchmarks.competitors import competitors, prepared
from bfn_kernels.backends import BACKENDS

HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"  # torch's own switch: large tensors in huge pages
ALLOWED_PER_THREAD = 2**20
_context = multiprocessing.get_context("forkserver")


def start_server() -> None:
    """Before this process allocates anything: from here on its large tensors are in huge pages, whoever makes them."""
    from multiprocessing.forkserver import ensure_running

    os.environ.pop(HUGE_PAGES, None)
    _context.set_forkserver_preload(["benchmarks.memory"])
    ensure_running()
    os.environ[HUGE_PAGES] = "1"


def allowed(case: Case, result: tuple[torch.Tensor, ...]) -> int:
    """The contract: the outputs, the gradients and what was saved for them, and 1 MiB per thread."""
    output, *gradients = result
    own = 0 if case.options.get("reuse") else output.nbytes
    return own + 2 * sum(g.nbytes for g in gradients) + ALLOWED_PER_THREAD * torch.get_num_threads()


def peak_extra(case: Case, name: str, seconds: float = 120) -> int | None:
    """Bytes; None where the system does not tell, or the process was killed."""
    here, there = _context.Pipe(duplex=False)
    child = _context.Process(target=_measure, args=(case, name, there), daemon=True)
    child.start()
    there.close()
    try:
        return here.recv() if here.poll(seconds) else None
    except EOFError:
        return None
    finally:
        child.kill()
        child.join()


def _measure(case: Case, name: str, result: Connection) -> None:
    tensors, _ = cases.inputs(case)
    competitor = next(c for c in competitors(case, list(BACKENDS)) if c.name == name)
    run = prepared(competitor, case, tensors)
    # after this, threads and code are there; what torch.compile makes it makes for one shape
    torch.zeros(2**22).add_(1)
    warm = run if competitor.compiled else prepared(competitor, cases.few(case), cases.inputs(cases.few(case))[0])
    warm()
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        with open("/proc/self/clear_refs", "w") as clear:
            clear.write("5")  # the peak starts from here
        before = _status("VmRSS")
        kept = run()
        peak = _status("VmHWM")
    except (OSError, AttributeError):
        result.send(None)
        return
    del kept
    result.send(peak - before)


def _status(key: str) -> int:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
