"""Bayesian flow networks: for each kind of data, a model that joins the flow, the network and the loss, in nats."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from bfn.configs import Config, ConfigError, choose, imported
from bfn.data import Data
from bfn.networks import build_network
from bfn.seeds import derive
from bfn_kernels import binary, continuous, discrete, discretised, solvers
from bfn_kernels.schedules import ContinuousSchedule, DiscreteSchedule, ExponentialVariance, QuadraticAccuracy
from bfn_kernels.solvers import Coefficients

# The tensors that a sampler writes over in every step: mean and precision, or logits and theta. A solver has the mean,
# or logits and theta, and last the prediction of the step before.
State = tuple[Tensor, ...]


class BFN(nn.Module, ABC):
    """What all kinds of data share: the loss of a batch, the reconstruction loss, and the steps of a sampler.

    Data are x [B, ...] and times t [B]. `theta` are the parameters of the input distribution that the network sees:
    means [B, ...], or probabilities [B, ..., K]. Seeds are ints; `reduction` is as in bfn_kernels; losses are in nats.
    """

    schedule: ContinuousSchedule | DiscreteSchedule
    state_scale: float = (
        1  # an error of the prediction, times the accuracy that it is taken with, is so large in the state
    )
    solver_start: float  # the time at which solvers start that cannot do so at t = 0, as published

    def __init__(self, config: Config, data: Data, features: int, outputs: int):
        super().__init__()
        self.shape, self.num_classes = data.shape, data.num_classes
        self.network = build_network(config.network, data.shape, features, outputs)

    def forward(
        self, x: Tensor, t: Tensor, *, seed: int, n_steps: int | None = None, reduction: str = "mean"
    ) -> Tensor:
        """L∞ at times t, or L_n at t = (i - 1)/n where n_steps is given."""
        theta = self.flow(x, t, derive(seed, 0))
        output = self.output(theta, t)
        if n_steps is None:
            return self.continuous_time_loss(x, output, theta, t, reduction)
        return self.discrete_time_loss(x, output, theta, t, n_steps, derive(seed, 1), reduction)

    def reconstruction(self, x: Tensor, *, seed: int, reduction: str = "mean") -> Tensor:
        """-ln p_O(x) given the input distribution that the flow reaches at t = 1."""
        t = torch.ones(len(x), device=x.device)
        theta = self.flow(x, t, seed)
        return self.reconstruction_loss(x, self.output(theta, t), theta, reduction)

    def sample_step(self, state: State, t: Tensor, alpha: Tensor, seed: Tensor) -> None:
        """A sampling step, after which the state is another: the network at time t, then a message of accuracy alpha.
        t, alpha and seed are tensors of one number that the CPU never reads, so that a CUDA graph of one step can be
        replayed for all of them."""
        theta = self.theta(state)
        t = t.expand(len(theta))
        self.update(self.output(theta, t), state, t, alpha, seed)

    def solver_step(self, state: State, t: Tensor, coefficients: Coefficients, seed: Tensor) -> None:
        """A step of a solver likewise; the coefficients are tensors of one number too."""
        theta = self.theta(state)
        t = t.expand(len(theta))
        self.solve(self.output(theta, t), state, t, coefficients, seed)

    def sample_final(self, state: State) -> Tensor:
        """The mode of the output distribution at t = 1, which ends a sampling run: data [B, ...]."""
        theta = self.theta(state)
        t = torch.ones(len(theta), device=theta.device)
        return self.mode(self.output(theta, t), theta, t)

    @abstractmethod
    def flow(self, x: Tensor, t: Tensor, seed: int) -> Tensor:
        """theta at time t of the Bayesian flow of x."""

    @abstractmethod
    def output(self, theta: Tensor, t: Tensor) -> Tensor:
        """The network's prediction of the output distribution, [B, ..., outputs]."""

    @abstractmethod
    def continuous_time_loss(self, x: Tensor, output: Tensor, theta: Tensor, t: Tensor, reduction: str) -> Tensor: ...

    @abstractmethod
    def discrete_time_loss(
        self, x: Tensor, output: Tensor, theta: Tensor, t: Tensor, n_steps: int, seed: int, reduction: str
    ) -> Tensor: ...

    @abstractmethod
    def reconstruction_loss(self, x: Tensor, output: Tensor, theta: Tensor, reduction: str) -> Tensor: ...

    @abstractmethod
    def prior(self, count: int, device: torch.device) -> State:
        """The state of `count` examples before any message."""

    @abstractmethod
    def theta(self, state: State) -> Tensor:
        """The parameters of the input distribution that the network sees."""

    @abstractmethod
    def update(self, output: Tensor, state: State, t: Tensor, alpha: Tensor, seed: Tensor) -> None:
        """Updates the state by a message of accuracy alpha about a draw from the output distribution."""

    @abstractmethod
    def solver_state(self, count: int, device: torch.device, t: float, seed: int) -> State:
        """The state of `count` examples that a solver starts from at time t."""

    @abstractmethod
    def solve(self, output: Tensor, state: State, t: Tensor, coefficients: Coefficients, seed: Tensor) -> None:
        """Takes a solver's step from the output distribution at time t."""

    def solver_noise(self, shape: tuple[int, ...], variance: float, device: torch.device, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)  # of the CPU, so that all devices start from the same state
        return (variance**0.5 * torch.randn(shape, generator=generator)).to(device)

    @abstractmethod
    def mode(self, output: Tensor, theta: Tensor, t: Tensor) -> Tensor:
        """The most probable data under the output distribution."""


