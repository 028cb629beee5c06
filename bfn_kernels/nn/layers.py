"""Layers for networks of large vocabularies, which never make `[batch, ..., K]`: the first one embeds a sample of the
input distribution, the last one has the losses of its own output, and the steps of samplers."""

from typing import Any

import torch
from torch import Tensor, nn

from bfn_kernels import discrete, vocabulary
from bfn_kernels.call.rows import PerRow

NUMBERS = 2**20  # per class, that are made at a time


def few_tokens(values: Tensor, num_classes: int) -> tuple[Tensor, ...]:
    """The vectors of values, so few of them at a time that numbers per class can be made of each.

    Args:
        values: `[..., d]`.
        num_classes: K.

    Returns:
        Parts `[n, d]` of the values. n·K is at most 2^20, or n is 1.
    """
    return values.flatten(0, -2).split(max(1, NUMBERS // num_classes))


def embedded_state(logits: Tensor, weight: Tensor) -> Tensor:
    """The vectors θ·weight of a state of logits, whose θ is made for some tokens at a time.

    Args:
        logits: `[..., K]`, of any of the types.
        weight: `[K, d]`.

    Returns:
        `[..., d]` in the weight's type.
    """
    parts = few_tokens(logits, len(weight))
    seen = torch.cat([discrete.theta(part).to(weight.dtype) @ weight for part in parts])
    return seen.view(*logits.shape[:-1], weight.shape[1])


class NoisyEmbedding(nn.Embedding):
    """The vectors that a network sees in the place of the parameters θ `[..., K]` of its input distribution: θ·W.

    It is made as `torch.nn.Embedding(K, d)` is, of the number of classes and the width of the vectors, and takes the
    same keyword arguments for its weight `[K, d]`.

    Example:
        >>> layer = NoisyEmbedding(5, 2)
        >>> layer(torch.tensor([[1, 4]]), 0.5, beta_1=3.0).shape
        torch.Size([1, 2, 2])
    """

    def forward(self, x: Tensor, t: PerRow, **how: Any) -> Tensor:  # type: ignore[override]
        """The vectors of a sample of the Bayesian flow of x at time t: `vocabulary.flow_embedding`.

        Args:
            x: Classes, `[B, ...]`, int64, int32 or uint8.
            t: Times in [0, 1]: a number, `[B]` or any leading part of the shape of x.
            **how: The keyword arguments of `vocabulary.flow_embedding`, of which either beta_1 or schedule is needed.

        Returns:
            Vectors `[B, ..., d]` in the weight's type, differentiable in the weight.
        """
        return vocabulary.flow_embedding(x, t, self.weight, **how)

    def embed(self, theta: Tensor) -> Tensor:
        """The vectors of probabilities: theta·W.

        Args:
            theta: `[..., K]`, of any of the types, differentiable.

        Returns:
            Vectors `[..., d]` in the weight's type, differentiable in the weight too.
        """
        return theta.to(self.weight.dtype) @ self.weight

    def embed_state(self, logits: Tensor) -> Tensor:
        """The vectors of a state of logits, whose probabilities are made for some tokens at a time.

        It serves the state that a run starts from; a sampler's step makes the vectors of the next state itself.

        Args:
            logits: `[..., K]`, of any of the types.

        Returns:
            Vectors `[..., d]` in the weight's type.
        """
        return embedded_state(logits, self.weight)


class LinearHead(nn.Linear):
    """The output layer: hidden states `[..., d]` to logits of classes `[..., K]`, and the losses of these logits and
    the steps of samplers without storing them.

    It is made as `torch.nn.Linear(d, K)` is, and takes the same keyword arguments. Its weight `[K, d]` may be the
    NoisyEmbedding's: `head.weight = embedding.weight`.

    Example:
        >>> head = LinearHead(2, 5)
        >>> head.continuous_time_loss(torch.tensor([[1, 4]]), torch.zeros(1, 2, 2), 0.5, beta_1=3.0).shape
        torch.Size([])
    """

    def continuous_time_loss(self, x: Tensor, hidden: Tensor, t: PerRow, **how: Any) -> Tensor:
        """L∞: `vocabulary.continuous_time_loss` with this weight and bias (205).

        Args:
            x: Classes, `[B, ...]`, int64, int32 or uint8.
            hidden: Hidden states, `[B, ..., d]`, differentiable.
            t: Times in [0, 1]: a number, `[B]` or any leading part of the shape of x.
            **how: The keyword arguments of `vocabulary.continuous_time_loss`, of which either beta_1 or schedule is
                needed.

        Returns:
            The loss in nats, float32 (float64 for float64), differentiable in the weight and the bias too.
        """
        return vocabulary.continuous_time_loss(x, hidden, self.weight, self.bias, t, **how)

    def discrete_time_loss(self, x: Tensor, hidden: Tensor, t: PerRow | None = None, **how: Any) -> Tensor:
        """L_n: `vocabulary.discrete_time_loss` with this weight and bias (189).

        Args:
            x: Classes, `[B, ...]`, int64, int32 or uint8.
            hidden: Hidden states, `[B, ..., d]`, differentiable.
            t: Times (i - 1)/n: a number, `[B]` or any leading part of the shape of x. None where step is given.
            **how: The keyword arguments of `vocabulary.discrete_time_loss`, of which n_steps and either beta_1 or
                schedule are needed.

        Returns:
            The loss in nats, float32 (float64 for float64), differentiable in the weight and the bias too.
        """
        return vocabulary.discrete_time_loss(x, hidden, self.weight, self.bias, t, **how)

    def reconstruction_loss(self, x: Tensor, hidden: Tensor, **how: Any) -> Tensor:
        """The cost of x after the last message: `vocabulary.reconstruction_loss` with this weight and bias.

        Args:
            x: Classes, `[B, ...]`, int64, int32 or uint8.
            hidden: Hidden states, `[B, ..., d]`, differentiable.
            **how: The keyword arguments of `vocabulary.reconstruction_loss`.

        Returns:
            The loss in nats, float32 (float64 for float64), differentiable in the weight and the bias too.
        """
        return vocabulary.reconstruction_loss(x, hidden, self.weight, self.bias, **how)

    def update_sample(self, state: Tensor, hidden: Tensor, alpha: PerRow, **how: Any) -> Tensor | tuple[Tensor, Tensor]:
        """A step of ancestral sampling: `vocabulary.update_sample` with this weight and bias.

        Args:
            state: Logits, `[B, ..., K]`.
            hidden: Hidden states, `[B, ..., d]`.
            alpha: The accuracy of the message, at least 0: a number, `[B]` or any leading part of `[B, ...]`.
            **how: The keyword arguments of `vocabulary.update_sample`.

        Returns:
            The new state, or with `embedding` the new state and what the network sees next.
        """
        return vocabulary.update_sample(state, hidden, self.weight, self.bias, alpha, **how)

    def solver_step(self, state: Tensor, hidden: Tensor, *times: PerRow, **how: Any) -> Tensor | tuple[Tensor, Tensor]:
        """A step of a solver: `vocabulary.solver_step` with this weight and bias.

        Args:
            state: Logits, `[B, ..., K]`.
            hidden: Hidden states, `[B, ..., d]`.
            *times: t and t_next in [0, 1], each a number, `[B]` or any leading part of `[B, ...]`; neither where
                `coefficients` are given.
            **how: The keyword arguments of `vocabulary.solver_step`.

        Returns:
            The new state, or with `embedding` the new state and what the network sees next.
        """
        return vocabulary.solver_step(state, hidden, self.weight, self.bias, *times, **how)

    def mode(self, hidden: Tensor, **how: Any) -> Tensor:
        """The likeliest classes: `vocabulary.mode` with this weight and bias.

        Args:
            hidden: Hidden states, `[B, ..., d]`.
            **how: The keyword arguments of `vocabulary.mode`.

        Returns:
            int64, `[B, ...]`.
        """
        return vocabulary.mode(hidden, self.weight, self.bias, **how)
