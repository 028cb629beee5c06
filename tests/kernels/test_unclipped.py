"""The unclipped distribution, renormalised in [−1, 1], against the paper's formula in 60 digits."""

import math
from functools import cache

import mpmath  # comes with torch, by way of sympy
import pytest
import torch
from mpmath import mpf

from bfn_kernels import discretised
from bfn_kernels.gauss import hermite as gauss_hermite
from tests.kernels.support import INTERPRETED, ON_CPU

BINS = (2, 3, 16, 255) if not INTERPRETED else (3, 16)
TINY_TOTAL = 1e-5  # a distribution with less mass in [−1, 1] is uniform by definition
WIDE = 2.0  # from this std on numbers are held to their own size, below to 1/std


@mpmath.workdps(60)
def exact(mean, std, num_bins, chosen):
    """k̂ = Σ p_k c_k, its derivatives by mean and std, and the same of ln p of one bin; None where the mass in [−1, 1]
    is so near the least there may be that float32 cannot tell."""
    m, s = mpf(mean), mpf(std)
    z = [(mpf(2 * j) / num_bins - 1 - m) / s for j in range(num_bins + 1)]
    cdf, phi = [mpmath.ncdf(v) for v in z], [mpmath.npdf(v) for v in z]
    by_mean, by_std = [-p / s for p in phi], [-v * p / s for v, p in zip(z, phi, strict=True)]
    total = cdf[-1] - cdf[0]
    if abs(total / TINY_TOTAL - 1) < 1e-4:
        return None
    if total < TINY_TOTAL:
        return 0.0, 0.0, 0.0, -math.log(num_bins), 0.0, 0.0

    def weighed(e):
        return sum((mpf(2 * k + 1) / num_bins - 1) * (e[k + 1] - e[k]) for k in range(num_bins))

    value, p = weighed(cdf) / total, cdf[chosen + 1] - cdf[chosen]
    slopes = ((weighed(d) - value * (d[-1] - d[0])) / total for d in (by_mean, by_std))
    log_slopes = ((d[chosen + 1] - d[chosen]) / p - (d[-1] - d[0]) / total for d in (by_mean, by_std))
    return [float(mpmath.chop(v, 1e-40)) for v in (value, *slopes, mpmath.log(p / total), *log_slopes)]


@cache
def points(num_bins):
    """Centres, means and stds in float32, std from 1e-3 to 1e6 and means to ±300, with what `exact` says of them."""
    g = torch.Generator().manual_seed(num_bins)
    count = 90 if num_bins < 100 else 20
    std = 10 ** (torch.rand(count, generator=g) * 9 - 3)
    mean = torch.randn(count, generator=g) * (1 + std).clamp(max=100)
    mean[::3] = torch.rand(len(mean[::3]), generator=g) * 2.2 - 1.1
    mean[1::9], mean[4::9] = 0.0, mean[4::9].sign() * 300
    mean[5::9] = (1 + 3 * std[5::9]).clamp(max=300)  # these have little mass inside, all of it in one tail
    likely = mean + std * torch.randn(count, generator=g)
    x = torch.where(std < 1, likely, torch.rand(count, generator=g) * 2 - 1).clamp(-1, 1)
    index = ((x / 2 + 0.5) * num_bins).long().clamp(0, num_bins - 1)
    rows = zip(index.tolist(), mean.tolist(), std.tolist(), strict=True)
    rows = [(k, m, s, exact(m, s, num_bins, k)) for k, m, s in rows]
    exact_rows = [((2 * k + 1) / num_bins - 1, m, s, *of) for k, m, s, of in rows if of is not None]
    assert len(exact_rows) > count * 0.9
    x, mean, std, *want = torch.tensor(exact_rows, dtype=torch.float64).unbind(1)
    return (x, mean, std), want[:3], want[3:]


