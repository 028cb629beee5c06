import math
from dataclasses import replace

import pytest
import torch

from bfn.data import load_data
from bfn.model import build_model
from bfn.results import tables
from bfn.results.evaluate import Bound, evaluate
from bfn_kernels import discrete


@pytest.fixture
def few(tiny):
    """A fresh model of a name whose network is not constant, a few examples, and its settings."""

    def make(name: str):
        settings = tiny(name, "evaluate.repeats=2")
        data = load_data(settings)
        torch.manual_seed(0)
        model = build_model(settings, data).eval()
        torch.nn.init.normal_(model.network.head.weight, std=0.05)
        return model, replace(data, test=data.test[:12]), settings

    return make


def test_samples_that_are_drawn_alike_are_not_told_apart():
    generator = torch.Generator().manual_seed(0)
    first, second, far = torch.randn(3, 400, 5, generator=generator) + torch.tensor([0, 0, 9.0])[:, None, None]
    share, error = tables.told_apart(first, second)
    assert abs(share - 0.5) < 4 * error and error == pytest.approx(0.5 / math.sqrt(800), rel=0.02)
    assert tables.told_apart(first, far) == (1, 0)


def test_samples_that_repeat_each_other_are_told_apart():
    generator = torch.Generator().manual_seed(0)
    held_out, few = torch.randn(200, 5, generator=generator), torch.randn(10, 5, generator=generator)
    share, _ = tables.told_apart(few.repeat(20, 1), held_out)
    assert share > 0.9  # each sample has an equal one; those held out have few samples near them


def test_neighbours_at_the_same_distance_count_alike():
    same = torch.zeros(3, 2)
    assert tables.told_apart(same, same)[0] == pytest.approx(2 / 5)  # of the five others two are of the same kind


@pytest.mark.parametrize("name", ["digits", "digits_continuous", "digits_binary", "text"])
def test_a_row_is_the_bound_for_its_number_of_steps(few, name):
    model, data, settings = few(name)
    rows = list(tables.bounds(model, data, settings, [3, 20]))
    assert [row.n_steps for row in rows] == [3, 20, None]
    for row in rows:
        assert row.bound == evaluate(model, data.test, replace(settings.evaluate, n_steps=row.n_steps))
        assert (row.factorised not in (None, row.bound)) == (name == "text" and row.n_steps is not None)


def test_the_other_receiver_is_the_factorised_one(few):
    model, data, _ = few("text")
    x, t = data.test, torch.full((len(data.test),), 0.5)
    logits = torch.randn(*x.shape, data.num_classes, generator=torch.Generator().manual_seed(1))
    settings = dict(schedule=model.schedule, n_steps=4, reduction="mean")
    with model.using("factorised"):
        got = model.discrete_time_loss(x, logits, None, t, 4, 0, reduction="mean")
    want = discrete.discrete_time_loss(x, logits, t, receiver="factorised", quadrature=32, **settings)
    assert got == want != model.discrete_time_loss(x, logits, None, t, 4, 0, reduction="mean")


def test_every_sampler_is_drawn_with_every_number_of_steps(few):
    model, data, settings = few("digits_binary")
    compared = tables.compared(settings.sample, ["ancestral", "ode2"], [2, 4])
    rows = [tables.drawn(model, data, options) for options in compared]
    assert [(row.sampler, row.calls) for row in rows] == [
        ("ancestral", 3), ("ancestral", 5), ("ode2", 3), ("ode2", 5)
    ]  # fmt: skip
    assert all(0.3 < row.share <= 1 and row.seconds > 0 for row in rows)


def test_text_is_compared_by_the_characters_that_differ():
    first, second = torch.tensor([[0, 0, 0], [9, 0, 0]]), torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert tables.told_apart(first, second, differing=True) == (1, 0)
    assert tables.told_apart(first, second)[0] == 0.5  # both of the first are nearer to (1, 1, 0)


@pytest.mark.parametrize("name", ["text", "digits"])
def test_only_text_is_compared_by_characters(few, name, monkeypatch):
    asked = []
    monkeypatch.setattr(tables, "told_apart", lambda *args, **keywords: asked.append(keywords) or (0.5, 0.0))
    model, data, settings = few(name)
    tables.drawn(model, data, settings.sample)
    assert asked == [{"differing": name == "text"}]


def test_the_paper_stands_beside_what_was_measured(few):
    _, data, settings = few("digits_binary")
    settings.data.name = "mnist"
    rows = [tables.Measured(n, Bound(0.1, 0.02, 0.001, 12), None) for n in (10, 784, None)]
    table = tables.bounds_table(rows, data, settings)
    columns = {column.header: list(column.cells) for column in table.columns}
    assert columns["n"] == ["10", "784", "∞"] and columns["paper, nats"] == ["95.21", "–", "77.87"]
    settings.data.num_bins = 16
    assert all("paper" not in str(column.header) for column in tables.bounds_table(rows, data, settings).columns)
    assert columns["nats per example"][0] == f"{64 * 0.12 * math.log(2):.2f} ± {64 * 0.001 * math.log(2):.2f}"
