"""The short ways of small calls: row numbers by one operator, operators without the dispatcher's detour. Each gives
what the long way gives, and is left where it would not."""

from dataclasses import dataclass

import pytest
import torch
from support import NATIVE
from torch.overrides import TorchFunctionMode

from bfn_kernels import checks, continuous, operators, rows
from bfn_kernels.backends import NAMESPACES
from bfn_kernels.schedules import ExponentialVariance, LogarithmicAccuracy, QuadraticAccuracy

pytestmark = pytest.mark.skipif("cpu" not in NATIVE, reason="no native operators")

CPU = NAMESPACES.get("bfn_kernels")
DATA = torch.zeros(5, 3)
TIMES = torch.tensor([0.0, 9.9e-7, 0.3, 1 - 1e-7, 1.0], dtype=torch.float64)
ACCURACIES = torch.tensor([0.0, 1e-6, 0.5, 7.0, 1e6], dtype=torch.float64)
OF_TIMES = rows.GAMMA | rows.FLOW_STD | rows.FLOW | rows.STD | rows.HALF_PRECISION | rows.LOG_NORMALISER
OF_ANY_SCHEDULE = rows.RATE | rows.ALPHA
CASES = [
    (ExponentialVariance(0.02), OF_TIMES | OF_ANY_SCHEDULE),
    (QuadraticAccuracy(3.0), rows.BETA | rows.BETA_SPREAD | OF_ANY_SCHEDULE),
    (LogarithmicAccuracy(27, 0.75), rows.BETA | rows.BETA_SPREAD | OF_ANY_SCHEDULE),
    (None, rows.UPDATE | rows.SENDER_STD | rows.MESSAGE),
]
EACH = [
    pytest.param(schedule, bit, id=f"{type(schedule).__name__}-{bit}")
    for schedule, bits in CASES
    for bit in rows.FORMULAS
    if bits & bit
]


@dataclass(frozen=True)
class Steeper(ExponentialVariance):
    """A schedule of a user's that the operator does not know."""

    def gamma(self, t):
        return super().gamma(t.sqrt())


def numbers(ops, which, value, shape=(5, 3), dtype=torch.float64, **options):
    return rows.numbers(ops, which, value, shape, DATA, dtype, **options)


@pytest.mark.parametrize(("schedule", "bit"), EACH)
def test_row_numbers_by_operator_and_by_formula(schedule, bit):
    precision = None if schedule else ACCURACIES.flip(0) + 0.25
    options = {"schedule": schedule, "precision": precision, "n_steps": 20, "scale": 13.5}
    value = ACCURACIES if schedule is None else TIMES
    (got,), (want,) = numbers(CPU, bit, value, **options), numbers(None, bit, value, **options)
    assert got.shape == want.shape == (5, 1)
    # 1 - t(1 - exp(-5)), whose rounding grows 150 times by t = 1
    rtol = 1e-13 if isinstance(schedule, LogarithmicAccuracy) else 1e-15
    torch.testing.assert_close(got, want, rtol=rtol, atol=0, equal_nan=True)


def test_every_row_number_has_a_case():
    assert sum({bit for _, bits in CASES for bit in rows.FORMULAS if bits & bit}) == sum(rows.FORMULAS)


