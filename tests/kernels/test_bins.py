"""Discretised data with every number of bins. The ops' sums do not visit every bin; the tests compare them with float64
sums that do."""

import functools
import math
from typing import NamedTuple

import mpmath  # comes with torch, by way of sympy
import pytest
import torch
from torch import Tensor
from torch.special import ndtr

from bfn_kernels import discretised
from bfn_kernels.discretised.bins import log_bin_prob
from bfn_kernels.gauss import hermite as gauss_hermite
from tests.kernels.support import INTERPRETED, NATIVE, ON_CPU, Accuracy

BINS = (2, 3, 5, 16, 17, 100, 256, 1000, 4096, 65536)


def log_uniform(count, low, high):
    return torch.empty(count).uniform_(math.log(low), math.log(high)).exp()


def count_of(num_bins, most):
    """The shape of the data: fewer variables for more bins, so that float64 sums over all bins stay short."""
    return max(60, min(most, 2_000_000 // num_bins))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _large_blocks(monkeypatch):
    """Enlarges the blocks of the Triton kernels in the interpreter, where a program costs much and a variable
    little."""
    if INTERPRETED:
        from bfn_kernels.discretised import triton

        monkeypatch.setattr(triton, "BLOCK", 1024)


def sum_over_edges(mean, std, num_bins):
    """k̂ and its derivatives, computed in the smaller tail at every edge."""
    mean, std, h = mean.double().unsqueeze(-1), std.double().unsqueeze(-1), 2 / num_bins
    j = torch.arange(1, num_bins, dtype=torch.float64)
    z = (-1 + h * j - mean) / std
    below = ((mean + 1) / h).floor().clamp(0, num_bins - 1)  # k̂ is the centre of this bin plus tails
    tails = torch.where(j > below, ndtr(-z), -ndtr(z)).sum(-1)
    phi = (-z * z / 2).exp() / math.sqrt(2 * math.pi)
    value = ((2 * below + 1) / num_bins - 1).squeeze(-1) + h * tails
    return value, h / std.squeeze(-1) * phi.sum(-1), h / std.squeeze(-1) * (z * phi).sum(-1)


@pytest.mark.parametrize("backend", NATIVE)
@pytest.mark.parametrize("num_bins", BINS)
def test_expected_value(backend, num_bins):
    """k̂ is within 4e-7 and its derivatives within 4e-7/std, for std from 1e-3 to 10 and means inside, at the ends and
    far out."""
    count = count_of(num_bins, 9000)
    std, near, far = log_uniform(count, 1e-3, 10), torch.empty(count).uniform_(-1.1, 1.1), torch.rand(count) * 600 - 300
    end = torch.randn(count).sign() * (1 - 2 / num_bins * torch.rand(count) + 2 * std * torch.randn(count))
    mean = torch.stack([near, far, end])[torch.arange(count) % 3, torch.arange(count)]
    mean, std = mean.requires_grad_(), std.requires_grad_()
    value = discretised.expected_value(mean, std, num_bins=num_bins, backend=backend)
    got = value, *torch.autograd.grad(value.sum(), (mean, std))
    want = sum_over_edges(mean.detach(), std.detach(), num_bins)
    for g, w, unit in zip(got, want, (torch.ones(()), std.detach(), std.detach()), strict=True):
        assert ((g.double() - w).abs() * unit).max() < 4e-7


@pytest.mark.parametrize("backend", NATIVE)
@pytest.mark.parametrize("num_bins", BINS)
def test_expected_value_of_a_wide_distribution(backend, num_bins):
    """k̂ is within 1e-7; it depends on Φ − ½ near 0."""
    std = log_uniform(count_of(num_bins, 4000), 2, 10)
    mean = torch.empty_like(std).uniform_(-1.2, 1.2)
    value = discretised.expected_value(mean, std, num_bins=num_bins, backend=backend)
    assert (value.double() - sum_over_edges(mean, std, num_bins)[0]).abs().max() < 1e-7


@pytest.mark.parametrize("backend", NATIVE)
@pytest.mark.parametrize("num_bins", BINS)
def test_log_prob(backend, num_bins):
    """ln p is within 1e-6·(1 + |ln p|), down to −1e4 nats."""
    count = 4000
    std = log_uniform(count, 1e-3, 10)
    x = (2 * torch.randint(num_bins, (count,)) + 1) / num_bins - 1
    mean = x + std * torch.randn(count).sign() * log_uniform(count, 1e-2, 140)
    index = ((x * 0.5 + 0.5) * num_bins).floor().clamp(0, num_bins - 1).double()
    want = log_bin_prob(index, mean.double(), std.double(), num_bins, True)
    got = discretised.log_prob(x, mean, std, num_bins=num_bins, backend=backend)
    seen = want > -1e4
    assert seen.sum() > count / 2
    assert ((got - want).abs() / (1 + want.abs()))[seen].max() < 1e-6


def exact_log_prob(x, mean, std, num_bins, clip):
    """ln p of an inner bin and its derivatives by mean and std, times std, computed with 50 digits."""

    def log_mass(left, right):
        left, right = (left - mpmath.mpf(mean)) / std, (right - mpmath.mpf(mean)) / std
        mass, at_left, at_right = mpmath.ncdf(right) - mpmath.ncdf(left), mpmath.npdf(left), mpmath.npdf(right)
        return mpmath.log(mass), (at_left - at_right) / mass, (left * at_left - right * at_right) / mass

    with mpmath.workdps(50):
        left = mpmath.mpf(round((x + 1) * num_bins - 1)) / num_bins - 1
        log_p = log_mass(left, left + mpmath.mpf(2) / num_bins)
        return [float(a if clip else a - b) for a, b in zip(log_p, log_mass(-1, 1), strict=True)]


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("num_bins", [16, 65536])
@pytest.mark.parametrize("backend", ON_CPU)
def test_float64_keeps_its_digits_in_wide_normals(backend, num_bins, clip):
    """ln p and its derivatives times std are within 1e-13 of 1 plus their sizes. The bins of such normals are as narrow
    as 3e-10 std, and the probabilities below the two edges of a bin are close to each other."""
    std = log_uniform(60, 1, 1e5 if clip else 5e3).double()
    x = (2 * torch.randint(1, num_bins - 1, std.shape).double() + 1) / num_bins - 1
    mean = (x + std * torch.empty_like(x).uniform_(-2, 2)).requires_grad_()
    std.requires_grad_()
    value = discretised.log_prob(x, mean, std, num_bins=num_bins, clip=clip, backend=backend)
    by_mean, by_std = torch.autograd.grad(value.sum(), (mean, std))
    got = torch.stack([value, by_mean * std, by_std * std], -1).detach()
    variables = torch.stack([x, mean, std], -1).tolist()
    want = torch.tensor([exact_log_prob(*v, num_bins, clip) for v in variables], dtype=torch.float64)
    assert ((got - want).abs() / (1 + want.abs())).max() < 1e-13


def variables(num_bins, count):
    """Values likely under the prediction and any others, τ from 1e-3 to 4, means up to outside [−1, 1]."""
    std, tau, mean = log_uniform(count, 1e-3, 1), log_uniform(count, 1e-3, 4), torch.empty(count).uniform_(-1.6, 1.6)
    likely = (((mean + std * torch.randn(count)).clamp(-1, 1) / 2 + 0.5) * num_bins).floor().clamp(0, num_bins - 1)
    index = torch.where(torch.arange(count) % 2 == 0, likely, torch.randint(num_bins, (count,)))
    return (2 * index + 1) / num_bins - 1, mean, std.log(), tau


def divergence(x, mean, std, tau, num_bins, nodes, weights):
    """−E ln Σ_k p_k·exp(q_k(ε − q_k/2)), q_k = (c_k − x)/τ: L_n of one step, over all bins."""
    index = torch.arange(num_bins, dtype=torch.float64)
    log_p = log_bin_prob(index, mean.unsqueeze(-1), std.unsqueeze(-1), num_bins, True)
    q = ((2 * index + 1) / num_bins - 1 - x.double().unsqueeze(-1)) / tau.double().unsqueeze(-1)
    terms = (weight * (log_p + q * (node - q / 2)).logsumexp(-1) for node, weight in zip(nodes, weights, strict=True))
    return -sum(terms)


def n_step_loss(x, mean, log_std, tau, num_bins, **more):
    loss = discretised.discrete_time_loss(
        x.unsqueeze(-1),
        mean.unsqueeze(-1),
        log_std.unsqueeze(-1),
        None,
        torch.zeros(len(x), 1),
        n_steps=1,
        schedule=Accuracy(tau.unsqueeze(-1).double() ** -2),
        num_bins=num_bins,
        parametrisation="data",
        reduction="none",
        **more,
    )
    return loss.squeeze(-1)


class Summed(NamedTuple):
    """Variables, and the sum over all bins in float64: the loss, its gradients by mean and std, and std."""

    variables: tuple[Tensor, ...]
    loss: Tensor
    by_mean: Tensor
    by_std: Tensor
    std: Tensor


def summed(variables: tuple[Tensor, ...], num_bins: int) -> Summed:
    if INTERPRETED:  # where one backend alone needs the sum
        variables = tuple(v[: len(v) // 3] for v in variables)
    x, mean, log_std, tau = variables
    wide = [v.double().requires_grad_() for v in (mean, log_std.exp())]  # std as float32 has it
    loss = divergence(x, *wide, tau, num_bins, *gauss_hermite(8))
    return Summed(variables, loss.detach(), *torch.autograd.grad(loss.sum(), wide), wide[1].detach())


def by_backend(of: Summed, num_bins: int, backend: str) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The loss, and its gradients by mean and log std."""
    x, mean, log_std, tau = of.variables
    leaves = mean.clone().requires_grad_(), log_std.clone().requires_grad_()
    loss = n_step_loss(x, *leaves, tau, num_bins, backend=backend)
    return loss.detach(), torch.autograd.grad(loss.sum(), leaves)


@functools.cache  # the sum takes longer than any backend
def any_variables(num_bins: int) -> Summed:
    torch.manual_seed(0)
    return summed(variables(num_bins, count_of(num_bins, 1500)), num_bins)


@functools.cache
def far_variables(num_bins: int) -> Summed:
    """Of a std and a τ that are small beside the distance from x to the mean."""
    torch.manual_seed(0)
    count = count_of(num_bins, 600)
    std, tau = log_uniform(count, 0.03, 0.1), log_uniform(count, 0.03, 0.1)
    x = (2 * torch.randint(num_bins // 8, (count,)) + 1) / num_bins - 1
    return summed((x, torch.empty(count).uniform_(0, 0.6), std.log(), tau), num_bins)


@pytest.mark.parametrize("backend", NATIVE)
@pytest.mark.parametrize("num_bins", [pytest.param(n, marks=pytest.mark.slow) if n > 1000 else n for n in BINS])
def test_n_step_sum(backend, num_bins):
    """The loss is within 2e-6·(1 + |value|), and so are its gradients times std."""
    want = any_variables(num_bins)
    loss, (by_mean, by_log_std) = by_backend(want, num_bins, backend)
    size, std = 1 + want.loss.abs(), want.std
    assert ((loss - want.loss).abs() / size).max() < 2e-6
    assert ((by_mean - want.by_mean).abs() * std / size).max() < 2e-6
    assert ((by_log_std - want.by_std * std).abs() / size).max() < 1e-4  # z² of what lies 40 std away


@pytest.mark.parametrize("backend", NATIVE)
@pytest.mark.parametrize("num_bins", [16, 256, pytest.param(4096, marks=pytest.mark.slow)])
def test_n_step_sum_of_terms_that_underflow(backend, num_bins):
    """The gradients keep their digits where the largest term is exp(−100) to exp(−2000), and terms as small as it
    decide the gradients."""
    want = far_variables(num_bins)
    _, got = by_backend(want, num_bins, backend)
    for g, w, most in zip(got, (want.by_mean, want.by_std * want.std), (1e-6, 1.5e-6), strict=True):
        assert ((g - w).abs() / w.abs()).max() < most


@pytest.mark.parametrize("backend", NATIVE)
def test_n_step_sum_of_draws_far_apart(backend):
    """A window is shared by draws whose largest terms lie 40 widths of a term's bump apart, without overflow."""
    count, num_bins, eps = 60, 1000, 20.0
    std, tau = log_uniform(count, 0.1, 0.3), log_uniform(count, 0.01, 0.02)
    x, mean = (2 * torch.randint(400, 600, (count,)) + 1) / num_bins - 1, torch.empty(count).uniform_(-0.3, 0.3)
    noise = torch.tensor([-eps, eps]).view(2, 1, 1).expand(2, count, 1)
    loss = n_step_loss(x, mean, std.log(), tau, num_bins, n_samples=2, noise=noise, backend=backend)
    want = divergence(x, mean.double(), std.log().double().exp(), tau, num_bins, (-eps, eps), (0.5, 0.5))
    assert ((loss - want).abs() / (1 + want.abs())).max() < 2e-6


@pytest.mark.parametrize("backend", NATIVE)
def test_n_step_sum_of_a_bump_far_from_the_largest_term(backend):
    """The mean is 25 std beyond the first bin, whose term is then larger than the terms of a bump elsewhere."""
    x, mean, log_std, tau = (torch.full((16,), v) for v in (0.325, -5.37140417, -1.75650573, 0.04192125))
    want = divergence(x, mean.double(), log_std.double().exp(), tau, 1000, *gauss_hermite(8))
    loss = n_step_loss(x, mean, log_std, tau, 1000, backend=backend)
    assert ((loss - want).abs() / (1 + want.abs())).max() < 2e-6


def test_quadrature():
    """The 95th percentile of the error, relative to 1 + |value|, as documented; ten draws have 0.1 to 0.2."""
    x, mean, log_std, tau = variables(16, 2000)
    grid = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    weights = (-grid * grid / 2).exp()
    want = divergence(x, mean.double(), log_std.double().exp(), tau, 16, grid, weights / weights.sum())
    for nodes, most in ((4, 3e-3), (8, 4e-4), (16, 5e-5)):
        error = (n_step_loss(x, mean, log_std, tau, 16, quadrature=nodes) - want).abs() / (1 + want.abs())
        assert error.quantile(0.95) < most, nodes


@pytest.mark.parametrize("num_bins", [256, 4096])
@pytest.mark.parametrize("backend", ["reference", *NATIVE])
def test_the_digits_of_a_small_std_are_kept(backend, num_bins):
    std = log_uniform(1000, 1e-4, 1e-2)
    x = (2 * torch.randint(num_bins, (1000,)) + 1) / num_bins - 1
    arguments = x, x + std * torch.randn(1000), std
    want = discretised.log_prob(*(number.double() for number in arguments), num_bins=num_bins, backend="reference")
    got = discretised.log_prob(*arguments, num_bins=num_bins, backend=backend)
    assert ((got - want).abs() / (1 + want.abs())).max() < 1.5e-6


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("std", [1e-45, 1e-40])
@pytest.mark.parametrize("backend", NATIVE)
def test_without_a_spread_the_bin_of_the_mean_has_all_the_mass(backend, std, clip):
    """On a GPU the reciprocal of such a std is infinite."""
    mean = torch.tensor([-0.95, -0.6, -0.1, 0.25, 0.9], requires_grad=True)  # of the bins 0, 0, 1, 2 and 3
    centre, std = torch.tensor([-0.75, -0.75, -0.25, 0.25, 0.75]), torch.full((5,), std, requires_grad=True)
    more = {"num_bins": 4, "backend": backend}
    log_p = discretised.log_prob(centre, mean, std, clip=clip, **more)
    assert torch.equal(log_p, torch.zeros(5))
    assert not any(grad.any() for grad in torch.autograd.grad(log_p.sum(), (mean, std)))
    assert (discretised.log_prob(-centre, mean, std, clip=clip, **more) == -torch.inf).all()
    value = discretised.expected_value(mean, std, clip=clip, **more)
    torch.testing.assert_close(value, centre, rtol=0, atol=1e-7)
    assert not any(grad.any() for grad in torch.autograd.grad(value.sum(), (mean, std)))
