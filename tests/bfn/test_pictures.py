"""What holds of every picture: all that is drawn can be seen, and what it is stands beside it."""

import math
from collections.abc import Callable, Iterator

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

from bfn.data import load_data
from bfn.results import plots
from bfn.results.evaluate import Bound
from bfn.results.tables import TOLD_APART, Drawn, Measured
from docs.pictures import information, story

LOG = "step,validation_bits,train_bits\n" + "".join(f"{10 * i},{2 + 0.4 / i},{1.9 + 0.5 / i}\n" for i in range(1, 9))
BOUNDS = [Measured(n, Bound(1.5 + 1 / (n or 1e9), 0.2, 0.05, 16), None) for n in (10, 25, 100, None)]
DRAWN = [
    Drawn(name, n, 0.1, TOLD_APART, 0.5 + better / n, 0.02)
    for name, better in (("a", 1), ("b", 2))
    for n in (5, 20, 80)
]


@pytest.fixture
def figures(monkeypatch) -> Iterator[Callable[..., list[Figure]]]:
    """The figures that a function draws, which are not written."""
    written_figures = []
    for module in (plots, story, information):
        monkeypatch.setattr(module, "write", lambda figure, path: written_figures.append(figure) or path)

    def drawn(function: Callable, *args, **more) -> list[Figure]:
        written_figures.clear()
        function(*args, **more)
        assert written_figures, "nothing was drawn"
        return list(written_figures)

    yield drawn
    plt.close("all")


def within(axes: Axes, x, y) -> torch.Tensor:
    """Which points lie in the part of the axes that is shown, whichever way round it is."""
    (left, right), (bottom, top) = sorted(axes.get_xlim()), sorted(axes.get_ylim())
    x, y = (torch.as_tensor(part, dtype=torch.float64) for part in (x, y))
    slack = 1e-3
    across = (x >= left - slack * (right - left)) & (x <= right + slack * (right - left))
    return across & (y >= bottom - slack * (top - bottom)) & (y <= top + slack * (top - bottom))


def check(figure: Figure) -> None:
    for axes in figure.axes:
        if axes.get_label() == "<colorbar>":
            assert axes.get_ylabel()
            continue
        assert axes.lines or axes.images or axes.collections or axes.patches or axes.texts, "an empty part"
        assert axes.get_title() or axes.get_ylabel()
        if axes.axison:
            assert axes.get_ylabel() and (axes.get_xlabel() or len(axes.get_xticks()) == 0), "numbers of what?"
        for line in axes.lines:
            if line.get_transform() == axes.transData:
                assert within(axes, *line.get_xydata().T).double().mean() > 0.9, "a line outside"
        for image in axes.images:
            left, right, bottom, top = image.get_extent()
            assert within(axes, [left, right], [bottom, top]).all(), "an image outside"
            shown = torch.as_tensor(image.get_array().compressed())
            assert shown.min() >= image.norm.vmin - 1e-6 and shown.max() <= image.norm.vmax + 1e-6
            assert shown.max() > shown.min()
        for text in axes.texts:
            if text.get_transform() == axes.transData:
                assert within(axes, *text.get_position()).all(), "letters outside"
        labelled = axes.get_legend_handles_labels()[1]
        legend = axes.get_legend()
        assert [text.get_text() for text in legend.get_texts()] == labelled if labelled else legend is None


def test_pictures_of_every_kind_of_data(pair, tmp_path, figures):
    model, data = pair
    path = tmp_path / "picture.png"
    (samples,) = figures(plots.plot_samples, data.train[:9], data, path)
    if data.symbols:
        words = [text.get_text() for text in samples.texts]
        assert words.index("samples") == 0 and "held-out text" in words
        heights = [text.get_position()[1] for text in samples.texts]
        assert heights == sorted(heights, reverse=True) and heights[-1] > 0 and heights[0] < 1
    else:
        assert [axes.get_title() for axes in samples.axes] == ["Samples", "Held-out data"]
        check(samples)
    (times,) = figures(plots.plot_times, model, data, path, seed=0, count=8)
    check(times)
    assert times.axes[0].get_xlim() == (0, 1) and times.axes[0].get_ylim()[0] == 0
    (narrowing,) = figures(plots.plot_narrowing, model, data, path, n_steps=8, seed=0)
    check(narrowing)
    top, bottom = narrowing.axes[:2]
    assert "8 messages" in top.get_title()
    if not data.symbols:  # the first of nine images is the input distribution before any message
        first = bottom.images[0].get_array()[: data.shape[0], : data.shape[1]]
        torch.testing.assert_close(torch.as_tensor(first.data), torch.full(first.shape, 0.5))
        assert bottom.get_title() == "Mean of every pixel after 0, 1, 2, 3, 4, 5, 6, 7, 8 messages"


def test_pictures_of_numbers(tiny, tmp_path, figures):
    data = load_data(tiny("digits"))
    log = tmp_path / "log.csv"
    log.write_text(LOG)
    for function, arguments, curves in (
        (plots.plot_losses, (log, data), 4),
        (plots.plot_bounds, (BOUNDS, data), 3),
        (plots.plot_samplers, (DRAWN,), 3),
    ):
        (figure,) = figures(function, *arguments, tmp_path / "picture.png")
        check(figure)
        assert len(figure.axes[0].get_legend_handles_labels()[1]) == curves
        assert figure.axes[0].get_title()


def test_pictures_of_the_pages(tmp_path, figures, monkeypatch):
    (figure,) = figures(story.tell, tmp_path / "story.png", Console(quiet=True))
    check(figure)
    assert [axes.get_title()[:2] for axes in figure.axes] == ["1.", "2.", "3.", "4."]
    monkeypatch.setattr(information, "CLASSES", (27, 50))
    (shown,) = figures(information.picture, tmp_path / "information.png")
    check(shown)
    for axes in shown.axes:
        assert len(axes.patches) == 2 and axes.get_xlim() == (0, 1) and axes.get_ylim()[0] == 0
        assert all(math.isfinite(bits) and bits > 0 for stairs in axes.patches for bits in stairs.get_data().values)
