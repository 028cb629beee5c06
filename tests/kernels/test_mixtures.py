"""Mixtures of normals at their edges: a single component, draws far along the variables, shares of 0."""

import pytest
import torch
from torch import Tensor

from bfn_kernels import discretised
from tests.kernels.support import NATIVE, ON_CPU, error, scale

on_each = pytest.mark.parametrize("backend", ON_CPU)
DATA = {"sigma_1": 0.1, "num_bins": 16, "parametrisation": "data"}
OPS = {
    "expected_value": lambda x, m, s, w, b: discretised.expected_value(
        m, s.exp(), num_bins=16, mixture_logits=w, backend=b
    ),
    "log_prob": lambda x, m, s, w, b: discretised.log_prob(x, m, s.exp(), num_bins=16, mixture_logits=w, backend=b),
    "L_inf": lambda x, m, s, w, b: discretised.continuous_time_loss(
        x, m, s, None, 0.5, mixture_logits=w, backend=b, **DATA
    ),
    "L_n": lambda x, m, s, w, b: discretised.discrete_time_loss(
        x, m, s, None, 0.4, n_steps=5, mixture_logits=w, backend=b, **DATA
    ),
    "reconstruction": lambda x, m, s, w, b: discretised.reconstruction_loss(
        x, m, s, None, mixture_logits=w, backend=b, **DATA
    ),
    "update by the mean": lambda x, m, s, w, b: discretised.update_sample(
        m, s, x, 1.0, 0.5, 2.0, mixture_logits=w, choose="mean", noise=x, backend=b, **DATA
    )[0],
}


def network(x: Tensor, components: int) -> list[Tensor]:
    """The means, logarithms of standard deviations and logits of a mixture."""
    g = torch.Generator().manual_seed(components)
    return [torch.randn(*x.shape, components, generator=g) - shift for shift in (0, 2, 0)]


@on_each
@pytest.mark.parametrize("op", OPS)
def test_the_logit_of_a_single_component_has_no_gradient(op, backend):
    """Exactly 0, and what else there is as without a mixture. What ran before leaves NaN in the memory that is used."""
    x = torch.linspace(-0.9, 0.9, 20).view(2, 10)
    one, poison = ([part.requires_grad_() for part in network(x, components)] for components in (1, 3))
    OPS[op](x, *(part * torch.nan for part in poison), backend)
    mixed = OPS[op](x, *one, backend)
    by_mean, by_log_std, by_logit = torch.autograd.grad(mixed.sum(), one)
    assert torch.equal(by_logit, torch.zeros(2, 10, 1))
    m, s = (part.detach().squeeze(-1).requires_grad_() for part in one[:2])
    alone = OPS[op](x, m, s, None, backend)
    torch.testing.assert_close(mixed, alone, rtol=1e-6, atol=1e-6)
    for got, want in zip((by_mean, by_log_std), torch.autograd.grad(alone.sum(), (m, s)), strict=True):
        torch.testing.assert_close(got.squeeze(-1), want, rtol=1e-5, atol=1e-6)


# In CUDA the tiles of so many components have 128 variables, 32, 31, 3 and 1.
@pytest.mark.parametrize("backend", NATIVE)
@pytest.mark.parametrize(
    "components", [8, *(pytest.param(each, marks=pytest.mark.slow) for each in (32, 33, 341)), 1024]
)
def test_components_that_just_fill_a_tile(components, backend):
    """There are more variables than a tile has. Their stds need different rules, and some do not count."""
    x = torch.linspace(-0.95, 0.95, 2 * 131).view(2, 131)[:, : 131 if components < 64 else 5]
    mask, found = torch.arange(x.numel()).view_as(x) % 5 != 0, []
    for by, dtype in ((backend, torch.float32), ("reference", torch.float64)):
        m, s, w = leaves = [part.to(dtype).requires_grad_() for part in network(x, components)]
        shared, y = {"mixture_logits": w, "num_bins": 16, "backend": by}, x.to(dtype)
        loss, draw = shared | DATA | {"mask": mask, "reduction": "batch"}, {"noise": y, "component_noise": y.abs()}
        results = [
            discretised.expected_value(m, s.exp(), **shared),
            discretised.continuous_time_loss(y, m, s, None, 0.5, **loss),
            discretised.reconstruction_loss(y, m, s, None, **loss),
        ]
        gradients = [each for result in results for each in torch.autograd.grad(result.sum(), leaves)]
        with torch.no_grad():
            results += [discretised.sample(m, s.exp(), **shared, **draw), discretised.mode(m, s.exp(), **shared)]
        found.append([result.detach() for result in results] + gradients)
    for got, want in zip(*found, strict=True):
        assert error(got, want) <= 2e-6 * max(1.0, scale(want))


@pytest.mark.parametrize("backend", NATIVE)
def test_components_that_a_seed_draws_far_along(backend):
    """Uniforms belong to the variables' positions in the data, not in what is worked on at a time."""
    mean = torch.tensor([-0.9375, -0.0625, 0.5625]).expand(1000, 3)  # the middles of bins
    std, w, noise = torch.full_like(mean, 0.01), torch.zeros_like(mean), torch.zeros(1000)
    shared = {"num_bins": 16, "mixture_logits": w, "seed": 3}
    got = discretised.sample(mean, std, noise=noise, backend=backend, **shared)
    assert torch.equal(got, discretised.sample(mean, std, noise=noise, backend="reference", **shared))


@pytest.mark.parametrize("backend", NATIVE)
def test_normals_that_a_seed_draws_far_along(backend):
    """65 components a variable: what is worked on at a time starts within a group of four normals."""
    mean, std = torch.zeros(50, 65), torch.full((50, 65), 0.3)
    shared = {"num_bins": 64, "mixture_logits": torch.zeros(50, 65), "seed": 3}
    got, want = (discretised.sample(mean, std, backend=b, **shared) for b in (backend, "reference"))
    assert (got - want).abs().max() < 1.5 * 2 / 64  # a bin further where the value is at an edge


@pytest.mark.parametrize(
    "backend", [b for b in NATIVE if not b.startswith("triton")]
)  # whose programs start with a group
def test_draws_of_a_loss_far_along(backend):
    x, mean = torch.linspace(-0.9, 0.9, 50), torch.zeros(50, 65)
    draws = {"n_steps": 5, "n_samples": 2, "mixture_logits": mean, "seed": 3, "reduction": "none", **DATA}
    got, want = (
        discretised.discrete_time_loss(x, mean, mean - 1, None, 0.4, backend=b, **draws) for b in (backend, "reference")
    )
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@on_each
def test_bins_that_are_as_likely(backend):
    """Among equally likely bins that of the mean wins over the first, and this over the last; for a mixture the first
    one wins."""
    zero = torch.zeros(1)
    assert discretised.mode(zero, zero + 1, num_bins=2, backend=backend).tolist() == [0.5]
    assert discretised.mode(zero, zero + 10, num_bins=4, backend=backend).tolist() == [-0.75]
    mean = torch.tensor([[0.75, -0.75]])
    found = discretised.mode(mean, mean * 0 + 0.1, num_bins=4, mixture_logits=mean * 0, backend=backend)
    assert found.tolist() == [-0.75]
