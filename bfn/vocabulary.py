"""The model of a large vocabulary, of which training never has [B, ..., K]."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bfn_kernels import discrete
from bfn_kernels.checks import REDUCTIONS
from bfn_kernels.nn import Discrete, LinearHead, Network, NoisyEmbedding, State
from bfn_kernels.noise import fold_in
from bfn_kernels.reduction import reduce
from bfn_kernels.schedules import DiscreteSchedule
from bfn_kernels.solvers import Coefficients

NUMBERS = 2**21  # of the classes of some examples at a time, the most that training has in one tensor


class Seen:
    """An input distribution in the place of θ: the vectors `[B, ..., width]` that the network sees of it, and a
    function that makes the logits `[..., K]` of the i-th of some slices of the batch."""

    def __init__(self, vectors: Tensor, logits: Callable[[int, slice], Tensor]):
        self.vectors, self.logits, self.device = vectors, logits, vectors.device

    def __len__(self) -> int:
        return len(self.vectors)


class Vocabulary(Discrete):
    """Classes that occur with frequencies p `[K]`. `network(vectors, t)` takes vectors `[B, ..., width]` and puts out
    `[B, ..., width + 1]`: hidden states of a linear head, and how far its logits follow the variable's own messages.

    By Bayes' rule, the messages θ ∝ e^y (185) and the frequencies say π ∝ p·θ together. So a row of the embedding,
    whose first number starts as 1, is taken K·p_k times: the first number of θ·W is the sum that π is divided by, and
    all of them over it are the mean of the rows under π, which is what the network sees.

    A vector tells too little of its own variable, so that y itself is added to the head's logits. For some examples at
    a time it is made of the seed, and made again in the backward pass. With a head that says ln p and follows y once,
    the model starts as the Bayesian that knows the frequencies alone.
    """

    scale: Tensor

    def __init__(self, network: Network, p: Tensor, width: int, *, schedule: DiscreteSchedule):
        super().__init__(network, schedule=schedule, num_classes=len(p))
        self.embedding, self.head = NoisyEmbedding(len(p), width), LinearHead(width, len(p))
        self.register_buffer("scale", len(p) * p[:, None])
        with torch.no_grad():
            self.embedding.weight[:, 0] = 1
            nn.init.zeros_(self.head.weight)
            self.head.bias.copy_(p.log())

    def slices(self, x: Tensor) -> Iterator[tuple[int, slice]]:
        """Some examples at a time, with the number of each slice."""
        size = max(1, NUMBERS // (self.num_classes * max(1, x[:1].numel())))
        return enumerate(slice(start, start + size) for start in range(0, len(x), size))

    def logits(self, output: Tensor, received: Tensor) -> Tensor:
        """The logits of the output distribution, given those of the input distribution."""
        return self.head(output[..., :-1]) + output[..., -1:] * received

    def weight(self) -> Tensor:
        return self.embedding.weight * self.scale

    def flow(self, x: Tensor, t: Tensor, seed: int, mask: Tensor | None = None) -> Any:
        if mask is not None:
            raise ValueError("mask must be None for a large vocabulary")
        weight, schedule = self.weight(), self.schedule

        def logits(i: int, rows: slice) -> Tensor:
            how: dict[str, Any] = {"num_classes": self.num_classes, "schedule": schedule, "dtype": torch.float32}
            return discrete.flow_sample(x[rows], t[rows], output="logits", seed=fold_in(seed, i), **how)

        vectors = [
            discrete.flow_embedding(x[rows], t[rows], weight, schedule=schedule, seed=fold_in(seed, i))
            for i, rows in self.slices(x)
        ]
        return Seen(torch.cat(vectors), logits)

    def output(self, theta: Any, t: Tensor) -> Tensor:
        return self.network(theta.vectors / theta.vectors[..., :1], t)

    def losses(self, loss: Callable, x: Tensor, output: Tensor, seen: Any, reduction: str, *times: Tensor) -> Tensor:
        """loss(i, x, logits, *times) of slices, `[B, ...]`, reduced."""

        def of(i: int, rows: slice) -> Tensor:
            logits = self.logits(output[rows], seen.logits(i, rows))
            return loss(i, x[rows], logits, *(time[rows] for time in times))

        how: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
        nats = torch.cat([checkpoint(of, i, rows, **how) for i, rows in self.slices(x)])
        return reduce(nats, None, REDUCTIONS.index(reduction))

    def continuous_time_loss(self, x: Tensor, output: Tensor, theta: Any, t: Tensor, **how: Any) -> Tensor:
        def loss(i: int, x: Tensor, logits: Tensor, t: Tensor) -> Tensor:
            return discrete.continuous_time_loss(x, logits, t, schedule=self.schedule, reduction="none")

        return self.losses(loss, x, output, theta, how["reduction"], t)

    def discrete_time_loss(
        self, x: Tensor, output: Tensor, theta: Any, t: Tensor, n_steps: int, seed: int, **how: Any
    ) -> Tensor:
        def loss(i: int, x: Tensor, logits: Tensor, t: Tensor) -> Tensor:
            of: dict[str, Any] = {"schedule": self.schedule, "n_steps": n_steps, "reduction": "none"}
            return discrete.discrete_time_loss(x, logits, t, n_samples=10, seed=fold_in(seed, i), **of)

        return self.losses(loss, x, output, theta, how["reduction"], t)

    def reconstruction_loss(self, x: Tensor, output: Tensor, theta: Any, **how: Any) -> Tensor:
        def loss(i: int, x: Tensor, logits: Tensor) -> Tensor:
            return discrete.reconstruction_loss(x, logits, reduction="none")

        return self.losses(loss, x, output, theta, how["reduction"])

    def theta(self, state: State) -> Any:
        return Seen(state[1] @ self.weight(), lambda i, rows: state[0][rows])

    def update(self, output: Tensor, state: State, t: Tensor, alpha: Tensor, seed: Tensor) -> None:
        super().update(self.logits(output, state[0]), state, t, alpha, seed)

    def solve(self, output: Tensor, state: State, t: Tensor, coefficients: Coefficients, seed: Tensor) -> None:
        super().solve(self.logits(output, state[0]), state, t, coefficients, seed)

    def mode(self, output: Tensor, theta: Any, t: Tensor) -> Tensor:
        received = theta.logits(0, slice(None))
        return self.logits(output, received).argmax(-1)
