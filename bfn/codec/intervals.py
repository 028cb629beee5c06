"""Distributions as intervals of integers, so that each number of [0, 2^PRECISION) belongs to one cell.

The encoder and the decoder need exactly the same distribution function. In floating point, its values could depend on
the shape of a tensor: a loop computes most exponentials by vector instructions and the last few one by one, and the two
may differ in the last bit. So parameters are rounded to integers once, by operations that IEEE 754 defines to the bit,
and from there on all numbers are integers.

Cell m of M has the interval from F(m) to F(m + 1), F(m) = m + cdf(m)·(2^PRECISION − M). No interval is empty.
"""

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
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


class Cells:
    """M cells for each of N variables. base: the symbol of the first cell: a number, or one for each variable."""

    def __init__(self, count: int, cells: int, base: Integers | int):
        self.count, self.cells, self.base = count, cells, np.broadcast_to(np.asarray(base, np.int64), (count,))
        if cells >= 1 << PRECISION:
            raise OverflowError(f"a lattice of {cells} cells is too fine for intervals of {PRECISION} bits")

    def cdf(self, cell: Integers) -> Integers:
        """2^ONE times the probability below one cell of each variable."""
        raise NotImplementedError

    def edge(self, cell: Integers) -> Integers:
        """F(cell)."""
        cdf = np.minimum(self.cdf(cell), 1 << ONE)  # weights are rounded, and may add up to a little more
        inside = cell + (cdf * ((1 << PRECISION) - self.cells) >> ONE)
        return np.where(cell == 0, 0, np.where(cell == self.cells, 1 << PRECISION, inside))

    def intervals(self, symbols: Integers) -> tuple[Integers, Integers]:
        """The starts and the frequencies of symbols, one of each variable."""
        cell = symbols - self.base
        if ((cell < 0) | (cell >= self.cells)).any():
            raise OverflowError("a message lies outside of the lattice")
        start = self.edge(cell)
        return start, self.edge(cell + 1) - start

    def edges(self) -> Integers:
        """F of all cells, [N, M + 1]."""
        return np.stack([self.edge(np.full(self.count, cell)) for cell in range(self.cells + 1)], 1)

    def finder(self):
        """A function for `Stack.pop`."""
        edges = self.edges()

        def find(slot: Integers, which: slice) -> tuple[Integers, Integers, Integers]:
            rows = edges[which]
            cell = (rows[:, 1:] <= slot[:, None]).sum(1)
            places = np.arange(len(rows))
            start = rows[places, cell]
            return cell + self.base[which], start, rows[places, cell + 1] - start

        return find


class Lattice(Cells):
    """Cells of width delta around the multiples of delta, for distributions that are made of normals of one std."""

    def __init__(self, mean: NDArray, std: float, delta: float, cells: int, base: Integers):
        super().__init__(len(mean), cells, base)
        self.offset = rounded(((base - 0.5) * delta - mean) / std * (1 << UNIT))
        self.step = round(delta / std * (1 << UNIT))

    def distance(self, cell: Integers) -> Integers:
        """From the mean to the lower end of a cell, in standard deviations, times 2^UNIT."""
        return self.offset + cell * self.step


class Normals(Lattice):
    """The cells of a lattice of spacing delta, for normals with means [N] and one std."""

    def __init__(self, mean: NDArray, std: float, delta: float, reach: float = 6.5):
        half = math.ceil(reach * std / delta)
        super().__init__(mean, std, delta, 2 * half + 1, rounded(mean / delta) - half)

    def cdf(self, cell: Integers) -> Integers:
        return normal_cdf(self.distance(cell))


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
        self.shifts = rounded(shifts / std * (1 << UNIT))
        self.weights = rounded(probabilities * (1 << WEIGHT))

    def cdf(self, cell: Integers) -> Integers:
        z, total = self.distance(cell), np.empty(self.count, np.int64)
        rows = max(1, CHUNK // len(self.shifts))
        for first in range(0, self.count, rows):
            few = slice(first, first + rows)
            total[few] = (self.weights[few] * normal_cdf(z[few, None] - self.shifts)).sum(1)
        return total >> WEIGHT


class Classes(Cells):
    """K classes with probabilities [N, K]."""

    def __init__(self, probabilities: NDArray):
        count, cells = probabilities.shape
        super().__init__(count, cells, 0)
        weights = rounded(probabilities * (1 << ONE))
        self.below = np.concatenate([np.zeros((count, 1), np.int64), weights.cumsum(1)], 1)

    def cdf(self, cell: Integers) -> Integers:
        return self.below[np.arange(self.count), cell]
