"""What is known of a compiled kernel, the bound that this predicts, and the table of them all."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from rich.table import Table

# An H100: multiprocessors, clock in Hz, bytes per second; lanes per multiprocessor and clock for each class of
# instructions (CUDA programming guide, compute capability 9.0); all instructions share 128.
SMS, CLOCK, BANDWIDTH, ISSUE = 132, 1.7e9, 3.35e12, 128
LANES = {"fma": 128, "imad": 64, "alu": 64, "special": 16, "fp64": 64, "memory": 32, "shuffle": 32}


@dataclass(frozen=True)
class Kernel:
    """One kernel for one architecture. Instructions and bytes are those of one variable (one class, of discrete
    data), by the instructions of the loop over them; without `bytes` they were not counted."""

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
        """Predicted for one variable, if nothing but that class, the issue of instructions or memory held it back."""
        lanes = {c: (self.instructions.get(c, 0.0), rate) for c, rate in LANES.items()} | {"issue": (self.total, ISSUE)}
        taken = {name: count / rate / SMS / CLOCK for name, (count, rate) in lanes.items()}
        return taken | {"bandwidth": self.bytes / BANDWIDTH}

    def bound(self) -> str:
        seconds = self.seconds()
        most = max(seconds, key=seconds.__getitem__)
        return f"{most}, {seconds['bandwidth'] / seconds[most]:.0%}"


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
