"""A small U-Net for images: two resolutions, with attention at the lower one."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bfn.configs import ConfigError
from bfn.networks.layers import Attention, Size, TimeEmbedding, from_channels, image_channels, to_channels, zero_init


class ResBlock(nn.Module):
    """Two 3x3 convolutions around a shift and scale by the time embedding."""

    def __init__(self, channels_in: int, channels: int, time_width: int, dropout: float):
        super().__init__()
        self.norm_in, self.norm_out = nn.GroupNorm(8, channels_in), nn.GroupNorm(8, channels)
        self.conv_in = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.conv_out = zero_init(nn.Conv2d(channels, channels, 3, padding=1))
        self.time = nn.Linear(time_width, 2 * channels)
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Identity() if channels_in == channels else nn.Conv2d(channels_in, channels, 1)

    def forward(self, h: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.time(time)[:, :, None, None].chunk(2, 1)
        residual = self.conv_in(F.silu(self.norm_in(h)))
        residual = F.silu(self.norm_out(residual) * (1 + scale) + shift)
        return self.skip(h) + self.conv_out(self.dropout(residual))


class UNet(nn.Module):
    """Features [B, H, W, (C,) F] and times [B] -> [B, H, W, (C,) outputs]. H and W must be even, width a multiple of 8,
    and 2·width a multiple of heads."""

    def __init__(self, shape: Size, features: int, outputs: int, *, width: int, depth: int, heads: int, dropout: float):
        super().__init__()
        channels = image_channels(shape, 2, "unet")
        if width % 8 or 2 * width % heads:
            raise ConfigError(f"network.width={width} must be a multiple of 8, and 2 * width of network.heads={heads}")
        time_width = 2 * width
        self.time = TimeEmbedding(time_width)
        self.stem = nn.Conv2d(channels * features, width, 3, padding=1)
        self.down = nn.ModuleList(ResBlock(width, width, time_width, dropout) for _ in range(depth))
        self.reduce = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.middle = nn.ModuleList(ResBlock(2 * width, 2 * width, time_width, dropout) for _ in range(depth))
        self.attention = Attention(2 * width, heads)
        self.enlarge = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.up = nn.ModuleList(ResBlock(2 * width, width, time_width, dropout) for _ in range(depth))
        self.gain = zero_init(nn.Linear(time_width, features * outputs))
        self.norm = nn.GroupNorm(8, width)
        self.head = zero_init(nn.Conv2d(width, channels * outputs, 3, padding=1))

    def forward(self, features: Tensor, t: Tensor) -> Tensor:
        time = self.time(t)
        h = self.stem(to_channels(features))
        skips = []
        for block in self.down:
            h = block(h, time)
            skips.append(h)
        h = self.reduce(h)
        for block in self.middle:
            h = block(h, time)
        h = self.enlarge(self.attention(h))
        for block in self.up:
            h = block(torch.cat([h, skips.pop()], 1), time)
        output = from_channels(self.head(F.silu(self.norm(h))), features)
        # At early times the noise is nearly proportional to the input, by a factor that depends on t. `gain` learns
        # this factor, so that the convolutions need not learn it.
        gain = self.gain(time).unflatten(-1, (features.shape[-1], -1))
        return output + torch.einsum("b...f,bfo->b...o", features, gain)
