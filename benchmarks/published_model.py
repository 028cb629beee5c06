"""The published model with a network of `bfn`: the authors' class from a checkout, or our transcription of it.

Both take a batch and a number of steps (None is continuous time), and return the mean loss. Both draw samples as in the
published code.
"""

import importlib
import math
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Normal

from benchmarks import published_formulas
from bfn.configs import ModelConfig
from bfn.data import Data

DRAWS = 10  # of the n-step loss
EARLIEST = 1e-6  # before this time the published code replaces the prediction by a standard normal


class NetworkAdapter(nn.Module):
    """Lets a network of `bfn` take the arguments of the published networks, which have a time for each variable. An
    input without a dimension of features gets one."""

    def __init__(self, network: nn.Module, shape: tuple[int, ...]):
        super().__init__()
        self.network, self.shape = network, shape

    def forward(self, theta: Tensor, t: Tensor) -> Tensor:
        return self.network(theta.reshape(len(theta), *self.shape, -1), t.flatten(1)[:, 0])


class Classes:
    """Discrete data of K classes, whose state is θ: the flow, the losses and the steps of a sampler."""

    def __init__(self, classes: int, beta_1: float):
        self.classes, self.beta_1 = classes, beta_1

    def flow(self, x: Tensor, t: Tensor) -> Tensor:
        return published_formulas.discrete_flow_sample(x.long(), t, num_classes=self.classes, beta_1=self.beta_1)

    def seen(self, theta: Tensor) -> Tensor:
        return theta

    def loss(self, x: Tensor, output: Tensor, theta: Tensor, t: Tensor, n_steps: int | None) -> Tensor:
        if n_steps is None:
            return published_formulas.discrete_continuous_time_loss(x.long(), output, t, beta_1=self.beta_1)
        options: dict[str, Any] = {"beta_1": self.beta_1, "n_steps": n_steps, "n_samples": DRAWS}
        return published_formulas.discrete_discrete_time_loss(x.long(), output, t, **options)

    def prior(self, shape: tuple[int, ...]) -> Tensor:
        return torch.ones(*shape, self.classes) / self.classes

    def alpha(self, i: int, n_steps: int) -> Tensor:
        return torch.tensor(self.beta_1 * (2 * i - 1) / n_steps**2)

    def updated(self, output: Tensor, theta: Tensor, i: int, n_steps: int) -> Tensor:
        output = output.reshape(theta.shape)
        return published_formulas.discrete_update_sample(output, theta, self.alpha(i, n_steps))

    def mode(self, output: Tensor, theta: Tensor) -> Tensor:
        return Categorical(logits=output, validate_args=False).mode


class TwoClasses(Classes):
    """Black and white pixels. The network sees 2·θ_0 - 1, and puts out the logit of class 1."""

    def seen(self, theta: Tensor) -> Tensor:
        return (2 * theta - 1)[..., :1]

    def loss(self, x: Tensor, output: Tensor, theta: Tensor, t: Tensor, n_steps: int | None) -> Tensor:
        x, output = x.long(), output.squeeze(-1)
        if n_steps is None:
            return published_formulas.binary_continuous_time_loss(x, output, t, beta_1=self.beta_1)
        options: dict[str, Any] = {"beta_1": self.beta_1, "n_steps": n_steps, "n_samples": DRAWS}
        return published_formulas.binary_discrete_time_loss(x, output, t, **options)

    def updated(self, output: Tensor, theta: Tensor, i: int, n_steps: int) -> Tensor:
        return published_formulas.binary_update_sample(output.reshape(theta.shape[:-1]), theta, self.alpha(i, n_steps))

    def mode(self, output: Tensor, theta: Tensor) -> Tensor:
        return Bernoulli(logits=output, validate_args=False).mode


