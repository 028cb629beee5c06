"""The arguments that public functions accept, and those that they refuse because results would be silently wrong."""

import functools
from dataclasses import replace

import numpy
import pytest
import torch

from bfn_kernels import checks, continuous, discrete, discretised
from bfn_kernels.schedules import ExponentialVariance, LogarithmicAccuracy, QuadraticAccuracy
from tests.kernels.support import FIRST, INTERPRETED, ON_CPU, SHARED
from tests.kernels.test_noise import RANDOM

X, Z = torch.linspace(-1, 1, 12).reshape(3, 4), torch.linspace(-2, 2, 60).reshape(3, 4, 5)
CLASSES = torch.arange(12).reshape(3, 4) % 5
S, B = {"sigma_1": 0.1}, {"beta_1": 2.0}
BINS = {"num_bins": 8, **S}
ON_EACH = pytest.mark.parametrize("backend", ON_CPU)


def gpu_like(backend):
    """Whether a bad value in a tensor makes the backend return NaN instead of raising an error. Code for GPUs does
    this, because the CPU would have to wait for the GPU to read the value."""
    return backend not in ("cpu", "reference")


L_N = {
    "continuous": lambda *t, **k: continuous.discrete_time_loss(X, X / 2, X / 3, *t, **S, **k),
    "discretised": lambda *t, **k: discretised.discrete_time_loss(X, X / 2, X - 2, X / 3, *t, **BINS, **k),
    "discrete": lambda *t, **k: discrete.discrete_time_loss(
        CLASSES[..., :1] % 2, Z[:, :1, :2], *t, quadrature=8, **B, **k
    ),
}

# One function of Triton finds the step of a time for all families.
OF_STEPS = ["continuous"] if INTERPRETED else [*L_N]


@pytest.mark.parametrize("family", OF_STEPS)
@ON_EACH
def test_the_step_in_the_place_of_its_time(family, backend):
    loss = L_N[family]
    each = torch.tensor([1, 3, 20])
    for n, i in (
        (20, 7),
        (1, 1),
        (numpy.int64(3), numpy.int32(3)),
        (20, each),
        (20, each.short()),
        (20, each.to(torch.int8)),
        (1000, each[:, None]),
    ):
        t = (i - 1) / n if not torch.is_tensor(i) else (i.double() - 1) / n
        got = loss(step=i, n_steps=n, backend=backend)
        assert got.isfinite() and torch.equal(got, loss(t, n_steps=n, backend=backend))
    rounded = ((each - 1) / 20).float()  # the nearest float32, as floor(20 * t) / 20 returns it for a float32 t
    # The scales of x̂ follow the rounded time, and may differ in the last place.
    got, want = loss(rounded, n_steps=20, backend=backend), loss(step=each, n_steps=20, backend=backend)
    torch.testing.assert_close(got, want, rtol=3e-7, atol=0)


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("family", OF_STEPS)
@ON_EACH
def test_times_near_that_of_a_step_are_of_the_step(family, backend, as_tensor):
    """A millionth of n·t, or of 1 for the first steps, is rounding; three times as much is another time."""
    n = 50
    make = (lambda t: torch.tensor([t] * 3, dtype=torch.float64)) if as_tensor else float
    loss = lambda t=None, **k: L_N[family](*[] if t is None else [make(t)], n_steps=n, backend=backend, **k)  # noqa: E731
    for before in (0, 1, 3, n - 1):
        size, want = 1e-6 * max(before, 1), loss(step=before + 1)
        for sign in (1, -1) if before else (1,):
            torch.testing.assert_close(loss((before + 0.9 * sign * size) / n), want, rtol=1e-4, atol=0)
            far = (before + 3 * sign * size) / n
            if gpu_like(backend):
                assert loss(far).isnan()
            else:
                with pytest.raises(ValueError, match=r"^t must be"):
                    loss(far)


