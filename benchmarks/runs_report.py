"""The results of `benchmarks.time_to_quality`: its rows, their tables, and a picture."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib import ticker
from rich.table import Table

from benchmarks.report import MIB, duration, gain, number, table_of
from bfn import figures

THEIRS, OURS = "published", "bfn"
SPEED, QUALITY, SAMPLES = "Training: speed and memory", "Training: quality", "Samples of the same weights"


@dataclass(frozen=True)
class Point:
    """The bound of a loop's weights on held-out data, in bits per dimension. seconds: the time on the loop's clock.
    bits: the smaller of averaged_bits and current_bits. error: the standard error of bits."""

    experiment: str
    loop: str
    seconds: float
    step: int
    bits: float
    error: float
    averaged_bits: float
    current_bits: float


@dataclass(frozen=True)
class Run:
    """A loop in an experiment. seconds: the time on its clock. begun_seconds: the time before the first step.
    target_bits: the bound of the published loop at its end. target_seconds: when this loop's bound was first as low as
    `target_bits`; NaN if it never was."""

    experiment: str
    loop: str
    parameters: int
    batch: int
    steps: int
    seconds: float
    begun_seconds: float
    steps_per_s: float
    step_ms: float
    step_p20_ms: float
    step_p80_ms: float
    peak_bytes: float
    bits: float
    error: float
    target_bits: float
    target_seconds: float


@dataclass(frozen=True)
class Drawn:
    """Samples of a sampler: the network calls and seconds that all samples took, and the result of `told_apart`."""

    experiment: str
    loop: str
    sampler: str
    samples: int
    calls: int
    seconds: float
    told_apart: float
    error: float


def seconds_to(points: Sequence[Point], bits: float) -> float:
    """The seconds at which a curve is first as low as `bits`, by linear interpolation; NaN if it never is."""
    before = points[0]
    for point in points:
        if point.bits <= bits:
            if point.bits == before.bits:
                return before.seconds
            share = (before.bits - bits) / (before.bits - point.bits)
            return before.seconds + share * (point.seconds - before.seconds)
        before = point
    return math.nan


def reaches(one: Drawn, goal: Drawn) -> bool:
    """Whether the samples `one` are as good as the samples `goal`, within the standard error of the difference."""
    return one.told_apart <= goal.told_apart + math.hypot(one.error, goal.error)


def pairs(runs: Sequence[Run]) -> Iterator[tuple[Run, Run]]:
    """The published run and ours of each experiment."""
    of = {(run.experiment, run.loop): run for run in runs}
    for name in dict.fromkeys(run.experiment for run in runs):
        yield of[name, THEIRS], of[name, OURS]


SPEED_COLUMNS = (
    *("experiment", "parameters", "batch", "a step, published", "a step, bfn", "steps a second"),
    *("MiB, published", "MiB, bfn", "seconds before the first step"),
)
QUALITY_COLUMNS = (
    *("experiment", "seconds", "bits, published", "bits, bfn"),
    *("target", "seconds to target, published", "seconds to target, bfn", "faster by"),
)


def speed_cells(theirs: Run, ours: Run) -> list[str]:
    """The cells of an experiment under SPEED_COLUMNS."""
    both = theirs, ours
    return [
        theirs.experiment,
        f"{theirs.parameters / 1e6:.2f} M",
        str(theirs.batch),
        *(duration(run.step_ms) for run in both),
        gain(ours.steps_per_s / theirs.steps_per_s),
        *(number(run.peak_bytes / MIB, ".0f") for run in both),
        f"{ours.begun_seconds:.0f}",
    ]


def quality_cells(theirs: Run, ours: Run) -> list[str]:
    """The cells of an experiment under QUALITY_COLUMNS."""
    both = theirs, ours
    return [
        theirs.experiment,
        f"{theirs.seconds:.0f}",
        *(f"{run.bits:.4f} ± {run.error:.4f}" for run in both),
        f"{theirs.target_bits:.4f}",
        *(number(run.target_seconds, ".0f") for run in both),
        gain(theirs.target_seconds / ours.target_seconds),
    ]


DRAWN_COLUMNS = ("experiment", "samples", "sampler", "calls", "seconds", "told apart", "faster by")


def drawn_cells(rows: Sequence[Drawn]) -> Iterator[list[str]]:
    """The cells of the rows of an experiment. If a sampler is as good as the published sampler with the most steps, the
    last cell says how many times as fast it is."""
    theirs = [row for row in rows if row.loop == THEIRS]
    goal = theirs[-1]
    for row in rows:
        name = "published, ancestral" if row.loop == THEIRS else f"bfn, {row.sampler}"
        faster = gain(goal.seconds / row.seconds) if reaches(row, goal) else "not as good"
        share = f"{row.told_apart:.3f} ± {row.error:.3f}"
        yield [row.experiment, str(row.samples), name, str(row.calls), f"{row.seconds:.1f}", share, faster]


def parts(runs: Sequence[Run], drawn: Sequence[Drawn]) -> dict[str, tuple[Sequence[str], list[list[str]]]]:
    """The title of each table, its columns and its rows."""
    both = list(pairs(runs))
    names = dict.fromkeys(row.experiment for row in drawn)
    samples = [cells for name in names for cells in drawn_cells([row for row in drawn if row.experiment == name])]
    return {
        SPEED: (SPEED_COLUMNS, [speed_cells(*pair) for pair in both]),
        QUALITY: (QUALITY_COLUMNS, [quality_cells(*pair) for pair in both]),
        SAMPLES: (DRAWN_COLUMNS, samples),
    }


def tables(runs: Sequence[Run], drawn: Sequence[Drawn]) -> Iterator[Table]:
    for title, (columns, rows) in parts(runs, drawn).items():
        yield table_of(columns, rows, left=("experiment", "sampler"), title=title)


NOTES = """\
a step: the median. steps a second: bfn / published. Both leave out the seconds before the first step, in which bfn
chooses a precision and compiles; all other times include them. MiB: by how much a process grew in training. bits: per
dimension of held-out data, of the averaged or the current weights, whichever are better. target: the bits of the
published loop at its end. told apart: the share of samples and held-out examples whose nearest neighbour is of the same
kind, ideally 0.5. faster by: seconds to target, published / bfn; for samples, relative to the published sampler with
the most steps, if the samples are as good."""


def picture(points: Sequence[Point], path: Path) -> None:
    """Bits against seconds, a panel for each experiment."""
    names = list(dict.fromkeys(point.experiment for point in points))
    figure, panels = figures.panels((1 + 4 * len(names), 4), 1, len(names), squeeze=False)
    for axes, name in zip(panels.flat, names, strict=True):
        for number_, loop in enumerate((THEIRS, OURS)):
            of = [point for point in points if (point.experiment, point.loop) == (name, loop)]
            seconds, bits, errors = ([getattr(p, field) for p in of] for field in ("seconds", "bits", "error"))
            axes.plot(seconds, bits, "o-", markersize=3, color=f"C{number_}", label=loop)
            low, high = ([bit + sign * error for bit, error in zip(bits, errors, strict=True)] for sign in (-1, 1))
            axes.fill_between(seconds, low, high, color=f"C{number_}", alpha=0.2)
        axes.set_title(name, fontsize="medium")
        axes.set(yscale="log", xlabel="seconds of training")
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7)))
        axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_locator(ticker.NullLocator())
        axes.grid(alpha=0.3)
    panels[0, 0].legend(frameon=False)
    figure.supylabel("bits per dimension on held-out data", fontsize="medium")
    figures.write(figure, path)
