"""The coder, its distributions, and the lattices of the files of `bfn compress`."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from bfn.codec.intervals import Bins, Joint, classes, normals, pairs
from bfn.codec.lattice import steps_of
from bfn.codec.rans import Stack, StackError
from bfn_kernels.coding import PRECISION

RANDOM = np.random.default_rng()


def reseed():
    RANDOM.bit_generator.state = np.random.default_rng(3).bit_generator.state


seed = pytest.fixture(autouse=True)(reseed)


def filled(lanes=16, words=5000):
    """A stack of random words, whose heads are open."""
    stack = Stack(PRECISION, RANDOM.integers(0, 1 << 32, words, dtype=np.uint32))
    stack.add_heads(lanes)
    return stack


def content(stack):
    """The bits that the stack and its heads hold."""
    return stack.bits + np.log2(stack.heads.astype(float)).sum() + math.log2(stack.scalar)


def test_a_stack_gives_back_what_was_pushed():
    stack, cells = filled(), classes(RANDOM.dirichlet([0.3] * 9, 500))
    before, symbols = stack.to_bytes(), RANDOM.integers(0, 9, 500)
    heads = stack.heads.copy()
    start, frequency = cells.intervals(symbols)
    held = content(stack)
    stack.push(start, frequency)
    assert content(stack) - held == pytest.approx((PRECISION - np.log2(frequency)).sum(), abs=0.1)
    stack.remove_heads(0)
    stack = Stack.of_bytes(stack.to_bytes(), PRECISION)
    stack.add_heads(16)
    assert (cells.pop(stack) == symbols).all()
    assert (stack.heads == heads).all() and stack.to_bytes() == before
    stack.remove_heads(16)
    assert stack.size < 5000
    stack.remove_heads(0)
    assert stack.size == 5000


def test_a_full_head():
    """At the limit, a head gives a word to the stack before a symbol is pushed: otherwise it would overflow."""
    stack, width = filled(lanes=1), 77
    stack.heads[0] = head = np.uint64(width << (64 - PRECISION))
    stack.push(np.array([5]), np.array([width]))
    assert stack.pop(1, lambda slot, which: (np.zeros(1, int), np.array([5]), np.array([width]))).tolist() == [0]
    assert stack.heads[0] == head


def test_bits_that_are_not_there_are_an_error():
    stack = filled(words=36)
    with pytest.raises(StackError, match="words are read, and the stack has"):
        classes(np.full((500, 16), 1 / 16)).pop(stack)


def bins():
    return Bins(RANDOM.uniform(-1, 1, 5), RANDOM.uniform(0.01, 1, 5), 17)


CELLS = {
    "normals": lambda: normals(RANDOM.normal(size=5) * 100, 0.7, 0.5),
    "narrow normals": lambda: normals(RANDOM.normal(size=5), 1e-6, 1e-6),
    "pairs": lambda: pairs(RANDOM.normal(size=5), 1.5, RANDOM.uniform(size=5), 0.3, 0.2),
    "bins": lambda: bins().cells(),
    "the receiver of bins": lambda: bins().receiver(RANDOM.normal(size=5), 2.0, 0.3, 0.2),
    "classes": lambda: classes(RANDOM.dirichlet([0.01] * 256, 5)),
}


@pytest.mark.parametrize("kind", CELLS)
def test_what_is_popped_is_pushed_back(kind):
    cells, stack = CELLS[kind](), filled(lanes=3)
    before, heads = stack.to_bytes(), stack.heads.copy()
    symbols = cells.pop(stack)
    cells.push(stack, symbols)
    assert stack.to_bytes() == before and (stack.heads == heads).all()


def normal_cdf(x):
    return np.vectorize(math.erf)(x / math.sqrt(2)) / 2 + 0.5


def masses(cells, symbols):
    return np.stack([cells.intervals(np.full(cells.count, each))[1] / 2**PRECISION for each in symbols], 1)


def test_lattices_have_the_probabilities_of_their_mixtures():
    """The symbol j of a lattice of spacing δ has the mass between (j − ½)δ and (j + ½)δ."""
    symbols, mean, std, delta, w = np.arange(-7, 8), RANDOM.uniform(-0.5, 0.5, 5), 0.3, 0.2, 2.0

    def between(m):
        low, high = (normal_cdf(((symbols + end) * delta - m) / std) for end in (-0.5, 0.5))
        return high - low

    probability, output = RANDOM.uniform(size=5), bins()
    edges = normal_cdf((np.linspace(-1, 1, 18)[1:-1] - output.mean[:, None]) / output.std[:, None])
    p = np.diff(edges, axis=1, prepend=0, append=1)
    np.testing.assert_allclose(masses(output.cells(), range(17)), p, atol=6e-6)
    for cells, weights, shifts in (
        (normals(mean, std, delta), np.ones((5, 1)), [0]),
        (pairs(mean, 1.5, probability, std, delta), np.stack([1 - probability, probability], 1), [0, 1.5]),
        (output.receiver(mean, w, std, delta), p, w * (np.arange(17) * 2 + 1) / 17 - w),
    ):
        want = sum(p_k[:, None] * between(mean[:, None] + shift) for p_k, shift in zip(weights.T, shifts, strict=True))
        np.testing.assert_allclose(masses(cells, symbols), want, atol=1e-5)


@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_points_of_classes_have_their_probabilities(spread):
    """The coordinates' intervals multiply to the mass of the mixture over classes, which is computed in float64."""
    shift, std, delta = spread, 0.7, 0.4
    p = np.concatenate([RANDOM.dirichlet([0.5] * 4, 40), np.eye(4)[:2]])
    mean = RANDOM.normal(size=p.shape)
    of = np.array([RANDOM.choice(4, p=row) for row in p])
    points = np.rint((mean + shift * np.eye(4)[of] + std * RANDOM.normal(size=p.shape)) / delta).astype(np.int64)
    want = np.zeros(len(p))
    for k in range(4):
        centre = mean + shift * np.eye(4)[k]
        low, high = (np.vectorize(math.erf)(((points + e) * delta - centre) / std / 2**0.5) for e in (-0.5, 0.5))
        want += p[:, k] * ((high - low) / 2).prod(1)
    got = np.zeros(len(p))
    pushed = SimpleNamespace(push=lambda start, frequency: got.__iadd__(PRECISION - np.log2(frequency)))
    Joint(mean.reshape(-1), shift, p, std, delta).push(pushed, points.reshape(-1))
    np.testing.assert_allclose(got, -np.log2(want), rtol=0.01, atol=0.03)


