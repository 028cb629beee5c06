"""The models of each kind of data: a network of this package in a module of bfn_kernels.nn."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from bfn.atom_rows import TYPES, Atoms
from bfn.configs import Config, ConfigError, SampleConfig, called, choose, find, imported
from bfn.data import Data
from bfn.data.splits import frequencies
from bfn.molecules_3d import ELEMENTS
from bfn.networks import ATOM_NETWORKS, build_network, made
from bfn.networks.transformer import VectorTransformer
from bfn.sequences import Padded, guiding
from bfn_kernels import nn
from bfn_kernels.nn import Sampling
from bfn_kernels.samplers import choices_of
from bfn_kernels.schedules import (
    ExponentialVariance,
    LogarithmicAccuracy,
    QuadraticAccuracy,
    VonMisesAccuracy,
    final_accuracy,
)

LOGARITHMIC = 20.4054  # ChemBFN's beta_1 of the logarithmic schedule, times the number of classes
LARGE = 1000  # from so many classes on, a training step is faster without tensors [B, ..., K]: see docs/results.md


class BFN(nn.BFN):
    """A model that knows its data. Its network takes features [B, ..., F] and puts out [B, ..., outputs]."""

    network: Module
    shape: tuple[int, ...]  # of an example
    num_classes: int  # or bins
    outputs: int | None = None  # the numbers that the network puts out for each variable; None for a large vocabulary
    named = "network"  # the setting that named the network

    def output(self, theta: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """The network's output for these features. The network may be the user's, so its output is checked."""
        output = super().output(theta, t, cond)
        if self.outputs is None:
            return output
        shape = (*theta.shape[:-1], self.outputs)
        if not isinstance(output, Tensor) or not output.is_floating_point() or output.shape != shape:
            got = f"{output.dtype} {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
            raise ConfigError(f"{self.named} must put out a floating-point tensor of shape {shape}, got {got}")
        return output

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def asked(self, count: int) -> dict[str, Any]:
        """The arguments of a sampler that ask for `count` examples."""
        return {"shape": (count, *self.shape)}

    def examples(self, samples: Any, asked: dict[str, Any]) -> Tensor:
        """Examples from what a sampler has drawn."""
        return samples

    def inputs(self, state: Any, asked: dict[str, Any]) -> Tensor:
        """The parameters of the input distributions of a sampler's state."""
        return self.theta(state)

    def call(self, count: int, device: torch.device) -> Callable[[], Any]:
        """A call of the network for `count` examples."""
        theta, t = self.theta(self.prior((count, *self.shape), device)), torch.zeros(count, device=device)
        return lambda: self.output(theta, t)


