"""Small configurations of every kind of data, that train in seconds, and networks that know the answer."""

import functools
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bfn.configs import Config, load
from bfn.data import Data, load_data
from bfn.model import BFN, ContinuousBFN, build_model
from bfn.training.trainer import Trainer
from tests.bfn.tiny_settings import TINY, validate_briefly


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of downloaded data is empty, whatever the machine has downloaded before."""
    monkeypatch.setenv("BFN_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


@functools.cache
def shipped(name: str) -> Data:
    """The data of a configuration that ships, which all tests share: no test may change them in place."""
    return load_data(load(name))


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Config]:
    """tiny("digits", "train.max_steps=3") is a small configuration that writes to a directory of its own."""

    def make(name: str, *overrides: str) -> Config:
        return load(name, [*TINY, f"out={tmp_path / name}", *overrides])

    return make


@pytest.fixture
def make(tiny: Callable[..., Config], tmp_path: Path) -> Callable[..., Trainer]:
    """make("train.clip_norm=2") is a trainer of a tiny model with few examples, in a directory of its own."""
    numbers = itertools.count()

    def trainer(*overrides: str) -> Trainer:
        config, data = tiny("digits", f"out={tmp_path / str(next(numbers))}", *overrides), shipped("digits")
        return Trainer(config, replace(data, validation=data.validation[:4], test=data.test[:4]))

    return trainer


short_validations = pytest.fixture(validate_briefly)


@pytest.fixture(params=["digits", "digits_continuous", "digits_binary", "text"])
def pair(request: pytest.FixtureRequest, tiny: Callable[..., Config]) -> tuple[BFN, Data]:
    """A fresh model of every kind of data, and the data."""
    config, data = tiny(request.param), shipped(request.param)
    torch.manual_seed(0)
    return build_model(config, data), data


class Oracle(nn.Module):
    """Puts out, as the model's network would, that the data are `x`, with hardly a doubt."""

    def __init__(self, model: BFN, x: Tensor):
        super().__init__()
        self.kind, self.num_classes, self.schedule = type(model), model.num_classes, model.schedule
        self.x = nn.Parameter(x, requires_grad=False)
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, features: Tensor, t: Tensor) -> Tensor:
        self.seen.append((features, t))
        x = self.x[: len(features)]
        if not x.is_floating_point():
            logits = 40.0 * nn.functional.one_hot(x, self.num_classes)
            return logits[..., 1:] - logits[..., :1] if self.num_classes == 2 else logits
        gamma, rest = self.schedule.gamma(t.double().view(-1, *[1] * (x.dim() - 1)))
        noise = (features[..., 0] - gamma * x) / (gamma * rest).sqrt().clamp(min=1e-12)
        outputs = [noise, torch.full_like(noise, -5.0)]  # std e^-5 of what the noise leaves open
        return torch.stack(outputs[: 1 if self.kind is ContinuousBFN else 2], -1).float()


@pytest.fixture
def oracle() -> type[Oracle]:
    return Oracle
