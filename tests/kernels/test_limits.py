"""`limits=`: what a network puts out is clamped where they say, and the kernels are right wherever they may lie."""

import functools
import math

import pytest
import torch

from bfn_kernels import Limits, continuous, discretised
from bfn_kernels.arguments.keywords import LOG_STD_MAX, STD_RANGE
from tests.kernels.support import INTERPRETED, NATIVE, ON_CPU

S = {"sigma_1": 0.1}
WIDEST = Limits(std=STD_RANGE, log_std=LOG_STD_MAX)
LOSSES = {
    "continuous_time_loss": {"t": 0.4},
    "discrete_time_loss": {"t": 0.4, "n_steps": 20},
    "reconstruction_loss": {},
}


@pytest.mark.parametrize("stacked", [False, True], ids=["two tensors", "stacked"])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("backend", ON_CPU)
def test_the_gradient_passes_within_the_limits(backend, name, stacked):
    """Both clamps, of log_std at ±1.5 and of std at 0.3 and 3, with a gradient at their ends, as torch's have."""
    log_std = torch.tensor([[-1.6, -1.4, -1.3, -1.1, 1.0, 1.09, 1.1, 1.4, 1.6]], requires_grad=True)  # ln 3 = 1.0986
    x = torch.full_like(log_std, 0.3).detach()
    output = (torch.stack([x, log_std], -1), None) if stacked else (x, log_std)
    for std, passes in [((0.3, 3.0), [3, 4, 5]), ((1e-6, 1e6), [*range(1, 8)]), ((math.exp(1.0), 1e6), [4, 5, 6, 7])]:
        loss = getattr(discretised, name)(
            x, *output, None, **LOSSES[name], num_bins=5, parametrisation="data", backend=backend, **S,
            limits=Limits(std=std, log_std=1.5),
        )  # fmt: skip
        (grad,) = torch.autograd.grad(loss, log_std, retain_graph=True)
        assert (grad != 0).flatten().nonzero().flatten().tolist() == passes, std


@pytest.mark.parametrize("backend", ON_CPU)
def test_before_t_min_nothing_was_received(backend):
    x, far, log_std = torch.full((3, 2), 0.25), torch.full((3, 2), 9.0), torch.full((3, 2), -1.0)
    t, zero = torch.tensor([0.1, 0.2, 0.3]), torch.zeros(3, 2)
    of = {"limits": Limits(t_min=0.2), "backend": backend, **S}
    x_hat = continuous.predict_data(far, x, t, clip=None, **of)
    assert (x_hat != 0).any(1).tolist() == [False, True, True]
    of |= {"reduction": "none"}
    loss = continuous.continuous_time_loss(x, far, x, t, **of)
    want = continuous.continuous_time_loss(x, zero, None, t, parametrisation="data", **of)
    assert torch.isclose(loss, want, rtol=1e-6).all(1).tolist() == [True, False, False]
    of |= {"num_bins": 6}
    loss = discretised.continuous_time_loss(x, far, log_std, x, t, **of)
    want = discretised.continuous_time_loss(x, zero, zero, None, t, parametrisation="data", **of)
    assert torch.isclose(loss, want, rtol=1e-5).all(1).tolist() == [True, False, False]


def evaluate(name, x, mean, log_std, dtype, **options):
    mean, log_std = (v.detach().to(dtype).requires_grad_() for v in (mean, log_std))
    loss = getattr(discretised, name)(
        x.to(dtype), mean, log_std, None, **LOSSES[name], **options, limits=WIDEST, reduction="none", **S,
        parametrisation="data",
    )  # fmt: skip
    return [v.detach().double() for v in (loss, *torch.autograd.grad(loss.sum(), (mean, log_std)))]


@functools.cache
def near_edges(name, num_bins, std):
    """Variables near the edges of bins, where all of the mass moves within a few std, and what the reference makes of
    them in float64."""
    count, generator = 60, torch.Generator().manual_seed(num_bins)
    edge = torch.randint(1, num_bins, (count,), generator=generator)
    log_std = torch.full((1, count), std).log()
    mean = (2 * edge / num_bins - 1 + min(std, 1) * 3 * torch.randn(count, generator=generator)).unsqueeze(0)
    index = edge - torch.randint(2, (count,), generator=generator)
    variables = ((2 * index + 1) / num_bins - 1).unsqueeze(0), mean, log_std
    return variables, evaluate(name, *variables, torch.float64, num_bins=num_bins, backend="reference")


@pytest.mark.parametrize("std", [1e-6, 1e-5, 1e-4, 100.0, 1e4, 1e6])
@pytest.mark.parametrize("num_bins", [2, 16, 256, 4096] if not INTERPRETED else [2, 16])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("backend", NATIVE)
def test_far_beyond_the_published_limits(backend, name, num_bins, std):
    """Losses relative to 1 plus the reference's, gradients by the mean times std and by ln std likewise."""
    variables, want = near_edges(name, num_bins, std)
    got = evaluate(name, *variables, torch.float32, num_bins=num_bins, backend=backend)
    size = 1 + want[0].abs()
    for what, g, w, unit in zip(("loss", "by mean", "by ln std"), got, want, (1, std, 1), strict=True):
        off = ((g - w).abs() * unit / size).max().item()
        assert off < 2e-5, f"{what}: {off:.1e}"
