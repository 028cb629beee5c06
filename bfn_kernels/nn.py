"""Modules that join a network of your own and the ops: the loss of a batch, and the steps of samplers.

There is one for each kind of data. They hold the network and a schedule, so that training is `model(x).backward()`, and
sampling is `samplers.sample(model, shape, n_steps)`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from bfn_kernels import binary, continuous, discrete, discretised, solvers
from bfn_kernels.layers import LinearHead as LinearHead
from bfn_kernels.layers import NoisyEmbedding as NoisyEmbedding
from bfn_kernels.noise import fold_in
from bfn_kernels.schedules import ContinuousSchedule, DiscreteSchedule, ExponentialVariance, QuadraticAccuracy
from bfn_kernels.solvers import Coefficients

# The tensors that a sampler writes over in every step: mean and precision, or logits and theta. A solver has the mean,
# or logits and theta, and last the prediction of the step before.
State = tuple[Tensor, ...]
Schedule = TypeVar("Schedule")
Network = Callable[[Tensor, Tensor], Tensor]  # a module, or another function of theta and t


class BFN(nn.Module, ABC):
    """The base of the modules for all kinds of data.

    Data are x `[B, ...]` and times t `[B]`. `theta` are the parameters of the input distribution: means `[B, ...]`,
    probabilities of classes `[B, ..., K]`, or of class 1 `[B, ...]`. `network(theta, t)` puts out what each kind of
    data says. Losses are in nats.
    """

    schedule: ContinuousSchedule | DiscreteSchedule
    state_scale: float = 1  # an error of the prediction, times the accuracy it is taken with, is so large in the state
    solver_start: float  # the time at which solvers start that cannot do so at t = 0, as published

    def __init__(self, network: Network):
        super().__init__()
        self.network = network

    def forward(
        self,
        x: Tensor,
        t: Tensor | None = None,
        *,
        seed: int | None = None,
        n_steps: int | None = None,
        mask: Tensor | None = None,
        reduction: str = "mean",
    ) -> Tensor:
        """L∞ at times t, or L_n at t = (i - 1)/n where n_steps is given; without t at times spread over the batch.
        mask: False where a variable is left out, as padding: it costs nothing, and the network sees its prior."""
        seed = drawn_seed() if seed is None else seed
        if t is None:
            t = spread_times(len(x), torch.Generator().manual_seed(part(seed, 2)), n_steps).to(x.device)
        theta = self.flow(x, t, part(seed, 0), mask)
        output = self.output(theta, t)
        if n_steps is None:
            return self.continuous_time_loss(x, output, theta, t, reduction=reduction, mask=mask)
        return self.discrete_time_loss(x, output, theta, t, n_steps, part(seed, 1), reduction=reduction, mask=mask)

    def reconstruction(
        self, x: Tensor, *, seed: int | None = None, mask: Tensor | None = None, reduction: str = "mean"
    ) -> Tensor:
        """-ln p_O(x) given the input distribution that the flow reaches at t = 1."""
        t = torch.ones(len(x), device=x.device)
        theta = self.flow(x, t, drawn_seed() if seed is None else seed, mask)
        return self.reconstruction_loss(x, self.output(theta, t), theta, reduction=reduction, mask=mask)

    def output(self, theta: Tensor, t: Tensor) -> Tensor:
        """The network's prediction of the output distribution."""
        return self.network(theta, t)

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
    def flow(self, x: Tensor, t: Tensor, seed: int, mask: Tensor | None = None) -> Tensor:
        """theta at time t of the Bayesian flow of x, and the prior where the mask is False."""

    @abstractmethod
    def continuous_time_loss(self, x: Tensor, output: Tensor, theta: Tensor, t: Tensor, **how: Any) -> Tensor:
        """how: the reduction and the mask, as in all losses here."""

    @abstractmethod
    def discrete_time_loss(
        self, x: Tensor, output: Tensor, theta: Tensor, t: Tensor, n_steps: int, seed: int, **how: Any
    ) -> Tensor: ...

    @abstractmethod
    def reconstruction_loss(self, x: Tensor, output: Tensor, theta: Tensor, **how: Any) -> Tensor: ...

    @abstractmethod
    def prior(self, shape: tuple[int, ...], device: torch.device) -> State:
        """The state of data of this shape before any message."""

    @abstractmethod
    def theta(self, state: State) -> Tensor:
        """The parameters of the input distribution that the network sees."""

    @abstractmethod
    def update(self, output: Tensor, state: State, t: Tensor, alpha: Tensor, seed: Tensor) -> None:
        """Updates the state by a message of accuracy alpha about a draw from the output distribution."""

    @abstractmethod
    def solver_state(self, shape: tuple[int, ...], device: torch.device, t: float, seed: int) -> State:
        """The state that a solver of data of this shape starts from at time t."""

    @abstractmethod
    def solve(self, output: Tensor, state: State, t: Tensor, coefficients: Coefficients, seed: Tensor) -> None:
        """Takes a solver's step from the output distribution at time t."""

    def solver_noise(self, shape: tuple[int, ...], variance: float, device: torch.device, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)  # of the CPU, so that all devices start from the same state
        return (variance**0.5 * torch.randn(shape, generator=generator)).to(device)

    @abstractmethod
    def mode(self, output: Tensor, theta: Tensor, t: Tensor) -> Tensor:
        """The most probable data under the output distribution."""


