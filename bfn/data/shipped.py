"""The data sets that need no download: scikit-learn's digits, and Python's language reference."""

import re
from string import ascii_lowercase

import torch
from torch import Tensor

from bfn.configs import Config
from bfn.data.splits import Data, ends, image_baseline, windows
from bfn_kernels.discretised import from_levels

SYMBOLS = " " + ascii_lowercase


def split_digits() -> tuple[Tensor, Tensor, Tensor]:
    """scikit-learn's digits as grey levels 0..16, int64 [N, 8, 8]: 1350 to train, 150 to validate, 297 held out."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    levels = torch.from_numpy(load_digits().images).long()
    rest, test = train_test_split(levels, test_size=297, random_state=0)
    train, validation = train_test_split(rest, test_size=150, random_state=0)
    return train, validation, test


def digits(config: Config) -> Data:
    """Digits with 17 grey levels as the centres of 17 bins of [-1, 1]."""
    splits = split_digits()
    train, validation, test = (from_levels(s, num_bins=17) for s in splits)
    return Data(train, validation, test, 17, image_baseline(*splits, 17))


def digits_binary(config: Config) -> Data:
    """Digits whose pixels have two classes. Class 1 is a grey level above 8."""
    train, validation, test = ((s > 8).long() for s in split_digits())
    return Data(train, validation, test, 2, image_baseline(train, validation, test, 2))


def topics() -> dict[str, str]:
    """The sections of Python's language reference by their names."""
    from pydoc_data.topics import topics

    return topics


def read_topics() -> str:
    """Python's language reference as a-z and single spaces."""
    return re.sub("[^a-z]+", " ", " ".join(text for _, text in sorted(topics().items())).lower()).strip()


def text(config: Config) -> Data:
    """Windows of the language reference."""
    classes = torch.tensor([SYMBOLS.index(c) for c in read_topics()])
    # Training windows overlap, so that the model sees windows that start at many places of the text.
    return letters(classes, config.data.length, stride=max(1, config.data.length // 8))


def letters(classes: Tensor, length: int, stride: int) -> Data:
    """Windows of a text. `classes` [N]: its letters, as indices into SYMBOLS."""
    return windows(classes.tensor_split(ends(len(classes))), length, stride, SYMBOLS)
