"""Intervals of integers for an entropy coder, which encodes data by the distributions of a Bayesian flow network.

An encoder and a decoder need exactly the same distribution function. In floating point, its values would depend on the
backend, and on the place of a number in its tensor. So parameters are rounded to integers once, by operations whose
results IEEE 754 defines to the bit. From there on, all numbers are integers, and all backends compute the same ones.

Lengths are multiples of 2⁻²⁴ standard deviations, and probabilities are multiples of 2⁻³⁰. Cell m of M has the interval
from F(m) to F(m + 1) of the integers from 0 to 2²⁴, with F(m) = m + cdf(m)·(2²⁴ − M). So no interval is empty, and each
number of [0, 2²⁴) belongs to one cell. docs/guides/compression.md says how a file is made of them.
"""

import functools
import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bfn_kernels import backends, checks
from bfn_kernels.torch_private import constant

PRECISION = 24  # the intervals lie in [0, 2^PRECISION)
UNIT, ONE = 24, 30  # lengths are multiples of 2^-UNIT standard deviations, and probabilities of 2^-ONE
LIMIT = 2.0**61  # of lengths, and of the range of a lattice or of several normals, three of which are added
# The table covers −WIDE to WIDE standard deviations, with 2^7 entries for each.
WIDE, SHIFT = 8, UNIT - 7
END = WIDE << UNIT


class Intervals(NamedTuple):
    """The intervals of some cells, int64 `[...]` each.

    Attributes:
        cell: The cells.
        start: F(cell).
        frequency: F(cell + 1) − F(cell). It is 0 for a cell that does not exist.

    Example:
        >>> Intervals(*torch.tensor([[0], [0], [2**24]])).frequency
        tensor([16777216])
    """

    cell: Tensor
    start: Tensor
    frequency: Tensor


@functools.cache
def normal_table(device: torch.device) -> Tensor:
    """Computes 2³⁰·Φ, the distribution function of the standard normal, at multiples of 1/128 from −8 to 8.

    The error of Python's `math.erfc` in float64, 1e-16, is far below the rounding to whole numbers.

    Args:
        device: The device of the result.

    Returns:
        The table, int64 `[2049]`.

    Example:
        >>> normal_table(torch.device("cpu"))[1024].item() == 2**29
        True
    """
    steps = (step / 128 for step in range(-WIDE * 128, WIDE * 128 + 1))
    values = [round(math.erfc(-z / math.sqrt(2)) / 2 * (1 << ONE)) for z in steps]
    return torch.tensor(values, device=device)


@constant
def _table(device: torch.device) -> Tensor:
    return normal_table(device)  # it has the cache, since torch.compile would ignore a cache of this function


def fixed(numbers: Tensor, bits: int, most: float = LIMIT) -> Tensor:
    """Rounds numbers to multiples of 2⁻ᵇ, to the nearest even one between two of them.

    Args:
        numbers: Lengths in standard deviations, or probabilities, float64 `[...]`.
        bits: b, `coding.UNIT` for lengths and `coding.ONE` for probabilities.
        most: The largest absolute value of the result. Larger results become this value.

    Returns:
        The numbers times 2ᵇ, int64 `[...]`.

    Raises:
        ValueError: If numbers are not float64, or on the CPU, if a number is NaN.

    Example:
        >>> fixed(torch.tensor([0.5], dtype=torch.float64), ONE).item() == 2**29
        True
    """
    if numbers.dtype != torch.float64:
        raise ValueError(f"numbers must be float64, got {numbers.dtype}")
    if checks.shows(numbers) and numbers.isnan().any():
        raise ValueError("numbers must not be NaN")
    return (numbers * 2.0**bits).clamp(-most, most).round().long()


TENSORS = "offset", "step", "weight", "edge", "width"


