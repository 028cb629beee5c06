"""The rows of times of clients, and their table."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from rich import box
from rich.table import Table

from benchmarks import measure
from benchmarks.clients.client import Call, Client
from benchmarks.clients.places import Place
from benchmarks.devices import Cpu
from benchmarks.report import duration, factor, table_of


@dataclass(frozen=True)
class Row:
    client: str
    competitor: str
    median_ms: float
    ratio: float  # the median of the client's computation, divided by this median
    loss: float = math.nan  # the mean of many calls
    spread: float = math.nan  # the standard deviation of one call's loss
    # the standard deviation of one call's gradient, in the 2-norm, divided by the norm of the mean gradient
    gradient_spread: float = math.nan
    network_ms: float = math.nan  # the time of the network's passes in one step

    @property
    def share(self) -> float:
        """The share of a step that this call takes."""
        return self.median_ms / (self.network_ms + self.median_ms)


def variation(call: Call, repeats: int) -> tuple[float, float, float]:
    losses, gradients = zip(*((loss, grad) for loss, grad in (call() for _ in range(repeats))), strict=True)
    values, grads = torch.stack(losses).double(), torch.stack(gradients).double()
    spread = (grads.var(0).sum() / grads.mean(0).square().sum()).sqrt()
    return float(values.mean()), float(values.std()), float(spread)


def measured(client: Client, seconds: float, repeats: int, divisor: int, device: Cpu) -> list[Row]:
    calls: dict[str, Call] = {"theirs": client.theirs, **client.ours}
    network = {} if client.network is None else {"network": client.network(divisor)}
    times = measure.timings(network | calls, seconds, device)
    network_ms = 1e3 * times["network"].median if network else math.nan
    rows = []
    for name, call in calls.items():
        varies = variation(call, repeats) if client.varies else 3 * (math.nan,)
        ratio = times["theirs"].median / times[name].median
        rows.append(Row(client.name, name, 1e3 * times[name].median, ratio, *varies, network_ms))
    return rows


COLUMNS = ("", "ms", "theirs / this", "share of a step", "loss", "± by chance", "gradient ±")


def percent(share: float) -> str:
    return "" if math.isnan(share) else f"{share:.2%}"


def cells(row: Row) -> list[str]:
    """The cells of a competitor under COLUMNS."""
    numbers = [f"{row.loss:.4f}", f"{row.spread:.2g}", f"{row.gradient_spread:.0%}"]
    varies = numbers if math.isfinite(row.loss) else ["", "", ""]
    return [row.competitor, f"{row.median_ms:.3g}", f"{row.ratio:.3g}", percent(row.share), *varies]


def table(rows: Sequence[Row]) -> Table:
    lines = ([row.client, *cells(row)] for row in rows)
    return table_of(("", *COLUMNS), lines, left=("",), form=box.MARKDOWN)


PLACED = ("code base", "function", "file and line", "replaced by", "theirs", "ops", "theirs / ops", "share of a step")


def placed(rows: Iterable[Row], places: Sequence[Place]) -> list[list[str]]:
    """The table of functions of code bases, under PLACED. What is not in the rows has no times."""
    found = {(row.client, row.competitor): row for row in rows}

    def row_of(client: str, competitor: str) -> Row:
        names = (name for name, other in found if name.startswith(client) and other == competitor)
        return found.get((next(names, ""), competitor), Row("", "", math.nan, math.nan))

    lines = []
    for place in places:
        theirs = row_of(place.client, "theirs")
        for competitor, call in place.calls.items():
            ours = row_of(place.client, competitor)
            where = [place.code.title, f"`{place.function}`", place.link, call]
            times = [duration(theirs.median_ms), duration(ours.median_ms), factor(ours.ratio)]
            shares = "–" if math.isnan(ours.share) else f"{percent(theirs.share)} → {percent(ours.share)}"
            lines.append([*where, *times, shares])
    return lines
