"""Row scalars: the operators compute what the formulas say."""

import decimal
import math
from dataclasses import dataclass

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

from bfn_kernels import checks, continuous, discrete
from bfn_kernels.arguments import rows
from bfn_kernels.backends import BACKENDS, LIBRARIES
from bfn_kernels.schedules import ExponentialVariance, LogarithmicAccuracy, QuadraticAccuracy
from tests.kernels.support import NATIVE

DATA = torch.zeros(5, 3)
TIMES = torch.tensor([0.0, 9.9e-7, 0.3, 1 - 1e-7, 1.0], dtype=torch.float64)
TIMES_OF_STEPS = torch.tensor([0.0, 1 / 20, 0.3, 0.9, 19 / 20], dtype=torch.float64)
ACCURACIES = torch.tensor([0.0, 1e-6, 0.5, 7.0, 1e6], dtype=torch.float64)
OF_TIMES = ("gamma", "flow_std", *rows.FLOW, "std", "half_precision", "log_normaliser")
OF_ANY_SCHEDULE = ("rate", "alpha")
OF_CLASSES = ("beta", "beta_spread", *OF_ANY_SCHEDULE)
SETS = [
    (ExponentialVariance(0.02), OF_TIMES + OF_ANY_SCHEDULE),
    (QuadraticAccuracy(3.0), OF_CLASSES),
    (LogarithmicAccuracy(27, 0.75), OF_CLASSES),
    (LogarithmicAccuracy(75, 2.0), OF_CLASSES),  # 1 - exp(-Kβ₁/4) rounds to 1
    (LogarithmicAccuracy(50000, 2.0), OF_CLASSES),  # exp(-Kβ₁/4) is 0
    (None, (*rows.UPDATE, "sender_std", *rows.MESSAGE)),
]
EACH = [
    pytest.param(schedule, name, id=f"{type(schedule).__name__}-{name}") for schedule, names in SETS for name in names
]
by_each_backend = pytest.mark.parametrize("backend", NATIVE)


@dataclass(frozen=True)
class Steeper(ExponentialVariance):
    """A user's own schedule, which no operator knows."""

    def gamma(self, t):
        return super().gamma(t.sqrt())


def scalars(backend, wanted, value, data=DATA, dtype=torch.float64, **options):
    library = LIBRARIES[BACKENDS[backend].library]
    return list(rows.scalars(library, wanted, value, data, dtype, **options))


@by_each_backend
@pytest.mark.parametrize(("schedule", "name"), EACH)
def test_by_operator_and_by_formula(schedule, name, backend):
    precision = None if schedule else ACCURACIES.flip(0) + 0.25
    options = {"schedule": schedule, "precision": precision, "n_steps": 20, "scale": 13.5}
    value = ACCURACIES if schedule is None else TIMES_OF_STEPS if name == "alpha" else TIMES
    (got,), (want,) = (scalars(b, (name,), value, **options) for b in (backend, "reference"))
    assert got.shape == want.shape == (5, 1)
    # α of this schedule is a difference of logarithms that are several times as large, and has their rounding error
    rtol = 1e-13 if isinstance(schedule, LogarithmicAccuracy) else 2e-15
    torch.testing.assert_close(got, want, rtol=rtol, atol=0, equal_nan=True)


@by_each_backend
@pytest.mark.parametrize("sigma_1", [1e-160, 1e-3, 0.02, 1 - 1e-9])
def test_many_rows_of_every_size(sigma_1, backend):
    """The exponential has a form of its own on the CPU, for as many rows at a time as a register has."""
    schedule, times = ExponentialVariance(sigma_1), torch.linspace(0, 1, 1500, dtype=torch.float64)
    times[1:300] = torch.logspace(-300, -1, 299, dtype=torch.float64)
    for name in ("gamma", "flow_std", "std", "rate"):
        (got,), (want,) = (
            scalars(b, (name,), times, torch.zeros(1500, 2), schedule=schedule) for b in (backend, "reference")
        )
        # the exponent is rounded, which counts as often as it is large
        torch.testing.assert_close(got, want, rtol=1e-15 + 3e-16 * abs(math.log(sigma_1)), atol=1e-300)


@by_each_backend
def test_the_exponential_to_half_a_unit(backend):
    """Where its series counts most, half-way between two powers of two. Float64 would be no oracle for it."""
    sigma_1, times = 0.72, torch.linspace(0.4, 0.65, 1000, dtype=torch.float64)
    (got,) = scalars(backend, ("gamma",), times, torch.zeros(1000, 2), schedule=ExponentialVariance(sigma_1))
    with decimal.localcontext(decimal.Context(prec=40)):
        exponents = [2 * decimal.Decimal(t) * decimal.Decimal(sigma_1).ln() for t in times.tolist()]
        want = [1 - exponent.exp() for exponent in exponents]
        errors = [abs(decimal.Decimal(g) / w - 1) for g, w in zip(got.flatten().tolist(), want, strict=True)]
    assert max(errors) < 4e-16


