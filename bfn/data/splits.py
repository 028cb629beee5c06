"""Data in fixed splits, with the baseline that a model has to beat."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from bfn.configs import ConfigError
from bfn.data.values import require_examples

SPLITS = ("train", "validation", "test")


class Judge(Protocol):
    """Measures a bound and samples in terms of their kind of data, such as molecules."""

    unit: ClassVar[str]  # of a bound
    quality: ClassVar[str]  # the name of a score

    def rival(self, examples: Tensor) -> tuple[str, float]:
        """The name of a simple model, and the mean cost of examples by this model, in `unit`."""

    def worth(self, bound: float) -> float:
        """Converts a bound in bits per dimension to `unit`."""

    def score(self, samples: Tensor) -> tuple[float, float, dict[str, float]]:
        """A number that tells how good samples are, its standard error, and further measures, by their names, which
        take little time."""

    def measures(self, samples: Tensor) -> dict[str, float]:
        """All measures of samples, by their names."""

    def draw(self, samples: Tensor, path: Path) -> Path:
        """Write a picture of samples."""


@dataclass(frozen=True)
class Data:
    """Examples [N, ...] of each split: bin centres in [-1, 1] or angles as float32, or classes as int64.

    With a `draw`, `train` may have another form: draw(examples, generator) turns rows of it into examples of a batch.
    """

    train: Tensor
    validation: Tensor
    test: Tensor
    num_classes: int  # the number of bins or classes of a variable, or 0 for angles
    baseline: float  # bits per dimension of the best factorised model on the test split
    symbols: Sequence[str | bytes] = ""  # the character of each class of text, or the bytes of each token
    draw: Callable[[Tensor, torch.Generator], Tensor] | None = None
    tokenizer: str | None = None  # as JSON, if the classes are tokens of a byte-pair vocabulary
    token_bytes: float | None = None  # the mean number of bytes of a token of the test split
    sizes: Tensor | None = None  # sorted numbers of atoms of training molecules in space: see bfn.atom_rows
    lengths: Tensor | None = None  # sorted lengths of training examples, if examples are padded: see bfn.sequences
    judge: Judge | None = None
    rivals: Callable[[], dict[str, float]] = dict  # computes bits per dimension of the test split by other models

    def __post_init__(self) -> None:
        if isinstance(self.num_classes, Integral):  # NumPy's integers, too
            object.__setattr__(self, "num_classes", int(self.num_classes))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example. Rows of `train` may have another shape, if there is a `draw`."""
        return tuple(self.validation.shape[1:])


