"""The U-Net of Variational Diffusion Models (arXiv 2107.00630), which the paper uses for CIFAR-10."""

import math

import torch
from torch import Tensor, nn

from bfn.networks.blocks import GROUPS, Head, ResBlock, check_widths, down_and_up
from bfn.networks.layers import Attention, Size, TimeEmbedding, from_channels, image_channels, to_channels, zero_init

OCTAVES = (5, 6)  # the Fourier features are waves of 2^5 and 2^6 periods in a unit of brightness


def fourier_features(x: Tensor) -> Tensor:
    """Images [B, C, H, W] -> sines, then cosines, of all octaves of all channels [B, 2·octaves·C, H, W]."""
    waves = torch.cat([(2 * math.pi * 2.0**octave) * x for octave in OCTAVES], 1)
    return torch.cat([waves.sin(), waves.cos()], 1)


class UNetVDM(nn.Module):
    """Features [B, H, W, (C,) F] and times [B] -> [B, H, W, (C,) outputs].

    There is one resolution, with `depth` residual blocks on the way down and `depth + 1` on the way up. Blocks on the
    way up also see outputs of blocks on the way down. Attention is in the middle. The head sees the input and the last
    features.
    """

    def __init__(self, shape: Size, features: int, outputs: int, *, width: int, depth: int, heads: int, dropout: float):
        super().__init__()
        channels = image_channels(shape, 1, "unet_vdm")
        check_widths(width, heads)
        self.time = TimeEmbedding(4 * width, torch.logspace(0, -4, width // 2))

        def block(channels_in: int) -> ResBlock:
            return ResBlock(channels_in, width, zero_init(nn.Linear(4 * width, width, bias=False)), dropout)

        inputs = channels * features
        self.stem = nn.Conv2d(inputs * (1 + 2 * len(OCTAVES)), width, 3, padding=1)
        self.down = nn.ModuleList(block(width) for _ in range(depth))
        self.middle = nn.ModuleList([block(width), Attention(width, heads, GROUPS), block(width)])
        self.up = nn.ModuleList(block(2 * width) for _ in range(depth + 1))
        self.head = Head(width, inputs, channels * outputs)

    def forward(self, features: Tensor, t: Tensor) -> Tensor:
        time = self.time(1000 * (t.float() + 0.001))
        x = to_channels(features)
        h = self.stem(torch.cat([x, fourier_features(x)], 1))
        h = down_and_up(h, time, self.down, self.middle, self.up)
        return from_channels(self.head(h, x), features)
