"""The distributions from which random ops draw. A bound is five standard errors, which chance exceeds once in two
million. With the same seed, all backends draw what the reference draws (test_noise.py), so one backend is enough here.
"""

import pytest
import torch

from bfn_kernels import continuous, discrete, discretised

COUNT = 20_000
SIGMAS = 5


def has_moments(values, mean, variance) -> None:
    """Sample mean and variance of normals, within their standard errors."""
    values, count = values.double().flatten(), values.numel()
    assert abs(values.mean().item() - mean) <= SIGMAS * (variance / count) ** 0.5
    assert abs(values.var().item() - variance) <= SIGMAS * variance * (2 / count) ** 0.5


def has_frequencies(index, p) -> None:
    count, p = index.numel(), p.double()
    frequency = torch.bincount(index.flatten(), minlength=len(p)).double() / count
    bound = SIGMAS * (p * (1 - p) / count).sqrt() + 1e-12
    assert ((frequency - p).abs() <= bound + 2 / count).all(), (frequency, p)


def test_flow_and_sender_of_continuous_data():
    x = torch.full((COUNT,), 0.7)
    gamma = 1 - 0.1 ** (2 * 0.3)
    mean = continuous.flow_sample(x, 0.3, sigma_1=0.1, seed=1)
    has_moments(mean, 0.7 * gamma, gamma * (1 - gamma))
    has_moments(continuous.sender_sample(x, 4.0, seed=2), 0.7, 0.25)
    updated, precision = continuous.update_sample(x, x * 0, 2.0, 6.0, seed=3)
    assert precision == 8.0
    has_moments(updated, 6 * 0.7 / 8, 6 / 64)


def test_accuracies_add():
    """Messages of accuracy 1 and then 5 leave the same distribution as one of 6, and as the flow at that precision."""
    x, zero = torch.full((COUNT,), 0.4), torch.zeros(COUNT)
    mean, precision = continuous.update_sample(x, zero, 1.0, 1.0, seed=1)
    mean, precision = continuous.update_sample(x, mean, precision, 5.0, seed=2)
    assert precision == 7.0
    has_moments(mean, 0.4 * 6 / 7, 6 / 49)
    y = continuous.sender_sample(x, 1.0, seed=4)
    mean, precision = continuous.bayesian_update(zero, 1.0, y, 1.0)
    y = continuous.sender_sample(x, 5.0, seed=5)
    has_moments(continuous.bayesian_update(mean, precision, y, 5.0)[0], 0.4 * 6 / 7, 6 / 49)
    # discrete: z' = z + y, so that means and variances add
    classes = torch.full((COUNT,), 2)
    logits = discrete.sender_sample(classes, 0.5, num_classes=3, seed=6)
    logits = logits + discrete.sender_sample(classes, 1.5, num_classes=3, seed=7)
    for k in range(3):
        has_moments(logits[:, k], 2 * (3 * (k == 2) - 1), 3 * 2)


def test_flow_of_discrete_data():
    x = torch.full((COUNT,), 1)
    y = discrete.flow_sample(x, 0.5, num_classes=4, beta_1=2.0, output="logits", seed=1)
    for k in range(4):
        has_moments(y[:, k], 0.5 * (4 * (k == 1) - 1), 4 * 0.5)
    correlation = torch.corrcoef(y.T.double()) - torch.eye(4)
    assert correlation.abs().max() < SIGMAS / COUNT**0.5
    probs = discrete.flow_sample(x, 0.5, num_classes=4, beta_1=2.0, seed=1)
    torch.testing.assert_close(probs, y.softmax(-1), rtol=1e-5, atol=1e-6)


