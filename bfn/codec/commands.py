"""What `bfn compress` and `bfn decompress` do."""

import gzip
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from rich.table import Column, Table

from bfn.codec import sources
from bfn.codec.container import HEADER, Encoded, FileError, Header, compress, decompress
from bfn.codec.models import Coded
from bfn.codec.rans import Integers
from bfn.configs import EvaluateConfig
from bfn.data import Data
from bfn.data.image_codes import FORMATS, picture_bytes
from bfn.data.splits import class_counts, drawn
from bfn.results.evaluate import evaluate
from bfn.training.checkpoint import write_atomically


def counts_of(model: Coded, data: Data) -> Integers:
    """How often each level of each variable occurs in a few thousand training examples."""
    levels = torch.from_numpy(model.to_levels(drawn(data))).flatten(1)
    return class_counts(levels, model.levels).long().numpy()


def to_file(
    model: Coded, levels: Integers, padding: int, data: Data, n_steps: int, to: Path, bar: Progress
) -> tuple[Encoded, str]:
    """Compress, decode again, and write the file only if it holds the same examples. Returns the times, too."""
    counts, before, times = counts_of(model, data), model.seconds, [time.monotonic()]
    progress = progress_of(bar, "encoding", len(levels))
    encoded = compress(model, levels, counts, n_steps=n_steps, padding=padding, progress=progress)
    times.append(time.monotonic())
    network = (model.seconds - before) / (times[1] - times[0])
    again = decompress(model, encoded.data, counts, progress_of(bar, "verifying", len(levels)))
    if not np.array_equal(again, levels):
        raise FileError("the file does not hold the examples that were encoded; this is an error of bfn, so report it")
    times.append(time.monotonic())
    write_atomically(to, encoded.data)
    return encoded, (
        f"encoding took {times[1] - times[0]:.1f} s, {network:.0%} of it the network; "
        f"verifying took {times[2] - times[1]:.1f} s"
    )


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
    found = {"raw": raw.nbytes, **{name: len(data) for name, data in packed.items()}}
    if levels.ndim == 3 or (levels.ndim == 4 and levels.shape[-1] == 3):
        picture = of_all(levels.astype(bool if count == 2 else np.uint8))
        found |= {f"{form}, one picture": picture_bytes(picture, form) for form in FORMATS}
    return found


def of_all(examples: NDArray) -> NDArray:
    """One picture of all examples, in a grid that is about as wide as it is high."""
    across = math.isqrt(len(examples) - 1) + 1
    down = -(-len(examples) // across)
    filled = np.zeros((down * across, *examples.shape[1:]), examples.dtype)
    filled[: len(examples)] = examples
    rows = filled.reshape(down, across, *examples.shape[1:]).swapaxes(1, 2)
    return rows.reshape(down * examples.shape[1], across * examples.shape[2], *examples.shape[3:])


def progress_of(bar: Progress, title: str, total: int | None) -> Callable[[int], None]:
    task = bar.add_task(title, total=total)
    return lambda examples: bar.update(task, advance=examples)


def from_file(model: Coded, data: Data, source: Path, to: Path, bar: Progress) -> int:
    """Decode a file, and write what `sources.write` makes of it. Returns the number of examples."""
    content = source.read_bytes()
    levels = decompress(model, content, counts_of(model, data), progress_of(bar, "decoding", None))
    sources.write(model, data, levels, Header(*HEADER.unpack_from(content)).padding, to)
    return len(levels)
