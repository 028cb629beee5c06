"""Tables of a trained model at several numbers of steps: its bounds, and the quality and cost of its samples."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from rich.table import Column, Table
from torch import Tensor

from bfn.configs import Config, ConfigError, DataConfig, SampleConfig
from bfn.data import Data
from bfn.model import BFN, CircularBFN, DiscreteBFN
from bfn.results.evaluate import Bound, evaluate
from bfn.sample import sample, settings_of

SAMPLES = 1000  # the most samples that `samplers` draws for a row of its table
TOLD_APART = "told apart by the nearest neighbour"  # the quality of samples of data without a judge
STEPS = (10, 25, 50, 100)
# The paper's bounds for n steps; None is continuous time. MNIST has nats per image, the others bits per dimension.
# CIFAR-10 has 256 bins.
PAPER: dict[str, dict[int | None, float]] = {
    "mnist": {10: 95.21, 25: 84.40, 50: 81.06, 100: 79.46, None: 77.87},
    "cifar10": {10: 3.91, 25: 3.16, 50: 2.93, 100: 2.81, None: 2.66},
    "text8": {10: 1.70, 25: 1.52, 50: 1.47, 100: 1.43, None: 1.41},
}


def bound_table(bound: Bound, data: Data, settings: Config, parts: Mapping[str, Bound]) -> Table:
    """parts: the bound of each part of the data, if they have several."""
    steps = "continuous time" if settings.evaluate.n_steps is None else f"{settings.evaluate.n_steps} steps"
    title = f"{settings.data.name}, {bound.examples} held-out examples, {steps}"
    table = Table("", Column("bits per dimension", justify="right"), title=title)
    table.add_row("messages", f"{bound.messages:.4f}")
    table.add_row("reconstruction", f"{bound.reconstruction:.4f}")
    table.add_row("bound", f"{bound.bits:.4f} ± {bound.error:.4f}")
    table.add_row("factorised baseline", f"{data.baseline:.4f}")
    rivals = data.rivals()
    for name, bits in rivals.items():
        table.add_row(name, f"{bits:.4f}")
    if (size := data.token_bytes) is not None:
        table.add_row("bound, bits per byte", f"{bound.bits / size:.4f} ± {bound.error / size:.4f}", style="bold")
        table.add_row("unigrams, bits per byte", f"{data.baseline / size:.4f}")
        for name, bits in rivals.items():
            table.add_row(f"{name}, bits per byte", f"{bits / size:.4f}")
    if data.judge is not None:
        name, rival = data.judge.rival(data.test)
        table.add_row(f"bound, {data.judge.unit}", f"{data.judge.worth(bound.bits):.4f}", style="bold")
        for part, found in parts.items():
            table.add_row(f"  of {part}", f"{data.judge.worth(found.bits):.4f}")
        table.add_row(f"{name}, {data.judge.unit}", f"{rival:.4f}")
    return table


def measures_table(measures: dict[str, float]) -> Table:
    table = Table("", Column("samples", justify="right"))
    for name, value in measures.items():
        table.add_row(name, f"{value:.3f}")
    return table


class Measured(NamedTuple):
    """The bound for n steps; n_steps=None is continuous time. factorised: the bound of the factorised receiver, for n
    steps and more than two classes."""

    n_steps: int | None
    bound: Bound
    factorised: Bound | None


def bounds(model: BFN, data: Data, settings: Config, steps: Sequence[int]) -> Iterator[Measured]:
    """The bound on held-out data for each number of steps, then in continuous time."""
    refuse_angles(model)
    for n_steps in (*steps, None):
        config = replace(settings.evaluate, n_steps=n_steps)
        factorised = None
        if isinstance(model, DiscreteBFN) and n_steps is not None:
            with model.using("factorised"):
                factorised = evaluate(model, data.test, config)
        yield Measured(n_steps, evaluate(model, data.test, config), factorised)


def bounds_table(rows: Sequence[Measured], data: Data, settings: Config) -> Table:
    """A table like the paper's, with a row for each number of steps."""
    dimensions, name = math.prod(data.shape), settings.data.name
    is_papers = (settings.data.num_bins, settings.data.file) == (DataConfig.num_bins, DataConfig.file)
    published = PAPER.get(name, {}) if is_papers else {}
    nats = dimensions * math.log(2)
    title = f"{name}, {rows[0].bound.examples} held-out examples of {dimensions} dimensions"
    baseline = f"factorised baseline: {data.baseline:.4f} bits per dimension, {nats * data.baseline:.2f} nats"
    columns = ["n", "messages", "reconstruction", "bits per dimension", "nats per example"]
    columns += ["factorised receiver"] if any(row.factorised for row in rows) else []
    columns += [f"paper, {'nats' if name == 'mnist' else 'bits'}"] if published else []
    table = Table(*(Column(name, justify="right") for name in columns), title=title, caption=baseline)
    for n_steps, bound, factorised in rows:
        cells = ["∞" if n_steps is None else str(n_steps), f"{bound.messages:.4f}", f"{bound.reconstruction:.4f}"]
        cells += [f"{bound.bits:.4f} ± {bound.error:.4f}", f"{nats * bound.bits:.2f} ± {nats * bound.error:.2f}"]
        if "factorised receiver" in columns:
            cells.append(f"{factorised.bits:.4f} ± {factorised.error:.4f}" if factorised else "–")
        if published:
            cells.append(f"{published[n_steps]:.2f}" if n_steps in published else "–")
        table.add_row(*cells)
    return table


