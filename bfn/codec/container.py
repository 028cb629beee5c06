"""The file of encoded examples.

All numbers are little-endian. A file has, in this order: the header `HEADER`; the lengths of batches as pairs of a size
and a count, each uint32, of which the header tells the number; the software that wrote it, as text whose length the
header tells; a CRC-32 for the first examples and for each batch, in the order of the data; the stack: the scalar
head of 8 bytes, and words of 4 bytes; and a CRC-32 of all of this.
"""

import hashlib
import platform
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import groupby

import numpy as np
import torch

from bfn.codec.codec import Codec, Factorised
from bfn.codec.intervals import PRECISION, Integers
from bfn.codec.models import Coded
from bfn.codec.rans import BITS, Stack, StackError
from bfn_kernels import __version__

MAGIC, VERSION = b"BFNC", 1
HEADER = struct.Struct("<4sH16sHdHHIIH")
LARGEST = 256  # examples of a batch; the memory of a decoder grows with it
MOST_STEPS, MOST_EXAMPLES, MOST_RUNS = 10_000, 2**24, 4096


class FileError(ValueError):
    """A file that cannot be decoded."""


def require(plausible: bool) -> None:
    if not plausible:
        raise FileError("the file is damaged")


@dataclass(frozen=True)
class Header:
    """The first bytes of a file.

    model: a hash of the weights and of the frequencies of the first examples. threads: the number of torch's threads.
    first: the number of examples before the first batch. runs: the number of pairs of sizes and counts.
    """

    magic: bytes
    version: int
    model: bytes
    n_steps: int
    spacing: float
    lanes: int
    threads: int
    first: int
    runs: int
    software: int

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise FileError(f"the file has version {self.version} of the format, and this package reads {VERSION}")
        require(1 <= self.n_steps <= MOST_STEPS and 0.05 <= self.spacing <= 4 and 1 <= self.lanes <= 4096)
        require(1 <= self.threads <= 1024 and self.first <= MOST_EXAMPLES and self.runs <= MOST_RUNS)


def software() -> bytes:
    """The software and the kind of processor, in words. The last bits of a network's output depend on both."""
    vectors = torch.backends.cpu.get_cpu_capability()
    parts = (f"torch {torch.__version__}", f"bfn {__version__}", platform.machine(), vectors)
    return " ".join(parts).encode()


def fingerprint(coded: Coded, counts: np.ndarray) -> bytes:
    digest = hashlib.sha256(repr((type(coded).__name__, coded.shape, coded.levels)).encode())
    for name, tensor in sorted(coded.model.state_dict().items()):
        digest.update(name.encode() + np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
    digest.update(counts.astype("<i8").tobytes())
    return digest.digest()[:16]


def crc(levels: Integers) -> int:
    return zlib.crc32(levels.astype("<u2").tobytes())


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
    spacing: float = 1.5,
    lanes: int = 16,
    largest: int = 64,
    progress: Callable[[int], None] = lambda examples: None,
) -> Encoded:
    """Encodes examples.

    Args:
        coded: The model.
        levels: The examples, levels from 0 to K − 1, int64 `[N, ...]`.
        counts: How often each level of each variable occurs in the training data, `[D, K]`.
        n_steps: The number of messages of an example.
        spacing: The spacing of the lattices, as a multiple of the smallest standard deviation that uses it.
        lanes: The number of heads of the coder.
        largest: The largest number of examples of a batch.
        progress: Takes the number of examples that have been encoded since its last call.

    Returns:
        The file's bytes, and how many examples were encoded by the network at a time.
    """
    codec, factorised, stack = Codec(coded, n_steps, spacing), Factorised(counts), Stack(lanes, PRECISION)
    first, enough = 0, codec.need + 2 * BITS * lanes  # each head takes a word, and may need another one
    while first < len(levels) and stack.bits < enough:
        factorised.encode(stack, levels[first])
        first += 1
        progress(1)
    sizes: list[int] = []
    if first < len(levels):
        stack.start_heads()
        for size in batches(stack, codec.need, len(levels) - first, largest):
            start = first + sum(sizes)
            codec.encode(stack, levels[start : start + size])
            sizes.append(size)
            progress(size)
        stack.close_heads()
    runs = [(size, len([*same])) for size, same in groupby(sizes)]
    written = software()
    model, threads = fingerprint(coded, counts), torch.get_num_threads()
    header = Header(MAGIC, VERSION, model, n_steps, spacing, lanes, threads, first, len(runs), len(written))
    sums = [crc(part) for part in np.split(levels, parts(first, sizes))]
    head = HEADER.pack(*astuple(header)) + b"".join(struct.pack("<II", *run) for run in runs) + written
    return Encoded(sealed(head + struct.pack(f"<{len(sums)}I", *sums) + stack.to_bytes()), first, sizes)


