"""Where cases run: each device's clock, and how far a call lifts its memory."""

import time
from collections.abc import Callable

import torch

from benchmarks import memory
from benchmarks.cases import Case
from benchmarks.competitors import Competitor

Run = Callable[[], tuple]


class Cpu:
    name = "cpu"
    seconds = 1.5  # for the repetitions of one competitor in one case
    shortest = 1e-3  # a repetition makes as many calls as it takes to last so long
    max_elements = 2**28  # see `competitors`

    def clock(self, run: Run, calls: int = 1) -> float:
        """Seconds a call."""
        start = time.perf_counter()
        for _ in range(calls):
            run()
        return (time.perf_counter() - start) / calls

    def machine(self) -> dict[str, str]:
        return {}

    def peak(self, case: Case, competitor: Competitor, run: Run) -> int | None:
        # what torch.compile made is here, and would take long to be made again
        return memory.peak_of(run) if competitor.compiled else memory.peak_in_a_process(case, competitor.name)


class Gpu:
    """By the GPU's own clock, with a cold L2: before each call more is written than one holds. While that lasts the
    call's launches are queued, so that they count only where they take longer."""

    name = "cuda"
    seconds = 0.5
    shortest = 0.0  # a second call would find in the L2 what the first has left there
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
