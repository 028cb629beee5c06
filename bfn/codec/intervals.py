"""The cells by which a step pushes and pops its symbols. `bfn_kernels.coding` computes their intervals."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bfn.codec.rans import Integers, Stack
from bfn_kernels import coding
from bfn_kernels.coding import LIMIT, ONE, UNIT

NORMAL_REACH, MIXTURE_REACH = 6.5, 10.0  # standard deviations that a lattice covers


def fixed(numbers: NDArray, bits: int, most: float = LIMIT) -> torch.Tensor:
    """`coding.fixed` of the outputs of a network. It raises a FloatingPointError if they are not finite."""
    if not np.isfinite(numbers).all():
        raise FloatingPointError("the network's output distribution is not finite")
    return coding.fixed(torch.from_numpy(numbers), bits, most)


@dataclass
class Cells:
    """The cells of N variables. base: the symbol of the first cell: a number, or one for each variable, int64 [N]."""

    of: coding.Lattice | coding.Classes
    count: int
    base: Integers | int = 0

    def intervals(self, symbols: Integers) -> tuple[Integers, Integers]:
        """The starts and the frequencies of symbols, one of each variable."""
        _, start, frequency = self.of.interval(torch.from_numpy(symbols - self.base))
        if not frequency.all():
            raise OverflowError("a message lies outside of the lattice")
        return start.numpy(), frequency.numpy()

    def find(self, slot: Integers, which: slice) -> tuple[Integers, Integers, Integers]:
        """The symbols to which numbers of [0, 2^PRECISION) belong: see `Stack.pop`. which: the variables."""
        cell, start, frequency = (each.numpy() for each in self.of[which].find(torch.from_numpy(slot)))
        cell += self.base if isinstance(self.base, int) else self.base[which]
        return cell, start, frequency

    def push(self, stack: Stack, symbols: Integers) -> None:
        stack.push(*self.intervals(symbols))

    def pop(self, stack: Stack) -> Integers:
        return stack.pop(self.count, self.find)


def lattice(mean: NDArray, std: float, delta: float, cells: int, base: Integers, **mixture) -> Cells:
    """Cells of width delta around the multiples of delta. mean: of the normals or, of each mixture, of its first
    normal. mixture: further arguments of `coding.Lattice`."""
    if cells >= 1 << coding.PRECISION:
        raise OverflowError(f"a lattice of {cells} cells is too fine for intervals of {coding.PRECISION} bits")
    offset = fixed(((base - 0.5) * delta - mean) / std, UNIT)
    step = fixed(np.array([delta / std]), UNIT, LIMIT / cells)
    return Cells(coding.Lattice(offset, step, cells, **mixture), len(mean), base)


def normals(mean: NDArray, std: float, delta: float) -> Cells:
    """A lattice of spacing delta, for normals with means [N] and one std."""
    half = math.ceil(NORMAL_REACH * std / delta)
    return lattice(mean, std, delta, 2 * half + 1, np.rint(mean / delta).astype(np.int64) - half)


def mixtures(mean: NDArray, shift: float, count: int, std: float, delta: float, **probabilities) -> Cells:
    """A lattice of spacing delta, for mixtures of normals of one std.

    Args:
        mean: The mean of the first normal of each mixture, [N].
        shift: By how much the mean of a normal is larger than the mean of the normal before it.
        count: The number of normals of a mixture.
        std: The standard deviation of the normals.
        delta: The spacing.
        probabilities: The arguments of `coding.Lattice` that give the probabilities of the normals.
    """
    base = np.floor((mean - MIXTURE_REACH * std) / delta).astype(np.int64)
    cells = math.ceil(((count - 1) * shift + 2 * MIXTURE_REACH * std) / delta) + 2
    return lattice(mean, std, delta, cells, base, shift=round(shift / std * (1 << UNIT)), **probabilities)


def pairs(mean: NDArray, shift: float, probability: NDArray, std: float, delta: float) -> Cells:
    """The same for mixtures of two normals. probability: of the second one, [N]."""
    return mixtures(mean, shift, 2, std, delta, weight=fixed(probability, ONE))


def classes(probabilities: NDArray) -> Cells:
    """Classes with probabilities [N, K]."""
    return Cells(coding.Classes(fixed(probabilities, ONE)), len(probabilities))


@dataclass
class Bins:
    """A discretised normal of each variable, whose K bins divide [−1, 1]. mean, std: [N]."""

    mean: NDArray
    std: NDArray
    num_bins: int

    @property
    def edges(self) -> tuple[torch.Tensor, torch.Tensor]:
        """From the means to the first bin, and the widths of the bins, in standard deviations."""
        width = 2 / self.num_bins / self.std
        return fixed((-1 - self.mean) / self.std, UNIT), fixed(width, UNIT, LIMIT / self.num_bins)

    def cells(self) -> Cells:
        return Cells(coding.Lattice(*self.edges, self.num_bins), len(self.mean))

    def receiver(self, mean: NDArray, w: float, std: float, delta: float) -> Cells:
        """Mixtures of normals whose means are `mean` and w times the centre of a bin, given the bin."""
        (edge, width), k = self.edges, self.num_bins
        more = {"edge": edge, "width": width, "num_bins": k}
        return mixtures(mean - w * (1 - 1 / k), 2 * w / k, k, std, delta, **more)


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

    def visit(self, symbols_of: Callable[[Cells, int], Integers]) -> None:
        """Asks for the symbols of one coordinate after the other."""
        total = np.zeros(len(self.p))  # the logarithm of the sum above
        with np.errstate(divide="ignore"):
            for k, mean in enumerate(self.mean.T):
                share = np.minimum(np.exp(np.log(self.p[:, k]) - total), 1.0)
                cells = pairs(mean, self.shift, share, self.std, self.delta)
                away = symbols_of(cells, k) * self.delta - mean
                log_ratio = self.shift * (away - self.shift / 2) / self.std**2
                total = total + np.logaddexp(np.log1p(-share), np.log(share) + log_ratio)

    def push(self, stack: Stack, symbols: Integers) -> None:
        rows, intervals = symbols.reshape(self.p.shape), []

        def push_later(cells: Cells, k: int) -> Integers:
            intervals.append(cells.intervals(rows[:, k]))
            return rows[:, k]

        self.visit(push_later)
        for each in reversed(intervals):
            stack.push(*each)

    def pop(self, stack: Stack) -> Integers:
        symbols = np.empty(self.p.shape, np.int64)

        def pop(cells: Cells, k: int) -> Integers:
            symbols[:, k] = cells.pop(stack)
            return symbols[:, k]

        self.visit(pop)
        return symbols.reshape(-1)
