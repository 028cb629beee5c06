"""Layers that several networks use, and conversions of images to and from the layout of convolutions."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bfn.configs import ConfigError

Size = tuple[int, ...]  # of an example: the length of each dimension
SHORT = 128  # for sequences up to this length, inductor's code is at least 3 times as fast as torch's attention on CPUs


class TimeEmbedding(nn.Module):
    """Times [B] -> [B, width]: sines and cosines of geometrically spaced frequencies, then a small MLP.

    angular: the angular frequencies. By default, 0.1 to 100 periods fit into [0, 1].
    cosines_first: whether the cosines come before the sines, as some published weights need.
    """

    def __init__(self, width: int, angular: Tensor | None = None, *, cosines_first: bool = False):
        super().__init__()
        angular = 2 * math.pi * torch.logspace(-1, 2, 32) if angular is None else angular
        self.angular: Tensor
        self.register_buffer("angular", angular, persistent=False)
        self.cosines_first = cosines_first
        waves = 2 * len(angular)
        self.mlp = nn.Sequential(nn.Linear(waves, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None].float() * self.angular
        sines, cosines = angles.sin(), angles.cos()
        return self.mlp(torch.cat([cosines, sines] if self.cosines_first else [sines, cosines], -1))


def zero_init(layer: nn.Module) -> nn.Module:
    """Sets all parameters of the layer to zero, so that it adds nothing when training starts, and returns it."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention of queries, keys and values, each [..., L, width]."""
    if q.device.type == "cpu" and q.shape[-2] <= SHORT and torch.compiler.is_compiling():
        return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v)


class Attention(nn.Module):
    """Self-attention between all places of an image.

    heads_first: the order of the channels of `qkv`. If True, query, key and value of the first head come first, then of
    the second, as in some published weights. If False, the queries of all heads come first, then all keys.
    """

    def __init__(self, channels: int, heads: int, groups: int = 8, *, heads_first: bool = False):
        super().__init__()
        self.parts, self.part = ((heads, 3, -1), 2) if heads_first else ((3, heads, -1), 1)
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero_init(nn.Conv2d(channels, channels, 1))

    def forward(self, h: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(h)).flatten(2).unflatten(1, self.parts).transpose(-1, -2).unbind(self.part)
        mixed = attend(q, k, v)
        return h + self.out(mixed.transpose(-1, -2).reshape(h.shape))


def image_channels(shape: Size, multiple: int, name: str) -> int:
    """The channels of images [H, W] or [H, W, C]. H and W must be multiples of `multiple`."""
    if len(shape) not in (2, 3) or shape[0] % multiple or shape[1] % multiple:
        raise ConfigError(
            f"network.name={name!r} takes images [H, W] or [H, W, C] whose sides are multiples of {multiple}, "
            f"got data of shape {shape}"
        )
    return shape[2] if len(shape) == 3 else 1


def to_channels(features: Tensor) -> Tensor:
    """Features [B, H, W, F] or [B, H, W, C, F] -> [B, C·F, H, W] in the memory format channels_last."""
    return features.flatten(3).movedim(-1, 1)


def from_channels(h: Tensor, features: Tensor) -> Tensor:
    """[B, C·outputs, H, W] -> [B, H, W, (C,) outputs]. The result has a dimension C if the features have one."""
    return h.movedim(1, -1).unflatten(-1, (*features.shape[3:-1], -1))
