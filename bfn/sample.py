"""Samples of a model of this package, which knows the shape of its data."""

from typing import Any

from torch import Tensor

from bfn.model import BFN
from bfn_kernels import samplers


def sample(model: BFN, count: int, n_steps: int, **how: Any) -> Tensor:
    """Draws `count` examples; how: as in samplers.sample."""
    return samplers.sample(model, (count, *model.shape), n_steps, **how)


def sample_within(model: BFN, count: int, tolerance: float, **how: Any) -> tuple[Tensor, int]:
    """Draws `count` examples in steps that fit their error; how: as in samplers.sample_within."""
    return samplers.sample_within(model, (count, *model.shape), tolerance, **how)
