"""What `bfn compress` and `bfn decompress` do."""

import gzip
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress
from rich.table import Column, Table

from bfn.codec.container import Encoded, FileError, compress, decompress
from bfn.codec.intervals import Integers
from bfn.codec.models import Coded
from bfn.configs import ConfigError, EvaluateConfig
from bfn.data import Data
from bfn.data.splits import class_counts, drawn
from bfn.results.evaluate import evaluate
from bfn.training.checkpoint import write_atomically


def counts_of(model: Coded, data: Data) -> Integers:
    """How often each level of each variable occurs in a few thousand training examples."""
    levels = torch.from_numpy(model.to_levels(drawn(data))).flatten(1)
    return class_counts(levels, model.levels).long().numpy()


def levels_of_file(model: Coded, path: Path) -> Integers:
    """Levels of an .npy file. They are checked, since a level out of range has no interval."""
    try:
        found = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise ConfigError(f"{path} must be an .npy file of whole numbers: {error}") from error
    wanted = f"{path} must hold whole numbers from 0 to {model.levels - 1} of shape [N, {str([*model.shape])[1:]}"
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "iu" or found.shape[1:] != model.shape:
        kind = f"{found.dtype} {list(found.shape)}" if isinstance(found, np.ndarray) else "several arrays"
        raise ConfigError(f"{wanted}, got {kind}")
    if not len(found) or found.min() < 0 or found.max() >= model.levels:
        raise ConfigError(f"{wanted}, got {f'{found.min()} to {found.max()}' if len(found) else 'no examples'}")
    return found.astype(np.int64)


def source_levels(model: Coded, data: Data, source: Path | str, count: int | None) -> Integers:
    """The first `count` examples of an .npy file, or of the split of this name."""
    found = levels_of_file(model, source) if isinstance(source, Path) else model.to_levels(getattr(data, source))
    return found[:count]


def to_file(model: Coded, levels: Integers, data: Data, n_steps: int, to: Path, bar: Progress) -> tuple[Encoded, str]:
    """Compress, decode again, and write the file only if it holds the same examples. Returns the times, too."""
    counts, times = counts_of(model, data), [time.monotonic()]
    encoded = compress(model, levels, counts, n_steps=n_steps, progress=progress_of(bar, "encoding", len(levels)))
    times.append(time.monotonic())
    again = decompress(model, encoded.data, counts, progress_of(bar, "verifying", len(levels)))
    if not np.array_equal(again, levels):
        raise FileError("the file does not hold the examples that were encoded; this is an error of bfn, so report it")
    times.append(time.monotonic())
    write_atomically(to, encoded.data)
    return encoded, f"encoding took {times[1] - times[0]:.1f} s, verifying {times[2] - times[1]:.1f} s"


def bound_of(model: Coded, levels: Integers, config: EvaluateConfig, n_steps: int) -> float:
    """The n-step bound of these examples, in bytes. For each example, the cost of every step is computed once."""
    config = replace(config, n_steps=n_steps, repeats=n_steps)
    return evaluate(model.model, model.from_levels(levels), config).bits * levels.size / 8


def table_of(encoded: Encoded, levels: Integers, kinds: int, bound: float, n_steps: int, title: str) -> Table:
    table = Table("", Column("bytes", justify="right"), Column("bits per dimension", justify="right"), title=title)
    table.add_row("file", *sizes(len(encoded.data), levels.size), style="bold")
    table.add_row(f"bound, {n_steps} steps", *sizes(bound, levels.size))
    for name, size in others(levels, kinds).items():
        table.add_row(name, *sizes(size, levels.size))
    return table


def sizes(size: float, numbers: int) -> tuple[str, str]:
    return f"{size:.0f}", f"{8 * size / numbers:.4f}"


def others(levels: Integers, count: int) -> dict[str, int]:
    """Bytes of other codecs for the same numbers. Levels of two kinds are packed into bits first."""
    import lzma  # a Python that was built without it can still do everything else

    raw = np.packbits(levels.astype(bool)) if count == 2 else levels.astype(np.uint8)
    packed = {"gzip": gzip.compress(raw.tobytes(), mtime=0), "xz": lzma.compress(raw.tobytes(), preset=9)}
    return {"raw": raw.nbytes, **{name: len(data) for name, data in packed.items()}}


def progress_of(bar: Progress, title: str, total: int | None) -> Callable[[int], None]:
    task = bar.add_task(title, total=total)
    return lambda examples: bar.update(task, advance=examples)


def from_file(model: Coded, data: Data, source: Path, to: Path, bar: Progress) -> int:
    """Decode a file into an .npy file. Returns the number of examples."""
    levels = decompress(model, source.read_bytes(), counts_of(model, data), progress_of(bar, "decoding", None))
    write_atomically(to, lambda file: np.save(file, levels.astype(np.uint8)))
    return len(levels)
