"""Schedules and seeds: a number is either accepted and means what it says, or refused by an error that names it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bfn_kernels import noise
from bfn_kernels.schedules import ExponentialVariance, LogarithmicAccuracy, QuadraticAccuracy
from tests.fuzz.comparison import ERRORS
from tests.fuzz.drawn_calls import examples, remember

NATIVE_CODE = False  # is called: no process of its own is needed
anything = st.none() | st.text(max_size=3) | st.booleans() | st.integers() | st.floats() | st.just(torch.ones(2))
times = st.lists(st.floats(0, 1), min_size=2, max_size=9)


def refused(make, *arguments, names: tuple[str, ...]):
    """None where they are refused, by a message that names one."""
    try:
        return make(*arguments)
    except ERRORS as error:
        assert any(name in str(error) for name in names), f"it names no argument: {error!r}"
    return None


@examples(300)
@given(sigma_1=st.floats() | anything, t=times, n=st.integers(1, 1000))
def test_exponential_variance(sigma_1, t, n):
    remember((sigma_1, t, n))
    schedule = refused(ExponentialVariance, sigma_1, names=("sigma_1",))
    if schedule is None:
        return
    t = torch.tensor(sorted(t), dtype=torch.float64)
    gamma, variance = schedule.gamma(t)
    assert (gamma.diff() >= 0).all() and (gamma >= 0).all() and (gamma <= 1).all() and (variance >= 0).all()
    assert ((gamma + variance - 1).abs() < 1e-15).all()
    total = schedule.alpha(torch.arange(1, n + 1, dtype=torch.float64), n).sum()
    if math.isfinite(total) and sigma_1 > 1e-100:  # ρ after all messages is 1/σ₁²
        torch.testing.assert_close(total + 1, torch.tensor(sigma_1, dtype=torch.float64) ** -2, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", [QuadraticAccuracy, LogarithmicAccuracy])
def test_accuracies(kind):
    @examples(200)
    @given(beta_1=st.floats() | anything, classes=st.integers(2, 300) | anything, t=times, n=st.integers(1, 200))
    def is_received_step_by_step(beta_1, classes, t, n):
        remember((beta_1, classes, t, n))
        arguments = (beta_1,) if kind is QuadraticAccuracy else (classes, beta_1)
        schedule = refused(kind, *arguments, names=("num_classes", "beta_1"))
        if schedule is None or not 1e-6 < beta_1 < 1e6:
            return
        beta = schedule.beta(torch.tensor(sorted(t), dtype=torch.float64))
        assert (beta >= 0).all() and (beta.diff() >= 0).all()
        if kind is QuadraticAccuracy or classes * beta_1 < 60:
            i = torch.arange(1, n + 1, dtype=torch.float64)
            total = torch.tensor(float(beta_1), dtype=torch.float64)
            torch.testing.assert_close(schedule.alpha(i, n).sum(), total, rtol=1e-9, atol=0)

    is_received_step_by_step()


@examples(300)
@given(seed=st.integers(-(2**70), 2**70) | anything, step=st.integers(-(2**70), 2**70) | anything)
def test_fold_in(seed, step):
    remember((seed, step))
    folded = refused(noise.fold_in, seed, step, names=("seed", "step"))
    if folded is None:
        return
    assert -(2**63) <= folded < 2**63
    wrapped = [(n + 2**63) % 2**64 - 2**63 for n in (seed, step)]
    assert folded == noise.fold_in(*wrapped)
    tensors = [torch.tensor(n) for n in wrapped]
    assert noise.fold_in(tensors[0], tensors[1]).item() == folded == noise.fold_in(seed, tensors[1]).item()
