"""Settings that make a network and its training small."""

import pytest

from bfn.configs import EvaluateConfig

TINY = [
    "network.width=16",
    "network.depth=1",
    "network.heads=2",
    "network.dropout=0.1",
    "train.batch_size=32",
    "train.learning_rate=0.003",
    "train.warmup_steps=2",
    "train.ema_decay=0.9",
    "evaluate.repeats=4",
    "sample.n_steps=5",
    "sample.count=4",
]


def validate_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The validations of a run take 2 times for each example instead of 16."""
    few = lambda n_steps, repeats, seed: EvaluateConfig(n_steps, repeats=2, seed=seed)  # noqa: E731
    monkeypatch.setattr("bfn.training.trainer.EvaluateConfig", few)
