"""The coder: asymmetric numeral systems (Duda 2013) with many heads, which share a stack of words of 32 bits.

A symbol is an interval [start, start + frequency) of [0, 2^precision). Pushing a symbol makes the stack longer by
precision − log2(frequency) bits. Popping symbols in the opposite order takes these bits away again.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
BITS = 32  # of a word
WORD, LOW = np.uint64(BITS), np.uint64(1 << BITS)  # a head lies in [LOW, 2^64)
SCALAR = 16  # the precision of the scalar head, by which the ends of a file are coded


class StackError(ValueError):
    """The stack does not have the bits that are popped."""


class Stack:
    """A stack of words, and the heads of the coder.

    Args:
        precision: The intervals of symbols lie in [0, 2^precision); at most 32.
        words: The words of the stack, uint32. None: the stack is empty.
        scalar: The head for single symbols.
    """

    def __init__(self, precision: int, words: NDArray | None = None, scalar: int = 1 << 32):
        self.precision = precision
        self.size = 0 if words is None else len(words)
        self.words = np.zeros(1 << 16, np.uint32) if words is None else words.copy()
        self.scalar = scalar
        self.heads = np.zeros(0, np.uint64)

    @property
    def bits(self) -> int:
        return BITS * self.size

    def write(self, values: NDArray) -> None:
        end = self.size + len(values)
        if end > len(self.words):
            self.words = np.concatenate([self.words[: self.size], np.zeros(max(end, 1 << 16), np.uint32)])
        self.words[self.size : end] = values
        self.size = end

    def read(self, count: int) -> NDArray:
        if count > self.size:
            raise StackError(f"{count} words are read, and the stack has {self.size}")
        self.size -= count
        return self.words[self.size : self.size + count].copy()

    def push(self, start: Integers, frequency: Integers) -> None:
        """Symbol s goes to head s modulo the number of heads."""
        precision, lanes = np.uint64(self.precision), len(self.heads)
        for first in range(0, len(start), lanes):
            low, width = (each[first : first + lanes].astype(np.uint64) for each in (start, frequency))
            head = self.heads[: len(low)]
            full = head >= width << (np.uint64(64) - precision)
            self.write(head[full].astype(np.uint32))  # the lower 32 bits
            head[full] >>= WORD
            quotient, remainder = np.divmod(head, width)
            head[:] = (quotient << precision) + remainder + low

    def pop(self, count: int, find: Callable[[Integers, slice], tuple[Integers, Integers, Integers]]) -> Integers:
        """Pops `count` symbols. find: takes numbers of [0, 2^precision) and the slice of the symbols to which they
        belong. It returns the symbols, and the starts and the frequencies of their intervals."""
        precision, lanes = np.uint64(self.precision), len(self.heads)
        mask, symbols = (np.uint64(1) << precision) - np.uint64(1), np.empty(count, np.int64)
        for first in reversed(range(0, count, lanes)):
            which = slice(first, min(count, first + lanes))
            head = self.heads[: which.stop - first]
            slot = head & mask
            symbols[which], start, frequency = find(slot.astype(np.int64), which)
            head[:] = frequency.astype(np.uint64) * (head >> precision) + slot - start.astype(np.uint64)
            empty = head < LOW
            head[empty] = head[empty] << WORD | self.read(int(empty.sum())).astype(np.uint64)
        return symbols

    def push_one(self, start: int, frequency: int, precision: int = SCALAR) -> None:
        """Pushes a symbol to the scalar head."""
        if self.scalar >= frequency << (64 - precision):
            self.write(np.array([self.scalar & 0xFFFFFFFF], np.uint32))
            self.scalar >>= 32
        quotient, remainder = divmod(self.scalar, frequency)
        self.scalar = (quotient << precision) + remainder + start

    def pop_one(self, find: Callable[[int], tuple[int, int, int]], precision: int = SCALAR) -> int:
        slot = self.scalar & ((1 << precision) - 1)
        symbol, start, frequency = find(slot)
        self.scalar = frequency * (self.scalar >> precision) + slot - start
        if self.scalar < 1 << 32:
            self.scalar = self.scalar << 32 | int(self.read(1)[0])
        return symbol

    def push_bits(self, value: int, bits: int) -> None:
        while bits > 0:
            few = min(bits, SCALAR)
            self.push_one(value & ((1 << few) - 1), 1, few)
            value, bits = value >> few, bits - few

    def pop_bits(self, bits: int) -> int:
        value = 0
        for few in [*[bits % SCALAR] * (bits % SCALAR > 0), *[SCALAR] * (bits // SCALAR)]:
            value = value << few | self.pop_one(lambda slot: (slot, slot, 1), few)
        return value

    def add_heads(self, lanes: int) -> None:
        """Makes heads until there are at least so many. 5 bits of the stack tell the length of each of them, and as
        many bits are its content. So a head takes as many bits, on average, as it has when `remove_heads` writes it."""
        for _ in range(lanes - len(self.heads)):
            length = BITS + self.pop_bits(5)
            self.heads = np.append(self.heads, np.uint64(1 << length | self.pop_bits(length)))

    def remove_heads(self, lanes: int) -> None:
        """The inverse of `add_heads`: `lanes` heads are left."""
        for head in map(int, self.heads[lanes:][::-1]):
            length = head.bit_length() - 1
            self.push_bits(head - (1 << length), length)
            self.push_bits(length - BITS, 5)
        self.heads = self.heads[:lanes]

    def to_bytes(self) -> bytes:
        return self.scalar.to_bytes(8, "little") + self.words[: self.size].astype("<u4").tobytes()

    @classmethod
    def of_bytes(cls, data: bytes, precision: int) -> "Stack":
        if len(data) < 8 or len(data) % 4:
            raise StackError(f"a stack has 8 bytes and words of 4 bytes, got {len(data)} bytes")
        scalar = int.from_bytes(data[:8], "little")
        if scalar < 1 << 32:
            raise StackError("the scalar head is below 2^32")
        return cls(precision, np.frombuffer(data[8:], "<u4").astype(np.uint32), scalar)
