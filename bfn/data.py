"""Data sets in fixed splits, each with the baseline that a model has to beat. Those here come with a dependency."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from string import ascii_lowercase
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bfn.configs import Config, ConfigError, DataConfig, find
from bfn_kernels.discretised import from_levels

SYMBOLS = " " + ascii_lowercase


@dataclass(frozen=True)
class Data:
    """Examples [N, ...] of each split: bin centres in [-1, 1] as float32, or classes as int64.

    If there is a `draw`, `train` may be anything else, since draw(examples, generator) makes of it what a batch holds.
    """

    train: Tensor
    validation: Tensor
    test: Tensor
    num_classes: int  # the number of bins or classes of a variable
    baseline: float  # bits per dimension of the best factorised model on the test split
    symbols: Sequence[str | bytes] = ""  # the character of each class of text, or the bytes of each token
    draw: Callable[[Tensor, torch.Generator], Tensor] | None = None
    tokenizer: str | None = None  # of tokens, as JSON
    token_bytes: float | None = None  # the mean length of a token of the test split

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return tuple(self.train.shape[1:])


def factorised_bits(counted: Tensor, scored: Tensor, num_classes: int) -> float:
    """The bits per dimension of `scored` [N, D] if its columns are independent, with probabilities from the counts of
    `counted` [M, D], each plus 1/2."""
    counts = class_counts(counted, num_classes) + 0.5
    log_probs = (counts / counts.sum(-1, keepdim=True)).log2()
    return -(log_probs * class_counts(scored, num_classes)).sum().item() / scored.numel()


def class_counts(classes: Tensor, num_classes: int) -> Tensor:
    """How often each class occurs in each column of [N, D], as float64 [D, num_classes]."""
    columns = classes.shape[1]
    counts = torch.zeros(columns * num_classes, dtype=torch.int64)
    for rows in classes.split(max(1, 2**22 // columns)):  # a data set at once would take gigabytes
        places = rows.long() + num_classes * torch.arange(columns)
        counts += torch.bincount(places.flatten(), minlength=len(counts))
    return counts.view(columns, num_classes).double()


def frequencies(data: Data) -> Tensor:
    """How often each class occurs in some thousand training examples, with 1/2 more for each, as shares [K]."""
    some = data.train[:: max(1, len(data.train) // 4096)]
    if data.draw is not None:
        some = data.draw(some, torch.Generator().manual_seed(0))
    counts = class_counts(some.reshape(-1, 1), data.num_classes)[0] + 0.5
    return (counts / counts.sum()).float()


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
    """Digits as two classes, whether the grey level is above one half."""
    train, validation, test = ((s > 8).long() for s in split_digits())
    return Data(train, validation, test, 2, image_baseline(train, validation, test, 2))


def image_baseline(train: Tensor, validation: Tensor, test: Tensor, num_classes: int) -> float:
    return factorised_bits(torch.cat([train, validation]).flatten(1), test.flatten(1), num_classes)


def read_topics() -> str:
    """Python's language reference as a-z and single spaces."""
    return re.sub("[^a-z]+", " ", " ".join(text for _, text in sorted(topics().items())).lower()).strip()


def topics() -> dict[str, str]:
    """The sections of Python's language reference by their names."""
    from pydoc_data.topics import topics

    return topics


def text(config: Config) -> Data:
    """Windows of the language reference: the first 90 % to train, then 5 % to validate and 5 % held out."""
    classes = torch.tensor([SYMBOLS.index(c) for c in read_topics()])
    # Training windows overlap, so that the model sees windows that start at many places of the text.
    return split_text(classes, config.data.length, stride=max(1, config.data.length // 8))


def split_text(classes: Tensor, length: int, stride: int) -> Data:
    """Windows of a text [N]: the first 90 % to train, from every `stride`-th place, then 5 % to validate and 5 % held
    out."""
    return windows(classes.tensor_split(ends(len(classes))), length, stride, SYMBOLS)


def ends(count: int) -> list[int]:
    """Where the training data of a text of this length end, and the validation data."""
    return [count * 90 // 100, count * 95 // 100]


def windows(splits: Sequence[Tensor], length: int, stride: int, symbols: Sequence[str | bytes], **more: Any) -> Data:
    """Windows of a text that is split; more: as Data has it."""
    train, validation, test = splits
    if length > (shortest := min(len(validation), len(test))):
        raise ConfigError(f"data.length={length} must be at most {shortest}, the length of the shortest split")
    baseline = factorised_bits(torch.cat([train, validation])[:, None], test[:, None], len(symbols))
    return Data(
        train.unfold(0, length, stride),
        validation.unfold(0, length, length).long(),
        test.unfold(0, length, length).long(),
        len(symbols),
        baseline,
        symbols,
        draw=lambda windows, generator: windows.long(),
        **more,
    )


def readable(parts: Iterable[str | bytes]) -> str:
    """The text of some symbols; what is no text, or would steer a terminal, is shown as �."""
    whole = b"".join(part.encode() if isinstance(part, str) else part for part in parts).decode(errors="replace")
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "�" for letter in whole)


class DataSet(NamedTuple):
    """A function that makes a data set, and the settings of `data` that it reads."""

    make: Callable[..., Data] | str
    reads: tuple[str, ...] = ()


DATASETS = {
    "digits": DataSet(digits),
    "digits_binary": DataSet(digits_binary),
    "text": DataSet(text, ("length",)),
    "text_bpe": DataSet("bfn.bytepairs:text_bpe", ("folder", "file", "length", "vocabulary")),
    # of files, read by a module that is imported when it is asked for
    "mnist": DataSet("bfn.datasets:mnist", ("folder",)),
    "cifar10": DataSet("bfn.datasets:cifar10", ("folder", "num_bins")),
    "text8": DataSet("bfn.datasets:text8", ("folder", "file", "length")),
}


def load_data(config: Config, tokenizer: str | None = None) -> Data:
    """The data set that `data.name` names; tokenizer: of a run that is there, for data that are tokens."""
    make = find({name: entry.make for name, entry in DATASETS.items()}, config.data.name, "data.name")
    refuse_unread(config.data)
    return make(config) if tokenizer is None else make(config, tokenizer)


def refuse_unread(settings: DataConfig) -> None:
    """Refuse settings that the data set does not read, which would change nothing; one of a user's own may read all."""
    if settings.name not in DATASETS:
        return
    reads, defaults = DATASETS[settings.name].reads, DataConfig(settings.name)
    for key, value in asdict(settings).items():
        if key not in reads and value != getattr(defaults, key):
            wanted = f"which reads {', '.join(f'data.{name}' for name in reads)}" if reads else "which reads no other"
            raise ConfigError(f"data.{key}={value} means nothing to data.name={settings.name!r}, {wanted}")