def drawn(data: Data) -> Tensor:
    """A few thousand training examples, evenly spread, in the form that they have in a batch."""
    some = data.train[:: max(1, len(data.train) // 4096)]
    return some if data.draw is None else data.draw(some, torch.Generator().manual_seed(0))


def check(data: Any, where: str) -> None:
    """Raises a ConfigError if a model cannot train on `data`. If `data.draw` makes the examples, a few thousand of them
    are checked. where: names the data in the error."""
    if not isinstance(data, Data):
        raise ConfigError(f"{where} must return a bfn.data.Data, got {None if data is None else type(data).__name__}")
    classes, examples = data.num_classes, {split: getattr(data, split) for split in SPLITS}
    if not isinstance(classes, int) or classes < 0 or classes == 1:
        raise ConfigError(f"{where}: num_classes must be 0 for angles, or else an int of at least 2, got {classes}")
    if not isinstance(data.baseline, (int, float)):
        raise ConfigError(f"{where}: baseline must be a number, got {type(data.baseline).__name__}")
    if len(data.symbols) not in (0, classes):
        raise ConfigError(f"{where}: symbols must name each of {classes} classes, got {len(data.symbols)} names")
    for split, x in examples.items():
        if isinstance(x, Tensor) and x.numel() == 0:
            raise ConfigError(f"{where} has no {split} examples")
    if data.draw is not None and isinstance(data.train, Tensor):
        examples["train"] = drawn(data)
    for split, x in examples.items():
        require_examples(x, classes, f"{where}: {split}")
    forms = {split: (tuple(x.shape[1:]), x.is_floating_point()) for split, x in examples.items()}
    if len(set(forms.values())) > 1:
        found = ", ".join(f"{examples[split].dtype} {list(shape)} in {split}" for split, (shape, _) in forms.items())
        raise ConfigError(f"{where}: all splits must have examples of one shape and of one kind, got {found}")


def class_counts(classes: Tensor, num_classes: int) -> Tensor:
    """How often each class occurs in each column of [N, D], as float64 [D, num_classes]."""
    columns = classes.shape[1]
    counts = torch.zeros(columns * num_classes, dtype=torch.int64)
    for rows in classes.split(max(1, 2**22 // columns)):  # the whole data set at once would take gigabytes
        places = rows.long() + num_classes * torch.arange(columns)
        counts += torch.bincount(places.flatten(), minlength=len(counts))
    return counts.view(columns, num_classes).double()


def factorised_bits(counted: Tensor, scored: Tensor, num_classes: int, known: int = 0) -> float:
    """The bits per dimension of `scored` [N, D] if its columns are independent, with probabilities from the counts of
    `counted` [M, D], each plus 1/2. known: the number of first classes that cost nothing, since a model knows their
    places."""
    counts = class_counts(counted, num_classes)[:, known:] + 0.5
    log_probs = (counts / counts.sum(-1, keepdim=True)).log2()
    return -(log_probs * class_counts(scored, num_classes)[:, known:]).sum().item() / scored.numel()


def image_baseline(train: Tensor, validation: Tensor, test: Tensor, num_classes: int, known: int = 0) -> float:
    """The bits per dimension of `test` if its columns are independent. The images are classes or levels, not centres of
    bins. known: as for `factorised_bits`."""
    for split, x in zip(SPLITS, (train, validation, test), strict=True):
        require_examples(x, num_classes, f"image_baseline: {split}")
        if x.is_floating_point():
            raise ConfigError(f"image_baseline: {split} must hold classes or levels as integers, got {x.dtype}")
    return factorised_bits(torch.cat([train, validation]).flatten(1), test.flatten(1), num_classes, known)


def frequencies(data: Data) -> Tensor:
    """The share of each class in a few thousand training examples, [K], from counts plus 1/2."""
    counts = class_counts(drawn(data).reshape(-1, 1), data.num_classes)[0] + 0.5
    return (counts / counts.sum()).float()


def ends(count: int) -> list[int]:
    """Where a text of this length is split: training data end at 90 % of it, and validation data at 95 %."""
    return [count * 90 // 100, count * 95 // 100]


def windows(splits: Sequence[Tensor], length: int, stride: int, symbols: Sequence[str | bytes], **more: Any) -> Data:
    """Windows of the three splits of a text. Training windows start at every `stride`-th place, so they may overlap.
    more: further fields of Data."""
    train, validation, test = splits
    if length > (shortest := min(map(len, splits))):  # counted in tokens, the training split may be the shortest
        raise ConfigError(f"data.length={length} must be at most {shortest}, the length of the shortest split")
    return Data(
        train.unfold(0, length, stride),
        validation.unfold(0, length, length).long(),
        test.unfold(0, length, length).long(),
        len(symbols),
        factorised_bits(torch.cat([train, validation])[:, None], test[:, None], len(symbols)),
        symbols,
        draw=lambda windows, generator: windows.long(),
        **more,
    )


def readable(parts: Iterable[str | bytes]) -> str:
    """The text of some symbols. Bytes that are no text, and characters that would control a terminal, become �."""
    whole = b"".join(part.encode() if isinstance(part, str) else part for part in parts).decode(errors="replace")
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "�" for letter in whole)
