"""Times a training step of bfn's transformer for vocabularies of several sizes, with probabilities ("rows") and with
vectors as its input. From `bfn.model.LARGE` classes on, vectors are faster.

Both networks have the sizes of `bfn train text_bpe`, and the same tokens with frequencies by Zipf's law.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import csv_files, measure
from benchmarks.devices import Cpu
from benchmarks.report import duration
from bfn.configs import load
from bfn.data import Data
from bfn.model import BFN, DiscreteBFN, VocabularyBFN

SIZES = (256, 1000, 4000, 8000, 16_000)
EXAMPLES, LENGTH = 4, 64
COLUMNS = ("K", "parameters, rows", "parameters, vectors", "step, rows", "step, vectors", "rows / vectors")


@dataclass(frozen=True)
class Step:
    """The numbers of parameters of both networks, and the milliseconds of their steps."""

    num_classes: int
    rows_parameters: int
    vectors_parameters: int
    rows_ms: float
    vectors_ms: float


def cells(found: Step) -> list[str]:
    parameters = [f"{number / 1e6:.1f} M" for number in (found.rows_parameters, found.vectors_parameters)]
    times = [duration(found.rows_ms), duration(found.vectors_ms)]
    return [str(found.num_classes), *parameters, *times, f"{found.rows_ms / found.vectors_ms:.2f}"]


def tokens(num_classes: int) -> Data:
    """Windows of tokens with frequencies by Zipf's law."""
    p = 1 / (torch.arange(num_classes) + 2.7)
    x = torch.multinomial(p, EXAMPLES * LENGTH, replacement=True, generator=torch.Generator().manual_seed(0))
    x = x.view(EXAMPLES, LENGTH)
    return Data(x, x, x, num_classes, 0.0)


def step(model: BFN, data: Data) -> Callable[[], tuple[torch.Tensor, ...]]:
    parameters = list(model.parameters())
    t = (torch.arange(EXAMPLES) + 0.5) / EXAMPLES
    return lambda: torch.autograd.grad(model(data.train, t, seed=1), parameters)


def measured(num_classes: int) -> Step:
    config, data = load("text_bpe"), tokens(num_classes)
    models: dict[str, BFN] = {"rows": DiscreteBFN(config, data), "vectors": VocabularyBFN(config, data)}
    runs = {name: step(model, data) for name, model in models.items()}
    ms = {name: 1e3 * found.median for name, found in measure.timings(runs, Cpu.seconds, Cpu()).items()}
    rows, vectors = (sum(p.numel() for p in model.parameters()) for model in models.values())
    return Step(num_classes, rows, vectors, ms["rows"], ms["vectors"])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vocabularies", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="K")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/vocabularies.csv"), help="the CSV to write")
    options = parser.parse_args(arguments)
    machine = measure.begun(Cpu())
    steps = []
    for num_classes in options.sizes:
        steps.append(measured(num_classes))
        print(", ".join(cells(steps[-1])), file=sys.stderr)
    csv_files.write(Step, steps, machine, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
