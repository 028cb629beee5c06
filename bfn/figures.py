"""Drawing: figures, their files, charts and tiles of images. Matplotlib takes most of a second to import, so it is
imported with the first figure."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from bfn.training.checkpoint import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
FRAME = "#d4e1f2"  # no shade of grey, so that no frame looks like a pixel


def new(size: tuple[float, float], layout: Literal["constrained"] | None = "constrained") -> "Figure":
    """An empty figure of this size in inches. Pyplot does not keep it, so nobody has to close it."""
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout=layout)


def panels(size: tuple[float, float], rows: int = 1, columns: int = 1, **more: Any) -> tuple["Figure", Any]:
    """A figure and its axes, as Figure.subplots returns them. more: arguments of Figure.subplots."""
    figure = new(size)
    return figure, figure.subplots(rows, columns, **more)


def write(figure: "Figure", path: Path) -> Path:
    write_atomically(path, lambda file: figure.savefig(file, dpi=DPI, bbox_inches="tight", facecolor="white"))
    return path


@contextmanager
def chart(path: Path, size: tuple[float, float], **labels: Any) -> Iterator["Axes"]:
    """Axes for curves. The picture is written at the end of the `with`. labels: arguments of Axes.set."""
    figure, axes = panels(size)
    yield axes
    axes.set(**labels)
    axes.grid(alpha=0.3)
    axes.legend()
    write(figure, path)


def at_numbers(axes: "Axes", numbers: Sequence[int]) -> None:
    """Gives the x axis a logarithmic scale with ticks only at these numbers."""
    axes.set_xscale("log")
    axes.set_xticks(numbers, map(str, numbers))
    axes.minorticks_off()


@cache
def letters() -> set[int]:
    """The code points that the font of pictures has."""
    from matplotlib import font_manager

    path = font_manager.findfont(font_manager.FontProperties(family="monospace"))
    return set(font_manager.get_font(path).get_charmap())


def drawable(text: str) -> str:
    """The text, in which � stands for each letter that the font of pictures does not have."""
    return "".join(letter if ord(letter) in letters() or letter in "\n\t" else "�" for letter in text)


def draw_images(axes: "Axes", images: Tensor, columns: int) -> None:
    """Draws images [N, H, W] or [N, W], or [N, H, W, 3] in colour, with values in [0, 1], as tiles. Grey images have
    thin frames, since their background is as white as the page. Colour images have white gaps."""
    images = images[:, None] if images.dim() == 2 else images  # data in one dimension: each example is a line
    rows = -(-len(images) // columns)
    _, height, width, *colours = images.shape
    white, frame = (1.0, 1.0) if colours else (0.0, torch.nan)
    canvas = torch.full((rows * (height + 1) + 1, columns * (width + 1) + 1, *colours), white)
    for index, image in enumerate(images):
        top, left = 1 + index // columns * (height + 1), 1 + index % columns * (width + 1)
        canvas[top - 1 : top + height + 1, left - 1 : left + width + 1] = frame
        canvas[top : top + height, left : left + width] = image
    tiles = axes.imshow(canvas.numpy(), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    tiles.set_cmap(tiles.get_cmap().with_extremes(bad=FRAME))
    axes.set_axis_off()