def test_points_of_classes_come_back():
    p, mean = RANDOM.dirichlet([0.1] * 27, 50), RANDOM.normal(size=50 * 27)
    points = np.rint(mean / 0.5).astype(np.int64) + RANDOM.integers(-2, 3, mean.shape)
    stack = filled(words=20_000)
    before, heads = stack.to_bytes(), stack.heads.copy()
    Joint(mean, 2.0, p, 0.9, 0.5).push(stack, points)
    assert (Joint(mean, 2.0, p, 0.9, 0.5).pop(stack) == points).all()
    assert stack.to_bytes() == before and (stack.heads == heads).all()


@pytest.mark.parametrize("symbol", [-1000, 1000])
def test_a_message_outside_of_the_lattice_is_an_error(symbol):
    with pytest.raises(OverflowError, match="outside of the lattice"):
        normals(np.zeros(1), 1.0, 0.5).intervals(np.array([symbol]))


def test_fine_lattices_have_the_receiver_of_the_paper():
    alpha = np.array([0.3, 0.5, 1.1])
    for i, step in enumerate(steps_of(alpha, 1e-4)):
        if i:
            assert step.w == pytest.approx(alpha[i - 1], rel=1e-6) and step.std == pytest.approx(alpha[i - 1] ** 0.5)
            assert step.seen == pytest.approx(alpha[:i].sum()) and step.g == pytest.approx(float(i > 1))


def test_the_moments_of_coarse_lattices():
    """Of states that are drawn as the codec draws them: S_i given S_{i−1} and x is as the receiver says."""
    alpha, n, x = np.array([0.5, 0.7, 0.9]), 400_000, 0.6
    steps = steps_of(alpha, 1.5)
    step = steps[3]
    state = step.spacing * np.rint((x * alpha.sum() + RANDOM.normal(size=n) * alpha.sum() ** 0.5) / step.spacing)
    for i in (3, 2):
        step, to = steps[i], steps[i - 1].spacing
        before = to * np.rint((step.back * state + RANDOM.normal(size=n) * step.bridge) / to)
        (slope, _), rest = np.polyfit(before, state, 1), state - step.g * before - step.w * x
        assert slope == pytest.approx(step.g, abs=0.01) and rest.mean() == pytest.approx(0, abs=0.01)
        assert rest.var() == pytest.approx(step.std**2 + step.spacing**2 / 12, rel=0.02)
        assert state.var() == pytest.approx(alpha[:i].sum() * step.seen**-1 * alpha[:i].sum(), rel=0.02)
        state = before
