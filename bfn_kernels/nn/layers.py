"""Layers for networks of large vocabularies of K classes. In training they make no tensor `[B, ..., K]`. The first
layer, `NoisyEmbedding`, embeds the input distribution. The last layer, `LinearHead`, computes the losses of its logits
and the steps of samplers.

Numbers in parentheses are equations of Graves et al. 2023.
"""

from typing import Any

import torch
from torch import Tensor, nn

from bfn_kernels import discrete, vocabulary
from bfn_kernels.arguments.rows import PerRow
from bfn_kernels.vocabulary.reference import linear

NUMBERS = 2**20  # at most so many numbers, one for each class of each token, are computed at a time


def few_tokens(values: Tensor, num_classes: int) -> tuple[Tensor, ...]:
    """Splits vectors `[..., d]` into chunks `[n, d]`, where n·K is at most NUMBERS or n is 1."""
    return values.flatten(0, -2).split(max(1, NUMBERS // num_classes))


def embedded_state(logits: Tensor, weight: Tensor) -> Tensor:
    """The vectors θ·weight `[..., d]` for a state of logits `[..., K]`, in the weight's type. θ, the softmax of the
    logits, is computed for some tokens at a time."""
    chunks = few_tokens(logits, len(weight))
    vectors = torch.cat([linear(discrete.theta(chunk), weight.t()) for chunk in chunks])
    return vectors.view(*logits.shape[:-1], weight.shape[1])


class NoisyEmbedding(nn.Embedding):
    """The vectors θ·W that a network sees instead of the parameters θ `[..., K]` of its input distribution.

    It has the arguments of `torch.nn.Embedding(K, d)`: the number of classes, the width of the vectors, and keyword
    arguments for its weight `[K, d]`.

    Example:
        >>> layer = NoisyEmbedding(5, 2)
        >>> layer(torch.tensor([[1, 4]]), 0.5, beta_1=3.0).shape
        torch.Size([1, 2, 2])
    """

    def forward(self, x: Tensor, t: PerRow, **options: Any) -> Tensor:  # type: ignore[override]
        """The vectors of a sample of the Bayesian flow of x at time t: `vocabulary.flow_embedding`.

        Args:
            x: Classes from 0 to K − 1, `[B, ...]`, int64, int32, int16, int8 or uint8.
            t: Times in [0, 1]: a number, or a floating-point tensor `[B]` or of any leading part of `[B, ...]`.
            **options: Further keyword arguments of the function of `bfn_kernels.vocabulary`.

        Returns:
            Vectors `[B, ..., d]` in the weight's type, differentiable in the weight.
        """
        return vocabulary.flow_embedding(x, t, self.weight, **options)

    def embed(self, theta: Tensor) -> Tensor:
        """The vectors of probabilities: theta·W.

        Args:
            theta: Probabilities, `[..., K]`, floating-point; differentiable.

        Returns:
            Vectors `[..., d]` in the weight's type, differentiable in the weight too.
        """
        return linear(theta, self.weight.t())

    def embed_state(self, logits: Tensor) -> Tensor:
        """The vectors for a state of logits. Probabilities are computed for some tokens at a time.

        A sampling run needs this method only for its first state, since each step returns the vectors of the new state.

        Args:
            logits: The state, `[B, ..., K]`, floating-point; differentiable.

        Returns:
            Vectors `[..., d]` in the weight's type.
        """
        return embedded_state(logits, self.weight)


class LinearHead(nn.Linear):
    """The output layer, which maps hidden states `[..., d]` to logits of classes `[..., K]`. It also computes the
    losses of these logits and the steps of samplers, without storing the logits.

    It has the arguments of `torch.nn.Linear(d, K)`. It may share its weight `[K, d]` with a `NoisyEmbedding`:
    `head.weight = embedding.weight`.

    Example:
        >>> head = LinearHead(2, 5)
        >>> head.continuous_time_loss(torch.tensor([[1, 4]]), torch.zeros(1, 2, 2), 0.5, beta_1=3.0).shape
        torch.Size([])
    """

    def continuous_time_loss(self, x: Tensor, hidden: Tensor, t: PerRow, **options: Any) -> Tensor:
        """L∞: `vocabulary.continuous_time_loss` with this weight and bias (205).

        Args:
            x: Classes from 0 to K − 1, `[B, ...]`, int64, int32, int16, int8 or uint8.
            hidden: Hidden states, `[B, ..., d]`, floating-point; differentiable.
            t: Times in [0, 1]: a number, or a floating-point tensor `[B]` or of any leading part of `[B, ...]`.
            **options: Further keyword arguments of the function of `bfn_kernels.vocabulary`.

        Returns:
            The loss in nats, differentiable in hidden, the weight and the bias. It is float64 if hidden or the weight
            is float64, and float32 otherwise.
        """
        return vocabulary.continuous_time_loss(x, hidden, self.weight, self.bias, t, **options)

    def discrete_time_loss(self, x: Tensor, hidden: Tensor, t: PerRow | None = None, **options: Any) -> Tensor:
        """L_n: `vocabulary.discrete_time_loss` with this weight and bias (189).

        Args:
            x: Classes from 0 to K − 1, `[B, ...]`, int64, int32, int16, int8 or uint8.
            hidden: Hidden states, `[B, ..., d]`, floating-point; differentiable.
            t: Times (i − 1)/n: a number, or a floating-point tensor `[B]` or of any leading part of `[B, ...]`. Any
                other time is an error on the CPU, and its loss is NaN elsewhere. Pass either t or step.
            **options: Further keyword arguments of the function of `bfn_kernels.vocabulary`.

        Returns:
            The loss in nats, differentiable in hidden, the weight and the bias. It is float64 if hidden or the weight
            is float64, and float32 otherwise.
        """
        return vocabulary.discrete_time_loss(x, hidden, self.weight, self.bias, t, **options)

    def reconstruction_loss(self, x: Tensor, hidden: Tensor, **options: Any) -> Tensor:
        """The reconstruction loss at t = 1: `vocabulary.reconstruction_loss` with this weight and bias.

        Args:
            x: Classes from 0 to K − 1, `[B, ...]`, int64, int32, int16, int8 or uint8.
            hidden: Hidden states, `[B, ..., d]`, floating-point; differentiable.
            **options: Further keyword arguments of the function of `bfn_kernels.vocabulary`.

        Returns:
            The loss in nats, differentiable in hidden, the weight and the bias. It is float64 if hidden or the weight
            is float64, and float32 otherwise.
        """
        return vocabulary.reconstruction_loss(x, hidden, self.weight, self.bias, **options)

    def update_sample(
        self, state: Tensor, hidden: Tensor, alpha: PerRow, **options: Any
    ) -> Tensor | tuple[Tensor, Tensor]:
        """A step of ancestral sampling: `vocabulary.update_sample` with this weight and bias.

        Args:
            state: The state, logits `[B, ..., K]`, floating-point.
            hidden: Hidden states, `[B, ..., d]`, floating-point.
            alpha: Accuracy α, at least 0: a number, or a floating-point tensor `[B]` or of any leading part of
                `[B, ...]`.
            **options: Further keyword arguments of the function of `bfn_kernels.vocabulary`.

        Returns:
            The new state; with `embedding`, a pair of the new state and its vectors, which the network sees next.
        """
        return vocabulary.update_sample(state, hidden, self.weight, self.bias, alpha, **options)

    def solver_step(
        self, state: Tensor, hidden: Tensor, *times: PerRow, **options: Any
    ) -> Tensor | tuple[Tensor, Tensor]:
        """A step of a solver: `vocabulary.solver_step` with this weight and bias.

        Args:
            state: The state, logits `[B, ..., K]`, floating-point.
            hidden: Hidden states, `[B, ..., d]`, floating-point.
            *times: t and t_next in [0, 1], each a number, `[B]` or any leading part of `[B, ...]`. Pass neither with
                `coefficients`.
            **options: Further keyword arguments of the function of `bfn_kernels.vocabulary`.

        Returns:
            The new state; with `embedding`, a pair of the new state and its vectors, which the network sees next.
        """
        return vocabulary.solver_step(state, hidden, self.weight, self.bias, *times, **options)

    def mode(self, hidden: Tensor, **options: Any) -> Tensor:
        """The likeliest classes: `vocabulary.mode` with this weight and bias.

        Args:
            hidden: Hidden states, `[B, ..., d]`, floating-point.
            **options: Further keyword arguments of the function of `bfn_kernels.vocabulary`.

        Returns:
            int64, `[B, ...]`.
        """
        return vocabulary.mode(hidden, self.weight, self.bias, **options)
