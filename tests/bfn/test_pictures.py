"""Checks of every picture: everything drawn is visible, and titles, labels and legends name it."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import PIL.Image
import PIL.ImageSequence
import pytest
import torch
from matplotlib.animation import PillowWriter
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

from bfn import figures
from bfn.configs import SampleConfig
from bfn.data import load_data
from bfn.results import plots
from bfn.results.evaluate import Bound
from bfn.results.tables import TOLD_APART, Drawn, Measured
from docs.pictures import information, story, tutorial

LOG = [{"step": 10 * i, "validation_bits": 2 + 0.4 / i, "train_bits": 1.9 + 0.5 / i} for i in range(1, 9)]
BOUNDS = [Measured(n, Bound(1.5 + 1 / (n or 1e9), 0.2, 0.05, 16), None) for n in (10, 25, 100, None)]
DRAWN = [
    Drawn(name, n, 0.1, TOLD_APART, 0.5 + better / n, 0.02)
    for name, better in (("a", 1), ("b", 2))
    for n in (5, 20, 80)
]


@pytest.fixture
def drawn(monkeypatch) -> Callable[..., list[Figure]]:
    """The figures that a function draws, which are not written."""
    written = []
    monkeypatch.setattr(figures, "write", lambda figure, path: written.append(figure) or path)

    def run(function: Callable, *args, **more) -> list[Figure]:
        written.clear()
        function(*args, **more)
        assert written, "nothing was drawn"
        return list(written)

    return run


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


def size(figure: Figure) -> tuple[float, ...]:
    return tuple(figure.get_size_inches())


def words(figure: Figure) -> list[tuple]:
    """The title, the labels of both axes and the legend of each panel."""
    legends = [axes.get_legend() for axes in figure.axes]
    said = [[text.get_text() for text in legend.get_texts()] if legend else [] for legend in legends]
    labels = [(axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes]
    return [(*each, legend) for each, legend in zip(labels, said, strict=True)]


def test_pictures_of_samples(pair, tmp_path, drawn):
    _, data = pair
    (samples,) = drawn(plots.plot_samples, data.train[:9], data, tmp_path)
    if data.symbols:
        lines = 9 + 4 + 3  # the samples, held-out text, two headings and a gap
        assert size(samples) == (10, 0.4 + 0.22 * lines) and words(samples) == []
        said = [text.get_text() for text in samples.texts]
        assert said[:10] == ["samples", *plots.to_text(data.train[:9], data.symbols)] and "held-out text" in said
        heights = [text.get_position()[1] for text in samples.texts]
        assert heights == sorted(heights, reverse=True) and heights[-1] > 0 and heights[0] < 1
    else:
        assert size(samples) == (10, 5.2)
        assert words(samples) == [(title, "", "", []) for title in ("Samples", "Held-out data")]
        check(samples)
        first = samples.axes[0].images[0].get_array()[1 : data.shape[0] + 1, 1 : data.shape[1] + 1]
        torch.testing.assert_close(torch.as_tensor(first.data), plots.to_grey(data.train[0], data.num_classes))


def test_pictures_of_the_loss_at_every_time(pair, tmp_path, drawn):
    model, data = pair
    (times,) = drawn(plots.plot_times, model, data, tmp_path, seed=0, count=8)
    check(times)
    assert times.axes[0].get_xlim() == (0, 1) and times.axes[0].get_ylim()[0] == 0
    [(title, *labels)] = words(times)
    assert size(times) == (7, 4.2)
    assert labels == ["time t", "bits per dimension and unit of time", ["standard error"]]
    count = len(data.test[:128])
    assert title.startswith(f"Loss at time t of {count} held-out examples: ") and title.endswith(" bits in all")


def test_pictures_of_narrowing(pair, tmp_path, drawn):
    model, data = pair
    place = plots.most_varied(data)
    (narrowing,) = drawn(plots.plot_narrowing, model, data, tmp_path, SampleConfig(n_steps=8))
    check(narrowing)
    name = f"character {place[0]}" if data.symbols else f"the pixel in row {place[0]}, column {place[1]}"
    top, bottom, *bar = words(narrowing)
    assert size(narrowing) == (10, 7)
    assert top[:2] == (f"Input distribution of {name} as 8 messages arrive", "messages received")
    if bar:
        assert top[2:] == ("class (red: at the end of the run)", []) and bar == [("", "", "probability", [])]
    else:
        *curves, value = top[3]
        assert top[2] == "value (-1 white, 1 black)" and curves == ["mean", "mean ± standard deviation"]
        assert value.startswith("value at the end of the run: ")
    if data.symbols:
        assert bottom[:3] == (
            "Likeliest characters of the window (the fainter, the less probable)", "", "messages received"
        )  # fmt: skip
    else:
        assert bottom[:3] == ("Mean of every pixel after 0, 1, 2, 3, 4, 5, 6, 7, 8 messages", "", "")
        # the first of nine images is the input distribution before any message
        first = narrowing.axes[1].images[0].get_array()[1 : data.shape[0] + 1, 1 : data.shape[1] + 1]
        torch.testing.assert_close(torch.as_tensor(first.data), torch.full(first.shape, 0.5))


def test_a_film_shows_the_flow_of_every_kind_of_data(pair, tmp_path, monkeypatch):
    model, data = pair
    shown, grab = [], PillowWriter.grab_frame

    def note(film):
        shown.append((size(film.fig), words(film.fig)))
        grab(film)

    monkeypatch.setattr(PillowWriter, "grab_frame", note)
    path = plots.animate_flow(model, data, tmp_path / "flow.gif", SampleConfig(n_steps=3), count=2)
    assert {each for each, _ in shown} == {(10, 4.5) if data.symbols else (5, 5.4)}
    titles = [f"Input distributions after {i} of 3 messages" for i in (0, 1, 2, *[3] * 11)]
    assert [said for _, said in shown] == [[(title, "", "sample", [])] for title in titles]
    with PIL.Image.open(path) as film:
        frames = [torch.from_numpy(np.array(frame.convert("L"))) for frame in PIL.ImageSequence.Iterator(film)]
    assert len(frames) == 4  # the file has the last picture once, but shows it for longer
    assert all((a != b).any() for a, b in itertools.pairwise(frames))


def test_pictures_of_numbers(tiny, tmp_path, drawn):
    data = replace(load_data(tiny("digits")), baseline=2.4)
    rival = "factorised baseline: 2.400"
    curves, best = ["training, messages only", "validation bound, averaged weights"], "best: 2.050 at step 80"
    losses = ("Loss during training", "step", "bits per dimension", [*curves, best, rival])
    dropped = (*losses[:3], [f"{curves[0]}, with dropout", curves[1], best, rival])
    marks = ["continuous time: 1.700", rival, "n steps"]
    bounds = ("Bound on held-out data", "steps n", "bits per dimension", marks)
    title = "Samples against held-out data (lower is better)"
    samplers = (title, "calls of the network", TOLD_APART, ["same distribution", "a", "b"])
    for function, arguments, inches, wanted in (
        (partial(plots.plot_losses, dropout=False), (LOG, data), (8, 4.5), losses),
        (partial(plots.plot_losses, dropout=True), (LOG, data), (8, 4.5), dropped),
        (plots.plot_bounds, (BOUNDS, data), (7, 4.2), bounds),
        (plots.plot_samplers, (DRAWN,), (7, 4.2), samplers),
    ):
        (figure,) = drawn(function, *arguments, tmp_path)
        check(figure)
        assert size(figure) == inches and words(figure) == [wanted]
        points = [len(line[0].get_xdata()) for line in figure.axes[0].containers]
        assert points == {plots.plot_bounds: [3], plots.plot_samplers: [3, 3]}.get(function, [])


def test_pictures_of_the_pages(tmp_path, drawn, monkeypatch):
    (figure,) = drawn(story.tell, tmp_path / "story.png", Console(quiet=True))
    check(figure)
    assert [axes.get_title()[:2] for axes in figure.axes] == ["1.", "2.", "3.", "4."]
    monkeypatch.setattr(information, "CLASSES", (27, 50))
    (shown,) = drawn(information.picture, tmp_path / "information.png")
    check(shown)
    for axes in shown.axes:
        assert len(axes.patches) == 2 and axes.get_xlim() == (0, 1) and axes.get_ylim()[0] == 0
        assert all(math.isfinite(bits) and bits > 0 for stairs in axes.patches for bits in stairs.get_data().values)


def test_pictures_of_the_tutorial(tmp_path, drawn):
    shown = drawn(tutorial.draw, tmp_path)
    assert len(shown) == len(tutorial.code_blocks())
    for figure in shown:
        check(figure)
