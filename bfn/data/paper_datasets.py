"""The paper's data sets, read from their published files in data.folder."""

from typing import Any

import torch
from torch import Tensor

from bfn.configs import Config, ConfigError
from bfn.data.files import find_file, find_text, read_cifar, read_idx, read_letters
from bfn.data.shipped import letters
from bfn.data.splits import Data, image_baseline
from bfn_kernels.discretised import from_levels

SPLIT_SEED = 2147483647  # the published code splits training and validation data with this seed
BINARY_SEED = 0  # of the binary pixels of validation and test images


def hold_out(count: int) -> tuple[Tensor, Tensor]:
    """The indices of 99 % of the training images, and of the 1 % that are validation images."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(SPLIT_SEED))
    held_out = max(1, count // 100)
    return order[:-held_out], order[-held_out:]


def binarise(levels: Tensor, generator: torch.Generator) -> Tensor:
    """Binary pixels: each is 1 with the probability levels / 255."""
    return torch.bernoulli(levels / 255, generator=generator).long()


def mnist_levels(config: Config) -> tuple[Tensor, Tensor]:
    """The grey levels of MNIST's training images and of its test images, uint8 [N, 28, 28]."""
    names = (f"{split}-images-idx3-ubyte" for split in ("train", "t10k"))
    files = (find_file(config, [name, f"{name}.gz"], ["", "raw", "MNIST/raw"]) for name in names)
    train, test = (torch.from_numpy(read_idx(path).copy()) for path in files)
    return train, test


def mnist(config: Config) -> Data:
    """Binarised MNIST. The pixels of a training image are drawn anew for each batch. The pixels of validation and test
    images are drawn once, so that every run is measured on the same data."""
    levels = mnist_levels(config)
    generator = torch.Generator().manual_seed(BINARY_SEED)
    train, test = (binarise(part, generator) for part in levels)
    kept, held_out = hold_out(len(train))
    baseline = image_baseline(train[kept], train[held_out], test, 2)
    return Data(levels[0][kept], train[held_out], test, 2, baseline, draw=binarise)


def cifar10(config: Config) -> Data:
    """CIFAR-10, whose 256 levels of each colour fall into data.num_bins bins of [-1, 1]."""
    num_bins = config.data.num_bins
    if not 2 <= num_bins <= 256:
        raise ConfigError(f"data.num_bins={num_bins} must lie between 2 and 256")

    def read(name: str) -> Tensor:
        """The bins of the images of a file."""
        levels = read_cifar(find_file(config, [name], ["", "cifar-10-batches-py"]))
        bins = (torch.from_numpy(levels.copy()).int() * num_bins // 255).clamp(max=num_bins - 1)
        return bins.to(torch.uint8)

    train, test = torch.cat([read(f"data_batch_{i}") for i in range(1, 6)]), read("test_batch")
    kept, held_out = hold_out(len(train))
    return in_bins(train[kept], train[held_out], test, num_bins)


def in_bins(train: Tensor, validation: Tensor, test: Tensor, num_bins: int, **more: Any) -> Data:
    """Images whose values are bins, uint8 [N, ...]. The data are the centres of the bins. Training images stay bins
    until they are drawn. more: further fields of Data."""

    def centres(bins: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return from_levels(bins, num_bins=num_bins)

    baseline = image_baseline(train, validation, test, num_bins)
    return Data(train, centres(validation), centres(test), num_bins, baseline, draw=centres, **more)


def text8(config: Config) -> Data:
    """Windows of the text data.file, by default text8, in 27 symbols. Training windows start at every character."""
    return letters(torch.from_numpy(read_letters(find_text(config))), config.data.length, stride=1)
