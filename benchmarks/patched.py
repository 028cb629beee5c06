"""Measures the authors' code before and after `bfn_kernels.patch`: time and memory of flows, losses and sampling.

    python -m benchmarks.patched --official <a checkout of github.com/nnaisense/bayesian-flow-networks>

Each configuration of the authors is measured at its batch size, except for n-step losses that would not fit into memory
(`batch_of`). PARTS lists what is measured of a configuration. A fixed tensor of small normals replaces the output of
the network, so that only flows, losses and samplers are measured. Only the last part, a training step, has a network: a
small version of the authors' network, since the full one is too much for a CPU. A full network would take a larger
share of the step.
"""

import argparse
import importlib
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks import csv_files, measure, memory
from benchmarks.devices import Cpu
from benchmarks.memory import Run
from benchmarks.report import MIB, duration, factor, number, table_of
from bfn_kernels import patch

WIDTH, N_STEPS, SAMPLING_STEPS = 150, 20, 10
DRAWS, LARGEST = 10, 2**28  # the draws of their n-step loss, and the most numbers in one of its tensors
SHAPES = {"bin_mnist": (28, 28, 1), "cifar10": (32, 32, 3), "text8": (256,)}  # of one example of their data sets
SMALL = {  # the settings that make a configuration's network small
    "UNetModel": {
        "net": {"parameters": {"model_channels": 32, "out_channels": 32}},
        "output_adapter": {"parameters": {"input_height": 64}},
    },
    "UNetVDM": {
        "net": {"parameters": {"embedding_dim": 32, "n_blocks": 2}},
        "output_adapter": {"parameters": {"input_height": 35}},
    },
    "GPT": {
        "net": {"parameters": {"n_layer": 2, "n_head": 4, "n_embd": 128}},
        "input_adapter": {"parameters": {"output_size": 128}},
    },
}


@dataclass(frozen=True)
class Row:
    """A part of a configuration, before and after the patch. nats: the loss per variable, NaN for sampling."""

    configuration: str
    part: str
    batch: int
    parameters: int
    before_ms: float
    before_p20_ms: float
    before_p80_ms: float
    after_ms: float
    after_p20_ms: float
    after_p80_ms: float
    repetitions: int
    before_peak_bytes: float
    after_peak_bytes: float
    before_nats: float
    after_nats: float


class Output(nn.Module):
    """Replaces a network. Its output does not depend on its input."""

    def __init__(self, shape: Sequence[int]):
        super().__init__()
        self.output = nn.Parameter(0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(0)))

    def forward(self, theta: Tensor, t: Tensor) -> Tensor:
        return self.output


def made(module: Any, of: DictConfig | None, **more: Any) -> Any:
    return None if of is None else getattr(module, of.class_name)(**of.parameters, **more)


def their_model(config: DictConfig, batch: int, *, with_network: bool) -> tuple[nn.Module, Tensor]:
    """Their BFN of a configuration, and a batch of random data."""
    model, networks, probability = (importlib.import_module(name) for name in ("model", "networks", "probability"))
    of, shape = config.model, (batch, *SHAPES[config.data.dataset])
    flow = made(model, of.bayesian_flow)
    loss = made(model, of.loss, bayesian_flow=flow, distribution_factory=made(probability, of.distribution_factory))
    generator = torch.Generator().manual_seed(1)
    if "n_classes" in of.bayesian_flow.parameters:
        data = torch.randint(flow.n_classes, shape, generator=generator)
        data = data.float() if flow.n_classes == 2 else data
    else:
        bins = config.data.num_bins
        data = (torch.randint(bins, shape, generator=generator) + 0.5) * 2 / bins - 1
    if with_network:
        of = cast(DictConfig, OmegaConf.merge(of, SMALL[of.net.class_name]))
        adapters = {name: made(networks.adapters, of[name]) for name in ("input_adapter", "output_adapter")}
        network = made(networks, of.net, data_adapters=adapters)
    else:
        network = Output((*shape, of.output_adapter.parameters.output_height if of.output_adapter else flow.n_classes))
    return model.BFN(network, flow, loss), data


def trained(bfn: nn.Module, data: Tensor, n_steps: int | None = None) -> tuple[Tensor]:
    bfn.zero_grad()
    loss = bfn(data, n_steps=n_steps)
    loss.backward()
    return (loss.detach(),)


PARTS: dict[str, Callable[[Any, Tensor], tuple]] = {
    "flow, L∞, backward": trained,
    "flow, L_n, backward": lambda bfn, data: trained(bfn, data, N_STEPS),
    "flow, reconstruction": lambda bfn, data: (bfn.compute_reconstruction_loss(data),),
    "sampling": lambda bfn, data: (bfn.sample(tuple(data.shape), SAMPLING_STEPS),),
    "training step": trained,
}
SAMPLED, WITH_NETWORK, BY_STEPS = "sampling", "training step", "flow, L_n, backward"


