"""The contract of seeds and noise: known answers, positions, streams, threads, agreement of backends."""

import functools
import operator

import pytest
import torch

from bfn_kernels import continuous, discrete, discretised, noise
from tests.kernels.op_cases import CASES
from tests.kernels.support import INTERPRETED, NATIVE, ON_CPU, error, joins, pairs, serves

KNOWN_WORDS = [  # counter, key, words: the answers published with Random123
    ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]
KNOWN_NORMALS = [  # seed, group, stream, draw, normals in float64
    (0, 0, 0, 0, [0.991137648, -0.924662595, -0.617608956, -0.482068642]),
    (1234567890123, 0, 0, 0, [-1.547716005, 0.474593318, 1.286926412, -0.628967266]),
    (-5, 0, 0, 0, [0.494536707, -0.495877852, -0.25049882, -0.210165875]),
    (7, 2**33 + 5, 1, 0, [0.310991388, -1.605356545, -1.307516635, 0.215295113]),
    (7, 3, 2, 9, [-0.993071604, -0.380348973, 3.021326258, 0.569174294]),
]
DRAWS = [c for c in CASES if {"noise", "draw_noise"} & set(c.fields) and not c.huge]
RANDOM = [c for c in DRAWS if c.into != "predicted_out"]  # a step makes its prediction before it has noise
random_ops = pytest.mark.parametrize(
    ("case", "backend"),
    [pytest.param(c, b, id=f"{b}-{c.name}") for b in ON_CPU for c in filter(joins, RANDOM) if serves(c, b)],
)


def seeded(case, shape, backend, seed, dtype=torch.float32):
    inputs = {k: v for k, v in case.inputs(shape, dtype).items() if not k.endswith("noise")}
    return case(inputs, backend, seed=seed)


def zeros(backend, shape, seed, dtype=torch.float32):
    """The sender's normals, read from a message of accuracy 1 about 0."""
    return continuous.sender_sample(torch.zeros(shape, dtype=dtype), 1.0, seed=seed, backend=backend)


@pytest.mark.parametrize(("counter", "key", "want"), KNOWN_WORDS)
def test_known_words(counter, key, want):
    as_int64 = lambda low, high: torch.tensor(noise._signed(low | high << 32))  # noqa: E731
    words = noise.philox(as_int64(*key), as_int64(*counter[:2]), *counter[2:])
    assert " ".join(f"{int(w):08x}" for w in words) == want


@pytest.mark.parametrize(("seed", "group", "stream", "draw", "want"), KNOWN_NORMALS)
def test_known_normals(seed, group, stream, draw, want):
    words = noise.philox(torch.tensor(seed), torch.tensor(group), stream, draw)
    got = noise._box_muller(words, torch.float64)
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64), rtol=0, atol=2e-9)


@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize(("seed", "want"), [(row[0], row[-1]) for row in KNOWN_NORMALS[:3]])
def test_known_normals_through_an_op(backend, seed, want):
    got = zeros(backend, (1, 4), seed)
    torch.testing.assert_close(got, torch.tensor([want]), rtol=0, atol=2e-6)
    assert torch.equal(zeros(backend, (1, 4), torch.tensor(seed)), got)


@pytest.mark.parametrize("backend", ON_CPU)
def test_a_seed_means_its_64_bits(backend):
    assert torch.equal(zeros(backend, (2, 3), 2**64 - 5), zeros(backend, (2, 3), -5))


@pytest.mark.parametrize("backend", ON_CPU)
def test_noise_belongs_to_positions(backend):
    """Elementwise data use their logical index, whatever their strides; each row of classes has groups of its own."""
    flat = zeros(backend, (60,), 3)
    assert torch.equal(zeros(backend, (3, 4, 5), 3).flatten(), flat)
    x = torch.zeros(5, 4, 3).permute(2, 1, 0)
    assert torch.equal(continuous.sender_sample(x, 1.0, seed=3, backend=backend).flatten(), flat)
    assert torch.equal(zeros(backend, (7,), 3), flat[:7])
    x = torch.zeros(4, dtype=torch.long)
    rows = discrete.sender_sample(x, 1.0, num_classes=5, seed=3, backend=backend) - torch.tensor([4.0, -1, -1, -1, -1])
    want = zeros(backend, (32,), 3).view(4, 8)[:, :5] * 5**0.5
    torch.testing.assert_close(rows, want, rtol=0, atol=6e-6)


