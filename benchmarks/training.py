"""The share of the ops in a training step. Times the network's forward and backward pass, and a flow sample with the
loss by our ops and by others. The networks are those of `bfn`'s configurations, with another number of examples."""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from benchmarks import csv_files, gate, measure, timed_cases
from benchmarks.competitors import EAGER, PUBLISHED, available, competitors, prepared
from benchmarks.devices import DEVICES, Device
from benchmarks.report import table_of
from benchmarks.shares import COLUMNS, Share, cells
from benchmarks.timed_cases import Case
from bfn.configs import load
from bfn.networks import build_network


@dataclass(frozen=True)
class Workload:
    """A configuration, the shape of its data, and the number of examples in a step."""

    config: str
    shape: tuple[int, ...]  # of an example
    classes: int  # or bins
    examples: int

    def case(self) -> Case:
        """The flow and the loss of this step."""
        model = load(self.config).model
        family = "binary" if model.kind == "discrete" and self.classes == 2 else model.kind
        parameter = {"beta_1": model.beta_1} if model.beta_1 is not None else {"sigma_1": model.sigma_1}
        shape = (self.examples, math.prod(self.shape))
        return Case(f"{family}.flow_and_loss", shape, 0 if family == "binary" else self.classes, parameter)

    def features(self, case: Case) -> tuple[int, int]:
        """How many numbers the network gets and puts out for each variable."""
        return {"binary": (1, 1), "discretised": (1, 2)}.get(case.family, (self.classes, self.classes))


WORKLOADS = (
    Workload("digits", (8, 8), 17, 128),
    Workload("mnist_small", (28, 28), 2, 64),
    Workload("text8_small", (64,), 27, 128),
    Workload("mnist", (28, 28), 2, 4),
    Workload("cifar10", (32, 32, 3), 256, 2),
    Workload("text8", (256,), 27, 4),
)


def share(work: Workload, device: Device) -> Share:
    """The median times of the parts of a step, which take turns. Raises RuntimeError if an op's results are wrong."""
    case = work.case()
    inputs, outputs = work.features(case)
    network = build_network(load(work.config).network, work.shape, inputs, outputs).to(device.name)
    theta = torch.rand(work.examples, *work.shape, inputs, device=device.name)
    t = torch.rand(work.examples, device=device.name)
    parameters = [p for p in network.parameters() if p.requires_grad]

    def pass_through() -> tuple[torch.Tensor, ...]:
        output = network(theta, t)
        return torch.autograd.grad(output, parameters, torch.ones_like(output))

    tensors, noise = timed_cases.inputs(case, device=device.name)
    runs: dict = {"network": pass_through}
    for competitor in competitors(case, available(device.name)[:1]):
        if competitor.compiled:
            continue
        verdict = gate.check(case, competitor, tensors, noise)
        if not verdict.agrees:
            raise RuntimeError(f"{work.config}: {competitor.name} is wrong: {verdict.errors}")
        runs[competitor.name] = prepared(competitor, case, tensors)
    ms = {name: 1e3 * found.median for name, found in measure.timings(runs, device.seconds, device).items()}
    size = sum(p.numel() for p in parameters)
    ours = ms[available(device.name)[0]]
    return Share(work.config, size, work.examples, math.prod(work.shape), ms["network"], ours, ms[EAGER], ms[PUBLISHED])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="configurations whose name has this in it")
    parser.add_argument("--device", choices=tuple(DEVICES), default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/training.csv"), help="the CSV to write")
    options = parser.parse_args(arguments)
    chosen = [work for work in WORKLOADS if options.only in work.config]
    if not chosen:
        parser.error(f"--only {options.only!r} is in the name of no configuration")
    device = DEVICES[options.device]()
    machine = measure.begun(device)
    shares = []
    for work in chosen:
        shares.append(share(work, device))
        print(", ".join(cells(shares[-1])), file=sys.stderr)
    title = "A training step: its network, and its flow and loss"
    Console(width=118).print(table_of(COLUMNS, map(cells, shares), left=("config",), title=title))
    csv_files.write(Share, shares, machine, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
