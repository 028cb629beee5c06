"""The module of circular data."""

import math
from typing import Any

import torch
from torch import Tensor

from bfn_kernels import circular
from bfn_kernels.call import checks
from bfn_kernels.concentrations import ratio
from bfn_kernels.nn.base import BFN, Network, State
from bfn_kernels.nn.sampling import PLAIN, Sampling
from bfn_kernels.schedules import VonMisesAccuracy
from bfn_kernels.solvers import Coefficients


class Circular(BFN):
    """Angles, or other numbers that repeat after a period. Data are `[B, ...]`, floating-point.

    The loss is L_n for the n messages of the schedule; there is no L∞. Sampling is ancestral, in n steps. A checkpoint
    holds the accuracies, and the law of the concentration is computed again when it is needed.

    Args:
        network: A module, or another function of theta and of t `[B]`. theta is `[B, ..., 2]`: the mean, and the
            logarithm of the concentration, scaled to [-1, 1]. The network puts out angles `[B, ...]`.
        schedule: The accuracies of the messages.
        period: The period of the data, 2π for radians.
        concentration: κ of the output distribution after the last message, at least 0. None: the mean of the state's
            concentration times the cosine of the mean's error, Σ α·A(α), where A is the ratio I₁/I₀ of Bessel
            functions.

    Attributes:
        period: The period of the data.
        concentration: κ.

    Example:
        >>> class Network(torch.nn.Linear):
        ...     def forward(self, theta, t):
        ...         return super().forward(theta).squeeze(-1)
        >>> model = Circular(Network(2, 1), VonMisesAccuracy([0.5, 1.0, 2.0]), period=1.0)
        >>> model(torch.rand(4, 3)).backward()
        >>> model.network.weight.grad.shape
        torch.Size([1, 2])
    """

    ops = circular
    solver_start = 0.0
    choices = ("mean",)  # the network puts out no more of the output distribution
    schedule: VonMisesAccuracy  # type: ignore[assignment]

    def __init__(
        self,
        network: Network,
        schedule: VonMisesAccuracy,
        *,
        period: float = 2 * math.pi,
        concentration: float | None = None,
    ):
        super().__init__(network)
        self.schedule, self.period = schedule, period
        self._concentration = concentration

    @property
    def concentration(self) -> float:
        """κ of the output distribution after the last message."""
        if self._concentration is not None:
            return self._concentration
        return float((self.schedule.alphas * ratio(self.schedule.alphas)).sum())

    def get_extra_state(self) -> Tensor:
        """Returns the accuracies, float64 `[n]`, which a checkpoint holds."""
        return self.schedule.alphas

    def set_extra_state(self, state: Tensor) -> None:
        """Makes the schedule of a checkpoint's accuracies.

        Args:
            state: What `get_extra_state` returned.
        """
        if not torch.equal(state.cpu(), self.schedule.alphas):
            self.schedule = VonMisesAccuracy(state)

    def forward(self, x: Tensor, t: Tensor | None = None, *, n_steps: int | None = None, **options: Any) -> Tensor:
        """L_n of a batch, n times the divergence of a message. `model(x)` calls it.

        Args:
            x: Angles `[B, ...]`.
            t: Times (i - 1)/n of steps i from 1 to n, `[B]`, on x's device. None: times that `spread_times` spreads.
            n_steps: n of the schedule, or None.
            **options: `seed`, `mask` and `reduction`, as in `BFN.forward`.

        Returns:
            The loss in nats, differentiable in the network's parameters.
        """
        n_steps = self.schedule.n_steps if n_steps is None else n_steps
        return super().forward(x, t, n_steps=n_steps, **options)

    def step_at(self, t: Tensor, n_steps: int | None = None) -> Tensor:
        """The step i that starts at t = (i - 1)/n.

        Args:
            t: Times, of any shape.
            n_steps: n of the schedule, or None; another n is an error.

        Returns:
            Steps from 1 to n + 1, int64 of t's shape.
        """
        if n_steps not in (None, self.schedule.n_steps):
            raise ValueError(f"n_steps must be {self.schedule.n_steps}, as the schedule's, got {n_steps}")
        return (t.to(checks.widest(t.device)) * self.schedule.n_steps).round().long() + 1

    @property
    def _of(self) -> dict[str, Any]:
        return {"schedule": self.schedule, "period": self.period}

    def flow(self, x: Tensor, t: Tensor, seed: int, mask: Tensor | None = None) -> Tensor:
        return self._theta(*circular.flow_sample(x, self.step_at(t), output="log", mask=mask, seed=seed, **self._of))

    def _theta(self, mean: Tensor, log: Tensor) -> Tensor:
        return torch.stack([mean.to(self.dtype), log.to(self.dtype)], -1)

    def continuous_time_loss(self, x: Tensor, output: Tensor, theta: Tensor, t: Tensor, **options: Any) -> Tensor:
        raise ValueError("n_steps must be given: nn.Circular has no continuous-time loss")

    def discrete_time_loss(
        self, x: Tensor, output: Tensor, theta: Tensor, t: Tensor, n_steps: int, seed: int, **options: Any
    ) -> Tensor:
        return circular.discrete_time_loss(x, output, self.step_at(t, n_steps), **self._of, **options)

    def reconstruction_loss(self, x: Tensor, output: Tensor, theta: Tensor, **options: Any) -> Tensor:
        concentration = torch.full_like(x, self.concentration, dtype=torch.promote_types(x.dtype, torch.float32))
        return circular.reconstruction_loss(x, output, concentration, period=self.period, **options)

    def prior(self, shape: tuple[int, ...], device: torch.device) -> State:
        zeros = torch.zeros(shape, dtype=self.state_dtype, device=device)
        return zeros, zeros.clone(), torch.full_like(zeros, -1)

    def theta(self, state: State) -> Tensor:
        return self._theta(state[0], state[2])

    def start_from(self, state: State, start: Tensor) -> None:
        raise ValueError("start must be None for circular data, whose state has a concentration too")

    def guided(self, output: Tensor, other: Tensor, weight: Tensor) -> Tensor:
        """Turns the angles away from those without the condition, along the shorter arc.

        Args:
            output: With the condition.
            other: Without the condition.
            weight: w, broadcastable to both.

        Returns:
            output + w·(output − other), where the difference lies within half a period.
        """
        return output + weight * self.wrapped(output - other)

    def wrapped(self, angles: Tensor) -> Tensor:
        """Shifts angles by whole periods, so that they lie within half a period around 0.

        Args:
            angles: Angles of any shape.

        Returns:
            The shifted angles.
        """
        return angles - self.period * (angles / self.period).round()

    def update(
        self, output: Tensor, state: State, t: Tensor, alpha: Tensor, seed: Tensor, sampling: Sampling = PLAIN
    ) -> None:
        mean, concentration, log = state
        options: dict[str, Any] = {"out": mean, "concentration_out": concentration, "log_out": log, "seed": seed}
        circular.update_sample(output, mean, concentration, alpha, **options, **sampling.known_values, **self._of)

    def solver_state(self, shape: tuple[int, ...], device: torch.device, t: float, seed: int) -> State:
        raise ValueError('sampler must be "ancestral" for circular data, which have no other')

    def solve(
        self,
        output: Tensor,
        state: State,
        t: Tensor,
        coefficients: Coefficients,
        seed: Tensor,
        sampling: Sampling = PLAIN,
    ) -> None:
        raise ValueError('sampler must be "ancestral" for circular data, which have no other')

    def mode(self, output: Tensor, theta: Tensor, t: Tensor) -> Tensor:
        return self.wrapped(output)