def evaluate(function, mean, std, dtype):
    mean, std = (v.to(dtype).requires_grad_() for v in (mean, std))
    value = function(mean, std)
    return [v.double() for v in (value.detach(), *torch.autograd.grad(value.sum(), (mean, std)))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("num_bins", BINS)
@pytest.mark.parametrize("backend", ON_CPU)
def test_expected_value(backend, num_bins, dtype):
    """If std is large, k̂ is a small difference over a small mass, and must still be accurate to a few ulp."""
    (_, mean, std), want, _ = points(num_bins)
    options = {"num_bins": num_bins, "clip": False, "backend": backend}
    got = evaluate(lambda m, s: discretised.expected_value(m, s, **options), mean, std, dtype)
    wide = std >= WIDE
    relative, absolute = (1e-6, 3e-5) if dtype == torch.float32 else (1e-11, 1e-13)
    for name, g, w, unit in zip(("value", "by mean", "by std"), got, want, (1, std, std), strict=True):
        off = (g - w).abs()
        assert (off <= relative * w.abs() + 1e-16)[wide].all(), (
            f"{name}: {(off / w.abs())[wide & (w != 0)].max():.1e} of it"
        )
        assert (off * unit)[~wide].max() < absolute, name
    assert got[1][mean == 0].abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("num_bins", BINS)
@pytest.mark.parametrize("backend", ON_CPU)
def test_log_prob(backend, num_bins, dtype):
    """Relative to 1 + |ln p|, derivatives times std: of a wide distribution the total mass loses its digits too."""
    (x, mean, std), _, want = points(num_bins)
    options = {"num_bins": num_bins, "clip": False, "backend": backend}
    got = evaluate(lambda m, s: discretised.log_prob(x.to(dtype), m, s, **options), mean, std, dtype)
    most = 1e-5 + 1e-7 / std if dtype == torch.float32 else 1e-10  # a small std magnifies an edge's rounding
    for name, g, w, unit in zip(("value", "by mean", "by std"), got, want, (1, std, std), strict=True):
        off = (g - w).abs() * unit / (1 + want[0].abs())
        assert (off < most).all(), f"{name}: {off.max():.1e} at std = {std[off.argmax()]:.3g}"


@pytest.mark.parametrize("backend", ON_CPU)
def test_a_std_beyond_all_bounds_is_uniform(backend):
    arguments = torch.tensor([[0.1, 0.1], [0.3, 0.3], [1e31, torch.inf]])
    log_p = discretised.log_prob(*arguments, num_bins=16, clip=False, backend=backend)
    assert torch.allclose(log_p, torch.tensor(-math.log(16)))


@pytest.mark.parametrize("backend", ON_CPU)
def test_n_step_loss_far_from_the_bins(backend):
    """The gradients of L_n, of which float32 knows little where the mass in [−1, 1] is a difference from 1: by mean,
    times std, and by ln std, relative to n + |L_n|."""
    num_bins, n_steps, sigma_1, count = 16, 7, 0.01, 200
    g = torch.Generator().manual_seed(0)
    std = (torch.rand(count, generator=g) * 2.3 - 2.3).exp()
    mean = 1 + std * (torch.rand(count, generator=g) * 3 + 0.5)
    mean[::2] *= -1
    x = mean.sign() * (1 - (2 * torch.randint(3, (count,), generator=g) + 1) / num_bins)
    t = torch.randint(n_steps, (count,), generator=g) / n_steps

    def loss(mean, log_std):
        return discretised.discrete_time_loss(
            x.unsqueeze(-1),
            mean.unsqueeze(-1),
            log_std.unsqueeze(-1),
            None,
            t,
            n_steps=n_steps,
            sigma_1=sigma_1,
            num_bins=num_bins,
            parametrisation="data",
            clip=False,
            reduction="none",
            quadrature=4,
            backend=backend,
        )

    def from_the_formula(mean, log_std):
        edges = (2 * torch.arange(num_bins + 1, dtype=torch.float64) / num_bins - 1 - mean.unsqueeze(-1)).abs()
        cdf = torch.erfc(edges / log_std.exp().unsqueeze(-1) * math.sqrt(0.5))  # all edges are on one side of the mean
        log_p = cdf.diff().abs().log() - (cdf[:, -1:] - cdf[:, :1]).abs().log()
        i = (n_steps * t.double()).round() + 1
        tau = (sigma_1 ** (-2 * i / n_steps) * (1 - sigma_1 ** (2 / n_steps))).rsqrt().unsqueeze(-1)
        centres = (2 * torch.arange(num_bins, dtype=torch.float64) + 1) / num_bins - 1
        total = 0.0
        for node, weight in zip(*gauss_hermite(4), strict=True):
            z = (x.double().unsqueeze(-1) + tau * node - centres) / tau
            total = total + weight * (-(node**2) / 2 - (log_p - z**2 / 2).logsumexp(-1))
        return n_steps * total

    got = evaluate(loss, mean, std.log(), torch.float32)
    want = evaluate(from_the_formula, mean.double(), std.log().double(), torch.float64)
    for g, w, unit in zip(got[1:], want[1:], (std, 1), strict=True):
        assert ((g - w).abs() * unit / (n_steps + want[0].abs())).max() < 1e-5
