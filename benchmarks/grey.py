"""A data set for `bfn`: MNIST's images of 256 grey levels in patches of 4 x 4 pixels, by the setting
`data.name=benchmarks.grey:patches`."""

from torch import Tensor

from bfn.configs import Config
from bfn.data.paper_datasets import hold_out, in_bins, mnist_levels
from bfn.data.splits import Data

SIDE, BINS = 4, 256


def patched(levels: Tensor) -> Tensor:
    """Images [N, H, W] as [N, H / 4, W / 4, 16]: a place for each patch, with a channel for each of its pixels."""
    rows = levels.unflatten(1, (-1, SIDE)).unflatten(3, (-1, SIDE))
    return rows.transpose(2, 3).flatten(3).contiguous()


def patches(config: Config) -> Data:
    """The images in data.folder, split as `bfn` splits MNIST."""
    train, test = (patched(levels) for levels in mnist_levels(config))
    kept, held_out = hold_out(len(train))
    return in_bins(train[kept], train[held_out], test, BINS)
