"""Layers that both networks use."""

import math

import torch
from torch import Tensor, nn


class TimeEmbedding(nn.Module):
    """Times in [0, 1], [B] -> [B, width]: sines of geometrically spaced frequencies, then a small MLP."""

    def __init__(self, width: int, frequencies: int = 32):
        super().__init__()
        self.angular: Tensor
        self.register_buffer("angular", 2 * math.pi * torch.logspace(-1, 2, frequencies), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(2 * frequencies, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None].float() * self.angular
        return self.mlp(torch.cat([angles.sin(), angles.cos()], -1))


def zero_init(layer: nn.Module) -> nn.Module:
    """Sets all parameters of the layer to zero, so that it adds nothing when training starts, and returns it."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
