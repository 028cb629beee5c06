import warnings
from types import SimpleNamespace

import PIL.Image
import pytest
import torch
from matplotlib.axes import Axes

from bfn import figures
from bfn.configs import EvaluateConfig
from bfn.data import load_data
from bfn.results import plots
from bfn.results.evaluate import evaluate
from bfn_kernels import nn

SIZE = (6.4, 4.8)  # inches


def test_the_loss_at_every_time_is_drawn_for_every_kind_of_data(pair, tmp_path, monkeypatch):
    model, data = pair
    drawn = []
    monkeypatch.setattr(figures, "write", lambda figure, path: drawn.append(figure.axes[0].lines[0].get_ydata()))
    plots.plot_times(model, data, tmp_path / "times.png", seed=0, count=8)
    bound = evaluate(model, data.test[:128], EvaluateConfig(repeats=8))
    assert len(drawn[0]) == 8 and drawn[0].mean() == pytest.approx(bound.messages, rel=0.1)


def test_a_picture_is_written_into_a_new_folder_in_its_size(tmp_path):
    figure, axes = figures.panels((8, 4.5))
    axes.plot([0, 1], [0, 1], color="black")
    with PIL.Image.open(figures.write(figure, tmp_path / "new" / "picture.png")) as picture:
        assert picture.size == pytest.approx((8 * figures.DPI, 4.5 * figures.DPI), rel=0.1)
        assert picture.convert("L").getextrema() == (0, 255)


def test_losses_are_drawn_from_the_log(tmp_path, monkeypatch):
    """Of the last mean over training steps, few of which there were, nothing is drawn."""
    rows, drawn = [(10, 3.0, 3.5), (20, 2.0, 2.5), (30, 2.2, 2.1), (31, 2.1, 9.0)], []
    log = [dict(zip(("step", "validation_bits", "train_bits"), row, strict=True)) for row in rows]
    plot = Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda self, *xy, **keywords: drawn.append(xy) or plot(self, *xy, **keywords))
    plots.plot_losses(log, SimpleNamespace(judge=None, baseline=2.4), tmp_path / "losses.png", dropout=True)
    assert drawn[:2] == [([10, 20, 30], [3.5, 2.5, 2.1]), ([10, 20, 30, 31], [3.0, 2.0, 2.2, 2.1])]


def test_tiles_keep_every_image_in_its_place():
    _, axes = figures.panels(SIZE)
    images = torch.arange(3.0)[:, None, None].expand(3, 2, 2) / 2
    figures.draw_images(axes, images, 2)
    canvas = axes.images[0].get_array()
    assert canvas.shape == (7, 7)
    assert [canvas[1, 1], canvas[2, 5], canvas[5, 2]] == [0, 0.5, 1]
    assert [(canvas == level).sum() for level in (0, 0.5, 1)] == [4 + 9, 4, 4]  # 9 where a fourth image would be


def test_every_grey_image_has_a_frame_of_a_colour_that_no_pixel_has():
    """White images on a white page could not be told apart."""
    _, axes = figures.panels(SIZE)
    figures.draw_images(axes, torch.zeros(3, 2, 2), 2)
    image = axes.images[0]
    frame, colours = image.get_array().mask, image.cmap(image.norm(image.get_array()))[..., :3]
    assert frame[[0, 3]].all() and frame[:4, [0, 3, 6]].all() and frame[6, :4].all() and frame[:, [0, 3]].all()
    assert not frame[4:, 4:].any() and frame.sum() == 49 - 3 * 4 - 9
    assert (colours[~frame] == 1).all() and (colours[frame].min(-1) < colours[frame].max(-1)).all()


def test_examples_in_one_dimension_are_lines():
    _, axes = figures.panels(SIZE)
    figures.draw_images(axes, torch.zeros(4, 5), 2)
    assert axes.images[0].get_array().shape == (5, 13)


def test_classes_without_symbols_are_numbers_and_grey_levels():
    _, (top, bottom) = figures.panels(SIZE, 2)
    plots.draw_probabilities(top, torch.eye(3), 2, "")
    assert [label.get_text() for label in top.get_yticklabels()] == ["0", "1", "2"]
    model, theta = nn.Discrete(torch.nn.Identity(), beta_1=1.0, num_classes=3), torch.eye(3)[:, None, None]
    plots.draw_inputs(bottom, model, SimpleNamespace(symbols="", num_classes=3), theta, [0, 1, 2], columns=3)
    assert bottom.images[0].get_array().compressed().tolist() == [0, 0.5, 1]