def test_first_and_last_times():
    """t -> 0 gives the prior, t -> 1 the data."""
    x = torch.linspace(-1, 1, COUNT)
    assert (continuous.flow_sample(x, 0.0, sigma_1=0.03, seed=1) == 0).all()
    # γ(1) = 1 − v and a variance of about v
    late = continuous.flow_sample(x, 1.0, sigma_1=0.03, seed=1)
    has_moments(late - (1 - 9e-4) * x, 0, 9e-4 * (1 - 9e-4))
    classes = torch.arange(COUNT) % 5
    early = discrete.flow_sample(classes, 0.0, num_classes=5, beta_1=3.0, seed=1)
    torch.testing.assert_close(early, torch.full((COUNT, 5), 0.2), rtol=1e-6, atol=0)
    late = discrete.flow_sample(classes, 1.0, num_classes=5, beta_1=40.0, seed=1)
    assert (late.argmax(-1) == classes).all()


def test_classes_that_are_drawn():
    p = torch.tensor([0.5, 0.001, 0.249, 0.0, 0.25])
    logits = p.log().expand(COUNT, 5)
    state = torch.zeros(COUNT, 5)
    # a message so accurate shows its class: K·α in the class that was sent, with a spread of √(K·α)
    sent = discrete.update_sample(logits, state, 200.0, seed=1).argmax(-1)
    has_frequencies(sent, p)
    new = discrete.update_sample(logits, state, 0.3, choose="mode", seed=2)
    for k in range(5):
        has_moments(new[:, k], 0.3 * (5 * (k == 0) - 1), 5 * 0.3)
    new = discrete.update_sample(logits, state, 0.3, choose="mean", seed=3)
    for k in range(5):
        has_moments(new[:, k], 0.3 * (5 * p[k].item() - 1), 5 * 0.3)


@pytest.mark.parametrize(("mean", "std"), [(0.2, 0.3), (-1.4, 0.5), (0.9, 3.0)])
def test_values_that_are_drawn(mean, std):
    full = lambda v: torch.full((COUNT,), v)  # noqa: E731
    centres = (2 * torch.arange(6) + 1) / 6 - 1
    p = discretised.log_prob(centres, torch.full((6,), mean), torch.full((6,), std), num_bins=6).exp()
    drawn = discretised.sample(full(mean), full(std), num_bins=6, seed=1)
    has_frequencies(((drawn + 1) * 3).long(), p)
    # after a message of enormous accuracy the mean is the value that was sent
    new, _ = discretised.update_sample(
        full(mean),
        full(std).log(),
        full(0.0),
        1.0,
        0.5,
        1e8,
        sigma_1=0.1,
        num_bins=6,
        parametrisation="data",
        seed=2,
    )
    assert (new - centres[((new + 1) * 3).long().clamp(0, 5)]).abs().max() < 1e-3
    has_frequencies(((new + 1) * 3).long().clamp(0, 5), p)


@pytest.mark.parametrize("receiver", ["joint", "factorised"])
def test_draws_agree_with_quadrature_discrete(receiver):
    x, logits = torch.tensor([1]), torch.tensor([[0.8, -0.3]])
    call = lambda x, z, **k: discrete.discrete_time_loss(  # noqa: E731
        x, z, 0.25, beta_1=3.0, n_steps=4, receiver=receiver, reduction="none", **k
    )
    exact = call(x, logits, quadrature=64)
    draws = call(x.expand(COUNT), logits.expand(COUNT, 2), n_samples=2, seed=4).double()
    assert abs(draws.mean() - exact) < SIGMAS * draws.std() / COUNT**0.5


def test_draws_agree_with_quadrature_discretised():
    full = lambda v, n=COUNT: torch.full((n,), v)  # noqa: E731
    call = lambda n, **k: discretised.discrete_time_loss(  # noqa: E731
        full(0.3, n),
        full(0.1, n),
        full(-1.0, n),
        None,
        0.25,
        sigma_1=0.1,
        n_steps=4,
        num_bins=8,
        parametrisation="data",
        reduction="none",
        **k,
    )
    draws = call(COUNT, n_samples=2, seed=4).double()
    assert abs(draws.mean() - call(1, quadrature=64)) < SIGMAS * draws.std() / COUNT**0.5
