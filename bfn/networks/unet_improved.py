"""The U-Net of Improved Diffusion (arXiv 2102.09672), which the paper uses for binarised MNIST."""

import math

import torch
from torch import Tensor, nn

from bfn.networks.blocks import GROUPS, Head, ResBlock, check_widths, down_and_up
from bfn.networks.layers import Attention, Size, TimeEmbedding, from_channels, image_channels, to_channels

MULTIPLES = (1, 2, 2)  # the channels at each resolution, as multiples of the width


class Halve(nn.Module):
    """Half the height and width, by a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, h: Tensor, time: Tensor) -> Tensor:
        return self.conv(h)


class UNetImproved(nn.Module):
    """Features [B, H, W, (C,) F] and times [B] -> [B, H, W, (C,) outputs]; H and W are multiples of 4.

    Each of three resolutions has `depth` residual blocks on the way down and `depth + 1` on the way up. Attention is in
    the middle. The time is also a channel of the input. The head sees the embedded input and the last features.
    """

    def __init__(self, shape: Size, features: int, outputs: int, *, width: int, depth: int, heads: int, dropout: float):
        super().__init__()
        channels = image_channels(shape, 2 ** (len(MULTIPLES) - 1), "unet_improved")
        check_widths(width, heads)
        frequencies = torch.exp(-math.log(10_000) * torch.arange(width // 2) / (width // 2))
        self.time = TimeEmbedding(4 * width, frequencies, cosines_first=True)
        self.project = nn.Linear(channels * features + 1, width)

        def block(channels_in: int, channels: int) -> ResBlock:
            return ResBlock(channels_in, channels, nn.Linear(4 * width, channels), dropout)

        self.down = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1)])
        skips, last = [width], width
        for level, multiple in enumerate(MULTIPLES):
            if level > 0:
                self.down.append(Halve(last))
                skips.append(last)
            for _ in range(depth):
                self.down.append(block(last, multiple * width))
                last = multiple * width
                skips.append(last)
        self.middle = nn.ModuleList(
            [block(last, last), Attention(last, heads, GROUPS, heads_first=True), block(last, last)]
        )
        self.up, self.enlarge = nn.ModuleList(), nn.ModuleDict()
        for level, multiple in reversed(list(enumerate(MULTIPLES))):
            for _ in range(depth + 1):
                self.up.append(block(last + skips.pop(), multiple * width))
                last = multiple * width
            if level > 0:  # the key is the number of the block after which this layer is applied
                self.enlarge[str(len(self.up) - 1)] = nn.Conv2d(last, last, 3, padding=1)
        self.head = Head(width, width, channels * outputs)

    def forward(self, features: Tensor, t: Tensor) -> Tensor:
        time = self.time(4000 * t.float())
        inputs = features.flatten(3)
        times = (2 * t - 1).to(inputs.dtype)[:, None, None, None].expand(*inputs.shape[:-1], 1)
        x = to_channels(self.project(torch.cat([inputs, times], -1)))
        stem, *down = self.down
        h = down_and_up(stem(x), time, down, self.middle, self.up, self.enlarge)
        return from_channels(self.head(h, x), features)