def test_two_classes_with_symbols_are_text():
    """An input distribution over two classes holds only the probability of class 1."""
    _, axes = figures.panels(SIZE)
    model, theta = nn.Binary(torch.nn.Identity(), beta_1=1.0), torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    plots.draw_inputs(axes, model, SimpleNamespace(symbols="ab", num_classes=2), theta, [0, 1], columns=2)
    found = [(text.get_text(), text.get_alpha()) for text in axes.texts]
    assert found == [("a", 0.75), ("b", 0.75), ("b", 1), ("a", 1)]


def test_letters_that_the_font_lacks_are_drawn_without_a_warning(tmp_path):
    data = SimpleNamespace(judge=None, symbols=["中", "é\n", "𝒩", b"\xff", "\t"], test=torch.arange(5)[None])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.plot_samples(torch.tensor([[0, 1, 2, 3, 4]]), data, tmp_path / "samples.png")
        figure, (top, bottom) = figures.panels(SIZE, 2)
        plots.draw_probabilities(top, torch.eye(5), 2, data.symbols)
        plots.draw_lines(bottom, torch.ones(1, 5), data.test, [0], data.symbols)
        figures.write(figure, tmp_path / "probabilities.png")
    wanted = ["�", "é↵", "�", "�", "⇥"]
    assert [label.get_text() for label in top.get_yticklabels()] == wanted
    assert [text.get_text() for text in bottom.texts] == wanted


def test_long_text_is_drawn_in_lines_of_a_hundred_letters(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "write", lambda figure, path: drawn.extend(text.get_text() for text in figure.texts))
    data = SimpleNamespace(judge=None, symbols="ab", test=torch.ones(1, 101, dtype=torch.long))
    plots.plot_samples(torch.zeros(1, 205, dtype=torch.long), data, tmp_path / "samples.png")
    assert drawn == ["samples", "a" * 100, "a" * 100, "a" * 5, "", "held-out text", "b" * 100, "b"]


def test_tiles_in_colour_have_white_between_them():
    _, axes = figures.panels(SIZE)
    images = torch.zeros(2, 2, 3, 3)
    images[1, 1, 2] = torch.tensor([0.25, 0.5, 0.75])
    figures.draw_images(axes, images, 2)
    canvas = axes.images[0].get_array()
    assert canvas.shape == (4, 9, 3)
    assert canvas[2, 7].tolist() == [0.25, 0.5, 0.75] and (canvas[1:3, 1:4] == 0).all()
    assert (canvas[[0, 3]] == 1).all() and (canvas[:, [0, 4, 8]] == 1).all()


def test_the_variable_that_is_shown_is_the_one_that_varies(tiny):
    data = load_data(tiny("digits"))
    data.train[:] = 0
    data.train[::2, 3, 6] = 1
    assert plots.most_varied(data) == (3, 6)


def test_grey_levels_and_text_are_what_the_data_say():
    assert plots.to_grey(torch.tensor([-1.0, 0.0, 1.0]), 17).tolist() == [0, 0.5, 1]
    assert plots.to_grey(torch.tensor([0, 1]), 2).tolist() == [0, 1]
    assert plots.to_text(torch.tensor([[1, 0, 2]]), " ab") == ["a b"]


def test_a_long_symbol_is_cut():
    assert plots.visible(b"a" * 12) == "a" * 12 and plots.visible(b"a" * 13) == "a" * 11 + "…"


@pytest.mark.parametrize(("angle", "end"), [(False, 1.6), (True, 3.14159265)])
def test_a_density_is_darkest_at_its_mean(angle, end):
    means, stds = torch.tensor([-1.0, 0.0, 0.5, 1.0]), torch.full((4,), 0.1)
    axes = figures.new((4, 3)).subplots()
    plots.draw_density(axes, means, stds, 1.0, angle=angle)
    (image,) = axes.images
    left, right, low, high = image.get_extent()
    assert (left, right) == axes.get_xlim() == (-0.5, 3.5) and (low, high) == axes.get_ylim()
    assert (low, high) == pytest.approx((-end, end))
    darkest = low + (image.get_array().argmax(0) + 0.5) / len(image.get_array()) * (high - low)
    assert darkest.tolist() == pytest.approx(means.tolist(), abs=0.02)
