"""The file of encoded examples.

All numbers are little-endian. A file has, in this order: the header `HEADER`; two bytes for each run of batches; the
software that wrote it, as text whose length the header tells; a CRC-32 of all examples; the stack: the scalar head of 8
bytes, and words of 4 bytes; and a CRC-32 of all of this.

A run is of batches of one stage that follow each other. The lower 4 bits of its first byte have the stage of the
`Ladder`, and the upper 4 bits have the number of batches less 1. The second byte belongs to a checksum of the run's
examples: it shows early that a network computes other numbers than the encoder's did. The CRC-32 leaves no doubt.
"""

import hashlib
import platform
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from itertools import accumulate, groupby

import numpy as np
import torch

from bfn.codec.codec import LARGEST, SPACING, Factorised, Ladder
from bfn.codec.models import Coded
from bfn.codec.rans import Integers, Stack, StackError
from bfn_kernels import __version__
from bfn_kernels.coding import PRECISION

MAGIC, VERSION = b"BFNC", 4
HEADER = struct.Struct("<4sB8sHHHIIHB")
CRC = struct.Struct("<I")
MOST_STEPS, MOST_EXAMPLES = 10_000, 2**24
MOST_RUN = 16  # batches, whose number less 1 takes 4 bits
THOUSANDTHS = 1000  # in which the spacing of the lattices is stored


class FileError(ValueError):
    """A file that cannot be decoded."""


def require(plausible: bool) -> None:
    if not plausible:
        raise FileError("the file is damaged")


@dataclass(frozen=True)
class Header:
    """The first bytes of a file.

    model: a hash of the weights and of the frequencies of the first examples. spacing: of the lattices, in thousandths.
    threads: the number of torch's threads. first: the number of examples before the first batch. runs: their number.
    padding: the number of values at the end of the last example that are no data. software: the length of its name.
    """

    magic: bytes
    version: int
    model: bytes
    n_steps: int
    spacing: int
    threads: int
    first: int
    runs: int
    padding: int
    software: int

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise FileError(f"the file has version {self.version} of the format, and this package reads {VERSION}")
        require(1 <= self.n_steps <= MOST_STEPS and 50 <= self.spacing <= 4000 and 1 <= self.threads <= 1024)
        require(max(self.first, self.runs) <= MOST_EXAMPLES)


def software() -> str:
    """The software and the kind of processor. The last bits of a network's output depend on both."""
    vectors = torch.backends.cpu.get_cpu_capability()
    return " ".join((torch.__version__, __version__, platform.machine(), vectors))