class Normal(BFN):
    """The base for continuous and discretised data, whose input distribution is N(mean, 1/precision)."""

    solver_start = 0.01

    def __init__(self, network: Network, sigma_1: float | None = None, *, schedule: ContinuousSchedule | None = None):
        super().__init__(network)
        self.schedule: ContinuousSchedule = given_schedule("sigma_1", sigma_1, schedule, ExponentialVariance)

    def flow(self, x: Tensor, t: Tensor, seed: int, mask: Tensor | None = None) -> Tensor:
        return continuous.flow_sample(x, t, schedule=self.schedule, seed=seed, mask=mask)

    def prior(self, shape: tuple[int, ...], device: torch.device) -> State:
        return torch.zeros(shape, device=device), torch.ones((), dtype=torch.float64, device=device)

    def solver_state(self, shape: tuple[int, ...], device: torch.device, t: float, seed: int) -> State:
        mean = self.solver_noise(shape, float(solvers.start_variance(self.schedule, t)), device, seed)
        return mean, torch.zeros_like(mean)

    def theta(self, state: State) -> Tensor:
        return state[0]


class Continuous(Normal):
    """Reals in [-1, 1]; the network puts out the noise in the mean, `[B, ...]`.

    sigma_1, or a schedule: as in `continuous.flow_sample`. num_bins: counts the reconstruction in bins of [-1, 1], so
    that its nats can be compared with those of discretised data.

    >>> model = Continuous(lambda mean, t: mean, sigma_1=0.1)
    >>> model(torch.zeros(2, 3), torch.tensor([0.0, 0.5]), seed=1).shape
    torch.Size([])
    """

    def __init__(
        self,
        network: Network,
        sigma_1: float | None = None,
        *,
        schedule: ContinuousSchedule | None = None,
        num_bins: int | None = None,
    ):
        super().__init__(network, sigma_1, schedule=schedule)
        self.num_bins = num_bins

    def continuous_time_loss(self, x: Tensor, output: Tensor, theta: Tensor, t: Tensor, **how: Any) -> Tensor:
        return continuous.continuous_time_loss(x, output, theta, t, schedule=self.schedule, **how)

    def discrete_time_loss(
        self, x: Tensor, output: Tensor, theta: Tensor, t: Tensor, n_steps: int, seed: int, **how: Any
    ) -> Tensor:
        return continuous.discrete_time_loss(x, output, theta, t, schedule=self.schedule, n_steps=n_steps, **how)

    def reconstruction_loss(self, x: Tensor, output: Tensor, theta: Tensor, **how: Any) -> Tensor:
        return continuous.reconstruction_loss(x, output, theta, schedule=self.schedule, num_bins=self.num_bins, **how)

    def update(self, output: Tensor, state: State, t: Tensor, alpha: Tensor, seed: Tensor) -> None:
        mean, precision = state
        _, updated = continuous.update_sample(
            output, mean, precision, alpha, t=t, schedule=self.schedule, seed=seed, out=mean
        )
        precision.copy_(cast(Tensor, updated))

    def solve(self, output: Tensor, state: State, t: Tensor, coefficients: Coefficients, seed: Tensor) -> None:
        mean, predicted = state
        previous = None if coefficients.extrapolation is None else predicted
        continuous.solver_step(
            output, mean, t, coefficients=coefficients, previous=previous, schedule=self.schedule, seed=seed, out=mean,
            predicted_out=predicted,
        )  # fmt: skip

    def mode(self, output: Tensor, theta: Tensor, t: Tensor) -> Tensor:
        return continuous.predict_data(output, theta, t, schedule=self.schedule)