class NormalBFN(BFN):
    """What continuous and discretised data share: their input distribution is N(mean, 1/precision)."""

    solver_start = 0.01

    def __init__(self, config: Config, data: Data, outputs: int):
        super().__init__(config, data, 1, outputs)
        self.schedule: ContinuousSchedule = make_schedule(config, "sigma_1", ExponentialVariance)

    def flow(self, x: Tensor, t: Tensor, seed: int) -> Tensor:
        return continuous.flow_sample(x, t, schedule=self.schedule, seed=seed)

    def output(self, theta: Tensor, t: Tensor) -> Tensor:
        return self.network(theta[..., None], t)

    def prior(self, count: int, device: torch.device) -> State:
        precision = torch.ones((), dtype=torch.float64, device=device)
        return torch.zeros(count, *self.shape, device=device), precision

    def solver_state(self, count: int, device: torch.device, t: float, seed: int) -> State:
        variance = float(solvers.start_variance(self.schedule, t))
        mean = self.solver_noise((count, *self.shape), variance, device, seed)
        return mean, torch.zeros_like(mean)

    def theta(self, state: State) -> Tensor:
        return state[0]


class ContinuousBFN(NormalBFN):
    """Continuous data in [-1, 1]; the network predicts the noise. The reconstruction loss is that of bins, so that its
    bits can be compared with those of discretised data."""

    def __init__(self, config: Config, data: Data):
        super().__init__(config, data, outputs=1)

    def continuous_time_loss(self, x: Tensor, output: Tensor, theta: Tensor, t: Tensor, reduction: str) -> Tensor:
        return continuous.continuous_time_loss(x, output[..., 0], theta, t, schedule=self.schedule, reduction=reduction)

    def discrete_time_loss(
        self, x: Tensor, output: Tensor, theta: Tensor, t: Tensor, n_steps: int, seed: int, reduction: str
    ) -> Tensor:
        return continuous.discrete_time_loss(
            x, output[..., 0], theta, t, schedule=self.schedule, n_steps=n_steps, reduction=reduction
        )

    def reconstruction_loss(self, x: Tensor, output: Tensor, theta: Tensor, reduction: str) -> Tensor:
        return continuous.reconstruction_loss(
            x, output[..., 0], theta, schedule=self.schedule, num_bins=self.num_classes, reduction=reduction
        )

    def update(self, output: Tensor, state: State, t: Tensor, alpha: Tensor, seed: Tensor) -> None:
        mean, precision = state
        _, updated = continuous.update_sample(
            output[..., 0], mean, precision, alpha, t=t, schedule=self.schedule, seed=seed, out=mean
        )
        precision.copy_(cast(Tensor, updated))

    def solve(self, output: Tensor, state: State, t: Tensor, coefficients: Coefficients, seed: Tensor) -> None:
        mean, predicted = state
        previous = None if coefficients.extrapolation is None else predicted
        continuous.solver_step(
            output[..., 0], mean, t, coefficients=coefficients, previous=previous, schedule=self.schedule, seed=seed,
            out=mean, predicted_out=predicted,
        )  # fmt: skip

    def mode(self, output: Tensor, theta: Tensor, t: Tensor) -> Tensor:
        return continuous.predict_data(output[..., 0], theta, t, schedule=self.schedule)