@pytest.mark.parametrize("family", L_N)
@pytest.mark.parametrize("t", [0.35, 1.0, 0.1 + 1e-4, torch.tensor([0.0, 0.1, 0.52]), torch.tensor([0.1, 1.0, 0.1])])
@ON_EACH
def test_times_that_no_step_has(family, t, backend):
    loss = lambda: L_N[family](t, n_steps=10, reduction="batch", backend=backend)  # noqa: E731
    if gpu_like(backend):
        times = torch.as_tensor(t).expand(3)
        assert torch.equal(loss().isnan(), (times * 10 % 1 > 1e-3) | (times == 1))
    else:
        with pytest.raises(ValueError, match=r"^t must be \(i - 1\)/n for a step i from 1 to n = 10"):
            loss()


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({}, ValueError, "exactly one of t and step must be given"),
        ({"t": 0.1, "step": 2}, ValueError, "exactly one of t and step must be given"),
        ({"step": 1.5}, TypeError, "step must be an int, got float"),
        ({"step": torch.ones(3)}, TypeError, "step must be an int or an integer tensor, got torch.float32"),
        ({"step": torch.ones(2, dtype=torch.long)}, ValueError, "step must be a scalar or have the shape of a leading"),
    ],
)
@pytest.mark.parametrize("family", L_N)
def test_bad_steps(arguments, kind, message, family):
    time = [arguments["t"]] if "t" in arguments else []
    with pytest.raises(kind, match=message):
        L_N[family](*time, step=arguments.get("step"), n_steps=10)


@pytest.mark.parametrize("backend", [b for b in ON_CPU if not gpu_like(b)])
def test_an_error_of_a_range_shows_the_given_range(backend):
    with pytest.raises(ValueError, match=r"^x must lie in \[0(\.0)?, 0\.1\], got 0\.2"):
        continuous.continuous_time_loss(X / X * 0.2, X, X, 0.5, clip=(0, 0.1), backend=backend, **S)


@pytest.mark.parametrize(
    "clip",
    [(0, None), (None, 1), ("low", "high"), (1, 0), (0, torch.nan), (0, 1, 2), (), 1.0, (X, X + 1)],
    ids=str,
)
def test_a_range_that_is_none(clip):
    with pytest.raises(ValueError, match=r"^clip must be None or a pair \(low, high\) with low < high, got "):
        continuous.predict_data(X, X, 0.5, clip=clip, **S)


@ON_EACH
def test_data_without_bounds(backend):
    for loss in (continuous.continuous_time_loss, continuous.discrete_time_loss):
        n = {"n_steps": 2} if loss is continuous.discrete_time_loss else {}
        assert loss(X * 9, X, X, 0.5, clip=None, backend=backend, **S, **n).isfinite()
    assert continuous.continuous_time_loss(X * 9, X, X, 0.5, clip=(-9, 9), backend=backend, **S).isfinite()


@pytest.mark.parametrize("num_bins", [2, 17, 256, 4096])
def test_levels_and_bin_centres(num_bins):
    levels = torch.arange(num_bins).reshape(2, -1) if num_bins % 2 == 0 else torch.arange(num_bins)
    x = discretised.from_levels(levels, num_bins=num_bins)
    assert torch.equal(x, ((2 * levels.double() + 1) / num_bins - 1).float()) or num_bins == 17
    torch.testing.assert_close(x.double(), (2 * levels.double() + 1) / num_bins - 1, rtol=0, atol=6e-8)
    assert torch.equal(discretised.to_levels(x, num_bins=num_bins), levels)
    std = torch.full_like(x, 0.1 / num_bins)
    assert torch.equal(discretised.mode(x, std, num_bins=num_bins), x)
    if num_bins == 256:
        assert torch.equal(discretised.from_levels(levels.byte(), num_bins=256), x)
        assert discretised.from_levels(levels, num_bins=256, dtype=torch.float64).dtype == torch.float64
    with pytest.raises(IndexError, match=f"levels must.*{num_bins}"):
        discretised.from_levels(levels + 1, num_bins=num_bins)
    with pytest.raises(TypeError, match=r"dtype must be one of.*int64"):
        discretised.from_levels(levels, num_bins=num_bins, dtype=torch.int64)


