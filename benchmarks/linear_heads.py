"""Times the cross-entropy of a linear head and its gradients for vocabularies of language models, and the memory that
both take.

"compiled, chunked" is torch.compile with inductor's setting auto_chunker. "F.linear_cross_entropy" is torch's function
with its chunks. "two passes" computes the logits again in the backward pass, as the kernels of cut-cross-entropy do;
those kernels need a GPU. (On a CPU, cut-cross-entropy compiles the same lines as "compiled".)
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import csv_files, measure, memory
from benchmarks.devices import Cpu
from benchmarks.report import MIB, duration, number
from bfn_kernels import vocabulary

SIZES, WIDTH, TOKENS = (32_000, 128_256), 768, 512
COLUMNS = ("K", "code", "loss and gradients", "MiB")
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Head:
    """The milliseconds of a loss with all gradients, and the bytes by which they raise the peak of memory."""

    num_classes: int
    code: str
    ms: float
    peak_bytes: float


def cells(found: Head) -> list[str]:
    return [str(found.num_classes), found.code, duration(found.ms), number(found.peak_bytes / MIB, ".0f")]


def eager(x: Tensor, hidden: Tensor, weight: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight), x)


def chunks_of_torch(x: Tensor, hidden: Tensor, weight: Tensor) -> Tensor:
    return F.linear_cross_entropy(hidden, weight, x, options=torch.nn.LinearCrossEntropyOptions())


def by_chunks(x: Tensor, hidden: Tensor, weight: Tensor) -> Tensor:
    return vocabulary.loss_by_chunks(partial(F.cross_entropy, reduction="none"), hidden, weight, None, x)


def two_passes(x: Tensor, hidden: Tensor, weight: Tensor) -> Tensor:
    return vocabulary.reconstruction_loss(x, hidden, weight, reduction="none").mean()


def compiled(**options: Any) -> Loss:
    return torch.compile(eager, dynamic=False, options=options)


CODES: dict[str, Callable[[], Loss]] = {
    "F.cross_entropy": lambda: eager,
    "compiled": compiled,
    "compiled, chunked": lambda: compiled(**{"auto_chunker.enable": True}),
    "F.linear_cross_entropy": lambda: chunks_of_torch,
    "loss_by_chunks": lambda: by_chunks,
    "reconstruction_loss": lambda: vocabulary.reconstruction_loss,
    "reconstruction_loss, two passes": lambda: two_passes,
}


def call(code: str, num_classes: int) -> Callable[[], tuple]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(num_classes, (TOKENS,), generator=generator)
    hidden, weight = (torch.randn(n, WIDTH, generator=generator) for n in (TOKENS, num_classes))
    leaves = [hidden.requires_grad_(), weight.div_(math.sqrt(WIDTH)).requires_grad_()]
    loss = CODES[code]()

    def run() -> tuple:
        found = loss(x, *leaves)
        return found, torch.autograd.grad(found, leaves)

    return run


def runs(code: str, num_classes: int) -> tuple[Callable[[], tuple], Callable[[], tuple]]:
    """The call, twice: the first call compiles it."""
    run = call(code, num_classes)
    return run, run


def measured(num_classes: int) -> list[Head]:
    calls = {code: call(code, num_classes) for code in CODES}
    wanted = calls["F.cross_entropy"]()
    for run in calls.values():
        torch.testing.assert_close(run(), wanted, rtol=1e-4, atol=1e-6)
    times = measure.timings(calls, Cpu.seconds, Cpu())
    peaks = {code: memory.peak_in_a_process(runs, code, num_classes) for code in CODES}
    return [
        Head(num_classes, code, 1e3 * times[code].median, math.nan if peak is None else peak)
        for code, peak in peaks.items()
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.linear_heads", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="K")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/heads.csv"), help="the CSV to write")
    options = parser.parse_args(arguments)
    machine = measure.begun(Cpu())
    found: list[Head] = []
    for num_classes in options.sizes:
        found += measured(num_classes)
    for head in found:
        print(", ".join(cells(head)), file=sys.stderr)
    csv_files.write(Head, found, machine, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
