"""The modules of continuous and of discretised data, whose input distribution is a normal distribution.

Numbers in parentheses are equations of Graves et al. 2023.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from bfn_kernels import checks, continuous, discretised, solvers
from bfn_kernels.arguments.keywords import PARAMETRISATIONS, PUBLISHED, Limits
from bfn_kernels.continuous import Clip
from bfn_kernels.nn.base import BFN, Network, State
from bfn_kernels.nn.example_seeds import ExampleSeeds, drawn
from bfn_kernels.nn.sampling import PLAIN, Sampling
from bfn_kernels.noise import OUTPUT, SENDER
from bfn_kernels.schedules import ContinuousSchedule, continuous_schedule
from bfn_kernels.solvers import Coefficients


class Normal(BFN):
    """The base for continuous and discretised data, whose input distribution is N(mean, 1/precision). theta are means
    `[B, ...]`.

    Args:
        network: A module, or another function of theta and of t `[B]`, neither of which it may change.
        sigma_1: σ₁ of the paper's schedule (80), the std at t = 1, in (0, 1). Pass either sigma_1 or schedule.
        schedule: An object with the methods of `schedules.ContinuousSchedule`, instead of sigma_1.
    """

    solver_start = 0.01

    def __init__(
        self, network: Network | None, sigma_1: float | None = None, *, schedule: ContinuousSchedule | None = None
    ):
        super().__init__(network)
        self.schedule: ContinuousSchedule = continuous_schedule(sigma_1, schedule)

    def flow(self, x: Tensor, t: Tensor, seed: Any, mask: Tensor | None = None) -> Tensor:
        finest = x.to(torch.promote_types(x.dtype, self.dtype))
        draws = drawn(seed, noise=lambda seeds: seeds.normals(x.shape, checks.compute_dtype(finest)))
        return continuous.flow_sample(finest, t, schedule=self.schedule, mask=mask, **draws).to(self.dtype)

    def prior(self, shape: tuple[int, ...], device: torch.device, seed: Any = None) -> State:
        mean = torch.zeros(shape, dtype=self.state_dtype, device=device)
        return mean, torch.ones((), dtype=checks.widest(device), device=device)

    def solver_state(self, shape: tuple[int, ...], device: torch.device, t: float, seed: Any) -> State:
        mean = self.solver_noise(shape, float(solvers.start_variance(self.schedule, t)), device, seed)
        return mean, torch.zeros_like(mean)

    def theta(self, state: State) -> Tensor:
        return state[0].to(self.dtype)

    def _sent(self, sampling: Sampling, choose: str) -> dict[str, Any]:
        """The keywords of a step that say which data are known and, unless the data are continuous, which value of the
        output distribution it uses."""
        return sampling.sent(choose)

    def _drawn(self, seed: Any, output: Tensor, mean: Tensor, settings: dict[str, Any]) -> dict[str, Any]:
        """The keywords that draw the random numbers of a step with these settings."""
        coefficients, dtype = settings.get("coefficients"), checks.compute_dtype(output, mean)
        streams = {} if coefficients and coefficients.variance is None else {"noise": SENDER}
        if settings.get("choose") == "sample":
            streams["draw_noise"] = OUTPUT

        def normals(seeds: ExampleSeeds, stream: int) -> Tensor:
            return seeds.normals(mean.shape, dtype, stream)

        return drawn(seed, **{name: partial(normals, stream=stream) for name, stream in streams.items()})

    def update(
        self, output: Tensor, state: State, t: Tensor, alpha: float | Tensor, seed: Any, sampling: Sampling = PLAIN
    ) -> None:
        mean, precision = state
        tensors, settings = self.arguments(output, mean)
        settings |= {"precision": precision, "alpha": alpha, "t": t, "out": mean, **self._sent(sampling, "sample")}
        settings |= self._drawn(seed, output, mean, settings)
        precision.copy_(self.ops.update_sample(*tensors, **settings)[1])

    def solve(
        self,
        output: Tensor,
        state: State,
        t: Tensor,
        coefficients: Coefficients,
        seed: Any,
        sampling: Sampling = PLAIN,
    ) -> None:
        mean, predicted = state
        tensors, settings = self.arguments(output, mean)
        settings |= {"coefficients": coefficients, "out": mean, "predicted_out": predicted}
        settings |= self._sent(sampling, "mean")
        settings |= self._drawn(seed, output, mean, settings)
        previous = None if coefficients.extrapolation is None else predicted
        self.ops.solver_step(*tensors, t, previous=previous, **settings)


class Continuous(Normal):
    """Reals in [-1, 1], `[B, ...]`, of a floating-point type. The network takes the mean `[B, ...]` and predicts the
    noise ε in this mean, or the data themselves, `[B, ...]`.

    With num_bins, the reconstruction loss is -ln of the probability of x's bin, so that it is comparable with the
    reconstruction loss of `Discretised`.

    Args:
        network: A module, or another function of theta and of t `[B]`, neither of which it may change.
        sigma_1: σ₁ of the paper's schedule (80), the std at t = 1, in (0, 1). Pass either sigma_1 or schedule.
        schedule: An object with the methods of `schedules.ContinuousSchedule`, instead of sigma_1.
        num_bins: K, the number of bins of [−1, 1], at least 2. None: the reconstruction loss is −ln of a density.
        limits: `bfn_kernels.Limits`, of which only t_min is read: at times before t_min, a noise prediction is ignored,
            and x̂ is 0.
        clip: The range (low, high) of the data, to which x̂ is clipped. None for data without bounds.
        parametrisation: What the network predicts: the "noise" ε or the "data" x̂.

    Example:
        >>> class Network(torch.nn.Linear):
        ...     def forward(self, mean, t):
        ...         return super().forward(mean)
        >>> model = Continuous(Network(3, 3), sigma_1=0.1)
        >>> model(torch.zeros(2, 3), torch.tensor([0.0, 0.5]), seed=1).shape
        torch.Size([])
    """

    ops = continuous
    choices = ("mean",)  # the network predicts only the mean of the output distribution

    def __init__(
        self,
        network: Network | None,
        sigma_1: float | None = None,
        *,
        schedule: ContinuousSchedule | None = None,
        num_bins: int | None = None,
        limits: Limits = PUBLISHED,
        clip: Clip = (-1, 1),
        parametrisation: str = "noise",
    ):
        super().__init__(network, sigma_1, schedule=schedule)
        checks.choice("parametrisation", parametrisation, PARAMETRISATIONS)
        self.num_bins, self.limits, self.clip, self.parametrisation = num_bins, limits, clip, parametrisation

    def output_shape(self, theta: Any) -> tuple[int, ...] | None:
        return theta.shape

    def arguments(self, output: Tensor, theta: Tensor) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
        settings = {"schedule": self.schedule, "limits": self.limits, "clip": self.clip}
        return (output, theta), settings | {"parametrisation": self.parametrisation}

    def _sent(self, sampling: Sampling, choose: str) -> dict[str, Any]:
        return sampling.known_values

    def reconstruction_loss(self, x: Tensor, output: Tensor, theta: Tensor, **options: Any) -> Tensor:
        return super().reconstruction_loss(x, output, theta, num_bins=self.num_bins, **options)

    def mode(self, output: Tensor, theta: Tensor, t: Tensor) -> Tensor:
        wide = output.to(self.state_dtype)  # narrower than `dtype` under autocast, and wider after guidance in float16
        if self.parametrisation == "data":
            return (wide if self.clip is None else wide.clamp(*self.clip)).to(self.dtype)
        options: dict[str, Any] = {"schedule": self.schedule, "limits": self.limits, "clip": self.clip}
        return continuous.predict_data(wide, theta, t, **options).to(self.dtype)


class Discretised(Normal):
    """Data at the centres of num_bins bins of [-1, 1], `[B, ...]`, of a floating-point type. The network takes the mean
    `[B, ...]` and predicts the mean and the log standard deviation of the noise ε, `[B, ..., 2]`.

    Args:
        network: A module, or another function of theta and of t `[B]`, neither of which it may change.
        sigma_1: σ₁ of the paper's schedule (80), the std at t = 1, in (0, 1). Pass either sigma_1 or schedule.
        num_bins: K, the number of bins of [−1, 1], at least 2.
        schedule: An object with the methods of `schedules.ContinuousSchedule`, instead of sigma_1.
        limits: `bfn_kernels.Limits`, to which the predicted ln std and the std are clamped. At times before t_min, a
            noise prediction is ignored, and the normal is N(0, 1).

    Example:
        >>> class Network(torch.nn.Linear):
        ...     def forward(self, mean, t):
        ...         return super().forward(mean).unflatten(-1, (3, 2))
        >>> model = Discretised(Network(3, 6), sigma_1=0.1, num_bins=16)
        >>> model(torch.full((2, 3), 1 / 16), torch.tensor([0.0, 0.5]), seed=1, reduction="batch").shape
        torch.Size([2])
    """

    ops = discretised

    def __init__(
        self,
        network: Network | None,
        sigma_1: float | None = None,
        *,
        num_bins: int,
        schedule: ContinuousSchedule | None = None,
        limits: Limits = PUBLISHED,
    ):
        super().__init__(network, sigma_1, schedule=schedule)
        self.num_bins, self.limits = num_bins, limits

    def output_shape(self, theta: Any) -> tuple[int, ...] | None:
        return *theta.shape, 2

    def arguments(self, output: Tensor, theta: Tensor) -> tuple[tuple[Tensor | None, ...], dict[str, Any]]:
        stacked = output, None  # the predictions of the mean and of the log std, in one tensor
        return (*stacked, theta), {"schedule": self.schedule, "num_bins": self.num_bins, "limits": self.limits}

    def guided(self, output: Tensor, other: Tensor, weight: Tensor) -> Tensor:
        mean, log_std = output.split(1, -1)  # the standard deviation is the prediction with the condition
        return torch.cat([super().guided(mean, other[..., :1], weight), log_std], -1)

    def mode(self, output: Tensor, theta: Tensor, t: Tensor) -> Tensor:
        normal = discretised.output_distribution(output, None, theta, t, schedule=self.schedule, limits=self.limits)
        return discretised.mode(*normal, num_bins=self.num_bins).to(self.dtype)
