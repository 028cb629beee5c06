"""The transformer of the paper's text8: GPT-2's layers, without a causal mask."""

import math

import torch
from torch import Tensor, nn

from bfn.networks.layers import Size
from bfn.networks.transformer import Layer, check_sequence

BASE = 1000  # the wavelengths of the position code rise from 2π to almost 2π·BASE


def position_code(length: int, width: int) -> Tensor:
    """Sines in the even columns and cosines in the odd ones, [length, width]; the wavelength rises from each column to
    the next."""
    angles = torch.arange(length)[:, None] / BASE ** (torch.arange(width) / width)
    return torch.where(torch.arange(width) % 2 == 0, angles.sin(), angles.cos())


class GPT(nn.Module):
    """Probabilities [B, L, K] and times [B] -> logits [B, L, K]. The head takes the output of the last layer and the
    input of the first one."""

    def __init__(self, shape: Size, features: int, outputs: int, *, width: int, depth: int, heads: int, dropout: float):
        super().__init__()
        check_sequence("gpt", shape, features, outputs, width, heads)
        self.position: Tensor
        self.register_buffer("position", position_code(shape[0], width))
        self.embed, self.time = nn.Linear(features, width), nn.Linear(1, width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(Layer(width, heads, dropout, gelu="tanh") for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(2 * width, outputs)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                # Weights of layers whose output is added to the residual stream start smaller in a deep network.
                residual = name.startswith("layers.") and name.endswith((".out", ".mlp.2"))
                nn.init.normal_(module.weight, std=0.02 / math.sqrt(2 * depth) if residual else 0.02)
                nn.init.zeros_(module.bias)

    def forward(self, features: Tensor, t: Tensor) -> Tensor:
        x = self.embed(2 * features - 1) + self.position + self.time(2 * t[:, None].to(features.dtype) - 1)[:, None]
        h = self.dropout(x)
        for layer in self.layers:
            h = layer(h)
        return self.head(torch.cat([self.norm(h), x], -1))
