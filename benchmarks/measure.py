"""Measures the times of competitors, which take turns, and their medians and percentiles. Describes the machine."""

import gc
import platform
import subprocess
import time
from dataclasses import dataclass
from datetime import datetime

import torch

from benchmarks import heap, memory
from benchmarks.devices import Device, Run
from benchmarks.other_revision import OtherRevision, git
from bfn_kernels import __version__
from bfn_kernels.backends import CPU_BUILD

SHORT = 0.05  # seconds; a shorter call is disturbed by the call before it
SPINNING = 0.01  # seconds; after a call, threads spin for half of this time and occupy cores that another process needs
REPETITIONS = (3, 60)  # the least and the largest number
TRAINED = "a network was trained first"  # the state of the heap after `begun`


@dataclass(frozen=True)
class Timing:
    """The seconds that a call took in each repetition."""

    seconds: tuple[float, ...]

    def percentile(self, percent: float) -> float:
        return torch.tensor(self.seconds, dtype=torch.float64).quantile(percent / 100).item()

    @property
    def median(self) -> float:
        return self.percentile(50)

    @property
    def repetitions(self) -> int:
        return len(self.seconds)


def clock(run: Run | OtherRevision, device: Device, calls: int = 1) -> float:
    """The seconds that a call takes, by the clock of the process that makes it."""
    return run.clock(calls) if isinstance(run, OtherRevision) else device.clock(run, calls)


def timings(runs: dict[str, Run | OtherRevision], seconds: float, device: Device) -> dict[str, Timing]:
    """Times each run for about `seconds`, in 3 to 60 repetitions. The runs must have been called before.

    The repetitions of all runs take turns, so that all see the machine in the same state. A short run is called once
    before each repetition, so that the caches and spinning threads of the previous run do not disturb its time. Between
    runs of different processes, a pause lets threads stop.
    """
    calls, left, found = {}, {}, {}
    for name, run in runs.items():
        once = clock(run, device)
        if once < seconds:  # the time of one short call varies much
            once = min(once, *(clock(run, device) for _ in range(2)))
        calls[name] = max(1, round(device.shortest / once))
        left[name] = min(max(round(seconds / (once * calls[name])), REPETITIONS[0]), REPETITIONS[1])
        found[name] = [once] if once >= seconds else []
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    try:
        elsewhere = False  # whether the previous run was in the other process
        for _ in range(REPETITIONS[1]):
            for name, run in runs.items():
                if len(found[name]) < left[name]:
                    if isinstance(run, OtherRevision) != elsewhere:
                        elsewhere = not elsewhere
                        _wait(SPINNING)
                    if min(found[name], default=0.0) < SHORT:
                        run()
                    found[name].append(clock(run, device, calls[name]))
    finally:
        if collecting:
            gc.enable()
    return {name: Timing(tuple(values)) for name, values in found.items()}


def _wait(seconds: float) -> None:
    """Waits without sleeping, since a processor is slow for a while after it has slept."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def copy_bandwidth(device: Device, megabytes: int = 256) -> float:
    """The GB/s, read and written, of torch's copy between existing tensors."""
    source = torch.ones(megabytes * 2**18, device=device.name)
    target = torch.empty_like(source)
    timing = timings({"copy": lambda: (target.copy_(source),)}, 0.5, device)["copy"]
    return 2 * source.nbytes / timing.median / 1e9


def begun(device: Device) -> dict[str, str]:
    """Prepares the process, which must not have allocated anything large, and describes the machine. From here on,
    large tensors use huge pages, and tensors of up to 32 MiB use the heap that a training step has left."""
    memory.start_server()
    heap.warm()
    return machine(device) | {"heap": TRAINED}


def machine(device: Device) -> dict[str, str]:
    """A description of the machine, with which its times can be compared with others, and the date."""
    return device.machine() | {
        "processor": f"{processor()} ({torch.backends.cpu.get_cpu_capability()})",
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "compiler": compiler(),
        "python": platform.python_version(),
        "bfn_kernels": __version__,
        "build": str(CPU_BUILD),
        "revision": revision(),
        "date": datetime.now().isoformat(timespec="seconds"),
    }


def lines_of(machine: dict[str, str]) -> str:
    return "\n".join(f"{key:<14} {value}" for key, value in machine.items())


def revision() -> str:
    """The commit that is checked out, with a + if files have changed since then; "none" outside of a checkout."""
    try:
        return git("describe", "--always", "--exclude=*", "--dirty=+").decode().strip()
    except (OSError, subprocess.CalledProcessError):
        return "none"


def processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def compiler() -> str:
    """The version of `c++`, the compiler that setup.py uses unless CXX names another."""
    try:
        return subprocess.run(["c++", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "none"