@pytest.mark.skipif("cpu" not in NATIVE, reason="no other backend has threads of its own")
@pytest.mark.parametrize("case", [c for c in RANDOM if c.kernels], ids=str)
def test_threads_change_nothing(case):
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            results.append(seeded(case, (9, 40) if case.long else (37, 111), "cpu", 11))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[1], results[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pairs(NATIVE, lambda case: case in RANDOM)
def test_backends_make_the_same_noise(case, backend, dtype):
    if INTERPRETED and dtype == torch.float64 and not joins(case):
        pytest.skip("the interpreter makes normals of float64 for one case of each op")
    for shape in [(4, 3, 5)] if INTERPRETED else [(3, 7), (4, 3, 5)]:
        want, got = seeded(case, shape, "reference", -9, dtype), seeded(case, shape, backend, -9, dtype)
        # normals agree to 2e-6; what an op multiplies them with goes on top
        assert error(got, want) <= 2e-6 * max(1.0, want.abs().max().item()) * (4 if case.loss else 1)


@pytest.mark.parametrize("backend", NATIVE)
def test_backends_make_the_same_normals(backend):
    count = 30_000 if INTERPRETED else 250_000
    assert error(zeros(backend, (count,), 42), zeros("reference", (count,), 42, torch.float64)) <= 2e-6


@random_ops
def test_seeds_matter_and_torch_rules_without_one(case, backend):
    shape = (9, 9) if "known" in case.fields or case.options.get("num_bins") == 2 else (3, 5)
    want = seeded(case, shape, backend, 5)
    assert torch.equal(seeded(case, shape, backend, 5), want)
    assert not torch.equal(seeded(case, shape, backend, 6), want)
    zero = seeded(case, shape, backend, 0)  # a seed, and not the lack of one
    assert all(torch.equal(seeded(case, shape, backend, seed), zero) for seed in (0, torch.tensor(0), 2**64))
    torch.manual_seed(0)
    first, second = seeded(case, shape, backend, None), seeded(case, shape, backend, None)
    torch.manual_seed(0)
    assert torch.equal(seeded(case, shape, backend, None), first) and not torch.equal(first, second)


def test_seeds_that_are_drawn_have_64_bits():
    """Each bit is 0 in some seeds and 1 in others."""
    drawn = [noise.draw_seed(torch.device("cpu"), torch.Generator().manual_seed(i)).item() for i in range(200)]
    everywhere = 2**64 - 1
    assert functools.reduce(operator.or_, drawn) & everywhere == everywhere
    assert functools.reduce(operator.and_, drawn) & everywhere == 0


def test_streams_differ():
    """Sender and drawn value of one call are independent: across a batch their correlation is 0 within 5 sigma. Other
    tests compare the noise of every backend with the reference's."""
    count = 40_000
    zero = torch.zeros(count)
    sender = zeros("reference", (count,), 8)
    value = discretised.sample(zero, zero + 0.2, num_bins=4096, seed=8, backend="reference")
    draws = [noise.normal((count,), torch.tensor(8), noise.MONTE_CARLO, draw) for draw in range(2)]
    uniforms = noise.class_uniform((count,), torch.tensor(8))
    table = torch.corrcoef(torch.stack([sender, value, *draws, uniforms]))
    assert (table - torch.eye(5)).abs().max() < 5 / count**0.5


def test_moments():
    count = 1_000_000
    z = zeros("reference", (count,), 42).double()
    # five standard errors of the mean of z, z², z³, z⁴: √(var/n) with variances 1, 2, 15, 96
    for power, (moment, variance) in enumerate([(0, 1), (1, 2), (0, 15), (3, 96)], 1):
        assert abs((z**power).mean().item() - moment) < 5 * (variance / count) ** 0.5
    u = noise.class_uniform((count,), torch.tensor(42)).double()
    assert u.min() > 0 and u.max() <= 1
    assert abs(u.mean().item() - 0.5) < 5 / (12 * count) ** 0.5
