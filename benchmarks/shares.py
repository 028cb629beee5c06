"""The parts of a training step: their measured times, and the cells of a table of these times."""

from dataclasses import dataclass

from benchmarks.report import duration

TIMES = ("network", "ours", "eager", "published")
COLUMNS = ("config", "parameters", "examples", *TIMES, "before", "after", "step faster by")


@dataclass(frozen=True)
class Share:
    """The milliseconds that the parts of a training step take."""

    config: str
    parameters: int
    examples: int
    variables: int
    network_ms: float
    ours_ms: float
    eager_ms: float
    published_ms: float

    def of_step(self, ms: float) -> float:
        """The share of flow and loss in a step, if they take `ms`."""
        return ms / (self.network_ms + ms)

    def gain(self, ms: float) -> float:
        """How many times as fast a step is with our ops, compared with a flow and loss that take `ms`."""
        return (self.network_ms + ms) / (self.network_ms + self.ours_ms)


def cells(found: Share) -> list[str]:
    """The cells of a row under COLUMNS. "before" and "after" are the share of flow and loss in a step, in the published
    form and with our ops."""
    times = (found.network_ms, found.ours_ms, found.eager_ms, found.published_ms)
    return [
        found.config,
        f"{found.parameters / 1e6:.1f} M",
        str(found.examples),
        *map(duration, times),
        *(f"{found.of_step(ms):.2%}" for ms in (found.published_ms, found.ours_ms)),
        f"{found.gain(found.published_ms):.3f}×",
    ]