class Bins:
    """Discretised data. The state is the mean and the precision. The network predicts the noise in the mean."""

    def __init__(self, bins: int, sigma_1: float):
        self.bins, self.sigma_1 = bins, sigma_1

    def flow(self, x: Tensor, t: Tensor) -> tuple[Tensor, None]:
        return published_formulas.continuous_flow_sample(x, t, sigma_1=self.sigma_1), None

    def seen(self, theta: tuple[Tensor, Any]) -> Tensor:
        return theta[0]

    def prediction(self, output: Tensor, mean: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and log std of the data that follow from the network's prediction of the noise."""
        noise, log_std = output.reshape(*mean.shape, 2).unbind(-1)
        variance = torch.pow(self.sigma_1**2, t.clamp(min=EARLIEST))
        gamma = 1 - variance
        scale = (variance / gamma).sqrt()
        early = t < EARLIEST
        predicted = torch.where(early, torch.zeros_like(mean), mean / gamma - scale * noise)
        log_std = log_std.clamp(-published_formulas.LOG_RANGE, published_formulas.LOG_RANGE) + scale.log()
        return predicted, torch.where(early, torch.zeros_like(log_std), log_std)

    def loss(self, x: Tensor, output: Tensor, theta: tuple[Tensor, Any], t: Tensor, n_steps: int | None) -> Tensor:
        x, mean, t = (value.flatten(1) for value in (x, theta[0], t))
        predicted = self.prediction(output, mean, t)
        options: dict[str, Any] = {"num_bins": self.bins, "sigma_1": self.sigma_1}
        if n_steps is None:
            return published_formulas.discretised_continuous_time_loss(x, *predicted, t, **options)
        return published_formulas.discretised_discrete_time_loss(
            x, *predicted, t, n_steps=n_steps, n_samples=DRAWS, **options
        )

    def prior(self, shape: tuple[int, ...]) -> tuple[Tensor, float]:
        return torch.zeros(shape), 1.0

    def distribution(self, output: Tensor, mean: Tensor, t: float) -> published_formulas.DiscretisedNormal:
        return published_formulas.DiscretisedNormal(*self.prediction(output, mean, torch.full_like(mean, t)), self.bins)

    def updated(self, output: Tensor, theta: tuple[Tensor, float], i: int, n_steps: int) -> tuple[Tensor, float]:
        mean, precision = theta
        normal: Normal = self.distribution(output, mean, (i - 1) / n_steps).normal
        level = ((normal.sample() / 2 + 0.5) * self.bins).floor().clamp(0, self.bins - 1)
        x = (2 * level + 1) / self.bins - 1
        alpha = self.sigma_1 ** (-2 * i / n_steps) * (1 - self.sigma_1 ** (2 / n_steps))
        return published_formulas.continuous_update_sample(x, mean, precision, alpha), precision + alpha

    def mode(self, output: Tensor, theta: tuple[Tensor, float]) -> Tensor:
        distribution = self.distribution(output, theta[0], 1.0)
        return distribution.centres[distribution.probs().argmax(-1)]


class Transcribed(nn.Module):
    """The published BFN. Each variable has a time, which is the time of its example."""

    def __init__(self, net: nn.Module, kind: Any):
        super().__init__()
        self.net, self.kind = net, kind

    def forward(self, x: Tensor, n_steps: int | None = None) -> Tensor:
        with torch.no_grad():
            t = torch.rand(len(x)) if n_steps is None else torch.randint(0, n_steps, (len(x),)) / n_steps
            t = torch.ones_like(x, dtype=torch.float32) * t.view(-1, *[1] * (x.dim() - 1))
            theta = self.kind.flow(x, t)
        output = self.net(self.kind.seen(theta), t)
        output = output.reshape(len(x), -1, output.shape[-1])
        return self.kind.loss(x.flatten(1), output, theta, t.flatten(1), n_steps).mean()

    @torch.inference_mode()
    def sample(self, shape: tuple[int, ...], n_steps: int) -> Tensor:
        theta = self.kind.prior(shape)
        for i in range(1, n_steps + 1):
            output = self.net(self.kind.seen(theta), torch.ones(shape) * (i - 1) / n_steps)
            theta = self.kind.updated(output, theta, i, n_steps)
        return self.kind.mode(self.net(self.kind.seen(theta), torch.ones(shape)), theta).reshape(shape)


def transcribed(net: nn.Module, model: ModelConfig, data: Data) -> nn.Module:
    if model.kind == "discretised":
        assert model.sigma_1 is not None
        return Transcribed(net, Bins(data.num_classes, model.sigma_1))
    assert model.beta_1 is not None
    kind = TwoClasses if data.num_classes == 2 else Classes
    return Transcribed(net, kind(data.num_classes, model.beta_1))


def of_checkout(official: Path, net: nn.Module, model: ModelConfig, data: Data) -> nn.Module:
    """The authors' class. Their modules are imported by names such as `model`."""
    if (folder := str(official.resolve())) not in sys.path:
        sys.path.insert(0, folder)
    theirs, probability = importlib.import_module("model"), importlib.import_module("probability")
    if model.kind == "discretised":
        assert model.sigma_1 is not None
        flow = theirs.CtsBayesianFlow(min_variance=model.sigma_1**2)
        factory = probability.DiscretizedNormalFactory(num_bins=data.num_classes)
        return theirs.BFN(net, flow, theirs.CtsBayesianFlowLoss(flow, factory, noise_pred=True))
    assert model.beta_1 is not None
    flow = theirs.DiscreteBayesianFlow(data.num_classes, max_sqrt_beta=math.sqrt(model.beta_1))
    factory = probability.BernoulliFactory() if data.num_classes == 2 else probability.CategoricalFactory()
    return theirs.BFN(net, flow, theirs.DiscreteBayesianFlowLoss(flow, factory))


def published_model(network: nn.Module, model: ModelConfig, data: Data, official: Path | None) -> nn.Module:
    """The published model for a configuration of `bfn`. Its `net.network` is `network`."""
    net = NetworkAdapter(network, data.shape)
    return transcribed(net, model, data) if official is None else of_checkout(official, net, model, data)


def as_published(x: Tensor, data: Data) -> Tensor:
    """A batch of `bfn` as the published model takes it: data with two classes get a dimension for the channel."""
    return x[..., None] if data.num_classes == 2 else x
