"""The modules of two and of more classes."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from bfn_kernels import binary, discrete, solvers
from bfn_kernels.adaptive import error_of_step
from bfn_kernels.nn.base import BFN, Network, State, given_schedule
from bfn_kernels.nn.layers import LinearHead, NoisyEmbedding, few_tokens
from bfn_kernels.schedules import DiscreteSchedule, QuadraticAccuracy
from bfn_kernels.solvers import Coefficients


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
        return logits, self.ops.theta(logits).to(self.dtype)

    def solver_state(self, shape: tuple[int, ...], device: torch.device, t: float, seed: int) -> State:
        zeros = self.zeros(shape, device)
        variance = self.state_scale * float(solvers.start_variance(self.schedule, t))
        logits = self.solver_noise(tuple(zeros.shape), variance, device, seed)
        return logits, self.ops.theta(logits).to(self.dtype), zeros

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

    >>> class Network(torch.nn.Linear):
    ...     def forward(self, theta, t):
    ...         return super().forward(theta)
    >>> model = Discrete(Network(5, 5), beta_1=3.0, num_classes=5)
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
        return torch.zeros(*shape, self.num_classes, dtype=self.state_dtype, device=device)

    def flow(self, x: Tensor, t: Tensor, seed: int, mask: Tensor | None = None) -> Tensor:
        return discrete.flow_sample(
            x, t, num_classes=self.num_classes, schedule=self.schedule, dtype=self.dtype, seed=seed, mask=mask
        )

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
    has one tensor of that size, the state's logits, and beside them what the network sees.

    width: d. tied: whether the head's weight is the embedding's.

    >>> class Network(torch.nn.Linear):
    ...     def forward(self, vectors, t):
    ...         return super().forward(vectors)
    >>> model = Vocabulary(Network(8, 8), beta_1=0.015, num_classes=1000, width=8)
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

    def continuous_time_loss(self, x: Tensor, output: Tensor, theta: Tensor, t: Tensor, **how: Any) -> Tensor:
        return self.head.continuous_time_loss(x, output, t, schedule=self.schedule, **how)

    def discrete_time_loss(
        self, x: Tensor, output: Tensor, theta: Tensor, t: Tensor, n_steps: int, seed: int, **how: Any
    ) -> Tensor:
        return self.head.discrete_time_loss(x, output, t, schedule=self.schedule, n_steps=n_steps, seed=seed, **how)

    def reconstruction_loss(self, x: Tensor, output: Tensor, theta: Tensor, **how: Any) -> Tensor:
        return self.head.reconstruction_loss(x, output, **how)

    def prior(self, shape: tuple[int, ...], device: torch.device) -> State:
        seen = self.embedding.weight.mean(0)  # all classes are alike
        return self.zeros(shape, device), seen.expand(*shape, len(seen)).clone()

    def solver_state(self, shape: tuple[int, ...], device: torch.device, t: float, seed: int) -> State:
        variance = self.state_scale * float(solvers.start_variance(self.schedule, t))
        logits = self.solver_noise((*shape, self.num_classes), variance, device, seed)
        seen = self.embedding.embed_state(logits)
        return logits, seen, torch.zeros_like(seen)

    def update(self, output: Tensor, state: State, t: Tensor, alpha: Tensor, seed: Tensor) -> None:
        logits, seen = state
        _, new = self.head.update_sample(logits, output, alpha, embedding=self.embedding.weight, out=logits, seed=seed)
        seen.copy_(new)

    def solve(self, output: Tensor, state: State, t: Tensor, coefficients: Coefficients, seed: Tensor) -> None:
        logits, seen, hidden = state
        _, new = self.head.solver_step(
            logits, output, coefficients=coefficients, previous=None if coefficients.extrapolation is None else hidden,
            embedding=self.embedding.weight, out=logits, seed=seed,
        )  # fmt: skip
        seen.copy_(new)
        hidden.copy_(output)

    def step_error(self, coefficients: Coefficients, state: State, before: State) -> float | None:
        """The same, of probabilities that are made for some tokens at a time."""
        pairs = (few_tokens(hidden, self.num_classes) for hidden in (state[-1], before[-1]))
        change = [
            (self.head(one).softmax(-1) - self.head(other).softmax(-1)).square().mean(-1).sqrt()
            for one, other in zip(*pairs, strict=True)
        ]
        roots = torch.cat(change).view(state[-1].shape[:-1])
        return error_of_step(coefficients, roots, torch.zeros_like(roots), self.state_scale)

    def mode(self, output: Tensor, theta: Tensor, t: Tensor) -> Tensor:
        return self.head.mode(output)


class Binary(Classes):
    """Classes 0 and 1; the network takes the probability of class 1 and puts out its logit, both `[B, ...]`.

    >>> class Network(torch.nn.Linear):
    ...     def forward(self, theta, t):
    ...         return super().forward(theta)
    >>> model = Binary(Network(3, 3), beta_1=9.0)
    >>> model(torch.ones(2, 3, dtype=torch.int64), torch.tensor([0.0, 0.5]), seed=1, n_steps=2, reduction="none").shape
    torch.Size([2, 3])
    """

    ops = binary
    state_scale = 4

    def zeros(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        return torch.zeros(shape, dtype=self.state_dtype, device=device)

    def flow(self, x: Tensor, t: Tensor, seed: int, mask: Tensor | None = None) -> Tensor:
        return binary.flow_sample(x, t, schedule=self.schedule, dtype=self.dtype, seed=seed, mask=mask)

    def discrete_time_loss(
        self, x: Tensor, output: Tensor, theta: Tensor, t: Tensor, n_steps: int, seed: int, **how: Any
    ) -> Tensor:
        return binary.discrete_time_loss(x, output, t, schedule=self.schedule, n_steps=n_steps, quadrature=32, **how)

    def mode(self, output: Tensor, theta: Tensor, t: Tensor) -> Tensor:
        return (output > 0).long()