def fingerprint(coded: Coded, counts: np.ndarray) -> bytes:
    digest = hashlib.sha256(repr((type(coded).__name__, coded.shape, coded.levels)).encode())
    for name, tensor in sorted(coded.model.state_dict().items()):
        digest.update(name.encode() + np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
    digest.update(counts.astype("<i8").tobytes())
    return digest.digest()[:8]


def crc(levels: Integers) -> int:
    return zlib.crc32(levels.astype("<u2").tobytes())


@dataclass(frozen=True)
class Run:
    """Batches of one stage that follow each other: see the top of this file."""

    stage: int
    batches: int
    checksum: int

    @classmethod
    def of_bytes(cls, batches: int, checksum: int) -> "Run":
        return cls(batches & 15, (batches >> 4) + 1, checksum)

    def to_bytes(self) -> bytes:
        return bytes([self.batches - 1 << 4 | self.stage, self.checksum])

    @classmethod
    def of_levels(cls, stage: int, batches: int, levels: Integers) -> "Run":
        return cls(stage, batches, crc(levels) & 0xFF)


def runs_of(stages: list[int], ladder: Ladder, levels: Integers) -> Iterator[Run]:
    """The runs of batches of these stages. levels: of the examples of all batches."""
    at = 0
    for stage, group in groupby(stages):
        batches, size = len([*group]), ladder.size(stage)
        for done in range(0, batches, MOST_RUN):
            number = min(MOST_RUN, batches - done)
            yield Run.of_levels(stage, number, levels[at : at + number * size])
            at += number * size


@dataclass
class Encoded:
    """first: the number of examples that are coded without the network. sizes: of batches."""

    data: bytes
    first: int
    sizes: list[int]


def compress(
    coded: Coded,
    levels: Integers,
    counts: np.ndarray,
    *,
    n_steps: int,
    padding: int = 0,
    spacing: float = SPACING,
    largest: int = LARGEST,
    progress: Callable[[int], None] = lambda examples: None,
) -> Encoded:
    """Encodes examples.

    Args:
        coded: The model.
        levels: The examples, levels from 0 to K − 1, int64 `[N, ...]`.
        counts: How often each level of each variable occurs in the training data, `[D, K]`.
        n_steps: The number of messages of an example.
        padding: The number of values at the end of the last example that are no data. The file stores it.
        spacing: The spacing of the lattices, as a multiple of the smallest standard deviation that uses it.
        largest: The largest number of examples of a batch, if memory suffices.
        progress: Takes the number of examples that have been encoded since its last call.

    Returns:
        The file's bytes, and how many examples were encoded by the network at a time.
    """
    thousandths = round(spacing * THOUSANDTHS)
    ladder = Ladder(coded, n_steps, thousandths / THOUSANDTHS)
    stack, factorised, first, stages = Stack(PRECISION), Factorised(counts), 0, []
    while first < len(levels) and ladder.best(stack, 1) is None:
        factorised.encode(stack, levels[first])
        first += 1
        progress(1)
    at = first
    while at < len(levels):
        stage = ladder.best(stack, min(largest, len(levels) - at)) or 0
        stack.add_heads(ladder.heads(stage))
        size = ladder.size(stage)
        ladder.codec(stage).encode(stack, levels[at : at + size])
        stages.append(stage)
        at += size
        progress(size)
    stack.remove_heads(0)
    written = software().encode()
    model, threads = fingerprint(coded, counts), torch.get_num_threads()
    runs = [run.to_bytes() for run in runs_of(stages, ladder, levels[first:])]
    lengths = first, len(runs), padding, len(written)
    header = Header(MAGIC, VERSION, model, n_steps, thousandths, threads, *lengths)
    parts = HEADER.pack(*astuple(header)), *runs, written, CRC.pack(crc(levels)), stack.to_bytes()
    return Encoded(sealed(b"".join(parts)), first, [*map(ladder.size, stages)])


def sealed(content: bytes) -> bytes:
    return content + CRC.pack(zlib.crc32(content))


def decompress(
    coded: Coded, data: bytes, counts: np.ndarray, progress: Callable[[int], None] = lambda examples: None
) -> Integers:
    """The examples of a file: the inverse of `compress`. It raises a FileError if they are not what was encoded."""
    header, runs, written, whole, stack_bytes = split(data)
    if header.model != fingerprint(coded, counts):
        raise FileError("the file was written with another model, or with other training data, than this run has")
    ladder = Ladder(coded, header.n_steps, header.spacing / THOUSANDTHS)
    require(max((run.stage for run in runs), default=0) < ladder.stages)
    require(sum(ladder.size(run.stage) * run.batches for run in runs) <= MOST_EXAMPLES)
    before = torch.get_num_threads()
    torch.set_num_threads(header.threads)
    try:
        stack, factorised = Stack.of_bytes(stack_bytes, PRECISION), Factorised(counts)
        found, lanes = [], [0, *accumulate((ladder.heads(run.stage) for run in runs), max)]
        stack.add_heads(lanes[-1])
        for run, fewer in zip(runs[::-1], lanes[-2::-1], strict=True):
            size, batches = ladder.size(run.stage), []
            for _ in range(run.batches):
                batches.append(ladder.codec(run.stage).decode(stack, size))
                progress(size)
            found.append(np.concatenate(batches[::-1]))
            if Run.of_levels(run.stage, run.batches, found[-1]) != run:
                raise FileError("examples have another checksum than when they were encoded")
            stack.remove_heads(fewer)
        first = [factorised.decode(stack).reshape(1, *coded.shape) for _ in range(header.first)]
        levels = np.concatenate([np.zeros((0, *coded.shape), np.int64), *first[::-1], *found[::-1]])
        if crc(levels) != whole or stack.size or stack.scalar != 1 << 32:
            raise FileError("the examples are not what was encoded")
        progress(header.first)
    except (FileError, StackError, OverflowError, FloatingPointError) as error:
        reason, by, here = str(error), written.decode(errors="replace"), software()
        if by != here:
            reason += f"; torch, bfn and the processor were {by} when it was written, and are {here}"
        raise FileError(f"the file cannot be decoded: {reason}") from error
    finally:
        torch.set_num_threads(before)
    return levels


def split(data: bytes) -> tuple[Header, list[Run], bytes, int, bytes]:
    """The header, the runs of batches, the name of the software, the CRC of the examples, and the stack. Nothing is
    allocated before the sizes are known to fit."""
    if data[:4] != MAGIC:
        raise FileError("this is no file of `bfn compress`")
    require(len(data) >= HEADER.size + 4 and sealed(data[:-4]) == data)
    data = data[:-4]
    header, at = Header(*HEADER.unpack_from(data)), HEADER.size
    end = at + 2 * header.runs
    after = end + header.software
    require(len(data) >= after + CRC.size)
    (whole,) = CRC.unpack_from(data, after)
    runs = [Run.of_bytes(*data[place : place + 2]) for place in range(at, end, 2)]
    return header, runs, data[end:after], whole, data[after + CRC.size :]