LEADING = torch.tensor([True, False, True])


def test_a_mask_must_not_fit_both_the_leading_and_the_trailing_dimension():
    square, mask = torch.zeros(3, 3), torch.tensor([True, False, True])
    for m, clear in ((mask, False), (mask[:, None], True), (mask[None], True), (torch.ones(1, dtype=torch.bool), True)):
        loss = lambda m=m: continuous.continuous_time_loss(square, square, square, 0.5, mask=m, **S)  # noqa: E731
        if clear:
            loss()
        else:
            with pytest.raises(ValueError, match=r"^mask must say.*\(3, 1\) or \(1, 3\), got \(3,\)"):
                loss()


@ON_EACH
def test_known_values_of_whole_rows(backend):
    known = torch.where(LEADING[:, None], X, torch.nan)
    for mask in (LEADING, LEADING[:, None]):
        new, _ = continuous.update_sample(
            X - 9, X, 1.0, 1e9, known=known, known_mask=mask, noise=torch.zeros(3, 4), backend=backend
        )
        assert torch.equal((new - X).abs() < 1e-3, LEADING[:, None].expand(3, 4))


@ON_EACH
def test_accuracies_that_are_expanded(backend):
    of = {"noise": X[0], "backend": backend}
    for one in (torch.ones(1, 1).expand(4, 1), torch.ones(1).expand(4), torch.ones(4, 1)):
        mean, precision = continuous.update_sample(X[0], X[0], one, one, **of)
        assert precision.shape == one.shape and (precision == 2).all()
        assert torch.equal(mean, continuous.update_sample(X[0], X[0], 1.0, 1.0, **of)[0])


@ON_EACH
def test_times_and_accuracies_in_few_bits(backend):
    few = torch.tensor([0.125, 0.5, 1.0])
    for kind in (torch.bfloat16, torch.float16):
        got, want = (continuous.flow_sample(X, t, seed=1, backend=backend, **S) for t in (few.to(kind), few))
        assert torch.equal(got, want)
        mean, precision = continuous.update_sample(X, X, few.to(kind), few.to(kind) + 1, seed=1, backend=backend)
        assert torch.equal(mean, continuous.update_sample(X, X, few, few + 1, seed=1, backend=backend)[0])
        assert precision.dtype == torch.float32 and torch.equal(precision, few + few + 1)


@ON_EACH
@pytest.mark.parametrize("alpha", [2**63, 2**70, 10**400], ids=["2**63", "2**70", "10**400"])
def test_an_accuracy_beyond_all_integers_of_torch(alpha, backend):
    got = continuous.sender_sample(X, alpha, noise=X, backend=backend)
    torch.testing.assert_close(got, X, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="alpha must lie in"):
        continuous.sender_sample(X, -alpha, noise=X, backend=backend)
    mean, precision = continuous.bayesian_update(X, 1, X + 1, alpha, backend=backend)
    torch.testing.assert_close(mean, X + 1)
    assert precision == float(min(alpha, 2**1023))


@pytest.mark.parametrize("backend", SHARED)
def test_numpy_numbers(backend):
    t = numpy.float32(0.5)
    one, two = (
        discretised.discrete_time_loss(
            X, X, X - 2, X, t, n_steps=n, num_bins=k, n_samples=s, seed=seed, backend=backend, **S
        )
        for n, k, s, seed in ((2, 8, 3, 5), (numpy.int64(2), numpy.int32(8), numpy.uint8(3), numpy.int64(5)))
    )
    assert torch.equal(one, two)
    got = discrete.flow_sample(CLASSES, t, num_classes=numpy.int64(5), seed=numpy.int16(3), backend=backend, **B)
    assert torch.equal(got, discrete.flow_sample(CLASSES, 0.5, num_classes=5, seed=3, backend=backend, **B))
    assert type(checks.integer("n_steps", numpy.uint8(255), 1)) is int  # numpy.uint8(255) + 1 overflows


