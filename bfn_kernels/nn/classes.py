"""The modules of data with two or more classes. Numbers in parentheses are equations of Graves et al. 2023."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from bfn_kernels import binary, checks, discrete, solvers
from bfn_kernels.formulas import guided
from bfn_kernels.nn.base import BFN, Network, State
from bfn_kernels.nn.example_seeds import ExampleSeeds, drawn
from bfn_kernels.nn.sampling import PLAIN, Sampling
from bfn_kernels.records import Guidance
from bfn_kernels.schedules import DiscreteSchedule, discrete_schedule
from bfn_kernels.solvers import Coefficients


class Classes(BFN):
    """The base for binary data and for data with more classes. The state of ancestral sampling is the pair (logits,
    theta); a solver's state has, as a third tensor, the prediction of the previous step. The network puts out logits.

    Args:
        network: A module, or another function of theta and of t `[B]`, neither of which it may change.
        beta_1: β₁ of the paper's schedule (182), the accuracy at t = 1, positive. Pass either beta_1 or schedule.
        schedule: An object with the methods of `schedules.DiscreteSchedule`, instead of beta_1.

    Attributes:
        receiver: The receiver distribution of L_n: "joint", the paper's, or "factorised", the published code's.
    """

    solver_start = 0.001
    has_logits = True
    receiver = "joint"
    _rows = True  # whether logits have a last dimension, of classes

    def __init__(
        self, network: Network | None, beta_1: float | None = None, *, schedule: DiscreteSchedule | None = None
    ):
        super().__init__(network)
        self.schedule: DiscreteSchedule = discrete_schedule(beta_1, schedule)

    @contextmanager
    def using(self, receiver: str) -> Iterator[None]:
        """Within a `with`, L_n uses this receiver distribution.

        Args:
            receiver: The receiver distribution p_R of L_n: "joint", the paper's, or "factorised", the published code's,
                which has a mixture for each coordinate of y.

        Returns:
            A context, which restores the earlier receiver at its end.
        """
        before, self.receiver = self.receiver, receiver
        try:
            yield
        finally:
            self.receiver = before

    @abstractmethod
    def zeros(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """The logits before any message.

        Args:
            shape: The shape of the data, `[B, ...]`, a tuple of ints.
            device: The device of the result.

        Returns:
            Zeros in `state_dtype`, `[B, ..., K]`, or `[B, ...]` for binary data.
        """

    @property
    def of_classes(self) -> dict[str, Any]:
        """The keywords of losses and steps that say which classes are valid."""
        return {}

    def output_shape(self, theta: Any) -> tuple[int, ...] | None:
        return theta.shape

    def arguments(self, output: Tensor, theta: Tensor) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
        return (output,), {"schedule": self.schedule, **self.of_classes}

    def reconstruction_loss(self, x: Tensor, output: Tensor, theta: Tensor, **options: Any) -> Tensor:
        return self.ops.reconstruction_loss(x, output, **options, **self.of_classes)

    def prior(self, shape: tuple[int, ...], device: torch.device, seed: Any = None) -> State:
        logits = self.zeros(shape, device)
        return logits, self.ops.theta(logits).to(self.dtype)

    def solver_state(self, shape: tuple[int, ...], device: torch.device, t: float, seed: Any) -> State:
        zeros = self.zeros(shape, device)
        variance = self.state_scale * float(solvers.start_variance(self.schedule, t))
        logits = self.solver_noise(tuple(zeros.shape), variance, device, seed)
        return logits, self.ops.theta(logits).to(self.dtype), zeros

    def theta(self, state: State) -> Tensor:
        return state[1]

    def start_from(self, state: State, start: Tensor) -> None:
        super().start_from(state, start)
        state[1].copy_(self.ops.theta(state[0]))

    def guided(self, output: Tensor, other: Tensor, weight: Tensor) -> Tensor:
        return guided(output, Guidance(1 + weight, other, -weight))  # a logit of −∞ stays −∞

    def _drawn(self, seed: Any, output: Tensor, logits: Tensor, options: dict[str, Any]) -> dict[str, Any]:
        """The keywords that draw the random numbers of a step with these options."""
        coefficients, dtype = options.get("coefficients"), checks.compute_dtype(output, logits)
        explicit: dict[str, Any] = {}
        if coefficients is None or coefficients.variance is not None:
            explicit["noise"] = lambda seeds: self._normals(seeds, logits.shape, dtype)
        if options["choose"] == "sample":
            explicit["draw_noise"] = lambda seeds: seeds.uniforms(logits.shape[:-1] if self._rows else logits.shape)
        return drawn(seed, **explicit)

    def _normals(self, seeds: ExampleSeeds, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """The normals of logits of this shape."""
        return (seeds.class_normals if self._rows else seeds.normals)(shape, dtype)

    def update(
        self, output: Tensor, state: State, t: Tensor, alpha: float | Tensor, seed: Any, sampling: Sampling = PLAIN
    ) -> None:
        logits, theta = state
        options = {"out": logits, "theta_out": theta, **sampling.sent("sample"), **self.of_classes}
        options |= self._drawn(seed, output, logits, options)
        self.ops.update_sample(sampling.tempered(output), logits, alpha, **options)

    def solve(
        self,
        output: Tensor,
        state: State,
        t: Tensor,
        coefficients: Coefficients,
        seed: Any,
        sampling: Sampling = PLAIN,
    ) -> None:
        logits, theta, predicted = state
        previous = None if coefficients.extrapolation is None else predicted
        outputs = {"out": logits, "theta_out": theta, "predicted_out": predicted}
        options: dict[str, Any] = {"coefficients": coefficients, "previous": previous, **outputs}
        options |= sampling.sent("mean") | self.of_classes
        options |= self._drawn(seed, output, logits, options)
        self.ops.solver_step(sampling.tempered(output), logits, **options)


class Discrete(Classes):
    """Classes 0 to num_classes - 1. Data are `[B, ...]`, int64, int32 or uint8. L∞ and the reconstruction loss also
    take soft data: distributions over the classes, `[B, ..., K]`, floating-point. The network takes probabilities `[B,
    ..., K]` and puts out logits `[B, ..., K]`.

    Args:
        network: A module, or another function of theta and of t `[B]`, neither of which it may change.
        beta_1: β₁ of the paper's schedule (182), the accuracy at t = 1, positive. Pass either beta_1 or schedule.
        num_classes: K, the number of classes, at least 2.
        schedule: An object with the methods of `schedules.DiscreteSchedule`, instead of beta_1.
        class_mask: Bool, `[K]` or broadcastable to the logits. Where it is False, the logit counts as −∞.

    Attributes:
        num_classes: K.
        class_mask: As above, a buffer that `state_dict` leaves out.
        receiver: The receiver distribution of L_n. "joint" is the paper's, with which L_n is a mean of 10 draws.
            "factorised" is the published code's, with which L_n is a quadrature of 32 nodes.

    Example:
        >>> class Network(torch.nn.Linear):
        ...     def forward(self, theta, t):
        ...         return super().forward(theta)
        >>> model = Discrete(Network(5, 5), beta_1=3.0, num_classes=5)
        >>> model.reconstruction(torch.zeros(2, 3, dtype=torch.int64), seed=1).shape
        torch.Size([])
    """

    ops = discrete
    class_mask: Tensor | None

    def __init__(
        self,
        network: Network | None,
        beta_1: float | None = None,
        *,
        num_classes: int,
        schedule: DiscreteSchedule | None = None,
        class_mask: Tensor | None = None,
    ):
        super().__init__(network, beta_1, schedule=schedule)
        self.num_classes = num_classes
        self.state_scale = num_classes
        self.register_buffer("class_mask", class_mask, persistent=False)

    @property
    def of_classes(self) -> dict[str, Any]:
        return {} if self.class_mask is None else {"class_mask": self.class_mask}

    def zeros(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        return torch.zeros(*shape, self.num_classes, dtype=self.state_dtype, device=device)

    def flow(self, x: Tensor, t: Tensor, seed: Any, mask: Tensor | None = None) -> Tensor:
        shape, work = (*checks.variables(x), self.num_classes), torch.promote_types(self.dtype, torch.float32)
        draws = drawn(seed, noise=lambda seeds: self._normals(seeds, shape, work))
        options: dict[str, Any] = {"schedule": self.schedule, "dtype": self.dtype, "mask": mask, **draws}
        return discrete.flow_sample(x, t, num_classes=self.num_classes, **options)

    def expectation(self, seed: Any) -> dict[str, Any]:
        if self.receiver == "joint":  # L_n has no quadrature for this receiver and more than two classes
            return {"receiver": "joint", "n_samples": 10, "seed": seed}
        return {"receiver": self.receiver, "quadrature": 32}

    def mode(self, output: Tensor, theta: Tensor, t: Tensor) -> Tensor:
        if self.class_mask is not None:
            output = output.masked_fill(~self.class_mask, -torch.inf)
        return output.argmax(-1)


class Binary(Classes):
    """Classes 0 and 1. Data are `[B, ...]`, bool, int64, int32 or uint8. L_n is a quadrature of 32 nodes. The network
    takes the probability of class 1, `[B, ...]`, and puts out the logit of class 1, `[B, ...]`.

    Args:
        network: A module, or another function of theta and of t `[B]`, neither of which it may change.
        beta_1: β₁ of the paper's schedule (182), the accuracy at t = 1, positive. Pass either beta_1 or schedule.
        schedule: An object with the methods of `schedules.DiscreteSchedule`, instead of beta_1.

    Example:
        >>> class Network(torch.nn.Linear):
        ...     def forward(self, theta, t):
        ...         return super().forward(theta)
        >>> model, x = Binary(Network(3, 3), beta_1=9.0), torch.ones(2, 3, dtype=torch.int64)
        >>> model(x, torch.tensor([0.0, 0.5]), seed=1, n_steps=2, reduction="none").shape
        torch.Size([2, 3])
    """

    ops = binary
    state_scale = 4
    _rows = False

    def zeros(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        return torch.zeros(shape, dtype=self.state_dtype, device=device)

    def flow(self, x: Tensor, t: Tensor, seed: Any, mask: Tensor | None = None) -> Tensor:
        work = torch.promote_types(self.dtype, torch.float32)
        draws = drawn(seed, noise=lambda seeds: self._normals(seeds, x.shape, work))
        return binary.flow_sample(x, t, schedule=self.schedule, dtype=self.dtype, mask=mask, **draws)

    def expectation(self, seed: Any) -> dict[str, Any]:
        return {"receiver": self.receiver, "quadrature": 32}

    def mode(self, output: Tensor, theta: Tensor, t: Tensor) -> Tensor:
        return (output > 0).long()
