"""The report of a run: its rows, the targets, and tables on the screen."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from benchmarks.accuracy import Errors
from benchmarks.competitors import BASE, COMPILED, EAGER, PRODUCTS, PUBLISHED, UNFUSED
from benchmarks.timed_cases import Case

MIB = 2**20
SLOWER = 1.05  # a case that takes more than this many times as long as at the other revision is shown in red
OK, FAILED, STOPPED = "ok", "FAILED", "stopped"


@dataclass(frozen=True)
class Row:
    """One competitor in one case. It has times only if its status is ok."""

    case: str
    series: str
    op: str
    shape: str
    dtype: str
    k: int
    backward: bool
    competitor: str
    status: str
    note: str = ""  # the reason if the status is not ok
    held_to: str = ""  # the name of the truth that the result was compared with
    error: float = math.nan  # the largest error of the output and the gradients
    tolerance: float = math.nan
    median_ms: float = math.nan
    p20_ms: float = math.nan
    p80_ms: float = math.nan
    repetitions: int = 0
    ratio: float = math.nan  # this median divided by the first backend's median
    bytes_moved: int = 0  # by reading the inputs and writing the outputs and gradients once
    gb_per_s: float = math.nan
    peak_extra_bytes: float = math.nan
    allowed_bytes: float = math.nan  # the peak that a backend may have


@dataclass(frozen=True)
class Target:
    what: str
    limit: str
    measured: str
    met: bool | None  # None: a time or a size was not measured

    @classmethod
    def at_least(cls, what: str, ours: float, theirs: float, limit: float) -> "Target":
        ratio = theirs / ours
        return cls(what, f"≥ {limit:g}×", gain(ratio), None if math.isnan(ratio) else ratio >= limit)

    @classmethod
    def at_most(cls, what: str, ratio: float, limit: float) -> "Target":
        return cls(what, f"≤ {limit:g}", number(ratio, ".2f"), None if math.isnan(ratio) else ratio <= limit)


def median(rows: Sequence[Row], case: str, names: Sequence[str]) -> float:
    """The least median of these competitors, in ms."""
    found = [row.median_ms for row in rows if row.case == case and row.competitor in names and row.status == OK]
    return min(found, default=math.nan)


def names(rows: Iterable[Row]) -> list[str]:
    """The name of each case, once, in the order of the rows."""
    return list(dict.fromkeys(row.case for row in rows))


def beside_base(rows: Sequence[Row], backend: str) -> Iterator[tuple[str, float, float]]:
    """For each case that has a time of the other revision: the case, its time now, and this other time, in ms."""
    for case in names(rows):
        now, before = median(rows, case, [backend]), median(rows, case, [BASE])
        if not math.isnan(before):
            yield case, now, before


def memory(rows: Sequence[Row], case: str, name: str, field: str = "peak_extra_bytes") -> float:
    """The peak extra memory of a competitor, or its largest allowed peak, in bytes."""
    found = (getattr(row, field) for row in rows if (row.case, row.competitor, row.status) == (case, name, OK))
    return next(found, math.nan)


def targets(cases: Sequence[Case], rows: Sequence[Row], backend: str, errors: dict[str, Errors]) -> list[Target]:
    found = []
    for case in cases:
        ours, other = median(rows, case.name, [backend]), case.against or case.name
        draws = " of ten draws" if case.against else ""
        of = {  # the least speed relative to the fastest of these competitors
            PUBLISHED: (case.published, [PUBLISHED]),
            "best closed form": (case.closed, [EAGER, COMPILED]),
            EAGER: (case.eager, [EAGER]),
            COMPILED: (case.compiled, [COMPILED]),
            UNFUSED: (case.unfused, [UNFUSED]),
        }
        for name, (limit, competitors) in of.items():
            if limit:
                theirs = median(rows, other, competitors)
                found.append(Target.at_least(f"{case.name}: {name}{draws}", ours, theirs, limit))
        if case.within:
            ratio = ours / median(rows, case.against, [backend])
            found.append(Target.at_most(f"{case.name}: time / {case.against}", ratio, case.within))
        if case.products:
            ratio = ours / median(rows, case.name, [PRODUCTS])
            found.append(Target.at_most(f"{case.name}: time / its matrix products", ratio, case.products))
        if case.lighter:
            less, more = (memory(rows, case.name, name) - 4 * case.weights for name in (backend, PUBLISHED))
            found.append(Target.at_least(f"{case.name}: memory of {PUBLISHED}", less, more, case.lighter))
    for series, limit in {case.series: case.spread for case in cases if case.spread}.items():
        of_series = [c for c in cases if c.series == series]
        times = [median(rows, c.name, [backend]) / (c.k if c.per_class else 1) for c in of_series]
        complete = len(times) > 1 and not any(map(math.isnan, times))
        spread = max(times) / min(times) if complete else math.nan
        found.append(Target.at_most(f"{series}: slowest / fastest K", spread, limit))
    if errors:
        of_nodes, of_draws = errors.values()
        share = of_nodes.rms / of_draws.rms
        found.append(Target("rms error of nodes / of draws", "< 0.01", f"{share:.2g}", share < 0.01))
    measured = [row for row in rows if not math.isnan(row.peak_extra_bytes + row.allowed_bytes)]
    over = [row for row in measured if row.peak_extra_bytes > row.allowed_bytes]
    worst = max(over, key=lambda r: r.peak_extra_bytes - r.allowed_bytes, default=None)
    reached = f"{len(measured) - len(over)} of {len(measured)}"
    if worst:
        reached += f"; {worst.case}: {worst.peak_extra_bytes / MIB:.1f} of {worst.allowed_bytes / MIB:.1f} MiB"
    what = "peak extra memory: outputs, gradients, stored gradients, 1 MiB per thread"
    found.append(Target(what, "all", reached, not over if measured else None))
    return found


def duration(ms: float) -> str:
    """The duration with three digits and a unit."""
    if math.isnan(ms):
        return "–"
    value, unit = (ms * 1e3, "µs") if ms < 1 else (ms, "ms") if ms < 1e3 else (ms / 1e3, "s")
    return f"{value:.{max(0, 2 - math.floor(math.log10(max(value, 1e-9))))}f} {unit}"


def number(value: float, form: str) -> str:
    return "–" if math.isnan(value) else format(value, form)


def factor(value: float) -> str:
    """The ratio, with one decimal if it is below 100."""
    return number(value, ".1f" if value < 100 else ".0f")


def gain(value: float) -> str:
    return "–" if math.isnan(value) else f"{factor(value)}×"


def one_line(rows: Sequence[Row]) -> str:
    """A finished case in one line."""
    times = (f"{row.competitor} {duration(row.median_ms) if row.status == OK else row.status}" for row in rows)
    return f"{rows[0].case}: {', '.join(times)}"


COLUMNS = {  # the columns of the table of results and their widths
    "": 11,
    "median": 8,
    "p20": 8,
    "p80": 8,
    "runs": 4,
    "times ours": 10,
    "GB/s": 6,
    "peak MiB": 8,
    "allowed": 7,
    "error": 5,
    "≤": 5,
}


def results_table(rows: Sequence[Row]) -> Group:
    """A heading and a table for each case; all tables have the same columns."""

    def table(header: bool) -> Table:
        made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=header)
        for name, width in COLUMNS.items():
            made.add_column(name, justify="right" if name else "left", width=width, no_wrap=True)
        return made

    parts: list[Table | str] = [table(True)]
    for case in names(rows):
        of_case, lines = [row for row in rows if row.case == case], table(False)
        first = of_case[0]
        passes = ", forward and backward" if first.backward else ""
        parts += [f"\n[bold]{case}[/] {first.shape} {first.dtype}{passes}", lines]
        for row in of_case:
            lines.add_row(*row_cells(row))
            if row.status != OK:
                parts.append(f"[red]{row.competitor}: {escape(row.note)}[/]")
    return Group(*parts)


def row_cells(row: Row) -> list[str]:
    error = [number(row.error, ".0e"), number(row.tolerance, ".0e")]
    if row.status != OK:
        return [row.competitor, f"[red]{row.status}[/]", *[""] * 7, *error]
    return [
        row.competitor,
        *(duration(ms) for ms in (row.median_ms, row.p20_ms, row.p80_ms)),
        str(row.repetitions),
        factor(row.ratio),
        number(row.gb_per_s, ".2f"),
        *(number(b / MIB, ".1f") for b in (row.peak_extra_bytes, row.allowed_bytes)),
        *error,
    ]


def table_of(
    names: Sequence[str],
    lines: Iterable[Sequence[str]],
    left: Sequence[str],
    no_wrap: bool = False,
    form: box.Box = box.SIMPLE_HEAD,
    **options: Any,
) -> Table:
    """A table with these columns and lines. Columns in `left` are aligned to the left, and the others to the right."""
    table = Table(box=form, pad_edge=form is box.MARKDOWN, **options)
    for name in names:
        table.add_column(name, justify="left" if name in left else "right", no_wrap=no_wrap)
    for cells in lines:
        table.add_row(*cells)
    return table


def targets_table(found: Sequence[Target], quick: bool) -> Table:
    title = "What must hold" + (", but of a full run and not of a quick one" if quick else "")
    words = {True: "[green]met[/]", False: "[red]not met[/]", None: "not measured"}
    lines = ([target.what, target.limit, target.measured, words[target.met]] for target in found)
    return table_of(("case", "target", "measured", ""), lines, left=("case", ""), title=title)


def errors_table(errors: dict[str, Errors]) -> Table:
    title = "Error of L_n over 1 + |L_n|, K = 256"
    lines = ([name, f"{e.rms:.1e}", f"{e.p95:.1e}", f"{e.worst:.1e}"] for name, e in errors.items())
    return table_of(("expectation", "rms", "95 %", "worst"), lines, left=("expectation",), title=title, min_width=50)


def bandwidth_table(rows: Sequence[Row], backends: Sequence[str], copying: float) -> Table:
    """The bytes that must be moved, divided by the time, and the share of a copy's speed."""
    title = f"GB/s of the bytes that must be moved, and the share of a copy's {copying:.0f} GB/s"
    lines = []
    for case in names(rows):
        of_case = {row.competitor: row.gb_per_s for row in rows if row.case == case and row.status == OK}
        speeds = [of_case.get(name, math.nan) for name in backends]
        lines.append([case, *("–" if math.isnan(s) else f"{s:.0f}, {s / copying:.0%}" for s in speeds)])
    return table_of(("case", *backends), lines, left=("case",), title=title)


def base_table(rows: Sequence[Row], backend: str, revision: str) -> Table:
    """The times of another revision divided by the times of this revision. A case that is now more than 5 % slower is
    red."""
    title = f"Time at {revision} / time now"
    lines = []
    for case, now, before in beside_base(rows, backend):
        ratio = before / now
        colour = "red" if ratio < 1 / SLOWER else "default"
        lines.append([case, duration(now), duration(before), f"[{colour}]{number(ratio, '.2f')}[/]"])
    return table_of(("case", "now", revision, "ratio"), lines, left=("case",), title=title)
