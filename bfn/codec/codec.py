"""Examples as bits of a stack, and back."""

import functools
import math
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bfn.codec.intervals import Cells, Joint, normals
from bfn.codec.lattice import steps_of
from bfn.codec.models import Coded
from bfn.codec.rans import BITS, SCALAR, Integers, Stack

ENTROPY = math.log2(math.sqrt(2 * math.pi * math.e))  # of a normal, in units of its std
SPACING = 1.5  # of the lattices, as a multiple of the smallest standard deviation that uses a lattice
# The bits of a number that is drawn from a normal have a standard deviation of 1.02. An example may draw more bits than
# the mean by 7 standard deviations.
DEVIATIONS = 7 * 1.02
DRAWN = 512  # the bits that an example draws, for each of its heads of the coder
PER_HEAD = 3 * BITS + 5  # bits of the stack that a new head may take: its content, the length of it, and its first word
HALVINGS = 9  # of the number of messages, at most, so that a file can store the number of a stage in 4 bits
LARGEST, NUMBERS = 64, 2**24  # of a batch: the most examples, and the most coordinates of their states


class Codec:
    """Encodes batches of examples, levels `[B, ...]`.

    Args:
        coded: The model.
        n_steps: n, the number of messages of an example.
        spacing: The spacing of the lattices, as a multiple of the smallest standard deviation that uses it.
    """

    def __init__(self, coded: Coded, n_steps: int, spacing: float):
        alpha = coded.alpha(n_steps)
        self.coded, self.n, self.accuracy = coded, n_steps, float(alpha.sum())
        self.steps = steps_of(alpha, spacing)
        self.times = [coded.time_of(step.seen) for step in self.steps]

    @functools.cached_property
    def need(self) -> int:
        """The bits that an example draws from the stack are at most so many."""
        last = math.sqrt(self.accuracy) / self.steps[-1].spacing
        bridges = (after.bridge / step.spacing for step, after in zip(self.steps[1:], self.steps[2:], strict=False))
        drawn = [math.log2(each) + ENTROPY for each in (last, max(bridges, default=0.0)) if each]
        numbers = self.coded.size * self.coded.coordinates
        return math.ceil(numbers * sum(max(0.0, each) for each in drawn) + DEVIATIONS * math.sqrt(2 * numbers))

    @property
    def heads(self) -> int:
        """The number of heads of the coder for each example of a batch. With more heads, it needs fewer calls."""
        return max(1, self.need // DRAWN)

    # The distributions of a step, given states in units of their spacings. A step pushes and pops these symbols:
    # q(S_n | x), the flow; q(S_{i-1} | S_i), the bridge; p(S_i | S_{i-1}), the receiver; p(x | S_n), the output.

    def flow(self, levels: Integers) -> Cells:
        mean = self.accuracy * self.coded.values(levels)
        return normals(mean, math.sqrt(self.accuracy), self.steps[-1].spacing)

    def bridge(self, state: Integers, i: int) -> Cells:
        step, before = self.steps[i], self.steps[i - 1]
        return normals(state * (step.spacing * step.back), step.bridge, before.spacing)

    def receiver(self, state: Integers, i: int) -> Cells | Joint:
        step, output = self.steps[i], self.output(state, i - 1)
        mean = state * (step.g * self.steps[i - 1].spacing)
        return self.coded.receiver(output, mean, step.w, step.std, step.spacing)

    def output(self, state: Integers, i: int) -> Any:
        step = self.steps[i]
        return self.coded.output(state * (step.spacing * step.shrink), step.seen, self.times[i])

    def encode(self, stack: Stack, levels: Integers) -> None:
        x = levels.reshape(-1)
        state = self.flow(x).pop(stack)
        self.coded.cells(self.output(state, self.n)).push(stack, x)
        for i in range(self.n, 0, -1):
            before = self.bridge(state, i).pop(stack) if i > 1 else np.zeros_like(state)
            self.receiver(before, i).push(stack, state)
            state = before

    def decode(self, stack: Stack, count: int) -> Integers:
        before = np.zeros(count * self.coded.size * self.coded.coordinates, np.int64)
        for i in range(1, self.n + 1):
            state = self.receiver(before, i).pop(stack)
            if i > 1:
                self.bridge(state, i).push(stack, before)
            before = state
        x = self.coded.cells(self.output(before, self.n)).pop(stack)
        self.flow(x).push(stack, before)
        return x.reshape(count, *self.coded.shape)


class Ladder:
    """The stages of a file: each needs more bits of the stack than the one before it, and makes the file grow less.

    All batches of a stage have the same number of examples, and all examples the same number of messages. On the first
    stages, a batch is one example, and the number of messages doubles from stage to stage. Stage `full` is the first
    one with n messages. After it, the sizes of batches double.

    Args:
        coded: The model.
        n_steps: n, the number of messages of an example.
        spacing: The spacing of the lattices, as a multiple of the smallest standard deviation that uses it.
    """

    def __init__(self, coded: Coded, n_steps: int, spacing: float):
        numbers = (n_steps >> halvings for halvings in range(HALVINGS, -1, -1))
        self.codecs = [Codec(coded, number, spacing) for number in numbers if number]
        self.full = len(self.codecs) - 1
        most = max(1, min(LARGEST, NUMBERS // (coded.size * coded.coordinates)))  # memory grows with the batch
        self.stages = self.full + most.bit_length()

    def codec(self, stage: int) -> Codec:
        return self.codecs[min(stage, self.full)]

    def size(self, stage: int) -> int:
        """The number of examples of a batch."""
        return 1 << max(0, stage - self.full)

    def heads(self, stage: int) -> int:
        """The number of heads of the coder. Before stage `full`, batches are so few that one head will do."""
        return self.codec(stage).heads * self.size(stage) if stage >= self.full else 1

    def best(self, stack: Stack, left: int) -> int | None:
        """The highest stage for which the stack has enough bits. left: the number of examples that are left."""
        bits = stack.bits + BITS * len(stack.heads)  # the heads that are there need not be made
        for stage in reversed(range(self.stages)):
            need = self.codec(stage).need * self.size(stage) + self.heads(stage) * PER_HEAD
            if self.size(stage) <= left and need <= bits:
                return stage
        return None


class Factorised:
    """The first examples, each level of a variable by its frequency in the training data. Their bits start the stack.

    Args:
        counts: How often each level occurs, `[D, K]`.
    """

    def __init__(self, counts: NDArray):
        share = (counts + 0.5) / (counts + 0.5).sum(1, keepdims=True)
        scale = (1 << SCALAR) - 2 * counts.shape[1]
        frequency = 2 + np.floor(share * scale).astype(np.int64)
        edges = np.concatenate([np.zeros((len(counts), 1), np.int64), frequency.cumsum(1)], 1)
        edges[:, -1] = 1 << SCALAR
        self.rows = edges.tolist()

    def encode(self, stack: Stack, levels: Integers) -> None:
        for row, level in zip(self.rows, levels.reshape(-1).tolist(), strict=True):
            stack.push_one(row[level], row[level + 1] - row[level])

    def decode(self, stack: Stack) -> Integers:
        return np.array([*self._symbols(stack)][::-1])

    def _symbols(self, stack: Stack) -> Iterator[int]:
        for row in reversed(self.rows):

            def find(slot: int, row: list[int] = row) -> tuple[int, int, int]:
                level = bisect_right(row, slot) - 1
                return level, row[level], row[level + 1] - row[level]

            yield stack.pop_one(find)
