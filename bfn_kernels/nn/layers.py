"""Layers for networks of large vocabularies, which never make `[batch, ..., K]`: the first one embeds a sample of the
input distribution, the last one has the losses of its own output, and the steps of samplers."""

from typing import Any

import torch
from torch import Tensor, nn

from bfn_kernels import discrete, vocabulary
from bfn_kernels.call.rows import Rows

NUMBERS = 2**20  # per class, that are made at a time


def few_tokens(values: Tensor, num_classes: int) -> tuple[Tensor, ...]:
    """The vectors of values `[..., d]`, so few of them at a time that numbers per class can be made of each."""
    return values.flatten(0, -2).split(max(1, NUMBERS // num_classes))


def embedded_state(logits: Tensor, weight: Tensor) -> Tensor:
    """The vectors θ·weight of a state of logits `[..., K]`, whose θ is made for some tokens at a time."""
    parts = few_tokens(logits, len(weight))
    seen = torch.cat([discrete.theta(part).to(weight.dtype) @ weight for part in parts])
    return seen.view(*logits.shape[:-1], weight.shape[1])


class NoisyEmbedding(nn.Embedding):
    """The vectors that a network sees in the place of the parameters θ `[..., K]` of its input distribution: θ·W.

    Beside the number of classes and the width of the vectors it takes what `torch.nn.Embedding` takes for its weight
    `[K, d]`.

    >>> layer = NoisyEmbedding(5, 2)
    >>> layer(torch.tensor([[1, 4]]), 0.5, beta_1=3.0).shape
    torch.Size([1, 2, 2])
    """

    def forward(self, x: Tensor, t: Rows, **how: Any) -> Tensor:  # type: ignore[override]
        """The vectors at time t of the Bayesian flow of x; `how` is what `vocabulary.flow_embedding` takes."""
        return vocabulary.flow_embedding(x, t, self.weight, **how)

    def embed(self, theta: Tensor) -> Tensor:
        """The vectors of probabilities that are there."""
        return theta.to(self.weight.dtype) @ self.weight

    def embed_state(self, logits: Tensor) -> Tensor:
        """The vectors of a state of logits `[..., K]`, whose probabilities are made for some tokens at a time. Those of
        the states after it come from the sampler's steps."""
        return embedded_state(logits, self.weight)


class LinearHead(nn.Linear):
    """The output layer: hidden states `[..., d]` to logits of classes `[..., K]`, and the losses of these logits and
    the steps of samplers without storing them. Its weight `[K, d]` may be the NoisyEmbedding's:
    `head.weight = embedding.weight`.

    >>> head = LinearHead(2, 5)
    >>> head.continuous_time_loss(torch.tensor([[1, 4]]), torch.zeros(1, 2, 2), 0.5, beta_1=3.0).shape
    torch.Size([])
    """

    def continuous_time_loss(self, x: Tensor, hidden: Tensor, t: Rows, **how: Any) -> Tensor:
        return vocabulary.continuous_time_loss(x, hidden, self.weight, self.bias, t, **how)

    def discrete_time_loss(self, x: Tensor, hidden: Tensor, t: Rows | None = None, **how: Any) -> Tensor:
        return vocabulary.discrete_time_loss(x, hidden, self.weight, self.bias, t, **how)

    def reconstruction_loss(self, x: Tensor, hidden: Tensor, **how: Any) -> Tensor:
        return vocabulary.reconstruction_loss(x, hidden, self.weight, self.bias, **how)

    def update_sample(self, state: Tensor, hidden: Tensor, alpha: Rows, **how: Any) -> Tensor | tuple[Tensor, Tensor]:
        return vocabulary.update_sample(state, hidden, self.weight, self.bias, alpha, **how)

    def solver_step(self, state: Tensor, hidden: Tensor, *times: Rows, **how: Any) -> Tensor | tuple[Tensor, Tensor]:
        return vocabulary.solver_step(state, hidden, self.weight, self.bias, *times, **how)

    def mode(self, hidden: Tensor, **how: Any) -> Tensor:
        """The likeliest classes `[...]`."""
        return vocabulary.mode(hidden, self.weight, self.bias, **how)