@pytest.mark.parametrize("num_classes", [2, 27, 75, 1000, 50000])
def test_logarithmic_accuracy_ends_at_beta_1(num_classes):
    schedule, t = LogarithmicAccuracy(num_classes, 2.0), torch.linspace(0, 1, 1001, dtype=torch.float64)
    assert schedule.beta(1.0) == pytest.approx(2.0, rel=1e-15)
    assert (schedule.beta(t).diff() > 0).all()
    assert schedule.alpha(torch.arange(1, 101).double(), 100).sum().item() == pytest.approx(2.0, rel=1e-12)
    growth = num_classes * 2.0 / 4
    if growth < 700:
        assert schedule.rate(1.0) == pytest.approx(4 / num_classes * math.expm1(growth), rel=1e-13)


def test_every_scalar_has_a_case():
    assert {name for _, names in SETS for name in names} == set(rows.FORMULAS)


@by_each_backend
@pytest.mark.parametrize("shape", [(), (1,), (5,), (5, 1), (5, 3), (1, 3), (5, 1, 1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_shapes(shape, dtype, backend):
    t = torch.linspace(0, 1, 15)[: torch.Size(shape).numel()].reshape(shape).to(dtype)
    options = {"schedule": ExponentialVariance(0.1), "dtype": torch.float32}
    for value in (t, t.expand(5, 3).t().contiguous().t() if len(shape) == 2 else t):
        got, want = (scalars(b, (*rows.FLOW, "std"), value, **options) for b in (backend, "reference"))
        torch.testing.assert_close(got, want, rtol=1e-7, atol=0)


@by_each_backend
def test_precision_and_accuracy_of_different_shapes(backend):
    wide, alpha = torch.rand(5, 3) + 1, torch.rand(5)
    for options in ({"precision": wide}, {"precision": 2}, {"precision": alpha.double()}):
        got, want = (scalars(b, rows.UPDATE, alpha, **options) for b in (backend, "reference"))
        torch.testing.assert_close(got, want, rtol=2e-15, atol=0)


@pytest.mark.parametrize("backend", ["reference", *NATIVE])
def test_an_infinite_accuracy_or_precision(backend):
    """A message of infinite accuracy replaces the mean, and a mean of infinite precision stays."""
    alpha, precision = torch.tensor(
        [[torch.inf, torch.inf, 3.0, 0.0, torch.inf], [0.0, 2.0, torch.inf, 1.0, torch.inf]]
    )
    keep, take, std = scalars(backend, rows.UPDATE, alpha, precision=precision)
    assert keep[:4].flatten().tolist() == [0, 0, 1, 1] and take[:4].flatten().tolist() == [1, 1, 0, 0]
    assert not std[:4].any() and all(number[4].isnan() for number in (keep, take))


@by_each_backend
def test_operators_serve_the_schedules_that_they_know(backend, monkeypatch):
    def no_formula(*args):
        raise AssertionError("a formula was asked")

    for schedule in (ExponentialVariance(0.1), Steeper(0.1)):
        got, want = (scalars(b, ("gamma",), TIMES, schedule=schedule) for b in (backend, "reference"))
        torch.testing.assert_close(got, want, rtol=2e-15, atol=0)
    monkeypatch.setattr(checks, "rows", no_formula)
    for value in (TIMES, 0.5, 1):
        scalars(backend, ("gamma",), value, schedule=ExponentialVariance(0.1))
    with pytest.raises(AssertionError, match="a formula was asked"):
        scalars(backend, ("gamma",), TIMES, schedule=Steeper(0.1))


@by_each_backend
def test_in_the_order_that_they_are_asked_for(backend):
    keep, _, std = scalars(backend, rows.UPDATE, ACCURACIES, precision=2.0)
    got = scalars(backend, ("keep", "update_std"), ACCURACIES, precision=2.0)
    torch.testing.assert_close(got, [keep, std], rtol=0, atol=0)
    assert scalars(backend, (), ACCURACIES, precision=2.0) == []


OUT_OF_RANGE = [
    torch.tensor([0.5, -0.25, 0, 0, 0]),
    torch.full((5,), torch.nan),
    torch.full((5,), 1.0) + 2**-20,
    *(torch.tensor([0.5, bad, 1, 1, 1]).double() for bad in (20.0, -300.0, 1e15, -1e-5, 1.5e30, torch.inf)),
]


@by_each_backend
@pytest.mark.parametrize("bad", OUT_OF_RANGE, ids=str)
def test_out_of_range(bad, backend):
    """On the CPU, where looking costs nothing, it is an error; elsewhere it gives NaN."""
    for options in ({"schedule": ExponentialVariance(0.1)}, {"precision": bad.neg()}):
        wanted = ("gamma",) if "schedule" in options else ("keep",)
        value = bad if "schedule" in options else 1.0
        if backend == "cpu":
            with pytest.raises(ValueError) as error:
                scalars("cpu", wanted, value, **options)
            with pytest.raises(ValueError) as want:
                scalars("reference", wanted, value, **options)
            assert str(error.value) == str(want.value)
        else:
            checked = bad if "schedule" in options else bad.neg()
            inside = (checked >= 0) & (checked <= (1 if "schedule" in options else torch.inf))
            (got,) = scalars(backend, wanted, value, **options)
            assert torch.equal(got.isnan().flatten(), ~inside)


@by_each_backend
def test_data_of_as_many_dimensions_as_there_may_be(backend):
    shape = (5, *[1] * 15)
    got, want = (
        scalars(b, rows.FLOW, TIMES, torch.zeros(shape), schedule=ExponentialVariance(0.1))
        for b in (backend, "reference")
    )
    torch.testing.assert_close(got, want, rtol=2e-15, atol=0)


@by_each_backend
@pytest.mark.parametrize(
    "bad",
    [
        torch.ones(3),
        torch.ones(5, 3, 2),
        torch.ones(5, 1, 2),
        "now",
        torch.ones(5).int(),
        torch.ones(5, requires_grad=True),
        torch.ones(5, device="meta"),
        1.5,
        -1,
        True,
        None,
    ],
    ids=str,
)
def test_errors_are_the_same(bad, backend):
    messages = []
    for b in (backend, "reference"):
        with pytest.raises((ValueError, TypeError)) as error:
            scalars(b, ("gamma",), bad, schedule=ExponentialVariance(0.1))
        messages.append((error.type, str(error.value)))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("backend", ["reference", *NATIVE])
def test_the_ends_of_time(backend):
    """No message counts as received before t = 1e-6, and a discrete flow stands still from t = 1 − 1e-6 on."""
    early = torch.tensor([0.999e-6, 1e-6, 1.001e-6, 0.5, 1.0], dtype=torch.float64)
    schedule = ExponentialVariance(0.1)
    for coefficient in scalars(backend, rows.FLOW, early, schedule=schedule):
        assert (coefficient != 0).flatten().tolist() == [False, True, True, True, True]
    late = 1 - torch.tensor([0.5, 1.001e-6, 1e-6, 0.999e-6, 0.0], dtype=torch.float64)
    (beta,) = scalars(backend, ("beta",), late, schedule=QuadraticAccuracy(3.0))
    want = 3 * late.clamp(max=1 - 1e-6) ** 2
    torch.testing.assert_close(beta.flatten(), want, rtol=1e-14, atol=0)
    # below √β = 1e-10 the flow is the uniform prior
    small = early[[0, 2, 3, 4, 4]]
    (beta,) = scalars(backend, ("beta",), small, schedule=QuadraticAccuracy(1e-8))  # √β = 1e-4·t
    assert (beta != 0).flatten().tolist() == [False, True, True, True, True]


@pytest.mark.skipif("cpu" not in NATIVE, reason="only the CPU kernels cache row scalars")
def test_cached_row_scalars_are_those_of_a_first_call():
    """A number may be met first where tensors have no values, no gradients or lanes, or with another sign of zero."""
    x, call = torch.zeros(1, 2), lambda alpha: continuous.sender_sample(torch.zeros(1, 2), alpha, seed=1)
    want = continuous.sender_sample(x, torch.zeros(1), seed=1)
    for alpha in (-0.0, 0.0):
        assert torch.equal(call(alpha), want)
    places = [FakeTensorMode(), torch.inference_mode(), torch.device("meta"), forward_ad.dual_level()]
    for number, place in enumerate(places):
        with place:
            call(alpha := 0.125 + number)
        assert torch.equal(call(alpha), continuous.sender_sample(x, torch.full((1,), alpha), seed=1)), place
    traced = make_fx(lambda z: discrete.update_sample(z, z, 0.77, seed=1), tracing_mode="symbolic")(torch.zeros(2, 3))
    z = torch.ones(2, 3)
    assert torch.equal(traced(z), discrete.update_sample(z, z, 0.77, seed=1))
