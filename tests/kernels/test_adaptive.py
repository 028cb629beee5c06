"""Steps of a length that fits their error."""

import math
from functools import partial

import pytest
import torch

from bfn_kernels import binary, continuous, nn
from bfn_kernels.adaptive import Steps, TooManyCalls, error_of_step
from bfn_kernels.solvers import coefficients
from tests.kernels.optimal import (
    CLASSES,
    NORMAL,
    PRIOR_LOGIT,
    START,
    STARTS,
    B,
    M,
    S,
    carried_normal,
    predict_normal,
    quantiles_of_state,
    spread_of_normal,
)


def adapted(step, network_output, state, scale, tolerance):
    """A run of "ode2" by `Steps`: its end, how often the network was called, and the steps."""
    steps, calls = Steps(START, tolerance), 0
    previous, predicted, new = None, torch.empty_like(state), torch.empty_like(state)
    while steps.t < steps.end:
        output, accepted = network_output(state, steps.t), False
        calls += 1
        while not accepted:
            times = steps.t, steps.t_next, steps.t_previous
            made = coefficients("ode2", step.schedule, *times)
            step(output, state, *times[:2], t_previous=times[2], previous=previous, out=new, predicted_out=predicted)
            accepted = steps.judge(None if previous is None else error_of_step(made, predicted, previous, scale))
        state, new = new, state.clone()
        previous, predicted = predicted, torch.empty_like(state)
    return state, calls, steps


@pytest.mark.parametrize("kind", ["normal", "two classes"])
def test_steps_of_the_length_that_fits(kind):
    """A smaller tolerance takes more calls and leaves a smaller error, of second order in the number of calls; no call
    is made twice; and the run knows how many it took."""
    if kind == "normal":
        start = torch.special.ndtri(STARTS) * spread_of_normal(START) + NORMAL.gamma(START)[0] * M
        want, scale = carried_normal(start, START, 1.0), 1
        step = partial(continuous.solver_step, rule="ode2", parametrisation="data", clip=None, **S)
        output = predict_normal
        step.schedule = NORMAL
    else:
        start, want, scale = quantiles_of_state(STARTS, START), quantiles_of_state(STARTS, 1.0), 4
        step, output = partial(binary.solver_step, rule="ode2", **B), lambda d, t: d + PRIOR_LOGIT
        step.schedule = CLASSES
    found = []
    for tolerance in (0.03, 0.003, 0.0003):
        end, calls, steps = adapted(step, output, start[:, None], scale, tolerance)
        assert steps.accepted <= steps.tried and steps.t == 1.0
        found.append(((end[:, 0] - want).abs().max().item(), calls))
    errors, calls = zip(*found, strict=True)
    assert errors[0] > 2 * errors[1] > 4 * errors[2] and calls[0] < calls[1] < calls[2], found
    slope = math.log(errors[0] / errors[2]) / math.log(calls[2] / calls[0])
    assert slope > 1.5, (slope, found)


def test_no_examples_have_no_error():
    made = coefficients("ode2", CLASSES, 0.3, 0.4, 0.2)
    for shape in ((0, 3), (2, 0)):
        assert error_of_step(made, torch.ones(shape), torch.ones(shape)) == 0.0


def test_data_may_be_one_number_for_each_example():
    made, (now, before) = coefficients("ode2", CLASSES, 0.3, 0.4, 0.2), torch.rand(2, 5)
    assert error_of_step(made, now, before) == error_of_step(made, now[:, None], before[:, None])


def test_calls_are_bounded():
    """A run may make as many calls as it needs; with one less it says how far it came, and what to change."""

    def run(**most):
        steps = Steps(0.1, 0.01, **most)
        while steps.t < steps.end:
            steps.judge(2 * (steps.t_next - steps.t) ** 2)
        return steps.accepted + 1

    needed = run()
    assert run(max_calls=needed) == needed
    with pytest.raises(TooManyCalls, match=rf"max_calls={needed - 1} .* t = 0\.\d+ of 1\.0.*tolerance=0\.01"):
        run(max_calls=needed - 1)


@pytest.mark.parametrize(("error", "factor"), [(0.0, 2.0), (1e-9, 2.0), (0.0025, 1.8), (0.04, 0.45), (1.0, 0.2)])
def test_the_next_step_is_a_fifth_to_twice_as_long(error, factor):
    steps = Steps(0.0, 0.01, first=0.1)
    accepted = steps.judge(error)
    assert accepted == (error < 0.01) and steps.t == (0.1 if accepted else 0.0)
    assert steps.t_next - steps.t == pytest.approx(0.1 * factor)


def test_steps_that_are_refused():
    steps = Steps(0.1, 0.1, end=0.11 + 5e-8)  # what is left after the first step is short
    assert steps.judge(None) and steps.judge(1e-9) and steps.t == steps.end
    steps = Steps(0.1, 0.1)
    steps.judge(None)
    assert not steps.judge(1e9) and steps.accepted == 1 and steps.tried == 2
    with pytest.raises(FloatingPointError, match="nan"):
        steps.judge(math.nan)
    with pytest.raises(FloatingPointError, match="none is shorter"):
        for _ in range(20):
            steps.judge(1e9)


MODULES = [  # with the shape of the network's output for one variable
    (nn.Continuous(torch.nn.Identity(), sigma_1=0.1), ()),
    (nn.Discretised(torch.nn.Identity(), sigma_1=0.1, num_bins=16), (2,)),
    (nn.Binary(torch.nn.Identity(), beta_1=4.0), ()),
    (nn.Discrete(torch.nn.Identity(), beta_1=2.0, num_classes=5), (5,)),
]


@pytest.mark.parametrize(("module", "outputs"), MODULES, ids=lambda of: type(of).__name__)
def test_the_error_is_what_second_order_changes_in_the_state(module, outputs):
    """In whatever units the state of the module is."""
    generator, t = torch.Generator().manual_seed(0), torch.full((3,), 0.4)
    before, now = (torch.randn(3, 6, *outputs, generator=generator) for _ in range(2))
    second = coefficients("ode2", module.schedule, 0.4, 0.55, 0.3).each(float)
    first = second._replace(extrapolation=None)
    state = module.solver_state((3, 6), torch.device("cpu"), 0.4, seed=1)
    module.solve(before, state, t, first, torch.tensor(0))
    states = {made: tuple(value.clone() for value in state) for made in (first, second)}
    for made, into in states.items():
        module.solve(now, into, t, made, torch.tensor(0))
    change = (states[second][0] - states[first][0]).double().square().flatten(1).mean(1).max().sqrt().item()
    assert change > 1e-3
    assert module.step_error(second, states[second], state) == pytest.approx(change, rel=1e-4)
    assert module.step_error(first, states[first], state) is None