def batch_of(config: DictConfig, part: str) -> int:
    """The configuration's batch size or, for the n-step loss, at most the examples that fit into memory."""
    if part != BY_STEPS:
        return config.train_loader.batch_size
    classes = config.model.bayesian_flow.parameters.get("n_classes")
    numbers = DRAWS * math.prod(SHAPES[config.data.dataset]) * (classes**2 if classes else config.data.num_bins)
    return min(config.train_loader.batch_size, LARGEST // numbers)


def run_of(config: DictConfig, part: str, batch: int, patched: bool) -> tuple[nn.Module, Run]:
    bfn, data = their_model(config, batch, with_network=part == WITH_NETWORK)

    def run() -> tuple:
        if not patched:
            return PARTS[part](bfn, data)
        with patch.official(sys.modules["model"]):
            return PARTS[part](bfn, data)

    return bfn, run


def in_a_process(official: str, config: DictConfig, part: str, batch: int, patched: bool) -> tuple[Run, Run]:
    """The argument `make` of `memory.peak_in_a_process`."""
    sys.path.insert(0, official)
    return run_of(config, part, batch, patched)[1], run_of(config, part, 1, patched)[1]


def measured(official: str, name: str, config: DictConfig, part: str, batch: int, seconds: float) -> Row:
    runs, nats = {}, {}
    for key, patched in (("before", False), ("after", True)):
        bfn, runs[key] = run_of(config, part, batch, patched)
        torch.manual_seed(2)  # so that both have the same times
        (found,) = runs[key]()
        nats[f"{key}_nats"] = math.nan if part == SAMPLED else found.item()
    times = measure.timings(runs, seconds, Cpu())
    per_step = 1e3 / (SAMPLING_STEPS if part == SAMPLED else 1)
    columns = {
        f"{key}{column}_ms": per_step * timing.percentile(percent)
        for key, timing in times.items()
        for column, percent in (("", 50), ("_p20", 20), ("_p80", 80))
    }
    peaks = {}
    for key in runs:
        peak = memory.peak_in_a_process(in_a_process, official, config, part, batch, key == "after", seconds=300)
        peaks[f"{key}_peak_bytes"] = math.nan if peak is None else peak
    parameters = sum(p.numel() for p in bfn.parameters()) if part == WITH_NETWORK else 0
    runs_each = min(timing.repetitions for timing in times.values())
    return Row(name, part, batch, parameters, repetitions=runs_each, **columns, **peaks, **nats)


COLUMNS = ("configuration", "part", "batch", "before", "after", "before / after", "MiB before", "MiB after", "nats")


def cells(row: Row) -> list[str]:
    """The cells of a row under COLUMNS."""
    part = f"{row.part}, {row.parameters / 1e6:.2f} M" if row.parameters else row.part
    return [
        row.configuration,
        f"{part}, a step" if row.part == SAMPLED else part,
        str(row.batch),
        *(duration(ms) for ms in (row.before_ms, row.after_ms)),
        factor(row.before_ms / row.after_ms),
        *(number(peak / MIB, ".0f") for peak in (row.before_peak_bytes, row.after_peak_bytes)),
        ", ".join(number(nats, ".3g") for nats in (row.before_nats, row.after_nats)),
    ]


def table(rows: Sequence[Row]) -> Table:
    lines, before = [], ""
    for row in rows:
        name, *others = cells(row)
        lines.append([name if name != before else "", *others])
        before = name
    return table_of(COLUMNS, lines, left=COLUMNS[:2], no_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.patched", description=__doc__.split("\n")[0])
    parser.add_argument("--official", type=Path, required=True, metavar="CHECKOUT", help="the authors' code")
    parser.add_argument("--only", default="", metavar="TEXT", help="configurations whose name has this in it")
    parser.add_argument("--quick", action="store_true", help="two examples, few repetitions")
    parser.add_argument("--out", type=Path, default=None, help="directory of the results (runs/patched/<date>)")
    options = parser.parse_args(arguments)
    paths = [path for path in sorted((options.official / "configs").glob("*.yaml")) if options.only in path.stem]
    if not paths:
        parser.error(f"{options.official / 'configs'} has no configuration with {options.only!r} in its name")
    machine = measure.begun(Cpu()) | {"quick": str(options.quick)}
    official = str(options.official.resolve())
    sys.path.insert(0, official)
    began, out = time.monotonic(), options.out or csv_files.new_folder("patched")
    out.mkdir(parents=True, exist_ok=True)
    console = Console(width=WIDTH, record=True, highlight=False)
    console.print(measure.lines_of(machine))
    rows = []
    for path in paths:
        config = cast(DictConfig, OmegaConf.load(path))
        for part in PARTS:
            batch = min(batch_of(config, part), 2 if options.quick else sys.maxsize)
            rows.append(measured(official, path.stem, config, part, batch, 0.05 if options.quick else Cpu.seconds))
            csv_files.write(Row, rows, machine, out / "results.csv")  # now, so that a stopped run leaves its rows
            print(
                f"{path.stem}, {part}: {duration(rows[-1].before_ms)}, {duration(rows[-1].after_ms)}", file=sys.stderr
            )
    console.print(table(rows))
    console.print(
        f"before, after: medians. L_n: n = {N_STEPS}. a step: the time of {SAMPLING_STEPS} steps and the last call, "
        f"divided by {SAMPLING_STEPS}.\n"
        "MiB: by how much a call raises the resident set of a fresh process. nats: per variable, before and after."
    )
    console.print(f"{time.monotonic() - began:.0f} s; results in {out}")
    (out / "report.txt").write_text(console.export_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
