"""The base of the modules: what training and samplers ask of one, and the seeds and times that they share."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import chain
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from bfn_kernels.adaptive import error_of_step
from bfn_kernels.call.checks import FLOATS
from bfn_kernels.noise import fold_in
from bfn_kernels.schedules import ContinuousSchedule, DiscreteSchedule
from bfn_kernels.solvers import Coefficients

# The tensors that a sampler writes over in every step: mean and precision, or logits and theta, in whose place a large
# vocabulary has its embedding. A solver has the mean, or logits and theta, and last the prediction of the step before,
# or the hidden states that say it.
State = tuple[Tensor, ...]
Schedule = TypeVar("Schedule")
Network = Callable[[Tensor, Tensor], Tensor]  # a module, or another function of theta and t


class BFN(nn.Module, ABC):
    """The base of the modules for all kinds of data.

    Data are x `[B, ...]` and times t `[B]`. `theta` are the parameters of the input distribution: means `[B, ...]`,
    probabilities of classes `[B, ..., K]`, or of class 1 `[B, ...]`. `network(theta, t)` puts out what each kind of
    data says. Losses are in nats.

    The network sees theta and t in the type of its parameters, `dtype`, which is that of continuous and discretised
    samples too. Losses and a sampler's state have it or, where it is narrower, float32.
    """

    schedule: ContinuousSchedule | DiscreteSchedule
    state_scale: float = 1  # an error of the prediction, times the accuracy it is taken with, is so large in the state
    solver_start: float  # the time at which solvers start that cannot do so at t = 0, as published

    def __init__(self, network: Network):
        super().__init__()
        self.network = network

    @property
    def dtype(self) -> torch.dtype:
        """The type of the first parameter, else of the first buffer, that has one which ops take; torch's default type
        without either."""
        types = (value.dtype for value in chain(self.parameters(), self.buffers()))
        return next((dtype for dtype in types if dtype in FLOATS), torch.get_default_dtype())

    @property
    def state_dtype(self) -> torch.dtype:
        """The type of a sampler's state: float32 at least, since a message late in a run is smaller than the spacing of
        narrower numbers."""
        return torch.promote_types(self.dtype, torch.float32)

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
        return self.network(theta, t.to(self.dtype))

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

    def step_error(self, coefficients: Coefficients, state: State, before: State) -> float | None:
        """The error of the step of a solver that made `state` of `before`, as `adaptive.error_of_step` says it."""
        return error_of_step(coefficients, state[-1], before[-1], self.state_scale)

    def solver_noise(self, shape: tuple[int, ...], variance: float, device: torch.device, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)  # of the CPU, so that all devices start from the same state
        return torch.randn(shape, generator=generator).mul_(variance**0.5).to(device, self.state_dtype)

    @abstractmethod
    def mode(self, output: Tensor, theta: Tensor, t: Tensor) -> Tensor:
        """The most probable data under the output distribution."""


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
