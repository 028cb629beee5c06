"""Intervals of integers: all backends compute the same ones, which have the probabilities of their distributions."""

import math

import pytest
import torch
from torch.distributions import Normal

from bfn_kernels import coding
from bfn_kernels.coding import ONE, PRECISION, UNIT, Classes, Lattice, fixed
from tests.kernels.support import NATIVE, ON_CPU

ALL = 2**PRECISION


def generator():
    return torch.Generator().manual_seed(3)


def random(*shape):
    return torch.rand(shape, generator=generator(), dtype=torch.float64)


def normals(count, mean, std, delta, cells):
    """A lattice around 0."""
    mean, std = torch.as_tensor(mean).double().expand(count), torch.as_tensor(std).double().expand(count)
    offset = (-cells / 2 * delta - mean) / std
    return Lattice(fixed(offset, UNIT), fixed(delta / std, UNIT, coding.LIMIT / cells), cells)


def pair(count, probability, shift=1.5, delta=0.4, cells=31):
    of = normals(count, random(count) - 0.5, 0.7, delta, cells)
    weight = fixed(torch.as_tensor(probability).double(), ONE)
    return Lattice(of.offset, of.step, cells, round(shift / 0.7 * 2**UNIT), weight)


def bins(count, num_bins, std, w=3.0, delta=0.4, cells=40):
    """The receiver distribution of bins of [−1, 1], whose output distributions have random means."""
    of = normals(count, -w * (1 - 1 / num_bins) + random(count), 0.7, delta, cells)
    std = torch.as_tensor(std).double().expand(count)
    edge = (-1 - (2 * random(count, 2)[:, 1] - 1)) / std
    width = fixed(2 / num_bins / std, UNIT, coding.LIMIT / num_bins)
    shift = round(2 / num_bins * w / 0.7 * 2**UNIT)
    return Lattice(of.offset, of.step, cells, shift, None, fixed(edge, UNIT), width, num_bins)


def classes(count, num_classes, power=1.0):
    p = random(count, num_classes) ** power
    return Classes(fixed(p / p.sum(-1, keepdim=True), ONE))


SMALL = {
    "one normal": lambda: normals(5, random(5), 0.7, 0.5, 20),
    "one cell": lambda: normals(3, 0.0, 1.0, 0.5, 1),
    "narrow normals": lambda: normals(5, 1e-3 * random(5), 1e-6, 0.5, 20),
    "wide normals": lambda: normals(5, random(5), 1e12, 0.5, 20),
    "a discretised normal": lambda: normals(7, random(7), 1e-3 + random(7), 2 / 256, 256),
    "two normals": lambda: pair(9, random(9)),
    "two normals far apart": lambda: pair(9, random(9), shift=90.0),
    "one of two normals": lambda: pair(2, [0.0, 1.0]),
    "one of two normals far apart": lambda: pair(2, [0.0, 1.0], shift=9e3),
    "two bins": lambda: bins(6, 2, 0.5),
    "17 bins": lambda: bins(150, 17, 0.5),
    "256 bins": lambda: bins(6, 256, 0.01 + 3 * random(6), w=100.0, cells=300),
    "256 bins without mass": lambda: bins(6, 256, 1e-6, w=100.0, cells=300),
    "2 classes": lambda: classes(150, 2),
    "27 classes": lambda: classes(40, 27, 9.0),
    "certain classes": lambda: Classes(fixed(torch.eye(5, dtype=torch.float64), ONE)),
    "nothing": lambda: normals(0, 0.0, 1.0, 0.5, 4),
    "no rows": lambda: classes(0, 4),
}
LARGE_RANGES = {
    "many cells": lambda: normals(40, random(40), 1.0, 1e-5, 2**20),
    "65 536 bins": lambda: bins(3, 65_536, 0.3, w=1e5, delta=5e4, cells=5),
    "300 classes": lambda: classes(3, 300, 40.0),
    "65 536 classes": lambda: classes(1, 65_536, 300.0),
}
CASES = SMALL | LARGE_RANGES


def count_of(cells):
    return cells.cells if isinstance(cells, Lattice) else cells.weights.shape[-1]


def shape_of(cells):
    return cells.offset.shape if isinstance(cells, Lattice) else cells.weights.shape[:-1]


def asked(cells):
    """Cells, among them those that do not exist, and numbers, among them the ends of intervals."""
    many, shape = count_of(cells), shape_of(cells)
    place = torch.randint(-1, many + 1, (3, *shape), generator=generator())
    symbols = [torch.zeros(shape, dtype=torch.int64), torch.full(shape, many - 1), *place, torch.full(shape, many)]
    starts = [cells.interval(symbol, backend="reference").start for symbol in symbols]
    slots = [start.clamp(0, ALL - 1) for start in starts] + [(start - 1).clamp(0) for start in starts]
    drawn = torch.randint(0, ALL, (2, *shape), generator=generator())
    return symbols, [*slots, *drawn, torch.full(shape, ALL - 1)]


