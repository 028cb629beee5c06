"""Data sets, options and schedules of the user: what cannot be trained on is one line before training starts."""

import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bfn.configs import ConfigError, load
from bfn.data import Data, image_baseline, load_data, values
from bfn.data.values import require_examples
from bfn.model import build_model
from bfn.training.derived_seeds import DRAWS, derive
from bfn_kernels.discretised import from_levels
from bfn_kernels.schedules import ExponentialVariance
from tests.bfn.conftest import shipped

LEVELS = torch.arange(256).repeat(3, 1)
GREY = Data(*[from_levels(LEVELS, num_bins=256)] * 3, num_classes=256, baseline=8.0)
CLASSES = Data(*[torch.arange(10).repeat(3, 1)] * 3, num_classes=10, baseline=3.4)
ANGLES = Data(*[torch.linspace(-9, 9, 10).repeat(3, 1)] * 3, num_classes=0, baseline=2.0)
BYTES = Data(*[LEVELS] * 3, num_classes=256, baseline=8.0)
CAUSE = "No step was made before. The loss overflows because of model.sigma_1=0.03 or because of the network."
CENTRES = "the centres (2k + 1)/256 - 1 of 256 bins (see bfn_kernels.discretised.from_levels), got"


def spoiled(x, value):
    """x with another value in its last example."""
    x = x.clone()
    x[-1, -1] = value
    return x


@pytest.fixture
def given(monkeypatch):
    """given(data) is a configuration whose function of data.name returns `data`."""

    def make(data, *overrides):
        monkeypatch.setitem(sys.modules, "mine", SimpleNamespace(data=lambda config: data))
        return load("digits", ["data.name=mine:data", *overrides])

    return make


@pytest.mark.parametrize("data", [GREY, CLASSES, BYTES, ANGLES], ids=["bins", "classes", "bytes", "angles"])
def test_data_as_a_model_takes_them_are_accepted_in_every_type(data, given):
    types = (torch.float64, torch.float32) if data.train.is_floating_point() else (torch.int64, torch.uint8)
    for dtype in types:
        load_data(given(replace(data, train=data.train.to(dtype))))


def test_a_number_of_classes_may_be_numpys(given):
    data = load_data(given(replace(CLASSES, num_classes=np.int64(10))))
    assert data.num_classes == 10 and type(data.num_classes) is int


def test_windows_that_overlap_cost_no_more_than_the_text(monkeypatch):
    looked, faults = [], values.faults
    monkeypatch.setattr(values, "faults", lambda x, num_classes: looked.append(x.numel()) or faults(x, num_classes))
    text = torch.arange(10_000) % 27
    windows = text.unfold(0, 256, 1)
    require_examples(windows, 27, "x")
    assert sum(looked) == len(text)
    looked.clear()
    require_examples(windows[:2], 27, "x")
    assert sum(looked) == 2 * 256
    text[-1] = 27  # only in the last window
    require_examples(windows[:-1], 27, "x")
    with pytest.raises(ConfigError, match=rf"^x must hold classes in \[0, 27\), got 27 in example {len(windows) - 1}$"):
        require_examples(windows, 27, "x")


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize(
    ("data", "wrong", "message"),
    [
        (GREY, lambda x: LEVELS / 255, f"must hold {CENTRES} 0 in example 0"),
        (GREY, lambda x: LEVELS / 127.5 - 1, f"must hold {CENTRES} -1 in example 0"),
        (GREY, lambda x: spoiled(x, 257 / 256), f"must hold {CENTRES} 1.00391 in example 2"),
        (GREY, lambda x: spoiled(x, torch.nan), "must hold finite numbers, got nan in example 2"),
        (ANGLES, lambda x: spoiled(x, torch.inf), "must hold finite numbers, got inf in example 2"),
        (CLASSES, lambda x: spoiled(x, 10), "must hold classes in [0, 10), got 10 in example 2"),
        (CLASSES, lambda x: spoiled(x, -1), "must hold classes in [0, 10), got -1 in example 2"),
        (ANGLES, lambda x: x.long(), "must hold angles as floating-point numbers, got torch.int64"),
        (CLASSES, lambda x: x.numpy(), "must be a torch.Tensor, got ndarray"),
        (CLASSES, lambda x: None, "must be a torch.Tensor, got None"),
        (CLASSES, lambda x: x[0], "must be a tensor [N, ...] of real numbers or classes, got torch.int64 [10]"),
    ],
)
def test_examples_that_cannot_be_trained_on_are_named(split, data, wrong, message, given, monkeypatch):
    monkeypatch.setattr("bfn.data.values.AT_ONCE", 256)  # one or a few examples at once
    with pytest.raises(ConfigError) as error:
        load_data(given(replace(data, **{split: wrong(getattr(data, split))})))
    assert str(error.value) == f"data.name='mine:data': {split} {message}"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, r" must return a bfn.data.Data, got None$"),
        ((1, 2), r" must return a bfn.data.Data, got tuple$"),
        (replace(CLASSES, num_classes=1), r": num_classes must be 0 for angles, or else an int of at least 2, got 1$"),
        (replace(CLASSES, num_classes=10.0), r": num_classes must be .*, got 10.0$"),
        (replace(CLASSES, num_classes=-3), r": num_classes must be .*, got -3$"),
        (replace(CLASSES, baseline=torch.tensor(3.0)), r": baseline must be a number, got Tensor$"),
        (replace(CLASSES, symbols="abc"), r": symbols must name each of 10 classes, got 3 names$"),
        (replace(CLASSES, test=CLASSES.test[:, :5]), r": all splits .*, got .* \[10\] in train, .* \[5\] in test$"),
        (replace(CLASSES, test=from_levels(CLASSES.test, num_bins=10)), r": all splits .*, torch.float32 .* in test$"),
        (replace(CLASSES, draw=lambda rows, generator: rows + 1), r": train must hold classes in \[0, 10\), got 10 in"),
        (replace(CLASSES, draw=lambda rows, generator: None), r": train must be a torch.Tensor, got None$"),
    ],
)
def test_data_that_cannot_be_trained_on_are_one_line(data, message, given):
    with pytest.raises(ConfigError, match=f"^data.name='mine:data'{message}") as error:
        load_data(given(data))
    assert "\n" not in str(error.value)


