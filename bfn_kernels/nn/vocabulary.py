"""The module of a large vocabulary. Numbers in parentheses are equations of Graves et al. 2023."""

from typing import Any

import torch
from torch import Tensor, nn

from bfn_kernels import checks, solvers, vocabulary
from bfn_kernels.adaptive import error_of_step
from bfn_kernels.nn.base import BFN, Network, State
from bfn_kernels.nn.classes import Discrete
from bfn_kernels.nn.layers import LinearHead, NoisyEmbedding, embedded_state, few_tokens
from bfn_kernels.nn.sampling import PLAIN, Sampling, widened
from bfn_kernels.schedules import DiscreteSchedule
from bfn_kernels.solvers import Coefficients
from bfn_kernels.vocabulary.reference import linear


class EmbeddedInput:
    """What `Vocabulary` has as theta: the embedding `vectors` `[B, ..., d]` of an input distribution, from which
    `Vocabulary.output` makes the network's input, and what determines the logits of this distribution.

    For a sampler, `state` `[B, ..., K]` has these logits. A loss computes them again from `seed`, the seed of the flow.
    """

    def __init__(self, vectors: Tensor, seed: int | None = None, state: Tensor | None = None):
        self.vectors, self.seed, self.state, self.device = vectors, seed, state, vectors.device

    def __len__(self) -> int:
        return len(self.vectors)


