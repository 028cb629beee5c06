"""The parts that the two U-Nets of the paper share."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bfn.configs import ConfigError
from bfn.networks.layers import zero_init

GROUPS = 32  # the groups of every GroupNorm


def check_widths(width: int, heads: int) -> None:
    """Refuses widths that cannot be shared among the groups of a norm, or among heads."""
    if width % GROUPS or width % heads:
        raise ConfigError(f"network.width={width} must be a multiple of {GROUPS} and of network.heads={heads}")


class ResBlock(nn.Module):
    """Two 3x3 convolutions, each after a norm. Between the convolutions, self.time(time embedding) is added."""

    def __init__(self, channels_in: int, channels: int, time: nn.Module, dropout: float):
        super().__init__()
        self.norm_in, self.norm_out = nn.GroupNorm(GROUPS, channels_in), nn.GroupNorm(GROUPS, channels)
        self.conv_in = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.conv_out = zero_init(nn.Conv2d(channels, channels, 3, padding=1))
        self.time = time
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Identity() if channels_in == channels else nn.Conv2d(channels_in, channels, 1)

    def forward(self, h: Tensor, time: Tensor) -> Tensor:
        residual = self.conv_in(F.silu(self.norm_in(h))) + self.time(time)[:, :, None, None]
        return self.skip(h) + self.conv_out(self.dropout(F.silu(self.norm_out(residual))))


def down_and_up(h: Tensor, time: Tensor, down: Any, middle: Any, up: Any, enlarge: Any = ()) -> Tensor:
    """Applies the layers `down`, `middle` (a block, attention, a block) and `up`. The input of each layer of `up` is
    concatenated with an output of `down`, the latest first; for the last layer with h. After a layer of `up` whose
    number is a key of `enlarge`, the image is enlarged to twice its size, and the layer of `enlarge` follows."""
    skips = [h]
    for layer in down:
        h = layer(h, time)
        skips.append(h)
    first, attention, second = middle
    h = second(attention(first(h, time)), time)
    for number, layer in enumerate(up):
        h = layer(torch.cat([h, skips.pop()], 1), time)
        if str(number) in enlarge:
            h = enlarge[str(number)](F.interpolate(h, scale_factor=2, mode="nearest"))
    return h


class Head(nn.Module):
    """The last features [B, width, H, W] and the network's input [B, inputs, H, W] -> [B, outputs, H, W]."""

    def __init__(self, width: int, inputs: int, outputs: int):
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width)
        self.conv = zero_init(nn.Conv2d(width, width, 3, padding=1))
        self.out = nn.Linear(inputs + width, outputs)

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        h = self.conv(F.silu(self.norm(h)))
        return self.out(torch.cat([x, h], 1).movedim(1, -1)).movedim(-1, 1)
