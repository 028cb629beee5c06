"""Mixtures of normals at their edges: a single component, draws far along the variables, shares of 0."""

import pytest
import torch
from support import ON_CPU
from torch import Tensor

from bfn_kernels import discretised

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
        x, m, s, None, 0.5, n_steps=5, mixture_logits=w, backend=b, **DATA
    ),
    "reconstruction": lambda x, m, s, w, b: discretised.reconstruction_loss(
        x, m, s, None, mixture_logits=w, backend=b, **DATA
    ),
    "update by the mean": lambda x, m, s, w, b: discretised.update_sample(
        m, s, x, 1.0, 0.5, 2.0, mixture_logits=w, choose="mean", noise=x, backend=b, **DATA
    )[0],
}


def network(x: Tensor, components: int) -> list[Tensor]:
    """Means, logarithms of standard deviations, and logits."""
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