def refuse_angles(model: BFN) -> None:
    if isinstance(model, CircularBFN):
        raise ConfigError("angles have one number of steps and one sampler, and nothing to compare these with")


class Drawn(NamedTuple):
    """The calls and seconds that a sampler took for a batch, and the quality of its samples.

    quality: What is measured. share: The result, with its standard error. more: The other measures of the data's judge.
    """

    sampler: str
    calls: int
    seconds: float
    quality: str
    share: float
    error: float
    more: Mapping[str, float] = {}


def compared(options: SampleConfig, samplers: Sequence[str], steps: Sequence[int]) -> list[SampleConfig]:
    """The settings of each sampler at each number of steps. With `options.guide`, the list has each sampler without
    guidance, then with guidance."""
    guides = dict.fromkeys([None, options.guide])
    return [replace(options, sampler=s, guide=guide, n_steps=n) for s in samplers for guide in guides for n in steps]


def drawn(model: BFN, data: Data, options: SampleConfig) -> Drawn:
    """Measures a sampler. It draws as many samples as there are held-out examples, at most SAMPLES."""
    held_out, start = data.test[:SAMPLES], time.perf_counter()
    how = settings_of(model, options)
    samples = sample(model, len(held_out), options.n_steps, sampler=options.sampler, **how).cpu()
    seconds, calls = time.perf_counter() - start, options.calls_of_a_step * (options.n_steps + 1)
    name = options.sampler if options.guide is None else f"{options.sampler}, {options.guide}"
    if data.judge is None:
        share, error = told_apart(samples, held_out, differing=bool(data.symbols))
        return Drawn(name, calls, seconds, TOLD_APART, share, error)
    return Drawn(name, calls, seconds, data.judge.quality, *data.judge.score(samples))


def samplers_table(rows: Sequence[Drawn], settings: Config) -> Table:
    more = list(dict.fromkeys(name for row in rows for name in row.more))
    numbers = "network calls", "seconds", rows[0].quality, *more
    columns = (Column(name, justify="right") for name in numbers)
    title = f"{settings.data.name}, as many samples as held-out examples, at most {SAMPLES}"
    table = Table("sampler", *columns, title=title)
    for row in rows:
        shown = [f"{row.more[name]:.3f}" if name in row.more else "–" for name in more]
        table.add_row(row.sampler, str(row.calls), f"{row.seconds:.1f}", f"{row.share:.3f} ± {row.error:.3f}", *shown)
    return table


def told_apart(samples: Tensor, held_out: Tensor, *, differing: bool = False) -> tuple[float, float]:
    """The 1-nearest-neighbour two-sample test (Lopez-Paz and Oquab 2017) of two tensors [N, ...].

    Returns the share of all examples whose nearest neighbour is in the same tensor, and its standard error. The share
    is near 0.5 if both tensors have the same distribution. It is near 1 if their distributions differ, or if samples
    repeat each other. The distance is Euclidean or, with `differing`, the number of values that differ.
    """
    everything = torch.cat([samples, held_out]).flatten(1).float()
    distances = torch.cdist(everything, everything, p=0 if differing else 2)
    distances.fill_diagonal_(math.inf)
    is_sample = torch.arange(len(everything)) < len(samples)
    # Several neighbours may be equally near, which is common among black and white images. They share one vote.
    nearest = distances == distances.min(1, keepdim=True).values
    alike = (nearest & (is_sample[:, None] == is_sample)).sum(1) / nearest.sum(1)
    return alike.mean().item(), alike.std().item() / math.sqrt(len(alike))
