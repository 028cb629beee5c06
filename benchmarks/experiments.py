"""Records the results of runs of `bfn train` in a CSV with a line for each command.

    bfn train digits
    python -m benchmarks.experiments "bfn train digits" runs/digits --out experiments.csv

If the file already has a line for the command, the new line replaces it.
"""

import argparse
import csv
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch

from benchmarks import csv_files, measure
from benchmarks.devices import Cpu
from bfn.results.evaluate import evaluate
from bfn.training.runs import LOG_FILE, load_run

COLUMNS = (
    "command",
    "bits per dimension, held out",
    "baseline",
    "bits a byte",
    "baseline",
    "steps",
    "seconds",
    "threads",
)


@dataclass(frozen=True)
class Run:
    """A run's result. bits: its bound in bits per dimension. error: the bound's standard error. baseline: the bits per
    dimension of the best factorised model. token_bytes: the mean bytes of a token; NaN if the data are no tokens."""

    command: str
    bits: float
    error: float
    baseline: float
    token_bytes: float
    steps: int
    seconds: float
    threads: int
    processor: str
    torch: str
    date: str


def cells(run: Run) -> list[str]:
    in_bytes = ["", ""]
    if not math.isnan(size := run.token_bytes):
        in_bytes = [f"{run.bits / size:.3f} ± {run.error / size:.3f}", f"{run.baseline / size:.3f}"]
    bits = f"{run.bits:.4f} ± {run.error:.4f}"
    more = run.steps, f"{run.seconds:.0f}", run.threads
    return [f"`{run.command}`", bits, f"{run.baseline:.4f}", *in_bytes, *map(str, more)]


def of(command: str, path: Path) -> Run:
    model, config, data = load_run(path)
    bound = evaluate(model, data.test, config.evaluate)
    with open(path / LOG_FILE, newline="") as file:
        last = list(csv.DictReader(file))[-1]
    size = math.nan if data.token_bytes is None else data.token_bytes
    numbers = bound.bits, bound.error, data.baseline, size, int(last["step"]), float(last["seconds"])
    processor = measure.machine(Cpu())["processor"]
    return Run(command, *numbers, torch.get_num_threads(), processor, torch.__version__, date.today().isoformat())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experiments", description=__doc__.split("\n")[0])
    parser.add_argument("command", help="the command that made the run, with as many threads as this one")
    parser.add_argument("run", type=Path, help="the directory of the run")
    parser.add_argument("--out", type=Path, default=Path("runs/experiments.csv"), help="the CSV")
    options = parser.parse_args(arguments)
    runs = {run.command: run for run in csv_files.read(Run, options.out)} if options.out.exists() else {}
    runs[options.command] = of(options.command, options.run)
    csv_files.write(Run, runs.values(), {}, options.out)
    print(
        ", ".join(f"{name}: {text}" for name, text in zip(COLUMNS, cells(runs[options.command]), strict=True) if text)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