class DiscretisedBFN(NormalBFN):
    """Data at the centres of K bins of [-1, 1]; the network predicts the noise's mean and log standard deviation."""

    def __init__(self, config: Config, data: Data):
        super().__init__(config, data, outputs=2)

    def settings(self, output: Tensor) -> dict[str, Any]:
        """The keyword arguments that all ops of the family share."""
        return {
            "pred_mean": output,
            "pred_log_std": None,  # the output is both, stacked
            "schedule": self.schedule,
            "num_bins": self.num_classes,
        }

    def continuous_time_loss(self, x: Tensor, output: Tensor, theta: Tensor, t: Tensor, reduction: str) -> Tensor:
        return discretised.continuous_time_loss(x, mean=theta, t=t, reduction=reduction, **self.settings(output))

    def discrete_time_loss(
        self, x: Tensor, output: Tensor, theta: Tensor, t: Tensor, n_steps: int, seed: int, reduction: str
    ) -> Tensor:
        return discretised.discrete_time_loss(
            x, mean=theta, t=t, n_steps=n_steps, reduction=reduction, **self.settings(output)
        )

    def reconstruction_loss(self, x: Tensor, output: Tensor, theta: Tensor, reduction: str) -> Tensor:
        return discretised.reconstruction_loss(x, mean=theta, reduction=reduction, **self.settings(output))

    def update(self, output: Tensor, state: State, t: Tensor, alpha: Tensor, seed: Tensor) -> None:
        mean, precision = state
        _, updated = discretised.update_sample(
            mean=mean, precision=precision, t=t, alpha=alpha, seed=seed, out=mean, **self.settings(output)
        )
        precision.copy_(cast(Tensor, updated))

    def solve(self, output: Tensor, state: State, t: Tensor, coefficients: Coefficients, seed: Tensor) -> None:
        mean, predicted = state
        previous = None if coefficients.extrapolation is None else predicted
        discretised.solver_step(
            mean=mean, t=t, coefficients=coefficients, previous=previous, seed=seed, out=mean, predicted_out=predicted,
            **self.settings(output),
        )  # fmt: skip

    def mode(self, output: Tensor, theta: Tensor, t: Tensor) -> Tensor:
        normal = discretised.output_distribution(output, None, theta, t, schedule=self.schedule)
        return discretised.mode(*normal, num_bins=self.num_classes)


class ClassesBFN(BFN):
    """The base of the models of two and of more classes, which have one schedule."""

    solver_start = 0.001

    def __init__(self, config: Config, data: Data, size: int):
        super().__init__(config, data, features=size, outputs=size)
        self.state_scale = 4 if size == 1 else size
        self.schedule: DiscreteSchedule = make_schedule(config, "beta_1", QuadraticAccuracy)

    def theta(self, state: State) -> Tensor:
        return state[1]


class DiscreteBFN(ClassesBFN):
    """Classes, of which there are more than two."""

    receiver = "joint"  # of L_n

    def __init__(self, config: Config, data: Data):
        super().__init__(config, data, size=data.num_classes)

    @contextmanager
    def using(self, receiver: str) -> Iterator[None]:
        """Within it L_n is that of this receiver: "joint", the paper's, or "factorised"."""
        before, self.receiver = self.receiver, receiver
        try:
            yield
        finally:
            self.receiver = before

    def flow(self, x: Tensor, t: Tensor, seed: int) -> Tensor:
        return discrete.flow_sample(x, t, num_classes=self.num_classes, schedule=self.schedule, seed=seed)

    def output(self, theta: Tensor, t: Tensor) -> Tensor:
        return self.network(theta, t)

    def continuous_time_loss(self, x: Tensor, output: Tensor, theta: Tensor, t: Tensor, reduction: str) -> Tensor:
        return discrete.continuous_time_loss(x, output, t, schedule=self.schedule, reduction=reduction)

    def discrete_time_loss(
        self, x: Tensor, output: Tensor, theta: Tensor, t: Tensor, n_steps: int, seed: int, reduction: str
    ) -> Tensor:
        # The joint receiver of more than two classes has no quadrature.
        draws: dict[str, Any] = {"n_samples": 10, "seed": seed} if self.receiver == "joint" else {"quadrature": 32}
        return discrete.discrete_time_loss(
            x, output, t, schedule=self.schedule, n_steps=n_steps, receiver=self.receiver, reduction=reduction, **draws
        )

    def reconstruction_loss(self, x: Tensor, output: Tensor, theta: Tensor, reduction: str) -> Tensor:
        return discrete.reconstruction_loss(x, output, reduction=reduction)

    def prior(self, count: int, device: torch.device) -> State:
        logits = torch.zeros(count, *self.shape, self.num_classes, device=device)
        return logits, torch.full_like(logits, 1 / self.num_classes)

    def update(self, output: Tensor, state: State, t: Tensor, alpha: Tensor, seed: Tensor) -> None:
        logits, theta = state
        discrete.update_sample(output, logits, alpha, out=logits, theta_out=theta, seed=seed)

    def solver_state(self, count: int, device: torch.device, t: float, seed: int) -> State:
        variance = self.state_scale * float(solvers.start_variance(self.schedule, t))
        logits = self.solver_noise((count, *self.shape, self.num_classes), variance, device, seed)
        return logits, discrete.theta(logits), torch.zeros_like(logits)

    def solve(self, output: Tensor, state: State, t: Tensor, coefficients: Coefficients, seed: Tensor) -> None:
        logits, theta, predicted = state
        previous = None if coefficients.extrapolation is None else predicted
        discrete.solver_step(
            output, logits, coefficients=coefficients, previous=previous, seed=seed, out=logits, theta_out=theta,
            predicted_out=predicted,
        )  # fmt: skip

    def mode(self, output: Tensor, theta: Tensor, t: Tensor) -> Tensor:
        return output.argmax(-1)