@dataclass(frozen=True)
class Lattice:
    """M cells of equal width on a line, and a normal or a mixture of normals of one standard deviation.

    The first cell begins at −∞, and the last one ends at ∞. Lengths are multiples of 2⁻²⁴ standard deviations.

    - One normal: offset, step and cells. It serves the Bayesian flow, or a discretised output distribution.
    - Two normals: also shift and weight. It serves the receiver distribution of two classes.
    - The K normals of a receiver distribution of discretised data: also shift, edge, width and num_bins. The
      probabilities of the normals are those of a discretised normal, the output distribution.

    Attributes:
        offset: The distance from the mean of the first normal to the lower end of cell 0, int64 `[...]`.
        step: The width of a cell, at least 0, int64, broadcastable to offset. cells·step is at most 2⁶¹.
        cells: M, from 1 to 2²⁴ − 1.
        shift: By how much the mean of a normal is larger than the mean of the normal before it, at least 0. num_bins·
            shift is at most 2⁶¹.
        weight: The probability of the second of two normals, a multiple of 2⁻³⁰, int64, broadcastable to offset.
        edge: The distance from the mean of the output distribution to the lower end of its first bin, in multiples of
            2⁻²⁴ of its own standard deviation, int64, broadcastable to offset.
        width: The width of its bins in the same unit, at least 0, int64, broadcastable to offset.
        num_bins: K, the number of its bins and of the normals, from 2 to 2²⁴ − 1. 0 without bins.

    Example:
        >>> zero, unit = torch.tensor([0]), torch.tensor([2**24])
        >>> round(Lattice(zero, unit, 2).interval(zero).frequency.item() / 2**24, 4)  # below one standard deviation
        0.8413
    """

    offset: Tensor
    step: Tensor
    cells: int
    shift: int = 0
    weight: Tensor | None = None
    edge: Tensor | None = None
    width: Tensor | None = None
    num_bins: int = 0

    def __post_init__(self) -> None:
        checks.integer("cells", self.cells, 1, 2**PRECISION - 1)
        checks.integer("shift", self.shift, 0, LIMIT / max(self.num_bins, 2))
        if self.num_bins:
            checks.integer("num_bins", self.num_bins, 2, 2**PRECISION - 1)
        if (self.edge is None) != (not self.num_bins) or (self.width is None) != (not self.num_bins):
            raise ValueError(f"edge and width must be given with num_bins, and only then, got num_bins={self.num_bins}")
        if self.num_bins and self.weight is not None:
            raise ValueError("weight must be None where num_bins is given")
        for name in TENSORS:
            _integers(name, getattr(self, name), self.offset)

    def __getitem__(self, which: Any) -> "Lattice":
        """The cells of some variables. which: an index of tensors in the shape of offset, such as a slice."""
        whole = {name: x for name in TENSORS if (x := getattr(self, name)) is not None and x.shape == self.offset.shape}
        return replace(self, **{name: x[which] for name, x in whole.items()})

    def interval(self, symbol: Tensor, *, backend: str | None = None) -> Intervals:
        """Computes the intervals of cells.

        Args:
            symbol: Cells, int64, in the shape of offset.
            backend: A name of `backends.BACKENDS`; None chooses one for the device.

        Returns:
            The intervals. If a cell is below 0 or at least M, its frequency is 0.

        Example:
            >>> zero = torch.tensor([0])
            >>> Lattice(zero, zero + 2**24, 2).interval(zero + 2).frequency
            tensor([0])
        """
        return self._call("symbol", symbol, False, backend)

    def find(self, slot: Tensor, *, backend: str | None = None) -> Intervals:
        """Finds the cells whose intervals hold some numbers.

        Args:
            slot: Numbers from 0 to 2²⁴ − 1, int64, in the shape of offset.
            backend: A name of `backends.BACKENDS`; None chooses one for the device.

        Returns:
            The intervals.

        Example:
            >>> zero = torch.tensor([0])
            >>> Lattice(zero, zero + 2**24, 2).find(zero + 2**24 - 1).cell
            tensor([1])
        """
        return self._call("slot", slot, True, backend)

    def _call(self, name: str, given: Tensor, find: bool, backend: str | None) -> Intervals:
        _integers(name, given, self.offset, broadcast=False)
        common, table = backends.library(backend, given.device).common, _table(given.device)
        components = 2 if self.weight is not None else max(self.num_bins, 1)
        call = lattice_intervals if common is None else common.lattice_intervals
        more = self.shift, self.weight, self.edge, self.width, table
        return Intervals(*call(given, find, self.offset, self.step, self.cells, components, *more))


@dataclass(frozen=True)
class Classes:
    """K classes, each with a probability.

    Attributes:
        weights: Probabilities, multiples of 2⁻³⁰, at least 0, int64 `[..., K]`, contiguous. Rounded numbers may add up
            to a little less or more than 2³⁰.

    Example:
        >>> Classes(torch.tensor([[2**30, 0]])).interval(torch.tensor([1])).frequency
        tensor([1])
    """

    weights: Tensor

    def __post_init__(self) -> None:
        if self.weights.dtype != torch.int64 or not self.weights.dim() or not self.weights.is_contiguous():
            raise ValueError(
                f"weights must be contiguous int64 [..., K], got {self.weights.dtype} {list(self.weights.shape)}"
            )
        checks.integer("the number of classes of weights", self.weights.shape[-1], 1, 2**PRECISION - 1)

    def __getitem__(self, which: Any) -> "Classes":
        """The classes of some variables. which: an index of the leading dimensions of weights, such as a slice."""
        return Classes(self.weights[which])

    def interval(self, symbol: Tensor, *, backend: str | None = None) -> Intervals:
        """Computes the intervals of classes.

        Args:
            symbol: Classes, int64 `[...]`.
            backend: A name of `backends.BACKENDS`; None chooses one for the device.

        Returns:
            The intervals. If a class is below 0 or at least K, its frequency is 0.

        Example:
            >>> Classes(torch.tensor([[2**29, 2**29]])).interval(torch.tensor([1])).start.item() == 2**23
            True
        """
        return self._call("symbol", symbol, False, backend)

    def find(self, slot: Tensor, *, backend: str | None = None) -> Intervals:
        """Finds the classes whose intervals hold some numbers.

        Args:
            slot: Numbers from 0 to 2²⁴ − 1, int64 `[...]`.
            backend: A name of `backends.BACKENDS`; None chooses one for the device.

        Returns:
            The intervals.

        Example:
            >>> Classes(torch.tensor([[2**29, 2**29]])).find(torch.tensor([2**23])).cell
            tensor([1])
        """
        return self._call("slot", slot, True, backend)

    def _call(self, name: str, given: Tensor, find: bool, backend: str | None) -> Intervals:
        _integers(name, given, self.weights[..., 0], broadcast=False)
        common = backends.library(backend, given.device).common
        return Intervals(*(class_intervals if common is None else common.class_intervals)(given, find, self.weights))