def test_every_number_of_bins_has_its_own_centres():
    for bins in (2, 17, 1000, 65_536):
        levels = torch.arange(bins)
        require_examples(from_levels(levels[None], num_bins=bins), bins, "x")
        for wrong in (2 * levels / (bins - 1) - 1, levels / bins, (2 * levels + 1.1) / bins - 1):
            with pytest.raises(ConfigError, match=r"^x must hold the centres"):
                require_examples(wrong[None], bins, "x")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (CLASSES.train.numpy(), "must be a torch.Tensor, got ndarray"),
        (CLASSES.train + 1, r"must hold classes in \[0, 10\), got 10 in example 0"),
        (from_levels(CLASSES.train, num_bins=10), "must hold classes or levels as integers, got torch.float32"),
    ],
)
def test_the_baseline_refuses_what_it_cannot_count(wrong, message):
    with pytest.raises(ConfigError, match=f"^image_baseline: test {message}"):
        image_baseline(CLASSES.train, CLASSES.validation, wrong, 10)


def test_a_loss_that_is_not_finite_has_its_cause(make):
    """Of drawn training examples, only some are checked before the run, and the others once a loss is not finite."""
    trainer, second = make("train.max_steps=3"), derive(0, DRAWS, 1, 0)
    draw = lambda x, generator: x * (torch.nan if generator.initial_seed() == second else 1)  # noqa: E731
    trainer.batches.data = replace(trainer.data, draw=draw)
    with pytest.raises(ConfigError, match=r"^data.name='digits': step 2 must hold finite numbers, got nan in"):
        trainer.run()
    trainer = make("train.max_steps=3")
    next(trainer.bare.parameters()).data.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match=rf"^the loss at step 1 is not finite. {CAUSE}$"):
        trainer.run()


def test_options_are_keyword_arguments_of_the_function_that_takes_them(monkeypatch):
    seen = []

    def data(config, *, rows=3, **more):
        seen.append((rows, more))
        return replace(shipped("digits"), train=shipped("digits").train[:rows])

    def strict(config, rows=3):
        return data(config, rows=rows)

    def schedule(config, accuracy):
        return ExponentialVariance(accuracy)

    mine = SimpleNamespace(data=data, strict=strict, schedule=schedule, number=3)
    monkeypatch.setitem(sys.modules, "mine", mine)
    assert len(load_data(load("digits", ["data.name=mine:data", "data.options={rows: 5, colour: red}"])).train) == 5
    assert seen == [(5, {"colour": "red"})]
    for override, reason in (
        ("data.options.row=5", "cannot use data.options={'row': 5}: got an unexpected keyword argument 'row'"),
        ("data.options.config=5", "cannot use data.options={'config': 5}: multiple values for argument 'config'"),
    ):
        with pytest.raises(ConfigError, match=re.escape(f"data.name='mine:strict' {reason}")):
            load_data(load("digits", ["data.name=mine:strict", override]))
    for name, reason in (("mine:number", "3 is not a callable"), ("builtins:dict", "no signature found")):
        with pytest.raises(ConfigError, match=f"data.name='{name}' cannot use data.options={{}}: {reason}"):
            load_data(load("digits", [f"data.name={name}"]))
    own = ["model.schedule=mine:schedule", "model.options.accuracy=0.25"]
    assert build_model(load("digits", own), shipped("digits")).schedule.sigma_1 == 0.25
    for options, reason in (
        ([own[1], "model.options.acuracy=5"], "got an unexpected keyword argument 'acuracy'"),
        ([], "missing a required argument: 'accuracy'"),
    ):
        with pytest.raises(ConfigError, match=f"^model.schedule='mine:schedule' cannot use model.options=.*: {reason}"):
            build_model(load("digits", [own[0], *options]), shipped("digits"))


class Own(torch.nn.Module):
    """A network of the user, whose output has no meaning. `change` makes it wrong."""

    def __init__(self, shape, features, outputs, change, **sizes):
        super().__init__()
        self.layer, self.change = torch.nn.Linear(features, outputs), change

    def forward(self, features, t):
        return self.change(self.layer(features))


@pytest.mark.parametrize("name", ["digits", "digits_continuous", "digits_binary", "text", "angles"])
def test_a_wrong_output_of_a_network_is_one_line(name, monkeypatch):
    data = ANGLES if name == "angles" else shipped(name)
    config = load(name, ["network.name=mine:Own"])
    x = data.validation[:2]
    for change, got in (
        (lambda y: torch.cat([y, y[..., :1]], -1), r"torch.float32 \("),
        (lambda y: y.round().int(), r"torch.int32 \("),
        (lambda y: (y, y), "tuple"),
        (lambda y: y, None),
    ):
        own = lambda *arguments, change=change, **sizes: Own(*arguments, change, **sizes)  # noqa: E731
        monkeypatch.setitem(sys.modules, "mine", SimpleNamespace(Own=own))
        model = build_model(config, data)
        if got is None:
            model(x)
            continue
        with pytest.raises(ConfigError, match=f"^network.name='mine:Own' must put out a .* of shape .*, got {got}"):
            model(x)