class Discretised(Normal):
    """Data at the centres of num_bins bins of [-1, 1]; the network puts out the noise's mean and log standard
    deviation, `[B, ..., 2]`.

    >>> model = Discretised(lambda mean, t: torch.stack([mean, 0 * mean], -1), sigma_1=0.1, num_bins=16)
    >>> model(torch.full((2, 3), 1 / 16), torch.tensor([0.0, 0.5]), seed=1, reduction="batch").shape
    torch.Size([2])
    """

    def __init__(
        self,
        network: Network,
        sigma_1: float | None = None,
        *,
        num_bins: int,
        schedule: ContinuousSchedule | None = None,
    ):
        super().__init__(network, sigma_1, schedule=schedule)
        self.num_bins = num_bins

    def settings(self, output: Tensor) -> dict[str, Any]:
        """The keyword arguments that all ops of the family share."""
        return {
            "pred_mean": output,
            "pred_log_std": None,  # the output is both, stacked
            "schedule": self.schedule,
            "num_bins": self.num_bins,
        }

    def continuous_time_loss(self, x: Tensor, output: Tensor, theta: Tensor, t: Tensor, **how: Any) -> Tensor:
        return discretised.continuous_time_loss(x, mean=theta, t=t, **self.settings(output), **how)

    def discrete_time_loss(
        self, x: Tensor, output: Tensor, theta: Tensor, t: Tensor, n_steps: int, seed: int, **how: Any
    ) -> Tensor:
        return discretised.discrete_time_loss(x, mean=theta, t=t, n_steps=n_steps, **self.settings(output), **how)

    def reconstruction_loss(self, x: Tensor, output: Tensor, theta: Tensor, **how: Any) -> Tensor:
        return discretised.reconstruction_loss(x, mean=theta, **self.settings(output), **how)

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
        return discretised.mode(*normal, num_bins=self.num_bins)