def _integers(name: str, x: Tensor | None, like: Tensor, broadcast: bool = True) -> None:
    if x is None:
        return
    checks.same_device(name, x, "offset or weights", like)
    sizes = zip(reversed(x.shape), reversed(like.shape), strict=False)
    broadcasts = x.dim() <= like.dim() and all(size in (1, wanted) for size, wanted in sizes)
    if x.dtype != torch.int64 or not (broadcasts if broadcast else x.shape == like.shape):
        raise ValueError(f"{name} must be int64 {list(like.shape)}, got {x.dtype} {list(x.shape)}")


# The reference. Its functions have the arguments of the operators `lattice_intervals` and `class_intervals`.


def normal_cdf(z: Tensor, table: Tensor) -> Tensor:
    """2³⁰·Φ at multiples of 2⁻²⁴, by linear interpolation of the table, so that it never falls."""
    place = z.clamp(-END, END - 1) + END
    index, part = place >> SHIFT, place & ((1 << SHIFT) - 1)
    low = table[index]
    return low + ((table[index + 1] - low) * part >> SHIFT)


def lattice_intervals(
    given: Tensor, find: bool, offset: Tensor, step: Tensor, cells: int, components: int, shift: int,
    weight: Tensor | None, edge: Tensor | None, width: Tensor | None, table: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    k = torch.arange(components, device=given.device)
    if weight is not None:
        below = torch.stack([torch.zeros_like(given), ((1 << ONE) - weight).expand_as(given)], -1)
    elif edge is not None and width is not None:
        below = normal_cdf((edge.unsqueeze(-1) + k * width.unsqueeze(-1)).expand(*given.shape, -1), table)
        below = torch.where(k == 0, 0, below)
    else:
        below = torch.zeros_like(given).unsqueeze(-1)
    weights = below.diff(dim=-1, append=torch.full_like(below[..., :1], 1 << ONE))

    def edge_of(cell: Tensor) -> Tensor:
        z = offset + cell * step
        cdf = (weights * normal_cdf(z.unsqueeze(-1) - k * shift, table)).sum(-1) >> ONE
        return _edge(cell, cells, cdf)

    return _find(given, cells, edge_of) if find else _intervals(given, cells, edge_of)


def class_intervals(given: Tensor, find: bool, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    classes = weights.shape[-1]
    below = torch.cat([torch.zeros_like(weights[..., :1]), weights.cumsum(-1)], -1)

    def edge_of(cell: Tensor) -> Tensor:
        inside = cell.clamp(0, classes).unsqueeze(-1)
        return _edge(cell, classes, below.gather(-1, inside).squeeze(-1))

    return _find(given, classes, edge_of) if find else _intervals(given, classes, edge_of)


def _edge(cell: Tensor, cells: int, cdf: Tensor) -> Tensor:
    """F(cell)."""
    inside = cell + (cdf.clamp(max=1 << ONE) * ((1 << PRECISION) - cells) >> ONE)
    return torch.where(cell <= 0, 0, torch.where(cell >= cells, 1 << PRECISION, inside))


def _intervals(cell, cells, edge_of):
    exists = (cell >= 0) & (cell < cells)
    start, end = edge_of(cell), edge_of(cell + 1)
    return cell.clone(), torch.where(exists, start, 0), torch.where(exists, end - start, 0)


def _find(slot, cells, edge_of):
    """The cells by bisection."""
    low, start = torch.zeros_like(slot), torch.zeros_like(slot)
    high, end = torch.full_like(slot, cells), torch.full_like(slot, 1 << PRECISION)
    for _ in range((cells - 1).bit_length()):
        middle = (low + high) >> 1
        edge = edge_of(middle)
        below = edge <= slot
        low, start = torch.where(below, middle, low), torch.where(below, edge, start)
        high, end = torch.where(below, high, middle), torch.where(below, end, edge)
    return low, start, end - start
