"""Layers for networks of large vocabularies, which never make `[batch, ..., K]` in training: the first one embeds a
sample of the input distribution, the last one has the losses of its own output."""

from typing import Any

from torch import Tensor, nn

from bfn_kernels import discrete
from bfn_kernels.rows import Rows


class NoisyEmbedding(nn.Embedding):
    """The vectors that a network sees in the place of the parameters θ `[..., K]` of its input distribution: θ·W.

    Beside the number of classes and the width of the vectors it takes what `torch.nn.Embedding` takes for its weight
    `[K, d]`.

    >>> layer = NoisyEmbedding(5, 2)
    >>> layer(torch.tensor([[1, 4]]), 0.5, beta_1=3.0).shape
    torch.Size([1, 2, 2])
    """

    def forward(self, x: Tensor, t: Rows, **how: Any) -> Tensor:  # type: ignore[override]
        """The vectors at time t of the Bayesian flow of x; `how` is what `discrete.flow_embedding` takes."""
        return discrete.flow_embedding(x, t, self.weight, **how)

    def embed(self, theta: Tensor) -> Tensor:
        """The vectors of probabilities that are there, as in sampling."""
        return theta.to(self.weight.dtype) @ self.weight


class LinearHead(nn.Linear):
    """The output layer: hidden states `[..., d]` to logits of classes `[..., K]`, and the losses of these logits
    without storing them. Its weight `[K, d]` may be the NoisyEmbedding's: `head.weight = embedding.weight`.

    >>> head = LinearHead(2, 5)
    >>> head.continuous_time_loss(torch.tensor([[1, 4]]), torch.zeros(1, 2, 2), 0.5, beta_1=3.0).shape
    torch.Size([])
    """

    def continuous_time_loss(self, x: Tensor, hidden: Tensor, t: Rows, **how: Any) -> Tensor:
        return discrete.linear_continuous_time_loss(x, hidden, self.weight, self.bias, t, **how)

    def discrete_time_loss(self, x: Tensor, hidden: Tensor, t: Rows | None = None, **how: Any) -> Tensor:
        return discrete.linear_discrete_time_loss(x, hidden, self.weight, self.bias, t, **how)

    def reconstruction_loss(self, x: Tensor, hidden: Tensor, **how: Any) -> Tensor:
        return discrete.linear_reconstruction_loss(x, hidden, self.weight, self.bias, **how)
