"""Properties that must hold for any input; hypothesis looks for inputs that break them."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bfn_kernels import continuous, discrete, discretised
from tests.kernels.support import FIRST, INTERPRETED, ON_CPU, pairs

settings.register_profile("bounded", max_examples=6 if INTERPRETED else 25, deadline=None, derandomize=True)
settings.load_profile("bounded")

on_each = pytest.mark.parametrize("backend", ON_CPU)
means = st.floats(-3, 3) | st.sampled_from([-300.0, -1.0, 0.0, 1.0, 300.0])
log_stds = st.floats(math.log(1e-3), math.log(10))
bins = st.integers(2, 40)
seeds = st.integers(0, 2**31)
times = st.floats(0, 1)


def centres(num_bins):
    return (2 * torch.arange(num_bins, dtype=torch.float64) + 1) / num_bins - 1


def probabilities(mean, log_std, num_bins, clip, backend):
    full = torch.full((num_bins,), mean, dtype=torch.float64)
    std = torch.full_like(full, log_std).exp()
    return discretised.log_prob(centres(num_bins), full, std, num_bins=num_bins, clip=clip, backend=backend).exp()


def random(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@on_each
@given(mean=means, log_std=log_stds, num_bins=bins, clip=st.booleans())
def test_bins_sum_to_one_and_give_the_expected_value(mean, log_std, num_bins, clip, backend):
    p = probabilities(mean, log_std, num_bins, clip, backend)
    # without the clip a mass of at least 1e-5 divides, which is known to 1e-16
    assert abs(p.sum().item() - 1) < (1e-12 if clip else 1e-9)
    value = discretised.expected_value(
        torch.tensor([mean], dtype=torch.float64),
        torch.tensor([log_std], dtype=torch.float64).exp(),
        num_bins=num_bins,
        clip=clip,
        backend=backend,
    )
    assert abs(value.item() - (p * centres(num_bins)).sum().item()) < (1e-12 if clip else 1e-9)


@on_each
@given(mean=means, log_std=log_stds, num_bins=bins)
def test_the_mode_attains_the_maximum(mean, log_std, num_bins, backend):
    p = probabilities(mean, log_std, num_bins, True, "reference")
    best = discretised.mode(
        torch.tensor([mean], dtype=torch.float64),
        torch.tensor([log_std], dtype=torch.float64).exp(),
        num_bins=num_bins,
        backend=backend,
    )
    assert p[(centres(num_bins) - best).abs().argmin()] >= p.max() * (1 - 1e-12)
    assert (centres(num_bins) - best).abs().min() < 1e-12


@on_each
@given(seed=seeds, shift=st.floats(-50, 50), num_classes=st.integers(2, 9), t=times)
def test_logits_may_be_shifted(seed, shift, num_classes, t, backend):
    z = 3 * random(seed, 4, num_classes)
    x = torch.arange(4) % num_classes
    noise = random(seed + 1, 2, 4, num_classes)
    losses = [
        lambda z: discrete.continuous_time_loss(x, z, t, beta_1=2.0, reduction="none", backend=backend),
        lambda z: discrete.reconstruction_loss(x, z, reduction="none", backend=backend),
        lambda z: discrete.update_sample(
            z, noise[0], 0.7, noise=noise[1], draw_noise=z[:, 0].sigmoid() * 0 + 0.37, backend=backend
        ),
    ] + [
        lambda z, receiver=receiver: discrete.discrete_time_loss(
            x, z, step=1 + int(9 * t), beta_1=2.0, n_steps=10, n_samples=2, noise=noise, receiver=receiver,
            reduction="none", backend=backend,
        )
        for receiver in ("joint", "factorised")
    ]  # fmt: skip
    for loss in losses:
        torch.testing.assert_close(loss(z + shift), loss(z), rtol=1e-9, atol=1e-11)


@on_each
@given(seed=seeds)
@settings(max_examples=1 if INTERPRETED else 3)
def test_many_steps_tend_to_continuous_time(seed, backend):
    """|L_n − L∞| falls as 1/n: at n = 4000 it is within 1 %, and smaller than at n = 40."""
    a, b = random(seed, 2, 1, 6)
    x, z, classes = a.tanh(), 2 * random(seed + 1, 6, 2), torch.arange(6) % 2
    t, s = 0.5, {"sigma_1": 0.1}
    mine = {"parametrisation": "data", "backend": backend}
    families = [
        (
            lambda n: continuous.discrete_time_loss(x, b, None, t, n_steps=n, **s, **mine),
            continuous.continuous_time_loss(x, b, None, t, **s, **mine),
        ),
        (
            lambda n: discretised.discrete_time_loss(x, b, a, None, t, n_steps=n, num_bins=6, **s, **mine),
            discretised.continuous_time_loss(x, b, a, None, t, num_bins=6, **s, **mine),
        ),
    ] + [
        (
            lambda n, receiver=receiver: discrete.discrete_time_loss(
                classes, z, t, n_steps=n, beta_1=2.0, quadrature=16, receiver=receiver, backend=backend
            ),
            discrete.continuous_time_loss(classes, z, t, beta_1=2.0, backend=backend),
        )
        for receiver in ("joint", "factorised")
    ]
    for few, limit in families:
        far, near = (abs((few(n) / limit).item() - 1) for n in (40, 4000))
        assert near < 0.01 and near < far


LOSSES = [case for case in FIRST if case.loss and not (INTERPRETED and case.options.get("n_steps"))]
MASK, NOTHING = (torch.arange(12) % 3 != 0).reshape(3, 4), torch.zeros(3, 4, dtype=torch.bool)
# What is given, and the same in two dimensions: no mask, one of rows, one of columns, of nothing, and of variables.
MASKS = [(None, ~NOTHING), (MASK[:, 0], MASK[:, :1]), (MASK[0], MASK[:1]), (NOTHING, NOTHING), (MASK, MASK)]


@pairs(ON_CPU, LOSSES.__contains__)
def test_reductions_and_masks(case, backend):
    """Consistent with each other; a mask does what leaving the variables out would."""
    inputs = case.inputs((3, 4), torch.float64)

    def loss(mask, reduction):
        return replace(case, options=case.options | {"reduction": reduction})({**inputs, "mask": mask}, backend)

    for chosen, full in MASKS:
        each, full = loss(chosen, "none"), full.expand(3, 4)
        want = {"batch": each.sum(1), "sum": each.sum(), "mean": each.sum() / full.sum().clamp(min=1)}
        for name, value in want.items():
            torch.testing.assert_close(loss(chosen, name), value, rtol=1e-12, atol=1e-14)
        assert (each[~full] == 0).all()
        torch.testing.assert_close(each, loss(None, "none") * full, rtol=1e-12, atol=0)
