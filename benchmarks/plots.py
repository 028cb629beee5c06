"""The pictures of a report: time and memory against K, and speed as a share of a copy's speed."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from benchmarks.report import MIB, OK, Row

COLUMNS = 3  # panels side by side
Points = list[tuple[float, float, float, float]]  # K, the value, and the bounds of its band


def time_against_k(rows: Sequence[Row], path: Path) -> Path | None:
    label = "ms, with backward where there is one (median, p20 to p80)"
    return against_k(rows, path, label, lambda row: (row.median_ms, row.p20_ms, row.p80_ms))


def memory_against_k(rows: Sequence[Row], path: Path) -> Path | None:
    return against_k(rows, path, "peak extra MiB", lambda row: 3 * (row.peak_extra_bytes / MIB,))


def against_k(rows: Sequence[Row], path: Path, label: str, of: Callable[[Row], tuple[float, ...]]) -> Path | None:
    """Plots a value and its band against K, with a panel for each series that has several K. Returns None if no series
    has."""
    lines: dict[str, dict[str, Points]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        values = of(row)
        if row.k and row.status == OK and values[0] > 0:  # False for NaN, which stands for "not measured"
            lines[f"{row.series}, {row.shape}"][row.competitor].append((row.k, *values))  # type: ignore[arg-type]
    lines = {series: found for series, found in lines.items() if max(map(len, found.values())) > 1}
    if not lines:
        return None
    names = list(dict.fromkeys(name for found in lines.values() for name in found))
    deep = math.ceil(len(lines) / COLUMNS)
    figure, panels = plt.subplots(
        deep, min(COLUMNS, len(lines)), figsize=(13, 1 + 3.4 * deep), sharey=True, layout="constrained", squeeze=False
    )
    for axes, (title, found) in zip(panels.flat, lines.items(), strict=False):
        panel(axes, title, {f"C{names.index(name)}": sorted(points) for name, points in found.items()})
    for axes in panels.flat[len(lines) :]:
        axes.axis("off")
    marks = [Line2D([], [], marker="o", color=f"C{index}", label=name) for index, name in enumerate(names)]
    figure.legend(handles=marks, loc="outside upper center", ncols=len(names), frameon=False)
    figure.supylabel(label, fontsize="medium")
    return saved(figure, path)


def panel(axes: Axes, title: str, found: dict[str, Points]) -> None:
    for colour, points in found.items():
        k, middle, low, high = zip(*points, strict=True)
        axes.plot(k, middle, "o-", color=colour)
        axes.fill_between(k, low, high, color=colour, alpha=0.2)
    axes.set(xscale="log", yscale="log", xlabel="bins or classes K")
    axes.set_title(title, fontsize="medium")
    axes.set_xticks(sorted({point[0] for points in found.values() for point in points}))
    axes.get_xaxis().set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:.0f}"))
    axes.minorticks_off()
    axes.grid(alpha=0.3)


def share_of_copy(rows: Sequence[Row], backend: str, copying: float, path: Path) -> Path | None:
    """Draws a bar for each call of a backend: its GB/s as a percentage of the GB/s of a copy. A line marks 100 %."""
    ours = [row for row in rows if row.competitor == backend and row.gb_per_s > 0]  # NaN > 0 is False
    if not ours:
        return None
    figure, axes = plt.subplots(figsize=(9, 1 + 0.2 * len(ours)), layout="constrained")
    axes.barh([row.case for row in ours], [100 * row.gb_per_s / copying for row in ours], color="C0")
    axes.axvline(100, color="black", linewidth=1)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.tick_params(axis="y", labelsize="small")
    axes.set_xlabel(f"% of the speed of a copy, {copying:.1f} GB/s (inputs read, outputs and gradients written, once)")
    axes.grid(axis="x", alpha=0.3)
    return saved(figure, path)


def saved(figure: plt.Figure, path: Path) -> Path:
    figure.savefig(path, dpi=110, facecolor="white")
    plt.close(figure)
    return path
