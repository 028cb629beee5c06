"""The models of each kind of data: a network of this package in a module of bfn_kernels.nn."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import Module

from bfn.configs import Config, ConfigError, choose, imported
from bfn.data import Data, frequencies
from bfn.networks import build_network
from bfn.networks.transformer import VectorTransformer
from bfn_kernels import nn
from bfn_kernels.schedules import ExponentialVariance, QuadraticAccuracy, final_accuracy

LARGE = 1000  # classes from which on a step of training is faster without [B, ..., K]: docs/training.md


class BFN(nn.BFN):
    """A model that knows its data. Its network takes features [B, ..., F] and puts out [B, ..., outputs]."""

    network: Module
    shape: tuple[int, ...]  # of an example
    num_classes: int  # or bins


class ContinuousBFN(nn.Continuous, BFN):
    """The reconstruction loss is that of bins, so that its bits can be compared with those of discretised data."""

    def __init__(self, config: Config, data: Data):
        schedule = make_schedule(config, "sigma_1", ExponentialVariance)
        super().__init__(build_network(config.network, data.shape, 1, 1), schedule=schedule, num_bins=data.num_classes)

    def output(self, theta: Tensor, t: Tensor) -> Tensor:
        return self.network(theta[..., None], t)[..., 0]


class DiscretisedBFN(nn.Discretised, BFN):
    """The network sees the mean alone."""

    def __init__(self, config: Config, data: Data):
        schedule = make_schedule(config, "sigma_1", ExponentialVariance)
        super().__init__(build_network(config.network, data.shape, 1, 2), schedule=schedule, num_bins=data.num_classes)

    def output(self, theta: Tensor, t: Tensor) -> Tensor:
        return self.network(theta[..., None], t)


class DiscreteBFN(nn.Discrete, BFN):
    """More than two classes, whose probabilities the network sees."""

    def __init__(self, config: Config, data: Data):
        size = data.num_classes
        schedule = make_schedule(config, "beta_1", of_classes(data))
        super().__init__(build_network(config.network, data.shape, size, size), schedule=schedule, num_classes=size)


class VocabularyBFN(nn.Vocabulary, BFN):
    """Classes of a large vocabulary, whose network sees and puts out vectors."""

    def __init__(self, config: Config, data: Data):
        schedule, sizes = make_schedule(config, "beta_1", of_classes(data)), config.network
        network = VectorTransformer(
            data.shape, width=sizes.width, depth=sizes.depth, heads=sizes.heads, dropout=sizes.dropout
        )
        size, p = data.num_classes, frequencies(data)
        super().__init__(network, num_classes=size, width=sizes.width, frequencies=p, schedule=schedule)


class BinaryBFN(nn.Binary, BFN):
    """The network sees 2·theta_0 - 1, as published."""

    def __init__(self, config: Config, data: Data):
        schedule = make_schedule(config, "beta_1", of_classes(data))
        super().__init__(build_network(config.network, data.shape, 1, 1), schedule=schedule)

    def output(self, theta: Tensor, t: Tensor) -> Tensor:
        return self.network(1 - 2 * theta[..., None], t)[..., 0]


KINDS: dict[str, Callable[[Config, Data], BFN]] = {
    "continuous": ContinuousBFN,
    "discretised": DiscretisedBFN,
    "discrete": DiscreteBFN,
}


def of_classes(data: Data) -> Callable[[float | None], QuadraticAccuracy]:
    """The schedule of an accuracy β₁, by default that of its number of classes."""
    return lambda beta_1: QuadraticAccuracy(final_accuracy(data.num_classes) if beta_1 is None else beta_1)


def make_schedule(config: Config, key: str, shipped: Callable[..., Any]) -> Any:
    """The schedule that `model.schedule` names, or the one that ships, made of model.sigma_1 or model.beta_1."""
    own = config.model.schedule
    return shipped(required(config, key)) if own is None else imported(own, "model.schedule")(config)


def required(config: Config, key: str) -> float | None:
    """model.sigma_1 or model.beta_1, which may be None, whichever the kind of data takes; the other must not be set."""
    value = getattr(config.model, key)
    other = "beta_1" if key == "sigma_1" else "sigma_1"
    if (key == "sigma_1" and value is None) or getattr(config.model, other) is not None:
        raise ConfigError(f"model.kind={config.model.kind!r} needs model.{key} and does not take model.{other}")
    if key == "sigma_1" and value >= 1:
        raise ConfigError(f"model.sigma_1={value} must be below 1")
    return value


def in_vectors(config: Config, data: Data) -> bool:
    """Whether the network is one that takes vectors, and the vocabulary so large that this pays."""
    return config.network.name == "transformer" and data.num_classes >= LARGE


def build_model(config: Config, data: Data) -> BFN:
    """The model that `model.kind` names, with fresh weights from torch's default generator."""
    kind = choose(KINDS, config.model.kind, "model.kind")
    if (kind is DiscreteBFN) == data.validation.is_floating_point():
        raise ConfigError(f"model.kind={config.model.kind!r} does not fit data.name={config.data.name!r}")
    if kind is DiscreteBFN:
        kind = BinaryBFN if data.num_classes == 2 else VocabularyBFN if in_vectors(config, data) else DiscreteBFN
    model: BFN = kind(config, data)
    model.shape, model.num_classes = data.shape, data.num_classes
    return model