def check_equal(cells, backend):
    symbols, slots = asked(cells)
    for call, given in [*((cells.interval, each) for each in symbols), *((cells.find, each) for each in slots)]:
        for got, want in zip(call(given, backend=backend), call(given, backend="reference"), strict=True):
            assert got.dtype == torch.int64 and got.is_contiguous() and torch.equal(got, want)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", NATIVE)
def test_backends_are_equal_to_the_bit(backend, name):
    check_equal(CASES[name](), backend)


@pytest.mark.parametrize("backend", NATIVE)
def test_any_strides(backend):
    table = fixed(4 * random(6, 4) - 2, UNIT)
    step = torch.tensor(2**23)
    for offset in (table.t(), table[::2, 1:], table[:, :1].expand(6, 4), table[0, 0].expand(3, 5)):
        cells = Lattice(offset, step, 9, 2**25, fixed(random(1), ONE))
        symbol = torch.arange(offset.numel()).reshape(offset.t().shape).t() % 9
        for got, want in zip(
            cells.interval(symbol, backend=backend), cells.interval(symbol, backend="reference"), strict=True
        ):
            assert torch.equal(got, want)


@pytest.mark.parametrize("name", [name for name in CASES if "65" not in name and "many" not in name])
def test_each_number_belongs_to_one_cell(name):
    cells = CASES[name]()
    each = [cells.interval(torch.full(shape_of(cells), cell)) for cell in range(count_of(cells))]
    start, frequency = torch.stack([of.start for of in each]), torch.stack([of.frequency for of in each])
    assert (frequency > 0).all() and (start == frequency.cumsum(0) - frequency).all()
    assert (frequency.sum(0) == ALL).all()
    for slot in asked(cells)[1]:
        cell, start, frequency = cells.find(slot)
        assert ((start <= slot) & (slot < start + frequency)).all()
        of = cells.interval(cell)
        assert torch.equal(of.start, start) and torch.equal(of.frequency, frequency)


def test_the_table_of_the_normal():
    """Linear interpolation is off by max |φ'|/8/128² at most. No entry depends on the last digits of erfc."""
    z = 18 * random(4000) - 9
    got = coding.normal_cdf(fixed(z, UNIT), coding.normal_table(z.device)) / 2**ONE
    assert (got - Normal(0, 1).cdf(z)).abs().max() < 2e-6
    table = coding.normal_table(z.device)
    assert (table.diff() >= 0).all() and table[-2:].tolist() == [2**ONE] * 2 and table[0] == 0
    assert torch.equal(table + table.flip(0), torch.full_like(table, 2**ONE))
    exact = [math.erfc(-z / 128 / math.sqrt(2)) / 2 * 2**ONE for z in range(-1024, 0)]
    assert all(abs(each % 1 - 0.5) > 1e-5 for each in exact)


def probabilities(cells, of):
    """2^-PRECISION times the frequencies of all cells."""
    each = [of.interval(torch.full(shape_of(of), cell)).frequency for cell in range(cells)]
    return torch.stack(each, -1).double() / ALL


def test_lattices_have_the_probabilities_of_their_normals():
    edges = (torch.arange(1, 31) - 31 / 2) * 0.4
    mean, p = random(9) - 0.5, random(9)
    below = lambda m: Normal(m[:, None], 0.7).cdf(edges)  # noqa: E731
    found = probabilities(31, normals(9, mean, 0.7, 0.4, 31)).cumsum(-1)[:, :-1]
    torch.testing.assert_close(found, below(mean), atol=1e-5, rtol=0)
    found = probabilities(31, pair(9, p)).cumsum(-1)[:, :-1]
    torch.testing.assert_close(
        found, (1 - p[:, None]) * below(mean) + p[:, None] * below(mean + 1.5), atol=1e-5, rtol=0
    )


def test_the_receiver_of_bins():
    w, num_bins, std = 3.0, 17, 0.5
    of, edges = bins(6, num_bins, std), (torch.arange(1, 40) - 20) * 0.4
    output = Normal((2 * random(6, 2)[:, 1] - 1)[:, None], std)
    inner = output.cdf(-1 + 2 / num_bins * torch.arange(1, num_bins))
    p = torch.cat([torch.zeros(6, 1), inner, torch.ones(6, 1)], -1).diff()
    centres = -w * (1 - 1 / num_bins) + random(6)[:, None] + 2 / num_bins * w * torch.arange(num_bins)
    want = (p[:, None] * Normal(centres[:, None], 0.7).cdf(edges[:, None])).sum(-1)
    torch.testing.assert_close(probabilities(40, of).cumsum(-1)[:, :-1], want, atol=2e-5, rtol=0)


