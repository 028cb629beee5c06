"""Every picture says what it shows: the words at all of its axes, and how large it is drawn."""

from dataclasses import replace

import pytest
from matplotlib.animation import PillowWriter
from matplotlib.figure import Figure

from bfn.results import plots
from bfn.results.evaluate import Bound
from bfn.results.tables import TOLD_APART, Drawn, Measured

LOG = "step,validation_bits,train_bits\n10,3.0,3.5\n20,2.0,2.5\n30,2.2,2.1\n"


def words(figure: Figure) -> list[tuple]:
    """Of all axes: the title, the names of the two directions, and the legend."""
    legends = [axes.get_legend() for axes in figure.axes]
    said = [[text.get_text() for text in legend.get_texts()] if legend else [] for legend in legends]
    labels = [(axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes]
    return [(*each, legend) for each, legend in zip(labels, said, strict=True)]


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """The size and the words of what a function of plots draws."""

    def draw(name, *arguments, **more):
        found = []

        def note(figure, path):
            found.append((tuple(figure.get_size_inches()), words(figure)))
            plots.plt.close(figure)

        monkeypatch.setattr(plots, "write", note)
        getattr(plots, name)(*arguments, tmp_path / "picture.png", **more)
        return found[0]

    return draw


def bound(bits):
    return Bound(messages=bits - 0.5, reconstruction=0.5, error=0.1, examples=7)


def test_words_of_charts(drawn, pair, tmp_path):
    _, data = pair
    log = tmp_path / "log.csv"
    log.write_text(LOG)
    means = ["training, messages only, with dropout", "validation bound, averaged weights"]
    marks = ["best: 2.000 at step 20", "factorised baseline: 2.400"]
    losses = ("Loss during training", "step", "bits per dimension", means + marks)
    assert drawn("plot_losses", log, replace(data, baseline=2.4)) == ((8, 4.5), [losses])
    rows = [Measured(n, bound(bits), None) for n, bits in ((10, 3.0), (20, 2.5), (None, 2.25))]
    marks = ["continuous time: 2.250", f"factorised baseline: {data.baseline:.3f}", "n steps"]
    bounds = ("Bound on held-out data", "steps n", "bits per dimension", marks)
    assert drawn("plot_bounds", rows, data) == ((7, 4.2), [bounds])
    rows = [Drawn(name, calls, 0.1, TOLD_APART, 0.7, 0.01) for name in ("ancestral", "ode2") for calls in (3, 5)]
    title, labels = "Samples against held-out data (lower is better)", ["same distribution", "ancestral", "ode2"]
    samplers = (title, "calls of the network", "told apart by the nearest neighbour", labels)
    assert drawn("plot_samplers", rows) == ((7, 4.2), [samplers])


def test_words_of_samples(drawn, pair):
    _, data = pair
    size, said = drawn("plot_samples", data.train[:9], data)
    lines = 9 + 4 + 3  # the samples, held-out text, two headings and a gap
    assert size == ((10, 0.4 + 0.22 * lines) if data.symbols else (10, 5.2))
    assert said == ([] if data.symbols else [(title, "", "", []) for title in ("Samples", "Held-out data")])


def test_words_of_the_loss_at_every_time(drawn, pair):
    model, data = pair
    size, [(title, *labels)] = drawn("plot_times", model, data, seed=0, count=3)
    assert size == (7, 4.2) and labels == ["time t", "bits per dimension and unit of time", ["standard error"]]
    count = len(data.test[:128])
    assert title.startswith(f"Loss at time t of {count} held-out examples: ") and title.endswith(" bits in all")


def test_words_of_narrowing(drawn, pair):
    model, data = pair
    place = plots.most_varied(data)
    size, said = drawn("plot_narrowing", model, data, n_steps=6, seed=0)
    name = f"character {place[0]}" if data.symbols else f"the pixel in row {place[0]}, column {place[1]}"
    top, bottom, *bar = said
    assert size == (10, 7)
    assert top[:2] == (f"Input distribution of {name} as 6 messages arrive", "messages received")
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
        assert bottom[:3] == ("Mean of every pixel after 0, 1, 2, 3, 4, 5, 6 messages", "", "")


def test_words_of_a_film(pair, tmp_path, monkeypatch):
    model, data = pair
    frames, grab = [], PillowWriter.grab_frame

    def note(film):
        frames.append((tuple(film.fig.get_size_inches()), words(film.fig)))
        if len(frames) == 1:  # a film of no pictures could not be written
            grab(film)

    monkeypatch.setattr(PillowWriter, "grab_frame", note)
    plots.animate_flow(model, data, tmp_path / "flow.gif", n_steps=3, seed=0, count=4)
    size = (10, 4.5) if data.symbols else (5, 5.4)
    assert {each for each, _ in frames} == {size}
    titles = [f"Input distributions after {i} of 3 messages" for i in (0, 1, 2, *[3] * 11)]
    assert [said for _, said in frames] == [[(title, "", "sample", [])] for title in titles]