class BinaryBFN(ClassesBFN):
    """Two classes. theta is the probability of class 1, [B, ...]. The network sees 2·theta_0 - 1 and its one output is
    the logit of class 1, as published."""

    def __init__(self, config: Config, data: Data):
        super().__init__(config, data, size=1)

    def flow(self, x: Tensor, t: Tensor, seed: int) -> Tensor:
        return binary.flow_sample(x, t, schedule=self.schedule, seed=seed)

    def output(self, theta: Tensor, t: Tensor) -> Tensor:
        return self.network(1 - 2 * theta[..., None], t)[..., 0]

    def continuous_time_loss(self, x: Tensor, output: Tensor, theta: Tensor, t: Tensor, reduction: str) -> Tensor:
        return binary.continuous_time_loss(x, output, t, schedule=self.schedule, reduction=reduction)

    def discrete_time_loss(
        self, x: Tensor, output: Tensor, theta: Tensor, t: Tensor, n_steps: int, seed: int, reduction: str
    ) -> Tensor:
        return binary.discrete_time_loss(
            x, output, t, schedule=self.schedule, n_steps=n_steps, reduction=reduction, quadrature=32
        )

    def reconstruction_loss(self, x: Tensor, output: Tensor, theta: Tensor, reduction: str) -> Tensor:
        return binary.reconstruction_loss(x, output, reduction=reduction)

    def prior(self, count: int, device: torch.device) -> State:
        logits = torch.zeros(count, *self.shape, device=device)
        return logits, torch.full_like(logits, 0.5)

    def update(self, output: Tensor, state: State, t: Tensor, alpha: Tensor, seed: Tensor) -> None:
        logits, theta = state
        binary.update_sample(output, logits, alpha, out=logits, theta_out=theta, seed=seed)

    def solver_state(self, count: int, device: torch.device, t: float, seed: int) -> State:
        variance = self.state_scale * float(solvers.start_variance(self.schedule, t))
        logits = self.solver_noise((count, *self.shape), variance, device, seed)
        return logits, binary.theta(logits), torch.zeros_like(logits)

    def solve(self, output: Tensor, state: State, t: Tensor, coefficients: Coefficients, seed: Tensor) -> None:
        logits, theta, predicted = state
        previous = None if coefficients.extrapolation is None else predicted
        binary.solver_step(
            output, logits, coefficients=coefficients, previous=previous, seed=seed, out=logits, theta_out=theta,
            predicted_out=predicted,
        )  # fmt: skip

    def mode(self, output: Tensor, theta: Tensor, t: Tensor) -> Tensor:
        return (output > 0).long()


KINDS: dict[str, type[NormalBFN] | type[ClassesBFN]] = {
    "continuous": ContinuousBFN,
    "discretised": DiscretisedBFN,
    "discrete": DiscreteBFN,
}


def make_schedule(config: Config, key: str, shipped: Callable[[float], Any]) -> Any:
    """The schedule that `model.schedule` names, or the one that ships, made of model.sigma_1 or model.beta_1."""
    own = config.model.schedule
    return shipped(required(config, key)) if own is None else imported(own, "model.schedule")(config)


def required(config: Config, key: str) -> float:
    """model.sigma_1 or model.beta_1, whichever the kind of data takes; the other must not be set."""
    value = getattr(config.model, key)
    other = "beta_1" if key == "sigma_1" else "sigma_1"
    if value is None or getattr(config.model, other) is not None:
        raise ConfigError(f"model.kind={config.model.kind!r} needs model.{key} and does not take model.{other}")
    if key == "sigma_1" and value >= 1:
        raise ConfigError(f"model.sigma_1={value} must be below 1")
    return value


def build_model(config: Config, data: Data) -> BFN:
    """The model that `model.kind` names, with fresh weights from torch's default generator."""
    kind = choose(KINDS, config.model.kind, "model.kind")
    if (kind is DiscreteBFN) == data.validation.is_floating_point():
        raise ConfigError(f"model.kind={config.model.kind!r} does not fit data.name={config.data.name!r}")
    return BinaryBFN(config, data) if kind is DiscreteBFN and data.num_classes == 2 else kind(config, data)