class Classes(BFN):
    """The base for data of two and of more classes, whose state are logits and theta."""

    solver_start = 0.001
    ops: ModuleType  # of the family

    def __init__(self, network: Network, beta_1: float | None = None, *, schedule: DiscreteSchedule | None = None):
        super().__init__(network)
        self.schedule: DiscreteSchedule = given_schedule("beta_1", beta_1, schedule, QuadraticAccuracy)

    @abstractmethod
    def zeros(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """The logits of data of this shape before any message."""

    def continuous_time_loss(self, x: Tensor, output: Tensor, theta: Tensor, t: Tensor, **how: Any) -> Tensor:
        return self.ops.continuous_time_loss(x, output, t, schedule=self.schedule, **how)

    def reconstruction_loss(self, x: Tensor, output: Tensor, theta: Tensor, **how: Any) -> Tensor:
        return self.ops.reconstruction_loss(x, output, **how)

    def prior(self, shape: tuple[int, ...], device: torch.device) -> State:
        logits = self.zeros(shape, device)
        return logits, self.ops.theta(logits)

    def solver_state(self, shape: tuple[int, ...], device: torch.device, t: float, seed: int) -> State:
        zeros = self.zeros(shape, device)
        variance = self.state_scale * float(solvers.start_variance(self.schedule, t))
        logits = self.solver_noise(tuple(zeros.shape), variance, device, seed)
        return logits, self.ops.theta(logits), zeros

    def theta(self, state: State) -> Tensor:
        return state[1]

    def update(self, output: Tensor, state: State, t: Tensor, alpha: Tensor, seed: Tensor) -> None:
        logits, theta = state
        self.ops.update_sample(output, logits, alpha, out=logits, theta_out=theta, seed=seed)

    def solve(self, output: Tensor, state: State, t: Tensor, coefficients: Coefficients, seed: Tensor) -> None:
        logits, theta, predicted = state
        previous = None if coefficients.extrapolation is None else predicted
        self.ops.solver_step(
            output, logits, coefficients=coefficients, previous=previous, seed=seed, out=logits, theta_out=theta,
            predicted_out=predicted,
        )  # fmt: skip


class Discrete(Classes):
    """Classes 0 to num_classes - 1; the network takes their probabilities and puts out logits, both `[B, ..., K]`.

    >>> model = Discrete(lambda theta, t: theta.log(), beta_1=3.0, num_classes=5)
    >>> model.reconstruction(torch.zeros(2, 3, dtype=torch.int64), seed=1).shape
    torch.Size([])
    """

    ops = discrete
    receiver = "joint"  # of L_n

    def __init__(
        self,
        network: Network,
        beta_1: float | None = None,
        *,
        num_classes: int,
        schedule: DiscreteSchedule | None = None,
    ):
        super().__init__(network, beta_1, schedule=schedule)
        self.num_classes = num_classes
        self.state_scale = num_classes

    @contextmanager
    def using(self, receiver: str) -> Iterator[None]:
        """Within it L_n is that of this receiver: "joint", the paper's, or "factorised"."""
        before, self.receiver = self.receiver, receiver
        try:
            yield
        finally:
            self.receiver = before

    def zeros(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        return torch.zeros(*shape, self.num_classes, device=device)

    def flow(self, x: Tensor, t: Tensor, seed: int, mask: Tensor | None = None) -> Tensor:
        return discrete.flow_sample(x, t, num_classes=self.num_classes, schedule=self.schedule, seed=seed, mask=mask)

    def discrete_time_loss(
        self, x: Tensor, output: Tensor, theta: Tensor, t: Tensor, n_steps: int, seed: int, **how: Any
    ) -> Tensor:
        # The joint receiver of more than two classes has no quadrature.
        draws: dict[str, Any] = {"n_samples": 10, "seed": seed} if self.receiver == "joint" else {"quadrature": 32}
        return discrete.discrete_time_loss(
            x, output, t, schedule=self.schedule, n_steps=n_steps, receiver=self.receiver, **draws, **how
        )

    def mode(self, output: Tensor, theta: Tensor, t: Tensor) -> Tensor:
        return output.argmax(-1)


class Vocabulary(Discrete):
    """Classes of a large vocabulary, of which training never makes `[B, ..., K]`: `network(vectors, t)` takes and puts
    out vectors `[B, ..., d]`, hidden states of a `NoisyEmbedding` before it and of a `LinearHead` behind it. Sampling
    has the state's logits and probabilities, as for all classes.

    width: d. tied: whether the head's weight is the embedding's.

    >>> model = Vocabulary(lambda vectors, t: vectors, beta_1=0.015, num_classes=1000, width=8)
    >>> model(torch.zeros(2, 3, dtype=torch.int64), seed=1).shape
    torch.Size([])
    """

    def __init__(
        self,
        network: Network,
        beta_1: float | None = None,
        *,
        num_classes: int,
        width: int,
        tied: bool = False,
        schedule: DiscreteSchedule | None = None,
    ):
        super().__init__(network, beta_1, num_classes=num_classes, schedule=schedule)
        self.embedding, self.head = NoisyEmbedding(num_classes, width), LinearHead(width, num_classes)
        if tied:
            self.head.weight = self.embedding.weight

    def flow(self, x: Tensor, t: Tensor, seed: int, mask: Tensor | None = None) -> Tensor:
        return self.embedding(x, t, schedule=self.schedule, seed=seed, mask=mask)

    def theta(self, state: State) -> Tensor:
        return self.embedding.embed(state[1])

    def continuous_time_loss(self, x: Tensor, output: Tensor, theta: Tensor, t: Tensor, **how: Any) -> Tensor:
        return self.head.continuous_time_loss(x, output, t, schedule=self.schedule, **how)

    def discrete_time_loss(
        self, x: Tensor, output: Tensor, theta: Tensor, t: Tensor, n_steps: int, seed: int, **how: Any
    ) -> Tensor:
        return self.head.discrete_time_loss(x, output, t, schedule=self.schedule, n_steps=n_steps, seed=seed, **how)

    def reconstruction_loss(self, x: Tensor, output: Tensor, theta: Tensor, **how: Any) -> Tensor:
        return self.head.reconstruction_loss(x, output, **how)

    def update(self, output: Tensor, state: State, t: Tensor, alpha: Tensor, seed: Tensor) -> None:
        super().update(self.head(output), state, t, alpha, seed)

    def solve(self, output: Tensor, state: State, t: Tensor, coefficients: Coefficients, seed: Tensor) -> None:
        super().solve(self.head(output), state, t, coefficients, seed)

    def mode(self, output: Tensor, theta: Tensor, t: Tensor) -> Tensor:
        return self.head(output).argmax(-1)


class Binary(Classes):
    """Classes 0 and 1; the network takes the probability of class 1 and puts out its logit, both `[B, ...]`.

    >>> model = Binary(lambda theta, t: theta - 0.5, beta_1=9.0)
    >>> model(torch.ones(2, 3, dtype=torch.int64), torch.tensor([0.0, 0.5]), seed=1, n_steps=2, reduction="none").shape
    torch.Size([2, 3])
    """

    ops = binary
    state_scale = 4

    def zeros(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        return torch.zeros(shape, device=device)

    def flow(self, x: Tensor, t: Tensor, seed: int, mask: Tensor | None = None) -> Tensor:
        return binary.flow_sample(x, t, schedule=self.schedule, seed=seed, mask=mask)

    def discrete_time_loss(
        self, x: Tensor, output: Tensor, theta: Tensor, t: Tensor, n_steps: int, seed: int, **how: Any
    ) -> Tensor:
        return binary.discrete_time_loss(x, output, t, schedule=self.schedule, n_steps=n_steps, quadrature=32, **how)

    def mode(self, output: Tensor, theta: Tensor, t: Tensor) -> Tensor:
        return (output > 0).long()


def given_schedule(
    name: str, parameter: float | None, schedule: Schedule | None, make: Callable[[float], Schedule]
) -> Schedule:
    """The schedule, or the one that the paper makes of a number, of which one must be given."""
    if (parameter is None) == (schedule is None):
        raise ValueError(f"give either {name} or schedule, got {name}={parameter} and schedule={schedule}")
    return make(cast(float, parameter)) if schedule is None else schedule


def part(seed: int, index: int) -> int:
    """The seed of a part of what `seed` rules."""
    return int(fold_in(seed, index))


def drawn_seed() -> int:
    """A seed from torch's default generator."""
    return int(torch.randint(2**63 - 1, ()))


def spread_times(count: int, generator: torch.Generator, n_steps: int | None = None) -> Tensor:
    """`count` low-discrepancy times in random order: t = (u + i/count) mod 1, or down to a multiple of 1/n_steps.

    >>> spread_times(4, torch.Generator().manual_seed(0)).sort().values.mul(4).floor()
    tensor([0., 1., 2., 3.])
    """
    t = (torch.rand((), generator=generator, dtype=torch.float64) + torch.arange(count) / count) % 1
    if n_steps is not None:
        t = down_to_step(t, n_steps)
    return t[torch.randperm(count, generator=generator)].float()


def down_to_step(t: Tensor, n_steps: int) -> Tensor:
    """The time (i - 1)/n_steps at which the step of each time starts; a time just below 1 that rounds to 1 has i =
    n_steps.

    >>> down_to_step(torch.tensor([0.1, 0.6]), 4)
    tensor([0.0000, 0.5000])
    """
    return (t * n_steps).floor().clamp(max=n_steps - 1) / n_steps