class ContinuousBFN(nn.Continuous, BFN):
    """Continuous data. The reconstruction loss is −ln of a bin's probability, comparable with discretised data."""

    outputs = 1

    def __init__(self, config: Config, data: Data):
        network, bins = build_network(config.network, data.shape, 1, self.outputs), data.num_classes
        super().__init__(network, schedule=schedule_of(config, data), num_bins=bins)

    def output(self, theta: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return super().output(theta[..., None], t, cond)[..., 0]


class DiscretisedBFN(nn.Discretised, BFN):
    """Discretised data. The network sees only the mean."""

    outputs = 2

    def __init__(self, config: Config, data: Data):
        network, bins = build_network(config.network, data.shape, 1, self.outputs), data.num_classes
        super().__init__(network, schedule=schedule_of(config, data), num_bins=bins)

    def output(self, theta: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return super().output(theta[..., None], t, cond)


class DiscreteBFN(nn.Discrete, BFN):
    """Discrete data with more than two classes. The network sees their probabilities."""

    def __init__(self, config: Config, data: Data):
        size = data.num_classes
        network = build_network(config.network, data.shape, size, size)
        super().__init__(network, schedule=schedule_of(config, data), num_classes=size)
        self.outputs = size


class SequenceBFN(Padded, DiscreteBFN):
    """Padded sequences of classes whose first class is a property."""

    def __init__(self, config: Config, data: Data):
        super().__init__(config, data)
        self.register_buffer("lengths", data.lengths)


class VocabularyBFN(nn.Vocabulary, BFN):
    """Classes of a large vocabulary. The network sees and puts out vectors."""

    def __init__(self, config: Config, data: Data):
        network = made(VectorTransformer, config.network, data.shape)
        size, shares, schedule = data.num_classes, frequencies(data), schedule_of(config, data)
        super().__init__(network, num_classes=size, width=config.network.width, frequencies=shares, schedule=schedule)


class BinaryBFN(nn.Binary, BFN):
    """Discrete data with two classes. The network sees 2·theta_0 - 1, as in the published code."""

    outputs = 1

    def __init__(self, config: Config, data: Data):
        network = build_network(config.network, data.shape, 1, self.outputs)
        super().__init__(network, schedule=schedule_of(config, data))

    def output(self, theta: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return super().output(1 - 2 * theta[..., None], t, cond)[..., 0]


class CircularBFN(nn.Circular, BFN):
    """Angles. train.n_steps and model.beta_1 determine the messages.

    The network sees the cosine, the sine and the logarithm of the concentration of each angle. It puts out a vector,
    and the direction of its sum with the state is the prediction.
    """

    outputs = 2

    def __init__(self, config: Config, data: Data):
        steps = config.train.n_steps, config.evaluate.n_steps, config.sample.n_steps
        if len(set(steps)) > 1:
            raise ConfigError(f"train.n_steps, evaluate.n_steps and sample.n_steps must agree for angles, got {steps}")
        if config.sample.sampler != "ancestral":
            raise ConfigError(f"sample.sampler={config.sample.sampler!r} must be 'ancestral' for angles")
        super().__init__(build_network(config.network, data.shape, 3, self.outputs), schedule=schedule_of(config, data))

    def output(self, theta: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        mean, log = theta.unbind(-1)
        least, factor = self.schedule.log_scale
        received = (t > 0).view(-1, *[1] * (mean.dim() - 1))  # before the first message, the mean says nothing
        direction = torch.stack([mean.cos(), mean.sin()], -1) * received[..., None]
        vector = super().output(torch.cat([direction, log[..., None]], -1), t, cond)
        along, across = (vector + ((log + 1) / factor + least).exp()[..., None] * direction).unbind(-1)
        return torch.atan2(across, along)


class AtomsBFN(Atoms, BFN):
    """Molecules in space: the positions and the elements of their atoms."""

    def __init__(self, config: Config, data: Data):
        if config.model.sigma_1 is None or config.model.schedule is not None:
            raise ConfigError("model.kind='atoms' needs model.sigma_1 and does not take model.schedule")
        assert data.sizes is not None
        elements, network = len(ELEMENTS), find(ATOM_NETWORKS, config.network.name, "network.name")
        network = made(network, config.network, elements)
        sigma_1, beta_1 = config.model.sigma_1, config.model.beta_1
        super().__init__(network, sigma_1, beta_1, elements, data.sizes, data.shape[0])


KINDS: dict[str, Callable[[Config, Data], BFN]] = {
    "continuous": ContinuousBFN,
    "discretised": DiscretisedBFN,
    "discrete": DiscreteBFN,
    "circular": CircularBFN,
    "atoms": AtomsBFN,
}


def schedule_of(config: Config, data: Data) -> Any:
    """The schedule that `model.schedule` names, or else the paper's, from model.sigma_1 or model.beta_1."""
    kind, own, size = config.model.kind, config.model.schedule, data.num_classes
    logarithmic = own == "logarithmic"
    if own is not None and not logarithmic:
        return called(imported(own, "model.schedule"), f"model.schedule={own!r}", config.model.options, config)
    if logarithmic and kind != "discrete":
        raise ConfigError(f"model.schedule='logarithmic' needs model.kind='discrete', got {kind!r}")
    if config.model.options:
        raise ConfigError("model.options are settings for a model.schedule of your own, and there is none")
    sigma_1, beta_1 = config.model.sigma_1, config.model.beta_1
    if kind in ("circular", "discrete") and sigma_1 is not None:
        raise ConfigError(f"model.kind={kind!r} needs model.beta_1 and does not take model.sigma_1")
    if kind == "circular":
        if config.train.n_steps is None or beta_1 is None:
            raise ConfigError(f"model.kind={kind!r} needs train.n_steps, the number of messages, and model.beta_1")
        if not 1e-6 <= beta_1 <= 1e6:
            raise ConfigError(f"model.beta_1={beta_1} must lie in [1e-6, 1e6] for angles")
        return VonMisesAccuracy.linear_entropy(config.train.n_steps, beta_1)
    if logarithmic:
        return LogarithmicAccuracy(size, LOGARITHMIC / size if beta_1 is None else beta_1)
    if kind == "discrete":
        return QuadraticAccuracy(final_accuracy(size) if beta_1 is None else beta_1)
    if sigma_1 is None or beta_1 is not None:
        raise ConfigError(f"model.kind={kind!r} needs model.sigma_1 and does not take model.beta_1")
    if not 1e-6 <= sigma_1 < 1:  # a mean near 1 has a rounding error of 6e-8 in float32
        raise ConfigError(f"model.sigma_1={sigma_1} must lie in [1e-6, 1)")
    return ExponentialVariance(sigma_1)


def build_model(config: Config, data: Data) -> BFN:
    """The model that `model.kind` names, with fresh weights from torch's default generator."""
    kind = choose(KINDS, config.model.kind, "model.kind")
    real, angles = data.validation.is_floating_point(), data.num_classes == 0 and data.sizes is None
    if (kind is DiscreteBFN) == real or (kind is CircularBFN) != angles or (kind is AtomsBFN) == (data.sizes is None):
        raise ConfigError(f"model.kind={config.model.kind!r} does not fit data.name={config.data.name!r}")
    if kind is DiscreteBFN and data.num_classes == 2:
        kind = BinaryBFN
    elif kind is DiscreteBFN and data.lengths is not None:
        kind = SequenceBFN
    elif kind is DiscreteBFN and data.num_classes >= LARGE and config.network.name == "transformer":
        kind = VocabularyBFN
    model: BFN = kind(config, data)
    model.shape, model.num_classes, model.named = data.shape, data.num_classes, f"network.name={config.network.name!r}"
    check_sampling(model, config.sample)
    return model


def check_sampling(model: BFN, options: SampleConfig) -> None:
    """Raises an error if the sampler `options.sampler` cannot draw from the model with these options."""
    sampling = Sampling(**options.taking, **guiding(model, options))
    part: Any = model.parts[TYPES] if isinstance(model, Atoms) else model  # what has choices and a temperature
    try:
        sampling.check(choices_of(part, options.sampler), part.has_logits, model.shape)
    except ValueError as error:
        raise ConfigError(f"sample.{error} (sampler {options.sampler})") from error