def sealed(content: bytes) -> bytes:
    return content + struct.pack("<I", zlib.crc32(content))


def batches(stack: Stack, need: int, left: int, largest: int) -> Iterator[int]:
    """Sizes of batches, powers of 2, for which the stack has enough bits when they are asked for."""
    while left:
        able = max(1, min(largest, left, (stack.bits - BITS * stack.lanes) // need))
        size = 1 << (able.bit_length() - 1)
        yield size
        left -= size


def parts(first: int, sizes: Sequence[int]) -> list[int]:
    """The places at which batches begin."""
    return np.cumsum([first, *sizes])[:-1].tolist()


def decompress(
    coded: Coded, data: bytes, counts: np.ndarray, progress: Callable[[int], None] = lambda examples: None
) -> Integers:
    """The examples of a file: the inverse of `compress`. It raises a FileError if they are not what was encoded."""
    header, runs, written, sums, stack_bytes = split(data)
    if header.model != fingerprint(coded, counts):
        raise FileError("the file was written with another model, or with other training data, than this run has")
    sizes = [size for size, count in runs for _ in range(count)]
    before = torch.get_num_threads()
    torch.set_num_threads(header.threads)
    try:
        stack = Stack.of_bytes(stack_bytes, header.lanes, PRECISION)
        codec, factorised = Codec(coded, header.n_steps, header.spacing), Factorised(counts)
        found: list[Integers] = []
        if sizes:
            stack.reopen_heads()
        for size, wanted in zip(reversed(sizes), reversed(sums[1:]), strict=True):
            found.append(codec.decode(stack, size))
            if crc(found[-1]) != wanted:
                raise FileError("examples have another checksum than when they were encoded")
            progress(size)
        if sizes:
            stack.end_start()
        alone = [factorised.decode(stack).reshape(1, *coded.shape) for _ in range(header.first)]
        levels = np.concatenate([np.zeros((0, *coded.shape), np.int64), *alone[::-1]])
        if crc(levels) != sums[0] or stack.size or stack.scalar != 1 << 32:
            raise FileError("the first examples are not what was encoded")
        progress(header.first)
    except (FileError, StackError, OverflowError, FloatingPointError) as error:
        reason, by, here = str(error), written.decode(errors="replace"), software().decode()
        if by != here:
            reason += f"; it was written by {by}, and this is {here}"
        raise FileError(f"the file cannot be decoded: {reason}") from error
    finally:
        torch.set_num_threads(before)
    return np.concatenate([levels, *found[::-1]])


def split(data: bytes) -> tuple[Header, list[tuple[int, int]], bytes, list[int], bytes]:
    """The parts of a file. Nothing is allocated before the sizes are known to fit."""
    if data[:4] != MAGIC:
        raise FileError("this is no file of `bfn compress`")
    require(len(data) >= HEADER.size + 4 and sealed(data[:-4]) == data)
    data = data[:-4]
    header, at = Header(*HEADER.unpack_from(data)), HEADER.size
    end = at + 8 * header.runs + header.software
    require(len(data) >= end)
    runs = [struct.unpack_from("<II", data, at + 8 * index) for index in range(header.runs)]
    total, batch_count = sum(size * count for size, count in runs), sum(count for _, count in runs)
    require(all(1 <= size <= LARGEST for size, _ in runs) and total <= MOST_EXAMPLES)
    written, at = data[at + 8 * header.runs : end], end
    end = at + 4 * (1 + batch_count)
    require(len(data) >= end)
    return header, runs, written, list(struct.unpack_from(f"<{1 + batch_count}I", data, at)), data[end:]