class Vocabulary(Discrete):
    """Classes of a large vocabulary. Data are `[B, ...]`, int64, int32 or uint8.

    Training makes no tensor `[B, ..., K]`. Sampling stores the logits of the state. A solver also stores the logits of
    the previous step.

    The network sees one vector for each token, `[B, ..., width]`: the embedding of the token's input distribution. This
    vector says less about the token than the input distribution does. So the network also puts out a factor for each
    token. The logits of the input distribution, times this factor, are added to the logits of the output distribution.
    A network learns best if its factors start as 1. It puts out `[B, ..., width + 1]`: the hidden states for a
    `LinearHead` and, as the last number, the factor.

    L_n always has the joint receiver, and is a mean of 10 draws.

    If the frequencies p of the classes are given, they are the prior. The network then sees the embedding of the
    posterior π_k = p_k·θ_k/Σ_j p_j·θ_j, where θ is the input distribution under a uniform prior, and the bias of the
    head starts as ln p.

    Args:
        network: A module, or another function of theta and of t `[B]`, neither of which it may change.
        beta_1: β₁ of the paper's schedule (182), the accuracy at t = 1, positive. Pass either beta_1 or schedule.
        num_classes: K, the number of classes, at least 2.
        width: The length of a vector.
        frequencies: The relative frequency of each class in the data, `[K]`, each above 0. They are divided by their
            sum.
        tied: True: the head and the embedding share one weight. False: each has its own weight.
        schedule: An object with the methods of `schedules.DiscreteSchedule`, instead of beta_1.

    Example:
        >>> class Network(torch.nn.Linear):
        ...     def forward(self, vectors, t):
        ...         return super().forward(vectors)
        >>> model = Vocabulary(Network(8, 9), beta_1=0.015, num_classes=1000, width=8)
        >>> model(torch.zeros(2, 3, dtype=torch.int64), seed=1).shape
        torch.Size([])
    """

    share: Tensor | None
    has_example_seeds = False  # they draw explicit noise, which would be a tensor [B, ..., K]

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
            readable = type(frequencies) in (Tensor, nn.Parameter) and not frequencies.is_meta
            if readable and not (frequencies > 0).all():
                raise ValueError(f"frequencies must be above 0, got {frequencies.min().item()}")
            p = frequencies / frequencies.sum()
            self.share = (num_classes * p.unsqueeze(-1)).to(self.embedding.weight.dtype)
            with torch.no_grad():
                self.embedding.weight[:, 0] = 1
                self.head.bias.copy_(p.log())
                if not tied:
                    nn.init.zeros_(self.head.weight)

    @property
    def receiver(self) -> str:
        """The receiver distribution of L_n, "joint". Any other is a ValueError, since no op computes it."""
        return "joint"

    @receiver.setter
    def receiver(self, name: str) -> None:
        checks.choice("receiver", name, ("joint",))

    def weight(self) -> Tensor:
        """The weight that embeds θ. With frequencies, row k is multiplied by K·p_k.

        With frequencies, the first column of the embedding starts as 1. The first number of a vector is then the
        normaliser K·Σ_j p_j·θ_j, and `output` divides the vector by it. If training changes the column, `output` still
        divides by the first number.

        Returns:
            The weight, `[K, width]`.
        """
        return self.embedding.weight if self.share is None else self.embedding.weight * self.share

    def flow(self, x: Tensor, t: Tensor, seed: int, mask: Tensor | None = None) -> Any:
        vectors = vocabulary.flow_embedding(x, t, self.weight(), schedule=self.schedule, seed=seed, mask=mask)
        return EmbeddedInput(vectors, seed)

    def output(self, theta: Any, t: Tensor, cond: Any = None) -> Tensor:
        vectors = theta.vectors if self.share is None else theta.vectors / theta.vectors[..., :1]
        return super().output(vectors, t, cond)

    def output_shape(self, theta: Any) -> tuple[int, ...] | None:
        *lead, width = theta.vectors.shape
        return *lead, width + 1

    def logits(self, output: Tensor, flow: Tensor) -> Tensor:
        """The logits of the output distribution. Training and sampling do not store them.

        Args:
            output: What the network put out, `[B, ..., width + 1]`.
            flow: The logits of the input distribution, `[B, ..., K]`.

        Returns:
            The logits, `[B, ..., K]`.
        """
        hidden, scale = hidden_and_scale(output)
        dtype = torch.promote_types(hidden.dtype, self.head.weight.dtype)  # a guided float16 output is float32
        head = linear(hidden, self.head.weight.to(dtype), self.head.bias.to(dtype))
        return head + scale.unsqueeze(-1) * flow

    @property
    def losses(self) -> LinearHead:
        """The head, which computes its own losses."""
        return self.head

    def arguments(self, output: Tensor, theta: Any) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
        hidden, scale = hidden_and_scale(output)
        return (hidden,), {"schedule": self.schedule, "flow_scale": scale, "flow_seed": theta.seed}

    def expectation(self, seed: int) -> dict[str, Any]:
        return {"seed": seed}

    reconstruction_loss = BFN.reconstruction_loss  # it passes the schedule; the method of `Classes` does not

    def prior(self, shape: tuple[int, ...], device: torch.device, seed: Any = None) -> State:
        vector = self.weight().mean(0)  # θ is 1/K
        return self.zeros(shape, device), vector.expand(*shape, len(vector)).clone()

    def solver_state(self, shape: tuple[int, ...], device: torch.device, t: float, seed: int) -> State:
        variance = self.state_scale * float(solvers.start_variance(self.schedule, t))
        logits = self.solver_noise((*shape, self.num_classes), variance, device, seed)
        vectors = embedded_state(logits, self.weight())
        output = widened(vectors.new_zeros(*shape, vectors.shape[-1] + 1))  # in the type of a guided output
        return logits, vectors, torch.zeros_like(logits), output

    def theta(self, state: State) -> Any:
        return EmbeddedInput(state[1], state=state[0])

    def start_from(self, state: State, start: Tensor) -> None:
        BFN.start_from(self, state, start)
        state[1].copy_(embedded_state(state[0], self.weight()))

    guided = BFN.guided  # guided outputs give guided logits, since logits are linear in hidden states and factors

    def tempered(self, output: Tensor, sampling: Sampling) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        """The arguments of a step whose logits are divided by the temperature.

        Args:
            output: What the network put out, `[B, ..., width + 1]`.
            sampling: The options of the run, a `Sampling`.

        Returns:
            The hidden states, the weight and the bias of the head, and the factor of the input distribution's logits.
        """
        hidden, scale = hidden_and_scale(sampling.tempered(output))
        return (hidden, self.head.weight, sampling.tempered(self.head.bias)), scale

    def update(
        self, output: Tensor, state: State, t: Tensor, alpha: float | Tensor, seed: Tensor, sampling: Sampling = PLAIN
    ) -> None:
        logits, vectors = state
        head, scale = self.tempered(output, sampling)
        options: dict[str, Any] = {"embedding": self.weight(), "out": logits, "seed": seed, **sampling.sent("sample")}
        vectors.copy_(vocabulary.update_sample(logits, *head, alpha, flow_scale=scale, **options)[1])

    def solve(
        self,
        output: Tensor,
        state: State,
        t: Tensor,
        coefficients: Coefficients,
        seed: Tensor,
        sampling: Sampling = PLAIN,
    ) -> None:
        logits, vectors, previous_logits, previous_output = state
        head, scale = self.tempered(output, sampling)
        options: dict[str, Any] = {"coefficients": coefficients, "embedding": self.weight(), "seed": seed}
        options |= sampling.sent("mean")
        if coefficients.extrapolation is not None:
            previous, previous_scale = hidden_and_scale(sampling.tempered(previous_output))
            options |= {"previous": previous, "previous_scale": previous_scale, "previous_state": previous_logits}
        new_logits, new_vectors = vocabulary.solver_step(logits, *head, flow_scale=scale, **options)
        previous_logits.copy_(logits)
        for value, new in ((logits, new_logits), (vectors, new_vectors), (previous_output, output)):
            value.copy_(new)

    def step_error(
        self, coefficients: Coefficients, state: State, before: State, sampling: Sampling = PLAIN
    ) -> float | None:
        # probabilities are computed for some tokens at a time
        chunks = zip(*(few_tokens(each, self.num_classes) for each in (*state[2:], *before[2:])), strict=True)

        def probs(output: Tensor, logits: Tensor) -> Tensor:
            return sampling.tempered(self.logits(output, logits)).softmax(-1)

        changes = (
            probs(output, logits) - probs(previous_output, previous_logits)
            for logits, output, previous_logits, previous_output in chunks
        )
        roots = torch.cat([change.square().mean(-1).sqrt() for change in changes]).view(state[-1].shape[:-1])
        if sampling.known_mask is not None:  # known tokens send the same class in every step
            roots = roots.masked_fill(checks.mask("known_mask", sampling.known_mask, "the data", roots, roots.shape), 0)
        return error_of_step(coefficients, roots, torch.zeros_like(roots), self.state_scale)

    def mode(self, output: Tensor, theta: Any, t: Tensor) -> Tensor:
        hidden, scale = hidden_and_scale(output)
        return self.head.mode(hidden, flow_scale=scale, state=theta.state)


def hidden_and_scale(output: Tensor) -> tuple[Tensor, Tensor]:
    """Splits a network's output into hidden states `[B, ..., width]` and the factor `[B, ...]` of the input
    distribution's logits."""
    return output[..., :-1], output[..., -1]
