"""The module of a large vocabulary."""

from typing import Any

import torch
from torch import Tensor, nn

from bfn_kernels import solvers, vocabulary
from bfn_kernels.adaptive import error_of_step
from bfn_kernels.call import checks
from bfn_kernels.nn.base import Network, State
from bfn_kernels.nn.classes import Discrete
from bfn_kernels.nn.layers import LinearHead, NoisyEmbedding, embedded_state, few_tokens
from bfn_kernels.schedules import DiscreteSchedule
from bfn_kernels.solvers import Coefficients


class Seen:
    """An input distribution as the network sees it: vectors `[B, ..., d]`. The logits of the distribution are the
    `state` `[B, ..., K]` of a sampler, or are made again from the `seed` of a flow."""

    def __init__(self, vectors: Tensor, seed: int | None = None, state: Tensor | None = None):
        self.vectors, self.seed, self.state, self.device = vectors, seed, state, vectors.device

    def __len__(self) -> int:
        return len(self.vectors)


class Vocabulary(Discrete):
    """Classes of a large vocabulary. Training never makes `[B, ..., K]`; sampling keeps the state's logits, and a
    solver keeps the logits of the step before too.

    `network(vectors, t)` takes vectors `[B, ..., width]`, which a `NoisyEmbedding` makes of the input distribution. It
    puts out `[B, ..., width + 1]`: the hidden states of a `LinearHead` and, last, the factor by which the logits of the
    output distribution follow the logits of the input distribution. A vector alone tells too little about its own
    token, so a network does best to start with a factor of 1.

    width: the length of a vector. frequencies: `[K]` or None, the relative frequency p_k of each class in the data,
    each above 0; they are divided by their sum. With frequencies, p is the prior over the classes: the network sees the
    embedding of the posterior π_k = p_k·θ_k/Σ_j p_j·θ_j, where θ is the input distribution under a uniform prior, and
    the head's bias starts as ln p. tied: whether the head's weight is the embedding's.

    >>> class Network(torch.nn.Linear):
    ...     def forward(self, vectors, t):
    ...         return super().forward(vectors)
    >>> model = Vocabulary(Network(8, 9), beta_1=0.015, num_classes=1000, width=8)
    >>> model(torch.zeros(2, 3, dtype=torch.int64), seed=1).shape
    torch.Size([])
    """

    share: Tensor | None

    def __init__(
        self,
        network: Network,
        beta_1: float | None = None,
        *,
        num_classes: int,
        width: int,
        frequencies: Tensor | None = None,
        tied: bool = False,
        schedule: DiscreteSchedule | None = None,
    ):
        super().__init__(network, beta_1, num_classes=num_classes, schedule=schedule)
        self.embedding, self.head = NoisyEmbedding(num_classes, width), LinearHead(width, num_classes)
        self.register_buffer("share", None)  # K·p
        if tied:
            self.head.weight = self.embedding.weight
        if frequencies is not None:
            checks.like("frequencies", frequencies, "num_classes", self.head.bias, (num_classes,))
            if not (frequencies > 0).all():
                raise ValueError(f"frequencies must be above 0, got {frequencies.min().item()}")
            p = frequencies / frequencies.sum()
            self.share = num_classes * p.unsqueeze(-1)
            with torch.no_grad():
                self.embedding.weight[:, 0] = 1
                self.head.bias.copy_(p.log())
                if not tied:
                    nn.init.zeros_(self.head.weight)

    def weight(self) -> Tensor:
        """The weight of the embedding of θ. With frequencies, row k is multiplied by K·p_k. The first column of the
        embedding starts as 1, so that the first number of a vector is the normaliser K·Σ_j p_j·θ_j. `output` divides
        the vector by its first number, whatever training makes of that column."""
        return self.embedding.weight if self.share is None else self.embedding.weight * self.share

    def flow(self, x: Tensor, t: Tensor, seed: int, mask: Tensor | None = None) -> Any:
        vectors = vocabulary.flow_embedding(x, t, self.weight(), schedule=self.schedule, seed=seed, mask=mask)
        return Seen(vectors, seed)

    def output(self, theta: Any, t: Tensor) -> Tensor:
        vectors = theta.vectors if self.share is None else theta.vectors / theta.vectors[..., :1]
        return super().output(vectors, t)

    def logits(self, output: Tensor, flow: Tensor) -> Tensor:
        """The logits `[B, ..., K]` of the output distribution, given the logits of the input distribution. Training and
        sampling do not store them."""
        hidden, scale = parted(output)
        return self.head(hidden) + scale.unsqueeze(-1) * flow

    def continuous_time_loss(self, x: Tensor, output: Tensor, theta: Any, t: Tensor, **how: Any) -> Tensor:
        hidden, flow = following(output, theta)
        return self.head.continuous_time_loss(x, hidden, t, schedule=self.schedule, **flow, **how)

    def discrete_time_loss(
        self, x: Tensor, output: Tensor, theta: Any, t: Tensor, n_steps: int, seed: int, **how: Any
    ) -> Tensor:
        hidden, flow = following(output, theta)
        of = {"schedule": self.schedule, "n_steps": n_steps, "seed": seed}
        return self.head.discrete_time_loss(x, hidden, t, **of, **flow, **how)

    def reconstruction_loss(self, x: Tensor, output: Tensor, theta: Any, **how: Any) -> Tensor:
        hidden, flow = following(output, theta)
        return self.head.reconstruction_loss(x, hidden, schedule=self.schedule, **flow, **how)

    def prior(self, shape: tuple[int, ...], device: torch.device) -> State:
        seen = self.weight().mean(0)  # θ is 1/K
        return self.zeros(shape, device), seen.expand(*shape, len(seen)).clone()

    def solver_state(self, shape: tuple[int, ...], device: torch.device, t: float, seed: int) -> State:
        """The logits, the vectors, and of the step before the logits and the network's output."""
        variance = self.state_scale * float(solvers.start_variance(self.schedule, t))
        logits = self.solver_noise((*shape, self.num_classes), variance, device, seed)
        seen = embedded_state(logits, self.weight())
        return logits, seen, torch.zeros_like(logits), seen.new_zeros(*shape, seen.shape[-1] + 1)

    def theta(self, state: State) -> Any:
        return Seen(state[1], state=state[0])

    def update(self, output: Tensor, state: State, t: Tensor, alpha: Tensor, seed: Tensor) -> None:
        logits, seen = state
        hidden, scale = parted(output)
        how = {"embedding": self.weight(), "out": logits, "seed": seed}
        seen.copy_(self.head.update_sample(logits, hidden, alpha, flow_scale=scale, **how)[1])

    def solve(self, output: Tensor, state: State, t: Tensor, coefficients: Coefficients, seed: Tensor) -> None:
        logits, seen, logits_before, before = state
        hidden, scale = parted(output)
        how: dict[str, Any] = {"coefficients": coefficients, "embedding": self.weight(), "seed": seed}
        if coefficients.extrapolation is not None:
            previous, previous_scale = parted(before)
            how |= {"previous": previous, "previous_scale": previous_scale, "previous_state": logits_before}
        new, vectors = self.head.solver_step(logits, hidden, flow_scale=scale, **how)
        logits_before.copy_(logits)
        for value, now in ((logits, new), (seen, vectors), (before, output)):
            value.copy_(now)

    def step_error(self, coefficients: Coefficients, state: State, before: State) -> float | None:
        """As in the base. Probabilities are made for some tokens at a time."""
        numbers = (few_tokens(each, self.num_classes) for each in (*state[2:], *before[2:]))
        change = [
            (self.logits(out, one).softmax(-1) - self.logits(out_before, other).softmax(-1)).square().mean(-1).sqrt()
            for one, out, other, out_before in zip(*numbers, strict=True)
        ]
        roots = torch.cat(change).view(state[-1].shape[:-1])
        return error_of_step(coefficients, roots, torch.zeros_like(roots), self.state_scale)

    def mode(self, output: Tensor, theta: Any, t: Tensor) -> Tensor:
        hidden, scale = parted(output)
        return self.head.mode(hidden, flow_scale=scale, state=theta.state)


def parted(output: Tensor) -> tuple[Tensor, Tensor]:
    """The hidden states `[B, ..., width]` in a network's output, and the factor `[B, ...]` of the flow's logits."""
    return output[..., :-1], output[..., -1]


def following(output: Tensor, theta: Seen) -> tuple[Tensor, dict[str, Any]]:
    """The hidden states in a network's output, and the arguments with which the logits of a loss follow the flow."""
    hidden, scale = parted(output)
    return hidden, {"flow_scale": scale, "flow_seed": theta.seed}
