"""Models as the codec uses them: data are levels 0 … K − 1, and a state S_i has an output distribution."""

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bfn.codec.intervals import Bins, Cells, Joint, classes, pairs
from bfn.codec.rans import Integers
from bfn.configs import ConfigError
from bfn.model import BFN, BinaryBFN, ContinuousBFN, DiscreteBFN, DiscretisedBFN
from bfn_kernels import discretised

BISECTIONS = 80
MOST_LEVELS = 256


class Coded:
    """A model and its data. A state has one coordinate for each variable, or K.

    levels: K. seconds: the time that the network has taken.
    """

    levels: int
    coordinates = 1

    def __init__(self, model: BFN):
        self.model = model.eval()
        self.shape, self.size = tuple(model.shape), math.prod(model.shape)
        self.seconds = 0.0

    def shape_of_states(self, count: int) -> tuple[int, ...]:
        return (count, *self.shape, *[self.coordinates] * (self.coordinates > 1))

    def values(self, levels: Integers) -> NDArray:
        """The means of a message, float64 [N · coordinates], for levels [N]."""
        raise NotImplementedError

    def cells(self, output: Any) -> Cells:
        """The levels, with the probabilities of an output distribution."""
        raise NotImplementedError

    def receiver(self, output: Any, mean: NDArray, w: float, std: float, delta: float) -> Cells | Joint:
        """Normals with means `mean` + w · `values`, whose levels have the probabilities of an output distribution."""
        raise NotImplementedError

    def accuracy(self, t: Tensor) -> Tensor:
        """The accuracy of all messages up to time t."""
        raise NotImplementedError

    def to_levels(self, x: Tensor) -> Integers:
        raise NotImplementedError

    def from_levels(self, levels: Integers) -> Tensor:
        raise NotImplementedError

    def theta(self, state: Tensor, seen: float) -> Tensor:
        """The parameters of the input distribution. state: sums of messages whose accuracies add up to `seen`."""
        raise NotImplementedError

    def distribution(self, output: Tensor, theta: Tensor, t: float) -> Any:
        """The output distribution, with parameters [N] or [N, K] in float64."""
        raise NotImplementedError

    def alpha(self, n_steps: int) -> NDArray:
        return self.model.schedule.alpha(torch.arange(1, n_steps + 1, dtype=torch.float64), n_steps).numpy()

    def time_of(self, seen: float) -> float:
        """The time at which the messages have this accuracy."""
        low, high = 0.0, 1.0
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            if self.accuracy(torch.tensor(middle, dtype=torch.float64)).item() < seen:
                low = middle
            else:
                high = middle
        return high if seen > 0 else 0.0

    @torch.inference_mode()
    def output(self, state: NDArray, seen: float, t: float) -> Any:
        """The output distribution at time t, given the flat states [N] of some examples, of accuracy `seen`."""
        theta = self.theta(torch.from_numpy(state).view(self.shape_of_states(-1)), seen).float()
        begun = time.monotonic()
        output = self.model.output(theta, theta.new_full((len(theta),), t))
        self.seconds += time.monotonic() - begun
        return self.distribution(output, theta, t)


class CodedBins(Coded):
    model: DiscretisedBFN

    def __init__(self, model: DiscretisedBFN):
        super().__init__(model)
        self.levels = model.num_bins

    def values(self, levels: Integers) -> NDArray:
        return (2 * levels + 1) / self.levels - 1

    def cells(self, output: Bins) -> Cells:
        return output.cells()

    def receiver(self, output: Bins, mean: NDArray, w: float, std: float, delta: float) -> Cells:
        return output.receiver(mean, w, std, delta)

    def accuracy(self, t: Tensor) -> Tensor:
        gamma, rest = self.model.schedule.gamma(t)
        return gamma / rest

    def to_levels(self, x: Tensor) -> Integers:
        return discretised.to_levels(x, num_bins=self.levels).numpy()

    def from_levels(self, levels: Integers) -> Tensor:
        return discretised.from_levels(torch.from_numpy(levels), num_bins=self.levels)

    def theta(self, state: Tensor, seen: float) -> Tensor:
        return state / (1 + seen)

    def distribution(self, output: Tensor, theta: Tensor, t: float) -> Bins:
        model = self.model
        normal = discretised.output_distribution(output, None, theta, t, schedule=model.schedule, limits=model.limits)
        mean, std = (each.double().flatten().numpy() for each in normal)
        return Bins(mean, std, self.levels)


class CodedBits(Coded):
    model: BinaryBFN
    levels = 2

    def values(self, levels: Integers) -> NDArray:
        return 2.0 * levels - 1

    def cells(self, output: NDArray) -> Cells:
        return classes(np.stack([1 - output, output], -1))

    def receiver(self, output: NDArray, mean: NDArray, w: float, std: float, delta: float) -> Cells:
        return pairs(mean - w, 2 * w, output, std, delta)

    def accuracy(self, t: Tensor) -> Tensor:
        return self.model.schedule.beta(t)

    def to_levels(self, x: Tensor) -> Integers:
        return x.long().numpy()

    def from_levels(self, levels: Integers) -> Tensor:
        return torch.from_numpy(levels)

    def theta(self, state: Tensor, seen: float) -> Tensor:
        return (2 * state).sigmoid()  # the logit of class 1 is y_1 - y_0

    def distribution(self, output: Tensor, theta: Tensor, t: float) -> NDArray:
        return output.double().sigmoid().flatten().numpy()


class CodedClasses(Coded):
    """A message has a coordinate for each class, N(α·K·e_x, α·K): the paper's message y plus α, which no softmax
    sees."""

    model: DiscreteBFN

    def __init__(self, model: DiscreteBFN):
        super().__init__(model)
        self.levels = self.coordinates = model.num_classes

    def accuracy(self, t: Tensor) -> Tensor:
        return self.levels * self.model.schedule.beta(t)

    def alpha(self, n_steps: int) -> NDArray:
        return self.levels * super().alpha(n_steps)

    def values(self, levels: Integers) -> NDArray:
        return np.eye(self.levels)[levels].reshape(-1)

    def cells(self, output: NDArray) -> Cells:
        return classes(output)

    def receiver(self, output: NDArray, mean: NDArray, w: float, std: float, delta: float) -> Joint:
        return Joint(mean, w, output, std, delta)

    def to_levels(self, x: Tensor) -> Integers:
        return x.long().numpy()

    def from_levels(self, levels: Integers) -> Tensor:
        return torch.from_numpy(levels)

    def theta(self, state: Tensor, seen: float) -> Tensor:
        return state.softmax(-1)

    def distribution(self, output: Tensor, theta: Tensor, t: float) -> NDArray:
        return output.double().softmax(-1).flatten(0, -2).numpy()


KINDS: dict[type[BFN], Callable[..., Coded]] = {
    BinaryBFN: CodedBits,
    DiscretisedBFN: CodedBins,
    DiscreteBFN: CodedClasses,
}


def coded(model: BFN) -> Coded:
    kind, levels = KINDS.get(type(model)), model.num_classes
    if kind is not None and levels <= MOST_LEVELS:
        return kind(model)
    got = f"{type(model).__name__.removesuffix('BFN').lower()} data" + f" of {levels} levels or classes" * (levels > 0)
    reason = " (continuous data have a density, which is no number of bits)" * isinstance(model, ContinuousBFN)
    raise ConfigError(f"only runs of 2 to {MOST_LEVELS} bins or classes can compress data, got {got}{reason}")
