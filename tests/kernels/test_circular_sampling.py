"""Sampling of angles: the sampler "renoise", guidance, and known angles."""

import itertools

import pytest
import torch

from bfn_kernels import circular, nn, samplers, solvers
from bfn_kernels.noise import fold_in
from bfn_kernels.schedules import ExponentialVariance, VonMisesAccuracy

SCHEDULE, SHAPE = VonMisesAccuracy([0.5, 1.0, 2.0, 8.0]), (3, 5)


def network(theta, t, cond=0.1):
    """A prediction that depends on the mean, on the concentration, on the time and on the condition."""
    return 0.7 * theta[..., 0] + 0.2 * theta[..., 1] + 0.05 * t[:, None] + cond


def model_of(function=network):
    return nn.Circular(function, SCHEDULE, period=1.0)


def states_of(model, n_steps=4, **options):
    """The result of a run, and its states."""
    states = {}
    drawn = samplers.sample(model, SHAPE, n_steps, seed=7, watch=states.__setitem__, **options)
    return drawn, [states[i] for i in range(n_steps + 1)]


@pytest.mark.parametrize("sampler", ["ancestral", "renoise"])
def test_a_run_starts_from_a_mean_that_training_shows_at_the_first_step(sampler):
    """Before any message, the mean is uniform and the concentration is 0."""
    model = model_of()
    _, states = states_of(model, sampler=sampler)
    shown = model.flow(torch.zeros(SHAPE), torch.zeros(SHAPE[:1]), fold_in(7, 0))
    assert torch.equal(model.theta(states[0]), shown) and shown[..., 0].unique().numel() == 15
    assert (states[0][1] == 0).all() and (model.prior(SHAPE, torch.device("cpu"))[0] == 0).all()


def test_parts_of_a_joint_model_start_from_means_of_their_own():
    joint, shapes = nn.Joint(network, one=model_of(None), other=model_of(None)), dict.fromkeys(("one", "other"), SHAPE)
    assert all((mean == 0).all() for mean, *_ in joint.prior(shapes, torch.device("cpu")).values())
    states = joint.prior(shapes, torch.device("cpu"), 7)
    for index, state in enumerate(states.values()):
        assert torch.equal(state[0], model_of().prior(SHAPE, torch.device("cpu"), fold_in(7, index))[0])


@pytest.mark.parametrize("n_steps", [4, 2])
def test_renoise_draws_each_state_from_the_flow_of_the_prediction(n_steps):
    """A run may skip steps, since it forgets its states."""
    model = model_of()
    drawn, states = states_of(model, n_steps, sampler="renoise")
    for i, (before, after) in enumerate(itertools.pairwise(states)):
        pred = network(model.theta(before), torch.full(SHAPE[:1], i / n_steps))
        of = {"schedule": SCHEDULE, "period": 1.0, "seed": fold_in(7, i + 1)}
        mean, concentration = circular.renoise(pred, (i + 1) * 4 // n_steps + 1, **of)
        _, log = circular.renoise(pred, (i + 1) * 4 // n_steps + 1, output="log", **of)
        assert torch.equal(mean, after[0]) and torch.equal(concentration, after[1])
        torch.testing.assert_close(log, after[2], rtol=1e-5, atol=1e-6)
    last = network(model.theta(states[-1]), torch.ones(SHAPE[:1]))
    torch.testing.assert_close(drawn, last - last.round())


@pytest.mark.parametrize("sampler", ["ancestral", "renoise"])
def test_known_angles_stay_known(sampler):
    """The last state is near them, since each state is drawn about them, and samples have them."""
    sharp = nn.Circular(network, VonMisesAccuracy([1e3] * 4), period=1.0)
    known, known_mask = torch.full(SHAPE, 0.3), torch.arange(5) < 2
    drawn, states = states_of(sharp, sampler=sampler, known=known, known_mask=known_mask)
    plain, _ = states_of(sharp, sampler=sampler)
    assert torch.equal(drawn[:, :2], known[:, :2]) and torch.equal(drawn[:, 2:], plain[:, 2:])
    for mean, *_ in states[1:]:
        assert ((mean - known)[:, :2].abs() < 0.05).all()


@pytest.mark.parametrize("sampler", ["ancestral", "renoise"])
def test_a_guided_run_is_a_run_of_the_guided_angle(sampler):
    """The angles with and without the condition lie on both sides of ±1/2, so that the arc between them matters."""
    weight = torch.tensor([1.5, 0.0, 3.0])
    got, _ = states_of(model_of(), sampler=sampler, cond=0.45, unconditional=-0.45, guidance=weight)

    def guided(theta, t):
        return network(theta, t, 0.45) + weight[:, None] * -0.1  # 0.45 − (−0.45) − 1

    want, _ = states_of(model_of(guided), sampler=sampler)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", ["ode1", "sde2"])
def test_other_samplers_and_a_temperature_are_refused(rule):
    with pytest.raises(ValueError, match=f'sampler must be "ancestral" or "renoise" for circular data, got {rule!r}'):
        samplers.sample(model_of(), SHAPE, 4, sampler=rule)
    with pytest.raises(ValueError, match='sampler must be "ancestral" or "renoise"'):
        samplers.sample_within(model_of(), SHAPE, 0.1)
    with pytest.raises(ValueError, match=r"t must be \(i - 1\)/n for a step i from 1 to n = 4"):
        samplers.sample(model_of(), SHAPE, 3, sampler="renoise")
    with pytest.raises(ValueError, match="temperature must be None for data without classes"):
        samplers.sample(model_of(), SHAPE, 4, sampler="renoise", temperature=0.5)


class OwnMethod(ExponentialVariance):
    def coefficients(self, *numbers):
        raise AssertionError(numbers)


def test_only_a_schedule_of_angles_gives_coefficients_itself():
    """A caller's schedule of other data may have a method of this name."""
    got, want = (solvers.coefficients("sde1", schedule(0.1), 0.0, 0.5) for schedule in (OwnMethod, ExponentialVariance))
    assert got == want


def test_a_time_that_renoise_does_not_read_is_refused():
    with pytest.raises(ValueError, match="t_previous must be None with rule='renoise'"):
        solvers.coefficients("renoise", SCHEDULE, 0.25, 0.5, 0.0)