@pytest.mark.parametrize("shape", [(), (1,), (5,), (5, 1), (5, 3), (1, 3), (5, 1, 1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_shapes_of_rows(shape, dtype):
    t = torch.linspace(0, 1, 15)[: torch.Size(shape).numel()].reshape(shape).to(dtype)
    options = {"schedule": ExponentialVariance(0.1), "dtype": torch.float32}
    for value in (t, t.expand(5, 3).t().contiguous().t() if len(shape) == 2 else t):
        got, want = (numbers(ops, rows.FLOW, value, **options) for ops in (CPU, None))
        torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_precision_and_accuracy_of_different_shapes():
    wide, alpha = torch.rand(5, 3) + 1, torch.rand(5)
    for options in ({"precision": wide}, {"precision": 2}, {"precision": alpha.double()}):
        got, want = (numbers(ops, rows.UPDATE, alpha, **options) for ops in (CPU, None))
        torch.testing.assert_close(got, want, rtol=1e-15, atol=0)


def test_the_operator_serves_the_schedules_that_it_knows(monkeypatch):
    def no_formula(*args):
        raise AssertionError("a formula was asked")

    for schedule in (ExponentialVariance(0.1), Steeper(0.1)):
        want = numbers(None, rows.GAMMA, TIMES, schedule=schedule)
        torch.testing.assert_close(numbers(CPU, rows.GAMMA, TIMES, schedule=schedule), want)
    monkeypatch.setattr(checks, "rows", no_formula)
    for value in (TIMES, 0.5, 1):
        numbers(CPU, rows.GAMMA, value, schedule=ExponentialVariance(0.1))
    with pytest.raises(AssertionError, match="a formula was asked"):
        numbers(CPU, rows.GAMMA, TIMES, schedule=Steeper(0.1))


@pytest.mark.parametrize(
    "bad",
    [
        torch.tensor([0.5, -0.25, 0, 0, 0]), torch.full((5,), torch.nan), torch.ones(3), torch.ones(5, 3, 2), "now",
        torch.ones(5).half(), torch.ones(5, requires_grad=True), torch.ones(5, device="meta"), 1.5, -1, True, None,
    ],
    ids=str,
)  # fmt: skip
def test_errors_are_the_same(bad):
    messages = []
    for ops in (CPU, None):
        with pytest.raises((ValueError, TypeError)) as error:
            numbers(ops, rows.GAMMA, bad, schedule=ExponentialVariance(0.1))
        messages.append((error.type, str(error.value)))
    assert messages[0] == messages[1]


def flow(x, **options):
    return continuous.flow_sample(x, 0.5, sigma_1=0.1, seed=1, **options)


def test_when_there_is_a_graph():
    x = torch.rand(2, 3, requires_grad=True)
    assert flow(x).requires_grad and not flow(x.detach()).requires_grad
    with torch.no_grad():
        assert not flow(x).requires_grad
        with torch.enable_grad():
            assert flow(x).requires_grad
            with torch.set_grad_enabled(False):
                assert not flow(x).requires_grad
        assert not flow(x).requires_grad
    with torch.inference_mode():
        made = flow(x)
        assert made.is_inference() and torch.equal(made, flow(x.detach()))
    assert torch.equal(made, flow(x).detach())


def test_transforms_of_functions_are_refused():
    """Never a gradient of 0 instead."""
    with pytest.raises(RuntimeError, match="setup_context"):
        torch.func.grad(lambda x: flow(x).sum())(torch.rand(2, 3))


class Seen(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.functions = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.functions.append(str(function))
        return function(*args, **(kwargs or {}))


class Tagged(torch.Tensor):
    """A subclass that lives by __torch_function__."""


def test_modes_and_subclasses_see_the_operators():
    x = torch.rand(2, 3, requires_grad=True)
    with Seen() as seen:
        result = flow(x)
    assert "bfn_kernels.gaussian_step" in " ".join(seen.functions) and result.requires_grad
    tagged = flow(x.detach().as_subclass(Tagged).requires_grad_())
    assert isinstance(tagged, Tagged) and tagged.requires_grad
    assert torch.equal(tagged.as_subclass(torch.Tensor), result)


def test_without_torchs_private_names(monkeypatch):
    monkeypatch.setattr(operators, "SHORT_WAY", False)
    overload = torch.ops.bfn_kernels.gaussian_step.default
    x, row = torch.rand(2, 3), torch.ones(2, 1)
    arguments = x, row, None, None, None, None, None
    with Seen() as seen:
        result = operators._call(overload, None, None)(*arguments)
    assert torch.equal(result, CPU.gaussian_step(*arguments))
    assert "bfn_kernels.gaussian_step" in " ".join(seen.functions)
