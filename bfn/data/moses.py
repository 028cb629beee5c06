"""The molecules of MOSES (arXiv 1811.12823) as strings (SMILES), read from the wheel of the package that ships them."""

import gzip
import re
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from bfn.configs import Config, ConfigError
from bfn.data.files import Package, damage, find_file, locked
from bfn.data.ngrams import Trigrams, entropy
from bfn.data.paper_datasets import SPLIT_SEED
from bfn.data.splits import Data, image_baseline
from bfn.molecules import Molecules, log_p
from bfn.sequences import class_of
from bfn.training.checkpoint import write_atomically

MOLSETS = Package("molsets==0.3.1", "molsets-0.3.1-py3-none-any.whl")
# An atom in brackets, an atom of two letters, the number of a ring in two digits, or any other single character.
TOKEN = re.compile(r"\[[^]]+]|Br|Cl|%\d\d|.")
PADDING = 0  # the class of padding, and of an unknown property
VALIDATION, TEST = 512, 2000  # the largest numbers of molecules in these splits
LENGTHS = 1000  # the number of quantiles of the lengths of training molecules


def read(path: Path, split: str) -> list[str]:
    """The molecules of a split in the wheel: train, test, or test_scaffolds, whose molecules have scaffolds that no
    other split has."""
    with damage(path, f"the wheel of {MOLSETS.requirement}"), zipfile.ZipFile(path) as wheel:
        return gzip.decompress(wheel.read(f"moses/dataset/data/{split}.csv.gz")).decode().split()[1:]


def moses(config: Config) -> Data:
    """Molecules as rows of classes: the property, then the tokens, then padding up to data.length.

    The vocabulary has the tokens of all training molecules; training uses data.count of the molecules. The property is
    the logP that RDKit computes, in as many bins as the vocabulary has tokens. Only rows of the training data have it.
    """
    path = find_file(config, [MOLSETS.file], [""])
    train, test = shuffled(read(path, "train")), shuffled(read(path, "test"))[:TEST]
    symbols = ["", *sorted(set(TOKEN.findall("\n".join(train))))]
    few = min(VALIDATION, len(train) // 10)
    held_out, train = train[:few], train[few:][: config.data.count]
    encoded = partial(encode, symbols=symbols, length=config.data.length)
    rows, validation, scored = encoded(train), encoded(held_out).long(), encoded(test).long()
    rows[:, 0] = class_of(property_of(train, path.parent), len(symbols)).to(torch.uint8)
    tokens, trigrams = (scored > 0).sum().item() / scored.numel(), Trigrams(rows[:, 1:], len(symbols))
    lengths = (rows[:, 1:] > 0).sum(1)
    judge = Molecules(
        symbols=symbols,
        read=partial(read, path),
        tokens=tokens,
        trigrams=trigrams.bits(scored[:, 1:]) / scored.numel() / tokens,
        lengths=entropy(lengths, (scored > 0).sum(1)) / scored.shape[1] / tokens,
    )
    return Data(
        rows,
        validation,
        scored,
        len(symbols),
        image_baseline(rows, validation, scored, len(symbols), known=PADDING + 1),
        symbols,
        draw=lambda rows, generator: rows.long(),
        lengths=lengths.sort().values[torch.linspace(0, len(lengths) - 1, LENGTHS).long()],
        judge=judge,
    )


def shuffled(molecules: Sequence[str]) -> list[str]:
    order = torch.randperm(len(molecules), generator=torch.Generator().manual_seed(SPLIT_SEED))
    return [molecules[i] for i in order.tolist()]


def encode(molecules: Sequence[str], symbols: Sequence[str], length: int) -> Tensor:
    """The rows of molecules, uint8 [N, length], with the class of an unknown property."""
    classes = {symbol: number for number, symbol in enumerate(symbols)}
    rows = np.full((len(molecules), length), PADDING, np.uint8)
    for row, molecule in zip(rows, molecules, strict=True):
        tokens = TOKEN.findall(molecule)
        if len(tokens) >= length:
            raise ConfigError(f"data.length={length} must be at least {len(tokens) + 1}, for {molecule}")
        try:
            row[1 : len(tokens) + 1] = [classes[token] for token in tokens]
        except KeyError as error:
            raise ConfigError(f"{molecule} has the token {error}, which no training molecule has") from error
    return torch.from_numpy(rows)


def property_of(molecules: Sequence[str], folder: Path) -> Tensor:
    """The logP of the training molecules, [N]. One process computes it once, and then all read it from a file in the
    folder."""
    path = folder / f"moses_logp_{len(molecules)}.npy"
    if not path.exists():
        with locked(folder / ".moses_logp.lock"):
            if not path.exists():
                numbers = log_p(track(molecules, "computing logP, once")).numpy()
                write_atomically(path, lambda file: np.save(file, numbers))
    with damage(path, f"an array of {len(molecules)} numbers"):
        return torch.from_numpy(np.load(path)).reshape(len(molecules))