@pytest.mark.parametrize("case", [case for case in FIRST if case in RANDOM and not case.hard], ids=str)
@pytest.mark.parametrize("backend", SHARED)
def test_a_generator_that_the_caller_passes(case, backend):
    inputs = {name: value for name, value in case.inputs((9, 9), torch.float32).items() if not name.endswith("noise")}
    options = {name: value for name, value in case.options.items() if name != "seed"}
    draw, state = functools.partial(replace(case, options=options), inputs, backend), torch.get_rng_state()
    first, second, again = (torch.Generator().manual_seed(s) for s in (1, 2, 1))
    one = draw(generator=first)
    assert torch.equal(one, draw(generator=again))
    for other in (first, second):
        assert not torch.equal(one, draw(generator=other))
    assert torch.equal(state, torch.get_rng_state())
    with pytest.raises(ValueError, match="at most one of seed and generator"):
        draw(generator=first, seed=1)
    with pytest.raises(TypeError, match=r"generator must be a torch.Generator, got int"):
        draw(generator=3)


def test_a_generator_together_with_noise_or_on_another_device():
    with pytest.raises(ValueError, match="generator must be None where noise is given"):
        continuous.flow_sample(X, 0.5, noise=X, generator=torch.Generator(), **S)
    with pytest.raises(ValueError, match="generator must be on meta, got cpu"):
        continuous.sender_sample(X.to("meta"), 1.0, generator=torch.Generator())


@pytest.mark.parametrize("schedule", [ExponentialVariance(0.1), QuadraticAccuracy(2.0), LogarithmicAccuracy(5, 2.0)])
def test_schedules_take_numbers(schedule):
    gamma_or_beta = "gamma" if isinstance(schedule, ExponentialVariance) else "beta"
    for method, arguments in ((gamma_or_beta, (0.25,)), ("rate", (0.25,)), ("alpha", (3, 10))):
        got = getattr(schedule, method)(*arguments)
        want = getattr(schedule, method)(torch.tensor(arguments[0], dtype=torch.float64), *arguments[1:])
        for g, w in zip(got, want, strict=True) if isinstance(got, tuple) else [(got, want)]:
            assert isinstance(g, float) and g == pytest.approx(w.item(), rel=1e-15)


class Incomplete:
    def gamma(self, t):
        return t, 1 - t

    beta = gamma
    alpha = None


def test_a_schedule_is_checked_when_it_is_given():
    """The flow checks all methods of a schedule, although it calls only `gamma` or `beta`. Otherwise, a missing `rate`
    would raise no error before the loss."""
    with pytest.raises(
        TypeError, match=r"schedule must have the methods gamma, alpha, rate, got Incomplete without alpha, rate"
    ):
        continuous.flow_sample(X, 0.5, schedule=Incomplete())
    with pytest.raises(
        TypeError, match=r"schedule must have the methods beta, alpha, rate, got Incomplete without alpha, rate"
    ):
        discrete.flow_sample(CLASSES, 0.5, num_classes=5, schedule=Incomplete())
    with pytest.raises(TypeError, match="schedule must be an object, got the class ExponentialVariance"):
        continuous.flow_sample(X, 0.5, schedule=ExponentialVariance)


def test_an_op_without_kernels_takes_a_backend():
    for backend in (None, *ON_CPU):
        assert torch.equal(discrete.bayesian_update(Z, Z, backend=backend), Z + Z)
    with pytest.raises(ValueError, match="backend must be None or one of"):
        discrete.bayesian_update(Z, Z, backend="gpu")
