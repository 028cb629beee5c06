"""A data set for `bfn`: MNIST's images of 256 grey levels in patches of 4 x 4 pixels, by the setting
`data.name=benchmarks.grey:patches`."""

import torch
from torch import Tensor

from bfn.configs import Config
from bfn.data.published import hold_out, mnist_levels
from bfn.data.splits import Data, image_baseline
from bfn_kernels.discretised import from_levels

SIDE, BINS = 4, 256


def patched(levels: Tensor) -> Tensor:
    """Images [N, H, W] as [N, H / 4, W / 4, 16]: a place for each patch, with a channel for each of its pixels."""
    rows = levels.unflatten(1, (-1, SIDE)).unflatten(3, (-1, SIDE))
    return rows.transpose(2, 3).flatten(3).contiguous()


def centres(levels: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """The bin centres in [-1, 1] of grey levels."""
    return from_levels(levels, num_bins=BINS)


def patches(config: Config) -> Data:
    """The images in data.folder, split as `bfn` splits MNIST."""
    train, test = (patched(levels) for levels in mnist_levels(config))
    kept, held_out = hold_out(len(train))
    baseline = image_baseline(train[kept], train[held_out], test, BINS)
    return Data(train[kept], centres(train[held_out]), centres(test), BINS, baseline, draw=centres)
