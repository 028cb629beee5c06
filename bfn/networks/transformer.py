"""A small bidirectional transformer for sequences."""

import torch
from torch import Tensor, nn

from bfn.configs import ConfigError
from bfn.networks.layers import Size, TimeEmbedding, attend, zero_init


def check_sequence(name: str, shape: Size, features: int, outputs: int, width: int, heads: int) -> None:
    """Refuses data and settings that a transformer does not fit."""
    if len(shape) != 1:
        raise ConfigError(f"network.name={name!r} takes sequences, got data of shape {shape}")
    if features < 3 or features != outputs:
        raise ConfigError(
            f"network.name={name!r} needs at least three features and as many outputs, got {features} and {outputs}"
        )
    if width % heads:
        raise ConfigError(f"network.width={width} must be a multiple of network.heads={heads}")


class Layer(nn.Module):
    """Attention over the whole sequence, then an MLP, each with a residual sum. gelu: GELU's argument `approximate`."""

    def __init__(self, width: int, heads: int, dropout: float, gelu: str = "none"):
        super().__init__()
        self.heads, self.dropout = heads, nn.Dropout(dropout)
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(gelu), nn.Linear(4 * width, width))

    def forward(self, h: Tensor, turns: Tensor | None = None) -> Tensor:
        """turns: the cosines and sines that queries and keys are turned by, [2, L, width of a head / 2], or None."""
        q, k, v = self.qkv(self.norm_attention(h)).unflatten(-1, (3, self.heads, -1)).movedim(-2, 1).unbind(-2)
        if turns is not None:
            q, k = turned(q, turns), turned(k, turns)
        mixed = attend(q, k, v).transpose(1, 2).flatten(2)
        h = h + self.dropout(self.out(mixed))
        return h + self.dropout(self.mlp(self.norm_mlp(h)))


def turns_of(length: int, width: int) -> Tensor:
    """The cosines and the sines of positions, [2, length, width / 2], whose wavelengths rise from 2π to 200π."""
    angles = torch.arange(length)[:, None] * 100 ** -torch.linspace(0, 1, width // 2)
    return torch.stack([angles.cos(), angles.sin()])


def turned(x: Tensor, turns: Tensor) -> Tensor:
    """Vectors [..., L, width] turned by their positions, so that products of two depend on their distance (RoPE)."""
    (cos, sin), (first, second) = turns.to(x.dtype), x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


class Transformer(nn.Module):
    """Probabilities [B, L, K] and times [B] -> logits [B, L, K]; positions and time are added to the embedding.

    rotary: whether attention knows the distances of positions, too.
    """

    turns: Tensor | None

    def __init__(
        self,
        shape: Size,
        features: int,
        outputs: int,
        *,
        width: int,
        depth: int,
        heads: int,
        dropout: float,
        rotary: bool = False,
    ):
        super().__init__()
        check_sequence("transformer", shape, features, outputs, width, heads)
        if rotary and width // heads % 2:
            raise ConfigError(f"network.width={width} must be a multiple of {2 * heads}, as rotary=true needs")
        # The embedding of a variable sees its neighbours. Attention would need thousands of steps to learn where they
        # are.
        self.embed = nn.Conv1d(features, width, 5, padding=2)
        nn.init.normal_(self.embed.weight, std=0.5)
        self.position = nn.Parameter(0.5 * torch.randn(shape[0], width))
        self.register_buffer("turns", turns_of(shape[0], width // heads) if rotary else None, persistent=False)
        self.time = nn.Sequential(TimeEmbedding(width), nn.Linear(width, width))
        self.layers = nn.ModuleList(Layer(width, heads, dropout) for _ in range(depth))
        self.own = zero_init(nn.Linear(width, 1))
        self.norm = nn.LayerNorm(width)
        self.head = zero_init(nn.Linear(width, outputs))

    def forward(self, features: Tensor, t: Tensor) -> Tensor:
        h, time = self.through(features, t)
        # A variable's own messages are evidence for its class. This evidence is added here, so that the layers need to
        # learn only from the messages of other variables.
        own = features.clamp(min=1e-9).log()
        return self.head(h) + (1 + self.own(time))[:, None] * own

    def through(self, features: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The input of the head, [B, L, width], and the embedded times, [B, width]."""
        time = self.time(t)
        h = self.embed(features.mT).mT + self.position + time[:, None]
        for layer in self.layers:
            h = layer(h, self.turns)
        return self.norm(h), time


class AngleTransformer(Transformer):
    """Features [B, L, A, F] of A angles at each of L places, and times [B] -> [B, L, A, outputs]."""

    def __init__(self, shape: Size, features: int, outputs: int, *, width: int, depth: int, heads: int, dropout: float):
        if len(shape) != 2:
            raise ConfigError(f"network.name='angle_transformer' takes angles [L, A], got data of shape {shape}")
        joint = shape[1] * features
        super().__init__(shape[:1], joint, joint, width=width, depth=depth, heads=heads, dropout=dropout)
        self.head = nn.Linear(width, shape[1] * outputs)

    def forward(self, features: Tensor, t: Tensor) -> Tensor:
        h, time = self.through(features.flatten(2), t)
        # The model adds this output to the state, which grows with time. So the output must grow, too.
        return (self.own(time).exp()[:, None] * self.head(h)).unflatten(-1, (features.shape[2], -1))


class VectorTransformer(Transformer):
    """Vectors [B, L, width] of a large vocabulary and times [B] -> [B, L, width + 1]: the hidden states for the head of
    bfn_kernels.nn.Vocabulary, and the number by which it multiplies the logits of the flow."""

    def __init__(self, shape: Size, *, width: int, depth: int, heads: int, dropout: float, rotary: bool = False):
        sizes = {"width": width, "depth": depth, "heads": heads}
        super().__init__(shape, width, width, **sizes, dropout=dropout, rotary=rotary)
        self.embed.reset_parameters()
        nn.init.normal_(self.position, std=0.1)
        # not zero, since the next layer, the head of bfn_kernels.nn.Vocabulary, starts at zero
        self.head = nn.Linear(width, width)

    def forward(self, features: Tensor, t: Tensor) -> Tensor:
        h, _ = self.through(features, t)
        return torch.cat([self.head(h), 1 + self.own(h)], -1)
