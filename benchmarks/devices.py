"""The devices that cases run on: each has a clock, and measures by how much a call raises memory."""

import time

import torch

from benchmarks import memory
from benchmarks.competitors import Competitor
from benchmarks.memory import Run
from benchmarks.timed_cases import Case


class Cpu:
    name = "cpu"
    seconds = 1.5  # for all repetitions of a competitor in a case
    shortest = 1e-3  # seconds; a repetition makes so many calls that it takes at least this time
    max_elements = 2**28  # see `competitors`

    def now(self) -> float:
        return time.perf_counter()

    def clock(self, run: Run, calls: int = 1) -> float:
        """The seconds that a call takes."""
        start = self.now()
        for _ in range(calls):
            run()
        return (self.now() - start) / calls

    def machine(self) -> dict[str, str]:
        return {}

    def peak(self, case: Case, competitor: Competitor, run: Run) -> int | None:
        # compiled code exists only in this process, and compiling it again would take long
        if competitor.compiled:
            return memory.peak_of(run)
        return memory.peak_in_a_process(memory.runs_of, case, competitor.name)


class BusyCpu(Cpu):
    """A CPU that other processes use, too. Only the time counts in which this process computes, with all threads."""

    def now(self) -> float:
        return time.process_time()

    def machine(self) -> dict[str, str]:
        return {"clock": "CPU time"}


class Gpu:
    """A GPU, timed by its events and with a cold L2: before each call, more memory is written than an L2 holds. The
    launches of the call are queued during this write. So the time of a launch counts only if the GPU waits for it."""

    name = "cuda"
    seconds = 0.5
    shortest = 0.0  # a second call in a repetition would find the inputs in the L2
    max_elements = 2**30

    def __init__(self):
        self.flushed = torch.empty(2**28, dtype=torch.uint8, device="cuda")

    def clock(self, run: Run, calls: int = 1) -> float:
        milliseconds = 0.0
        for _ in range(calls):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            self.flushed.zero_()
            start.record()
            run()
            end.record()
            end.synchronize()
            milliseconds += start.elapsed_time(end)
        return milliseconds * 1e-3 / calls

    def machine(self) -> dict[str, str]:
        return {"gpu": torch.cuda.get_device_name(), "cuda": str(torch.version.cuda)}

    def peak(self, case: Case, competitor: Competitor, run: Run) -> int | None:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before


Device = Cpu | Gpu
DEVICES: dict[str, type[Device]] = {"cpu": Cpu, "cuda": Gpu}
