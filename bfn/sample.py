"""Samples of a model of this package, which knows the shape of its data."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from bfn.configs import Config
from bfn.model import BFN
from bfn.training.speed import PLAIN, Choice, choices, choose, timed
from bfn_kernels import samplers

COMPILING = 20.0  # seconds that compiling a network takes if it is not trained


def sample(model: BFN, count: int, n_steps: int, **how: Any) -> Tensor:
    """Draws `count` examples; how: as in samplers.sample."""
    return samplers.sample(model, (count, *model.shape), n_steps, **how)


def sample_within(model: BFN, count: int, tolerance: float, **how: Any) -> tuple[Tensor, int]:
    """Draws `count` examples in steps that fit their error; how: as in samplers.sample_within."""
    return samplers.sample_within(model, (count, *model.shape), tolerance, **how)


@contextmanager
def fast(model: BFN, config: Config, count: int, calls: int, say: Callable[[str], None]) -> Iterator[None]:
    """In a `with`, the network runs as the settings of training say or, where they say "auto", in the way in which so
    many calls for `count` examples take the least time. say: takes a line for the user."""
    state, t = model.prior((count, *model.shape), model.device), torch.zeros(count, device=model.device)

    def try_out(choice: Choice, passes: int) -> list[float]:
        choice.compile(model.network)
        with choice.autocast(model.device):
            return timed(lambda: model.output(model.theta(state), t), model.device, passes)

    with samplers.evaluating(model), torch.no_grad():
        allowed = choices(config.train, model.device)
        choice = choose(allowed, lambda seconds: calls * seconds, try_out, say, COMPILING)
    choice.compile(model.network)
    try:
        with choice.autocast(model.device):
            yield
    finally:
        PLAIN.compile(model.network)