def test_classes_have_their_probabilities():
    p = random(40, 27)
    p = p / p.sum(-1, keepdim=True)
    torch.testing.assert_close(probabilities(27, Classes(fixed(p, ONE))), p, atol=1e-5, rtol=0)


@pytest.mark.parametrize("backend", ON_CPU)
def test_cells_that_do_not_exist_have_no_frequency(backend):
    for cells in (normals(2, 0.0, 1.0, 0.5, 4), Classes(fixed(torch.full((2, 4), 0.25).double(), ONE))):
        cell, _, frequency = cells.interval(torch.tensor([-1, 4]), backend=backend)
        assert cell.tolist() == [-1, 4] and frequency.tolist() == [0, 0]


def test_numbers_are_rounded_once():
    assert fixed(torch.tensor([0.5, 1.5, -0.5, 1e300]).double() / 2**UNIT, UNIT).tolist() == [0, 2, 0, 2**61]
    with pytest.raises(ValueError, match=r"numbers must be float64, got torch\.float32"):
        fixed(torch.zeros(1), UNIT)
    with pytest.raises(ValueError, match="numbers must not be NaN"):
        fixed(torch.tensor([torch.nan]).double(), UNIT)


ZERO = torch.zeros(2, dtype=torch.int64)
REFUSED = {
    "cells must be at least 1, got 0": lambda: Lattice(ZERO, ZERO, 0),
    "cells must be": lambda: Lattice(ZERO, ZERO, 2**24),
    "shift must be": lambda: Lattice(ZERO, ZERO, 2, -1),
    "offset must be int64": lambda: Lattice(torch.zeros(2), ZERO, 2),
    r"step must be int64 \[2\], got torch.int64 \[3\]": lambda: Lattice(ZERO, ZERO.new_zeros(3), 2),
    r"step must be int64 \[2\], got torch.int64 \[3, 2\]": lambda: Lattice(ZERO, ZERO.new_zeros(3, 2), 2),
    "edge and width must be given with num_bins": lambda: Lattice(ZERO, ZERO, 2, 1, edge=ZERO, num_bins=3),
    "only then, got num_bins=0": lambda: Lattice(ZERO, ZERO, 2, 1, edge=ZERO),
    "num_bins must be": lambda: Lattice(ZERO, ZERO, 2, 1, edge=ZERO, width=ZERO, num_bins=1),
    "weight must be None": lambda: Lattice(ZERO, ZERO, 2, 1, ZERO, ZERO, ZERO, 3),
    "weight must be on cpu": lambda: Lattice(ZERO, ZERO, 2, 1, ZERO.to("meta")),
    r"symbol must be int64 \[2\], got torch.int64 \[1\]": lambda: Lattice(ZERO, ZERO, 2).interval(ZERO[:1]),
    r"slot must be int64 \[2\], got torch.int32": lambda: Lattice(ZERO, ZERO, 2).find(ZERO.int()),
    "weights must be contiguous int64": lambda: Classes(ZERO.new_zeros(3, 2).t()),
    "the number of classes of weights must be": lambda: Classes(ZERO.new_zeros(3, 0)),
    r"slot must be int64 \[3\]": lambda: Classes(ZERO.new_zeros(3, 2)).find(ZERO),
    "backend must be None or one of": lambda: Lattice(ZERO, ZERO, 2).find(ZERO, backend="mine"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refusals(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()


@pytest.mark.skipif("cpu" not in NATIVE, reason="the operators of the CPU")
def test_operators_check_what_they_read():
    """Callers of torch.ops pass any arguments. Nothing is read out of bounds."""
    common, table = coding.backends.library("cpu", ZERO.device).common, coding.normal_table(ZERO.device)
    good = [ZERO, False, ZERO, ZERO, 4, 1, 0, None, None, None, table]
    common.lattice_intervals(*good)
    for place, value in (
        (4, 0),
        (4, 2**24),
        (5, 0),
        (5, 2),
        (6, -1),
        (10, table[1:]),
        (10, table.float()),
        (2, ZERO.int()),
    ):
        with pytest.raises(ValueError):
            common.lattice_intervals(*good[:place], value, *good[place + 1 :])
    for weights in (ZERO, ZERO.new_zeros(3, 2), ZERO.new_zeros(2, 0), ZERO.new_zeros(2, 3).float()):
        with pytest.raises(ValueError):
            common.class_intervals(ZERO, False, weights)


@pytest.mark.parametrize("name", ["two normals", "27 classes"])
@pytest.mark.parametrize("backend", [name for name in NATIVE if not name.startswith("triton")])
def test_compiled_calls(backend, name):
    cells = CASES[name]()
    compiled = torch.compile(lambda given: cells.find(given, backend=backend), backend="aot_eager", fullgraph=True)
    slot = torch.randint(0, ALL, shape_of(cells), generator=generator())
    for got, want in zip(compiled(slot), cells.find(slot, backend="reference"), strict=True):
        assert torch.equal(got, want)
