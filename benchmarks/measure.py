"""Time: repetitions in turn, medians and percentiles; and what the machine can do."""

import gc
import platform
import subprocess
from dataclasses import dataclass

import torch

from benchmarks.devices import Device, Run
from bfn_kernels import __version__
from bfn_kernels.backends import CPU_BUILD

SHORT = 0.05  # seconds of a call that others disturb
REPETITIONS = (3, 60)  # at least, at most


@dataclass(frozen=True)
class Timing:
    """Seconds a call over the repetitions."""

    seconds: tuple[float, ...]

    def percentile(self, percent: float) -> float:
        return torch.tensor(self.seconds, dtype=torch.float64).quantile(percent / 100).item()

    @property
    def median(self) -> float:
        return self.percentile(50)

    @property
    def repetitions(self) -> int:
        return len(self.seconds)


def timings(runs: dict[str, Run], seconds: float, device: Device) -> dict[str, Timing]:
    """Each run, which has run before, is given about so many seconds. Their repetitions take turns, so that all see the
    same machine; those of which three take longer than that come to an end first. A short one is called once before it
    is timed: what others leave behind, in caches and in threads that still spin, is not its own."""
    calls, left, found = {}, {}, {}
    for name, run in runs.items():
        once = device.clock(run)
        if once < seconds:  # one call says little of how long a short one takes
            once = min(once, *(device.clock(run) for _ in range(2)))
        calls[name] = max(1, round(device.shortest / once))
        left[name] = min(max(round(seconds / (once * calls[name])), REPETITIONS[0]), REPETITIONS[1])
        found[name] = [once] if once >= seconds else []
    gc.collect()
    gc.disable()
    try:
        for _ in range(REPETITIONS[1]):
            for name, run in runs.items():
                if len(found[name]) < left[name]:
                    if min(found[name], default=0.0) < SHORT:
                        run()
                    found[name].append(device.clock(run, calls[name]))
    finally:
        gc.enable()
    return {name: Timing(tuple(values)) for name, values in found.items()}


def copy_bandwidth(device: Device, megabytes: int = 256) -> float:
    """GB/s of torch's copy between tensors that are there already, bytes read and written."""
    source = torch.ones(megabytes * 2**18, device=device.name)
    target = torch.empty_like(source)
    timing = timings({"copy": lambda: (target.copy_(source),)}, 0.5, device)["copy"]
    return 2 * source.nbytes / timing.median / 1e9


def machine(device: Device) -> dict[str, str]:
    """What a figure is worth without which nothing."""
    return device.machine() | {
        "processor": f"{processor()} ({torch.backends.cpu.get_cpu_capability()})",
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "compiler": compiler(),
        "python": platform.python_version(),
        "bfn_kernels": __version__,
        "build": str(CPU_BUILD),
    }


def processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def compiler() -> str:
    """The one that torch.compile uses, and setup.py too."""
    try:
        return subprocess.run(["c++", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "none"
