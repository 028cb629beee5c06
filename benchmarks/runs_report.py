"""The results of `benchmarks.time_to_quality`: its rows, their tables, and a picture."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median_high, median_low
from typing import Any

from matplotlib import ticker
from rich.table import Table

from benchmarks.report import MIB, duration, gain, number, table_of
from bfn import figures

THEIRS, OURS = "published", "bfn"
WARM, THEIR_OPTIMIZER = "bfn (compiled before)", "bfn (published optimizer)"  # more loops of ours
SPEED, QUALITY, SAMPLES = "Training: speed and memory", "Training: quality", "Samples of the same weights"


@dataclass(frozen=True)
class Point:
    """The bound of a loop's weights on held-out data, in bits per dimension. seconds: the time on the loop's clock.
    bits: the smaller of averaged_bits and current_bits. error: the standard error of bits."""

    experiment: str
    loop: str
    seed: int
    seconds: float
    step: int
    bits: float
    error: float
    averaged_bits: float
    current_bits: float


@dataclass(frozen=True)
class Run:
    """A loop in an experiment. seconds: the time on its clock. begun_seconds: the time before the first step."""

    experiment: str
    loop: str
    seed: int
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


@dataclass(frozen=True)
class Quality:
    """A loop of ours, compared with the published loop after equal seconds. bits, error: the bound of our loop.
    target_bits, target_error: the bound of the published loop. target_seconds: when the published loop's bound was
    first as low as target_bits, by interpolation. own_seconds: when ours was; NaN if it never was."""

    experiment: str
    loop: str
    seed: int
    seconds: float
    bits: float
    error: float
    target_bits: float
    target_error: float
    target_seconds: float
    own_seconds: float


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


def qualities(points: Sequence[Point], ends: Iterable[float]) -> Iterator[Quality]:
    """Compares the loops of one experiment and seed after so many seconds."""
    curves = {loop: [point for point in points if point.loop == loop] for loop in dict.fromkeys(p.loop for p in points)}
    theirs = curves.pop(THEIRS)
    for end in ends:
        target = last(theirs, end)
        for loop, curve in curves.items():
            own, seconds = last(curve, end), [seconds_to(one, target.bits) for one in (theirs, curve)]
            numbers = own.bits, own.error, target.bits, target.error, *seconds
            yield Quality(own.experiment, loop, own.seed, end, *numbers)


def last(curve: Sequence[Point], end: float) -> Point:
    """The point of a curve that is nearest to the end of a turn, in which the last step may end later."""
    return min(curve, key=lambda point: abs(point.seconds - end))


def reaches(one: Drawn, goal: Drawn) -> bool:
    """Whether the samples `one` are as good as the samples `goal`, within the standard error of the difference."""
    return one.told_apart <= goal.told_apart + math.hypot(one.error, goal.error)


def loops_of(rows: Sequence[Any]) -> dict[tuple[str, str], list[Any]]:
    """The rows of all seeds, for each experiment and loop."""
    found: dict[tuple[str, str], list[Any]] = {}
    for row in rows:
        found.setdefault((row.experiment, row.loop), []).append(row)
    return found


def middle(rows: Sequence[Any], name: str) -> float:
    """The median of a number over the rows, or the upper one of two. NaN means "never", and counts as infinite."""
    found = median_high(math.inf if math.isnan(value) else value for value in (getattr(row, name) for row in rows))
    return math.nan if math.isinf(found) else found


SPEED_COLUMNS = (
    *("experiment", "loop", "parameters", "batch", "a step", "steps a second", "faster by"),
    *("MiB", "seconds before the first step"),
)
QUALITY_COLUMNS = (
    *("experiment", "loop", "seeds", "seconds", "bits, published", "bits, loop"),
    *("seconds to bits, published", "seconds to bits, loop", "faster by"),
)


def speed_cells(runs: Sequence[Run], theirs: Sequence[Run]) -> list[str]:
    """The cells under SPEED_COLUMNS: medians over the seeds of a loop. theirs: the runs of the published loop."""
    first, peak = runs[0], middle(runs, "peak_bytes")
    each, published = middle(runs, "steps_per_s"), middle(theirs, "steps_per_s")
    return [
        first.experiment,
        first.loop,
        f"{first.parameters / 1e6:.2f} M",
        str(first.batch),
        duration(middle(runs, "step_ms")),
        f"{each:.3g}",
        gain(each / published),
        number(peak / MIB, ".0f"),
        f"{middle(runs, 'begun_seconds'):.1f}",
    ]


def quality_cells(rows: Sequence[Quality]) -> list[str]:
    """The cells under QUALITY_COLUMNS: medians over the seeds of a loop, after equal seconds."""
    first, seconds = rows[0], [middle(rows, name) for name in ("target_seconds", "own_seconds")]
    ratios = median_low(0.0 if math.isnan(row.own_seconds) else row.target_seconds / row.own_seconds for row in rows)
    return [
        first.experiment,
        first.loop,
        str(len(rows)),
        f"{first.seconds:.0f}",
        *(
            f"{middle(rows, bits):.4f} ± {middle(rows, error):.4f}"
            for bits, error in (("target_bits", "target_error"), ("bits", "error"))
        ),
        *(number(value, ".0f") for value in seconds),
        gain(ratios) if ratios else "–",
    ]


DRAWN_COLUMNS = ("experiment", "samples", "sampler", "calls", "seconds", "told apart", "published calls", "faster by")


def drawn_cells(rows: Sequence[Drawn]) -> Iterator[list[str]]:
    """The cells of the rows of an experiment. The last two compare a row with the published sampler with the fewest
    steps whose samples are as good as the samples of the row."""
    theirs = sorted((row for row in rows if row.loop == THEIRS), key=lambda row: row.calls)
    for row in rows:
        name = f"{row.loop}, {row.sampler}"
        share = f"{row.told_apart:.3f} ± {row.error:.3f}"
        equal = next((one for one in theirs if reaches(one, row)), None)
        than, sign = (theirs[-1], "> ") if equal is None else (equal, "")  # no published samples may be as good
        compared = f"{sign}{than.calls}", f"{sign}{gain(than.seconds / row.seconds)}"
        more = ["", ""] if row.loop == THEIRS else compared
        yield [row.experiment, str(row.samples), name, str(row.calls), f"{row.seconds:.1f}", share, *more]


def parts(
    runs: Sequence[Run], quality: Sequence[Quality], drawn: Sequence[Drawn]
) -> dict[str, tuple[Sequence[str], list[list[str]]]]:
    """The title of each table, its columns and its rows."""
    by_loop = loops_of(runs)
    speed = [speed_cells(rows, by_loop[name, THEIRS]) for (name, _), rows in by_loop.items()]
    compared = [
        quality_cells([row for row in rows if row.seconds == end])
        for rows in loops_of(quality).values()
        for end in dict.fromkeys(row.seconds for row in rows)
    ]
    names = dict.fromkeys(row.experiment for row in drawn)
    samples = [cells for name in names for cells in drawn_cells([row for row in drawn if row.experiment == name])]
    return {
        SPEED: (SPEED_COLUMNS, speed),
        QUALITY: (QUALITY_COLUMNS, compared),
        SAMPLES: (DRAWN_COLUMNS, samples),
    }


def tables(runs: Sequence[Run], quality: Sequence[Quality], drawn: Sequence[Drawn]) -> Iterator[Table]:
    for title, (columns, rows) in parts(runs, quality, drawn).items():
        yield table_of(columns, rows, left=("experiment", "loop", "sampler"), title=title)


NOTES = """\
a step: the median over all steps, compiled or not. faster by: for training, steps a second, relative to the published
loop; for quality, the ratio of the two columns before it; for samples, the time of the fewest published steps that are
as good, divided by the time of the row. MiB: by how much a process grew in training. bits: per dimension
of held-out data, of the averaged or the current weights, whichever are better. seconds to bits: when the bound was
first as low as "bits, published". told apart: the share of samples and held-out examples whose nearest neighbour is of
the same kind, ideally 0.5. Numbers are medians over the seeds."""


def picture(points: Sequence[Point], path: Path) -> None:
    """Bits against seconds, a panel for each experiment."""
    names = list(dict.fromkeys(point.experiment for point in points))
    figure, panels = figures.panels((1 + 4 * len(names), 4), 1, len(names), squeeze=False)
    for axes, name in zip(panels.flat, names, strict=True):
        here = [point for point in points if point.experiment == name]
        for index, loop in enumerate(dict.fromkeys(point.loop for point in here)):
            for seed in dict.fromkeys(point.seed for point in here):
                of = [point for point in here if (point.loop, point.seed) == (loop, seed)]
                seconds, bits, errors = ([getattr(p, field) for p in of] for field in ("seconds", "bits", "error"))
                axes.plot(seconds, bits, "o-", markersize=3, color=f"C{index}", label=None if seed else loop)
                low, high = ([bit + sign * error for bit, error in zip(bits, errors, strict=True)] for sign in (-1, 1))
                axes.fill_between(seconds, low, high, color=f"C{index}", alpha=0.15)
        axes.set_title(name, fontsize="medium")
        axes.set(yscale="log", xlabel="seconds of training")
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7)))
        axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_locator(ticker.NullLocator())
        axes.grid(alpha=0.3)
    # an experiment may have fewer loops than another
    max(panels.flat, key=lambda axes: len(axes.get_legend_handles_labels()[1])).legend(frameon=False)
    figure.supylabel("bits per dimension on held-out data", fontsize="medium")
    figures.write(figure, path)
