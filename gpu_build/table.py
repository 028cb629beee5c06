"""The resources of compiled kernels, the costs of executed calls, a predicted bound on their time, and tables."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

# The assumptions of every prediction, for an H100: its multiprocessors, its clock in Hz, and the bytes per second of
# its memory and of its second-level cache (CACHE, as others have measured it). A pipe is a unit of a multiprocessor.
# PIPES has, for each pipe, the classes of instructions that it executes, and the cycles that it takes for an
# instruction of one lane (CUDA programming guide, compute capability 9.0). The unit of "tensor" is a product of 16 by 8
# by 16 for a warp, which takes one cycle at the peak of tensor cores. Products by four warps at once come near this
# peak; products by one warp reach two thirds.
SMS, CLOCK, BANDWIDTH, CACHE = 132, 1.7e9, 3.35e12, 5.5e12
PIPES = {
    "fma": {"fma": 1 / 128, "imad": 1 / 64},  # half of the lanes can multiply integers
    "alu": {"alu": 1 / 64},
    "special": {"special": 1 / 16},
    "fp64": {"fp64": 1 / 64},
    "memory": {"memory": 1 / 32, "shuffle": 1 / 32},
    "tensor": {"tensor": 1 / 32},
}
# The cycles for issuing an instruction of one lane, whatever its pipe. Units of "tensor" are left out, since one
# instruction stands for many of them.
ISSUE = 1 / 128


def cycles(instructions: Mapping[str, float]) -> dict[str, float]:
    """The cycles of each pipe of a multiprocessor, and of the issue, for numbers of instructions of one lane."""
    pipes = {pipe: sum(instructions.get(c, 0.0) * n for c, n in of.items()) for pipe, of in PIPES.items()}
    return pipes | {"issue": sum(count for c, count in instructions.items() if c != "tensor") * ISSUE}


@dataclass(frozen=True)
class Kernel:
    """The registers of a thread, the shared memory and the spills of a kernel. architecture: what it was compiled for,
    such as "sm_90" or AMD's "gfx942". straight: its columns in the table `straight`, if it has a row there."""

    backend: str
    name: str
    architecture: str
    registers: int
    shared: int = 0  # bytes
    spills: int = 0  # bytes
    straight: dict[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Execution:
    """The costs of a call. `instructions`, `bytes` and `sectors` are divided by the number of variables (`calls.Row`).

    instructions: the number of each class of instructions, such as "fma". bytes: the bytes that the call must move.
    worst: the number of instructions that the warp with the most of them executes, added over the kernels.
    sectors: the 32-byte pieces of global memory that the accesses reached. coalescing: the share of these sectors that
    would suffice if the bytes were contiguous. conflict_free: the share of the passes to shared memory that would
    suffice without bank conflicts. lanes: the share of a warp's lanes that took part.
    """

    backend: str
    name: str
    instructions: dict[str, float]
    worst: float = 0.0
    bytes: float = 0.0
    sectors: float = 0.0
    coalescing: float = 1.0
    conflict_free: float = 1.0
    lanes: float = 1.0

    @property
    def total(self) -> float:
        return sum(self.instructions.values())

    @property
    def by_class(self) -> str:
        most = sorted(self.instructions.items(), key=lambda item: -item[1])
        return " ".join(f"{name} {count:.0f}" for name, count in most if count >= 0.5)

    def seconds(self) -> dict[str, float]:
        """The predicted time for one variable if it were limited only by one pipe, by the issue of instructions, by the
        cache or by memory."""
        pipes = {name: count / SMS / CLOCK for name, count in cycles(self.instructions).items()}
        return pipes | {"cache": 32 * self.sectors / CACHE, "bandwidth": self.bytes / BANDWIDTH}

    def bound_by(self) -> str:
        """What limits the call: a pipe, the issue of instructions, the cache or the bandwidth of memory."""
        seconds = self.seconds()
        return max(seconds, key=seconds.__getitem__)

    def bound(self) -> str:
        cores = f", {self.share_of('tensor'):.0%} of tensor cores" if "tensor" in self.instructions else ""
        return f"{self.bound_by()}, {self.share_of_bandwidth():.0%}{cores}"

    def share_of_bandwidth(self) -> float:
        return self.share_of("bandwidth")

    def share_of(self, what: str) -> float:
        """The time that this limit alone predicts, as a share of the predicted time."""
        seconds = self.seconds()
        return seconds[what] / max(seconds.values())


def made(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("kernel")
    for name in columns:
        table.add_column(name, justify="right")
    return table


def compiled(kernels: Iterable[Kernel]) -> Table:
    table = made("Compiled", ("compiled for", "registers", "shared", "spilled"))
    for k in kernels:
        table.add_row(f"{k.backend} {k.name}", k.architecture, *map(str, (k.registers, k.shared, k.spills)))
    return table


def straight(kernels: Iterable[Kernel]) -> Table:
    title = (
        "Kernels without loops, for sm_90: a warp's instructions by the rules for PTX and by ptxas, and their ratio in "
        "each class. alone: the cycles of a warp that has a scheduler for itself. resident: the warps that a scheduler "
        "has. latency: alone / resident, divided by the predicted cycles of the issue or the busiest pipe."
    )
    found = [(f"{k.backend} {k.name}", k.straight) for k in kernels if k.straight]
    table = made(title, list(found[0][1]) if found else [])
    for name, columns in found:
        table.add_row(name, *(f"{n:.2f}" if n < 10 else f"{n:.0f}" for n in columns.values()))
    return table


def executed(executions: Iterable[Execution]) -> Table:
    columns = (
        "instr.",
        "worst warp",
        "by class",
        "bytes",
        "sectors",
        "coalesced",
        "no conflict",
        "lanes",
        "predicted bound",
    )
    title = (
        "Executed, as PTX for sm_90. Instructions, bytes and sectors are per variable. The bound is predicted for an "
        "H100, with the share of its bandwidth and of its tensor cores' peak."
    )
    table = made(title, columns)
    for e in executions:
        shares = (f"{share:.0%}" for share in (e.coalescing, e.conflict_free, e.lanes))
        row = f"{e.total:.1f}", f"{e.worst:.0f}", e.by_class, f"{e.bytes:g}", f"{e.sectors:.3f}", *shares, e.bound()
        table.add_row(f"{e.backend} {e.name}", *row)
    return table


PREDICTED = ("backend", "call", "instructions", "bytes", "sectors", "bound_by", "picoseconds", "share_of_bandwidth")


def write_csv(executions: Iterable[Execution], path: Path) -> None:
    """Writes a line for each call, with numbers per variable. The last three columns are predictions for an H100. Makes
    the file's folder if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(PREDICTED)
        for e in executions:
            time, share = 1e12 * max(e.seconds().values()), e.share_of_bandwidth()
            counts = f"{e.total:.1f}", f"{e.bytes:g}", f"{e.sectors:.3f}"
            writer.writerow((e.backend, e.name, *counts, e.bound_by(), f"{time:.2f}", f"{share:.3f}"))
