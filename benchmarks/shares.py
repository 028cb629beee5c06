"""The parts of a training step: the measured times, and the sentences that describe them."""

from dataclasses import dataclass

from benchmarks.report import duration

TIMES = ("network", "ours", "eager", "published")
COLUMNS = ("config", "parameters", "examples", *TIMES, "before", "after", "step faster by")


@dataclass(frozen=True)
class Share:
    """The ms that the parts of a step take."""

    config: str
    parameters: int
    examples: int
    variables: int
    network_ms: float
    ours_ms: float
    eager_ms: float
    published_ms: float

    def of_step(self, ms: float) -> float:
        """The share of a step in which flow and loss take so long."""
        return ms / (self.network_ms + ms)

    def gain(self, ms: float) -> float:
        """How many times as fast a step is with our ops."""
        return (self.network_ms + ms) / (self.network_ms + self.ours_ms)


def cells(found: Share) -> list[str]:
    """A row under COLUMNS. The last three: the share of flow and loss in a step, by the published form before and by
    ours after, and how many times as fast that makes the step."""
    times = (found.network_ms, found.ours_ms, found.eager_ms, found.published_ms)
    return [
        found.config,
        f"{found.parameters / 1e6:.1f} M",
        str(found.examples),
        *map(duration, times),
        *(f"{found.of_step(ms):.2%}" for ms in (found.published_ms, found.ours_ms)),
        f"{found.gain(found.published_ms):.3f}×",
    ]
