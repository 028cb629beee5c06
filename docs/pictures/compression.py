"""Pictures of how a run compresses images: the bits of each message about one image, what Bob expects after it, and the
sizes of files.

    python docs/pictures/compression.py RUN [PICTURE]
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray
from rich.progress import track

from bfn import figures
from bfn.codec.codec import SPACING, Codec
from bfn.codec.commands import bound_of, counts_of, others
from bfn.codec.container import compress
from bfn.codec.intervals import Cells, normals
from bfn.codec.models import Coded, coded
from bfn.codec.rans import Integers
from bfn.training.runs import load_run
from bfn_kernels.coding import PRECISION

STEPS = 20
SIZES = (10, 20, 50, 100)  # the numbers of messages of the files
SHOWN = (0, 1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20)  # Bob's images are drawn after these numbers of messages


class Random:
    """In place of a stack: all bits that are popped are random."""

    def __init__(self, seed: int):
        self.random = np.random.default_rng(seed)

    def pop(self, count: int, find) -> Integers:
        return find(self.random.integers(0, 1 << PRECISION, count), slice(0, count))[0]


@dataclass
class Told:
    """bits: what each message costs, then the data after the last message. expected: the images that Bob expects after
    0, 1, … messages."""

    bits: list[float]
    expected: list[NDArray]


def told(codec: Codec, levels: Integers, seed: int = 1) -> Told:
    """A message costs the logarithm of the ratio of the sender distribution to the receiver distribution."""
    x, source, model = levels.reshape(-1), Random(seed), codec.coded
    states = [codec.flow(x).pop(source)]
    for i in range(codec.n, 1, -1):
        states.append(codec.bridge(states[-1], i).pop(source))
    states = [np.zeros_like(x), *states[::-1]]
    found = Told([], [])
    for i in range(1, codec.n + 1):
        step, before = codec.steps[i], states[i - 1]
        mean = before * (step.g * codec.steps[i - 1].spacing) + step.w * model.values(x)
        sender, receiver = normals(mean, step.std, step.spacing), codec.receiver(before, i)
        ratio = sender.intervals(states[i])[1] / receiver.intervals(states[i])[1]
        found.bits.append(float(np.log2(ratio).sum()))
        found.expected.append(expected(model, model.cells(codec.output(before, i - 1))))
    last = model.cells(codec.output(states[-1], codec.n))
    found.bits.append(float(-np.log2(last.intervals(x)[1] / 2.0**PRECISION).sum()))
    found.expected.append(expected(model, last))
    return found


def expected(model: Coded, cells: Cells) -> NDArray:
    """The mean level of each variable."""
    levels = range(model.levels)
    return sum(k * cells.intervals(np.full(cells.count, k))[1] / 2.0**PRECISION for k in levels)


def draw_expected(strip: Axes, model: Coded, expected: list[NDArray], levels: Integers) -> None:
    images = [*(expected[i] for i in SHOWN), levels]
    shown = torch.from_numpy(np.stack([image.reshape(model.shape) / (model.levels - 1) for image in images]))
    figures.draw_images(strip, shown, len(images))
    width = model.shape[1] + 1
    for place, name in enumerate([*map(str, SHOWN), "data"]):
        strip.text(1 + place * width + width / 2 - 1, -1, name, ha="center", va="bottom")
    strip.set_title("what Bob expects after this number of messages", pad=18)


def draw_bits(axes: Axes, bits: list[float]) -> None:
    axes.bar([*map(str, range(1, STEPS + 1)), "x"], bits)
    axes.set(xlabel=f"message, and the data at the end (x): {sum(bits):.0f} bits in all", ylabel="bits")
    axes.tick_params(axis="x", labelsize=8)


def draw_sizes(axes: Axes, files: list[int], bounds: list[float], rivals: dict[str, int], count: int) -> None:
    axes.plot(SIZES, files, "o-", label="file")
    axes.plot(SIZES, bounds, "o--", label="bound L_n + L_r")
    for place, (size, name) in enumerate(sorted((size, name) for name, size in rivals.items() if name != "raw")):
        axes.axhline(size, color="grey", lw=0.8)
        axes.text(SIZES[-1 - place % 2], size, name, ha="right", va="bottom", color="grey", fontsize=8)
    figures.at_numbers(axes, SIZES)
    axes.set(xlabel="number of messages n", ylabel=f"bytes for {count} images", ylim=(0, None))
    axes.legend(loc="lower left")


def picture(run: Path, path: Path) -> Path:
    model, settings, data = load_run(run)
    by = coded(model)
    levels, counts = by.to_levels(data.test), counts_of(by, data)
    figure = figures.new((11, 6))
    above, below = figure.subfigures(2, 1, height_ratios=(1, 3))
    left, right = below.subplots(1, 2)
    found = told(Codec(by, STEPS, SPACING), levels[0])
    draw_expected(above.subplots(), by, found.expected, levels[0])
    draw_bits(left, found.bits)
    files = [len(compress(by, levels, counts, n_steps=n).data) for n in track(SIZES, "files")]
    bounds = [bound_of(by, levels, settings.evaluate, n) for n in track(SIZES, "bounds")]
    draw_sizes(right, files, bounds, others(levels, by.levels), len(levels))
    return figures.write(figure, path)


if __name__ == "__main__":
    where = Path(sys.argv[2] if len(sys.argv) > 2 else "runs/compression.png")
    print(f"picture: {picture(Path(sys.argv[1]), where)}")
