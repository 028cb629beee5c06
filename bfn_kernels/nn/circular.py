"""The nn.Module for circular data, such as angles."""

import math
from typing import Any

import torch
from torch import Tensor

from bfn_kernels import checks, circular
from bfn_kernels.nn.base import BFN, Network, State
from bfn_kernels.nn.example_seeds import drawn
from bfn_kernels.nn.sampling import PLAIN, Sampling, known_where
from bfn_kernels.schedules import VonMisesAccuracy
from bfn_kernels.solvers import Coefficients


class Circular(BFN):
    """A Bayesian flow network for angles, or for other numbers that are equal modulo a period. Data are `[B, ...]`,
    floating-point.

    The loss is the n-step loss L_n, where n is the number of messages of the schedule. A continuous-time loss is not
    defined for circular data. The sampler "ancestral" takes n steps, each with one message about the network's
    prediction. The sampler "renoise" draws the state anew from the flow of the prediction in each step, as published
    code does ("end_back"); its number of steps may also divide n. Other samplers are not defined, nor is a temperature,
    since the network puts out no distribution. Guidance takes the difference of two predicted angles along the shorter
    arc. A sampling run starts from random means, uniform on the circle, which is what the network sees in training
    before the first message. A checkpoint holds the accuracies.

    theta is `[B, ..., 2]`. theta[..., 0] is the mean of the von Mises input distribution, in the units of the data.
    theta[..., 1] is the logarithm of its concentration, scaled and clamped to [-1, 1]. The network puts out angles
    `[B, ...]`.

    Args:
        network: A module, or another function of theta and of t `[B]`, neither of which it may change.
        schedule: The accuracies of the n messages, a `schedules.VonMisesAccuracy`.
        period: The period of the angles, 2π for radians.

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
    choices = ("mean",)  # the network predicts only the mean of the output distribution
    schedule: VonMisesAccuracy  # type: ignore[assignment]

    def __init__(self, network: Network | None, schedule: VonMisesAccuracy, *, period: float = 2 * math.pi):
        super().__init__(network)
        self.schedule, self.period = schedule, period

    @property
    def n_steps(self) -> int:
        """n of the schedule."""
        return self.schedule.n_steps

    def get_extra_state(self) -> Tensor:
        """Returns the accuracies, float64 `[n]`, which a checkpoint holds."""
        return self.schedule.alphas

    def set_extra_state(self, state: Tensor) -> None:
        """Replaces the schedule if the accuracies of the checkpoint differ from its accuracies.

        Args:
            state: What `get_extra_state` returned.
        """
        if not torch.equal(state.cpu(), self.schedule.alphas):
            self.schedule = VonMisesAccuracy(state)

    def step_at(self, t: Tensor) -> Tensor:
        """Returns the step i that starts at time t = (i - 1)/n. For t = 1, it returns n + 1.

        Args:
            t: Times (i − 1)/n or 1, floating-point, of any shape. Any other time is a ValueError on the CPU. On other
                devices and in compiled code, it gives 0.

        Returns:
            Steps, int64 of t's shape.
        """
        return self.schedule.step_at(t)

    @property
    def _of(self) -> dict[str, Any]:
        return {"schedule": self.schedule, "period": self.period}

    def flow(self, x: Tensor, t: Tensor, seed: Any, mask: Tensor | None = None) -> Tensor:
        draws = self._drawn_state(seed, x)
        return self._theta(*circular.flow_sample(x, self.step_at(t), output="log", mask=mask, **draws, **self._of))

    def _drawn_state(self, seed: Any, x: Tensor) -> dict[str, Any]:
        """The keywords that draw a state about x."""
        return drawn(
            seed,
            noise=lambda seeds: seeds.angle_uniforms(x.shape),
            concentration_noise=lambda seeds: seeds.normals(x.shape, checks.compute_dtype(x)),
        )

    def output_shape(self, theta: Any) -> tuple[int, ...] | None:
        return theta.shape[:-1]

    def _theta(self, mean: Tensor, log: Tensor) -> Tensor:
        return torch.stack([mean.to(self.dtype), log.to(self.dtype)], -1)

    def discrete_time_loss(
        self, x: Tensor, output: Tensor, theta: Tensor, t: Tensor, n_steps: int, seed: Any, **options: Any
    ) -> Tensor:
        return circular.discrete_time_loss(x, output, self.step_at(t), **self._of, **options)

    def reconstruction_loss(self, x: Tensor, output: Tensor, theta: Tensor, **options: Any) -> Tensor:
        concentration = torch.full_like(x, self.schedule.progress, dtype=torch.promote_types(x.dtype, torch.float32))
        return circular.reconstruction_loss(x, output, concentration, period=self.period, **options)

    def prior(self, shape: tuple[int, ...], device: torch.device, seed: Any = None) -> State:
        zeros = torch.zeros(shape, dtype=self.state_dtype, device=device)
        mean = zeros.clone()
        if seed is not None:  # as `flow` draws a mean at t = 0
            mean, _ = circular.flow_sample(zeros, 1, **self._drawn_state(seed, zeros), **self._of)
        return mean, zeros, torch.full_like(zeros, -1)

    def theta(self, state: State) -> Tensor:
        return self._theta(state[0], state[2])

    def start_from(self, state: State, start: Tensor) -> None:
        raise ValueError(
            "start must be None for circular data: a start has means alone, a state also has concentrations"
        )

    def guided(self, output: Tensor, other: Tensor, weight: Tensor) -> Tensor:
        return output + weight * self._wrapped(output - other)

    def _wrapped(self, angles: Tensor) -> Tensor:
        """Shifts angles by whole periods into [-period/2, period/2]."""
        return angles - self.period * (angles / self.period).round()

    def update(
        self, output: Tensor, state: State, t: Tensor, alpha: float | Tensor, seed: Any, sampling: Sampling = PLAIN
    ) -> None:
        mean, concentration, log = state
        options: dict[str, Any] = {"out": mean, "concentration_out": concentration, "log_out": log}
        options |= drawn(seed, noise=lambda seeds: seeds.angle_uniforms(mean.shape))
        circular.update_sample(output, mean, concentration, alpha, **options, **sampling.known_values, **self._of)

    def solver_state(self, shape: tuple[int, ...], device: torch.device, t: float, seed: Any) -> State:
        return self.prior(shape, device, seed)

    def solve(
        self,
        output: Tensor,
        state: State,
        t: Tensor,
        coefficients: Coefficients,
        seed: Any,
        sampling: Sampling = PLAIN,
    ) -> None:
        mean, concentration, log = state
        pred = known_where(output, sampling).to(mean.dtype)
        step = torch.as_tensor(coefficients.take).long()
        options: dict[str, Any] = {"out": mean, "concentration_out": concentration, **self._drawn_state(seed, pred)}
        circular.renoise(pred, step, **options, **self._of)
        log.copy_(circular.reference.scaled_log(concentration, *self.schedule.log_scale))

    def mode(self, output: Tensor, theta: Tensor, t: Tensor) -> Tensor:
        # the output is narrower than `dtype` under autocast, and wider after guidance in float16
        return self._wrapped(output.to(self.state_dtype)).to(self.dtype)
