"""A compiled kernel, the bound on its time that is predicted from its instructions, and the table of all kernels."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from rich.table import Table

# The multiprocessors, the clock in Hz and the bytes per second of an H100, and the lanes per multiprocessor and clock
# for each class of instructions (CUDA programming guide, compute capability 9.0); 128 instructions are issued at most.
SMS, CLOCK, BANDWIDTH, ISSUE = 132, 1.7e9, 3.35e12, 128
LANES = {"fma": 128, "imad": 64, "alu": 64, "special": 16, "fp64": 64, "memory": 32, "shuffle": 32}


@dataclass(frozen=True)
class Kernel:
    """One kernel for one architecture. Its instructions and bytes are those of one variable (of one class for discrete
    data), counted in the loop over variables; if `bytes` is 0 they were not counted."""

    backend: str
    name: str
    architecture: int
    registers: int
    shared: int = 0
    spills: int = 0
    instructions: dict[str, float] = field(default_factory=dict)
    bytes: float = 0.0
    gated: bool = False  # a budget holds its instructions

    @property
    def total(self) -> float:
        return sum(self.instructions.values())

    def seconds(self) -> dict[str, float]:
        """The predicted time for one variable if it were limited by one class of instructions, by their issue or by
        memory alone."""
        lanes = {c: (self.instructions.get(c, 0.0), rate) for c, rate in LANES.items()} | {"issue": (self.total, ISSUE)}
        taken = {name: count / rate / SMS / CLOCK for name, (count, rate) in lanes.items()}
        return taken | {"bandwidth": self.bytes / BANDWIDTH}

    def bound(self) -> str:
        seconds = self.seconds()
        return f"{max(seconds, key=seconds.__getitem__)}, {self.share_of_bandwidth():.0%}"

    def share_of_bandwidth(self) -> float:
        seconds = self.seconds()
        return seconds["bandwidth"] / max(seconds.values())


def table(kernels: Iterable[Kernel]) -> Table:
    made = Table(
        title="Predicted, not measured. Per variable; the bound is an H100's, with the share of its bandwidth.",
        title_justify="left",
    )
    made.add_column("kernel")
    for name in ("sm", "registers", "shared", "spilled", "instr.", "by class", "bytes", "predicted bound"):
        made.add_column(name, justify="right")
    for k in kernels:
        counted = ("", "", "", "")
        if k.instructions:
            most = sorted(k.instructions.items(), key=lambda item: -item[1])
            classes = " ".join(f"{name} {count:.0f}" for name, count in most if count >= 0.5)
            counted = (f"{k.total:.1f}", classes, f"{k.bytes:g}", k.bound())
        resources = (k.architecture, k.registers, k.shared, k.spills)
        made.add_row(f"{k.backend} {k.name}", *map(str, resources), *counted)
    return made
