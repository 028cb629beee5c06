"""Distributions as intervals of integers, so that each number of [0, 2^PRECISION) belongs to one cell.

The encoder and the decoder need exactly the same distribution function. In floating point, its values could depend on
the shape of a tensor: a loop computes most exponentials by vector instructions and the last few one by one, and the two
may differ in the last bit. So parameters are rounded to integers once, by operations that IEEE 754 defines to the bit,
and from there on all numbers are integers.

Cell m of M has the interval from F(m) to F(m + 1), F(m) = m + cdf(m)·(2^PRECISION − M). No interval is empty.
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from bfn.codec.rans import Integers, Stack

PRECISION = 24
UNIT = 24  # numbers of standard deviations are multiples of 2^-UNIT
ONE = 30  # probabilities are multiples of 2^-ONE; weights of components are multiples of 2^-WEIGHT
WEIGHT = 24
WIDE, SHIFT = 8, UNIT - 7  # the table covers −WIDE to WIDE standard deviations, with 2^7 entries for each
CHUNK = 2**21  # numbers that are computed at a time


@cache
def table() -> Integers:
    """Φ at multiples of 1/128, from −8 to 8, rounded to multiples of 2^-ONE. Their float64 error of 1e-16 is far below
    this unit."""
    steps = np.arange(-WIDE << 7, (WIDE << 7) + 1) / (1 << 7)
    return np.array([round(math.erfc(-z / math.sqrt(2)) / 2 * (1 << ONE)) for z in steps], np.int64)


def normal_cdf(z: Integers) -> Integers:
    """2^ONE·Φ(z/2^UNIT), by linear interpolation of the table, so that it never falls."""
    values, end = table(), WIDE << UNIT
    place = np.clip(z, -end, end - 1) + end
    index, part = place >> SHIFT, place & ((1 << SHIFT) - 1)
    low = values[index]
    return low + ((values[index + 1] - low) * part >> SHIFT)


def rounded(numbers: NDArray) -> Integers:
    if not np.isfinite(numbers).all():
        raise FloatingPointError("the network's output distribution is not finite")
    return np.rint(numbers).astype(np.int64)


ALL = slice(None)


class Cells:
    """M cells for each of N variables. base: the symbol of the first cell: a number, or one for each variable."""

    def __init__(self, count: int, cells: int, base: Integers | int):
        self.count, self.cells, self.base = count, cells, np.broadcast_to(np.asarray(base, np.int64), (count,))
        if cells >= 1 << PRECISION:
            raise OverflowError(f"a lattice of {cells} cells is too fine for intervals of {PRECISION} bits")

    def cdf(self, cell: Integers, which: slice) -> Integers:
        """2^ONE times the probability below a cell. which: the variables. cell: one cell of each variable."""
        raise NotImplementedError

    def edge(self, cell: Integers, which: slice = ALL) -> Integers:
        """F(cell)."""
        cdf = np.minimum(self.cdf(cell, which), 1 << ONE)  # weights are rounded, and may add up to a little more
        inside = cell + (cdf * ((1 << PRECISION) - self.cells) >> ONE)
        return np.where(cell == 0, 0, np.where(cell == self.cells, 1 << PRECISION, inside))

    def intervals(self, symbols: Integers) -> tuple[Integers, Integers]:
        """The starts and the frequencies of symbols, one of each variable."""
        cell = symbols - self.base
        if ((cell < 0) | (cell >= self.cells)).any():
            raise OverflowError("a message lies outside of the lattice")
        start = self.edge(cell)
        return start, self.edge(cell + 1) - start

    def find(self, slot: Integers, which: slice) -> tuple[Integers, Integers, Integers]:
        """The cells to which numbers of [0, 2^PRECISION) belong, by bisection: see `Stack.pop`."""
        low, start = np.zeros_like(slot), np.zeros_like(slot)
        high, end = np.full_like(slot, self.cells), np.full_like(slot, 1 << PRECISION)
        for _ in range((self.cells - 1).bit_length()):
            middle = (low + high) >> 1
            edge = self.edge(middle, which)
            below = edge <= slot
            low, start = np.where(below, middle, low), np.where(below, edge, start)
            high, end = np.where(below, high, middle), np.where(below, end, edge)
        return low + self.base[which], start, end - start

    def push(self, stack: Stack, symbols: Integers) -> None:
        stack.push(*self.intervals(symbols))

    def pop(self, stack: Stack) -> Integers:
        return stack.pop(self.count, self.find)


class Lattice(Cells):
    """Cells of width delta around the multiples of delta, for distributions that are made of normals of one std."""

    def __init__(self, mean: NDArray, std: float, delta: float, cells: int, base: Integers):
        super().__init__(len(mean), cells, base)
        self.offset = rounded(((base - 0.5) * delta - mean) / std * (1 << UNIT))
        self.step = round(delta / std * (1 << UNIT))

    def distance(self, cell: Integers, which: slice) -> Integers:
        """From the mean to the lower end of a cell, in standard deviations, times 2^UNIT."""
        return self.offset[which] + cell * self.step


class Normals(Lattice):
    """The cells of a lattice of spacing delta, for normals with means [N] and one std."""

    def __init__(self, mean: NDArray, std: float, delta: float, reach: float = 6.5):
        half = math.ceil(reach * std / delta)
        super().__init__(mean, std, delta, 2 * half + 1, rounded(mean / delta) - half)

    def cdf(self, cell: Integers, which: slice) -> Integers:
        return normal_cdf(self.distance(cell, which))


class Mixtures(Lattice):
    """The cells of a lattice of spacing delta, for mixtures of normals of one std.

    Args:
        mean: [N], the common part of the means.
        shifts: [K], in ascending order, which the components add to it.
        probabilities: [N, K].
    """

    def __init__(self, mean: NDArray, shifts: NDArray, probabilities: NDArray, std: float, delta: float, reach=10.0):
        base = rounded(np.floor((mean + shifts[0] - reach * std) / delta))
        cells = math.ceil((shifts[-1] - shifts[0] + 2 * reach * std) / delta) + 2
        super().__init__(mean, std, delta, cells, base)
        kept = window(weights := rounded(probabilities * (1 << WEIGHT)))
        self.weights = np.take_along_axis(weights, kept, 1)
        self.shifts = rounded(shifts / std * (1 << UNIT))[kept]

    def cdf(self, cell: Integers, which: slice) -> Integers:
        z, shifts, weights = self.distance(cell, which), self.shifts[which], self.weights[which]
        total, rows = np.empty(len(z), np.int64), max(1, CHUNK // shifts.shape[1])
        for first in range(0, len(z), rows):
            few = slice(first, first + rows)
            total[few] = (weights[few] * normal_cdf(z[few, None] - shifts[few])).sum(1)
        return total >> WEIGHT


def window(weights: Integers) -> Integers:
    """The places of all components [N, K] that have weight: a range of each row, of the same length in all rows."""
    live, count = weights > 0, weights.shape[1]
    first, end = live.argmax(1), count - live[:, ::-1].argmax(1)
    length = int((end - first).max())
    return np.minimum(first, count - length)[:, None] + np.arange(length)


class Classes(Cells):
    """K classes with probabilities [N, K]."""

    def __init__(self, probabilities: NDArray):
        count, cells = probabilities.shape
        super().__init__(count, cells, 0)
        weights = rounded(probabilities * (1 << ONE))
        self.below = np.concatenate([np.zeros((count, 1), np.int64), weights.cumsum(1)], 1)

    def cdf(self, cell: Integers, which: slice) -> Integers:
        return self.below[which][np.arange(len(cell)), cell]


class Joint:
    """Points [N, K] of lattices, given a class for each point: coordinate k of a point of class k has mean m_k + shift,
    and every other coordinate has its m_k. The std is the same.

    Coordinates are coded one after the other. Given the coordinates before it, coordinate k is a mixture of the two
    normals. The weight of the first one is the probability of class k, given these coordinates:
    p_k/(Σ_{j ≥ k} p_j + Σ_{j < k} p_j·r_j), where r_j is the ratio of the densities of coordinate j.
    """

    def __init__(self, mean: NDArray, shift: float, probabilities: NDArray, std: float, delta: float):
        self.mean, self.p = mean.reshape(probabilities.shape), probabilities
        self.shift, self.std, self.delta = shift, std, delta

    def visit(self, symbols_of: Callable[[Mixtures, int], Integers]) -> None:
        """Asks for the symbols of one coordinate after the other."""
        total = np.zeros(len(self.p))  # the logarithm of the sum above
        with np.errstate(divide="ignore"):
            for k, mean in enumerate(self.mean.T):
                share = np.minimum(np.exp(np.log(self.p[:, k]) - total), 1.0)
                cells = Mixtures(
                    mean, np.array([0.0, self.shift]), np.stack([1 - share, share], 1), self.std, self.delta
                )
                away = symbols_of(cells, k) * self.delta - mean
                log_ratio = self.shift * (away - self.shift / 2) / self.std**2
                total = total + np.logaddexp(np.log1p(-share), np.log(share) + log_ratio)

    def push(self, stack: Stack, symbols: Integers) -> None:
        rows, intervals = symbols.reshape(self.p.shape), []

        def push_later(cells: Mixtures, k: int) -> Integers:
            intervals.append(cells.intervals(rows[:, k]))
            return rows[:, k]

        self.visit(push_later)
        for each in reversed(intervals):
            stack.push(*each)

    def pop(self, stack: Stack) -> Integers:
        symbols = np.empty(self.p.shape, np.int64)

        def pop(cells: Mixtures, k: int) -> Integers:
            symbols[:, k] = cells.pop(stack)
            return symbols[:, k]

        self.visit(pop)
        return symbols.reshape(-1)
