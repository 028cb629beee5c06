"""Binary data against `discrete` with two classes, of which they are one half, and their own noise and classes."""

import pytest
import torch

from bfn_kernels import binary, discrete, noise
from bfn_kernels.schedules import LogarithmicAccuracy
from tests.kernels.support import DTYPES, NATIVE, ON_CPU

SHAPE, BETA = (5, 4, 9), {"beta_1": 3.0}
backends = pytest.mark.parametrize("backend", ON_CPU)


def random(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair(z):
    """The logits [0, z] of two classes."""
    return torch.stack([torch.zeros_like(z), z], -1)


def difference(y):
    return y[..., 1] - y[..., 0]


def same(got, want):
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-13)


X = random(0, *SHAPE) > 0
T = torch.rand(SHAPE[0], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
EPS2 = random(2, *SHAPE, 2)
EPS = difference(EPS2) / 2**0.5  # the one normal of the binary form that two normals make


@pytest.mark.parametrize("schedule", [None, LogarithmicAccuracy(2, 1.5)], ids=["paper", "logarithmic"])
@backends
def test_messages_are_the_differences_of_those_of_two_classes(schedule, backend):
    of = {**(BETA if schedule is None else {"schedule": schedule}), "dtype": torch.float64, "backend": backend}
    both = {**of, "num_classes": 2, "noise": EPS2}
    probs = discrete.flow_sample(X.long(), T, **both)[..., 1]
    same(binary.flow_sample(X, T, noise=EPS, **of), probs)
    logits = difference(discrete.flow_sample(X.long(), T, output="logits", **both))
    same(binary.flow_sample(X, T, output="logits", noise=EPS, **of), logits)
    del of["beta_1" if schedule is None else "schedule"], both["beta_1" if schedule is None else "schedule"]
    y = discrete.sender_sample(X.long(), 1 + T, **both)
    same(binary.sender_sample(X, 1 + T, noise=EPS, **of), difference(y))


@backends
def test_a_flow_keeps_small_probabilities(backend):
    d = torch.tensor([-1.0, -88.0, -100.0, -700.0], dtype=torch.float64)
    of = {"output": "probs", "noise": torch.zeros(4, dtype=torch.float64), "dtype": torch.float64, "backend": backend}
    p = binary.flow_sample(torch.zeros(4, dtype=torch.long), (-d / 800).sqrt(), beta_1=400.0, **of)
    torch.testing.assert_close(p, d.sigmoid(), rtol=1e-11, atol=0)


@backends
def test_states(backend):
    two = random(3, *SHAPE, 2)
    d = difference(two)
    same(binary.theta(d, backend=backend), discrete.theta(two)[..., 1])
    same(binary.bayesian_update(d, EPS, backend=backend), difference(discrete.bayesian_update(two, pair(EPS))))
    same(binary.theta_logits(d.sigmoid()), difference(discrete.theta_logits(two.softmax(-1))))


@pytest.mark.parametrize("choose", ["sample", "mode", "mean"])
@backends
def test_steps(choose, backend):
    z, two = random(4, *SHAPE), random(5, *SHAPE, 2)
    z[:, 0] = 0  # a tie, whose mode is class 0
    u = random(6, *SHAPE).sigmoid()
    draw = {"draw_noise": u} if choose == "sample" else {}
    for known in ({}, {"known": X, "known_mask": u > 0.6}):
        known_values = known | ({"known": X.long()} if known else {})
        leaves = [v.clone().requires_grad_() for v in (z, difference(two))]
        wanted = [v.clone().requires_grad_() for v in (z, two)]
        first = 0 if choose == "mean" else 1
        leaves[0].requires_grad_(first == 0)
        wanted[0].requires_grad_(first == 0)
        got = binary.update_sample(*leaves, 0.1 + T, choose=choose, noise=EPS, backend=backend, **draw, **known)
        want = discrete.update_sample(
            pair(wanted[0]), wanted[1], 0.1 + T, choose=choose, noise=EPS2, backend=backend, **draw, **known_values
        )
        same(got, difference(want))
        grads = torch.autograd.grad(got.sum(), leaves[first:])
        wants = list(torch.autograd.grad(difference(want).sum(), wanted[first:]))
        wants[-1] = wants[-1][..., 1]
        for g, w in zip(grads, wants, strict=True):
            same(g, w)
        with torch.no_grad():  # which another implementation serves where there is a gradient of the mean
            same(
                binary.update_sample(*leaves, 0.1 + T, choose=choose, noise=EPS, backend=backend, **draw, **known), got
            )


JOINT2 = EPS2 * torch.tensor([1.0, -0.5, 2.0]).view(3, 1, 1, 1, 1)
LOSSES = {
    "L_inf": ("continuous_time_loss", {"t": T, **BETA}, {}, {}),
    "reconstruction": ("reconstruction_loss", {}, {}, {}),
    "joint nodes": ("discrete_time_loss", {"quadrature": 8, "receiver": "joint"}, {}, {}),
    "factorised nodes": ("discrete_time_loss", {"quadrature": 8, "receiver": "factorised"}, {}, {}),
    "joint draws": (
        "discrete_time_loss", {"n_samples": 3, "receiver": "joint"},
        {"noise": difference(JOINT2) / 2**0.5}, {"noise": JOINT2},
    ),
    "factorised draws": (
        "discrete_time_loss", {"n_samples": 1, "receiver": "factorised"},
        {"noise": EPS[None]}, {"noise": torch.stack([-EPS, EPS], -1)[None]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("beta_1", [1e-3, 3.0, 500.0])
@pytest.mark.parametrize("name", LOSSES)
@backends
def test_losses(name, beta_1, backend):
    op, shared, mine, theirs = LOSSES[name]
    shared = {**shared, "reduction": "none", "backend": backend}
    if op == "discrete_time_loss":
        shared |= {"step": torch.tensor([1, 2, 5, 9, 10]), "n_steps": 10, "beta_1": beta_1}
    elif beta_1 != 3.0:
        pytest.skip("the accuracy is a factor alone")
    z = (3 * random(7, *SHAPE)).requires_grad_()
    got = getattr(binary, op)(X, z, **shared, **mine)
    want = getattr(discrete, op)(X.long(), pair(z), **shared, **theirs)
    (grad,), (wanted,) = (torch.autograd.grad(loss.sum(), z) for loss in (got, want))
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(grad, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("backend", NATIVE)
def test_digits_of_small_losses(backend):
    """Where a class is all but certain its cost is known to all digits, of which plain float32 has none; and where it
    is all but impossible, so is the logarithm of what little it gets."""
    u = torch.linspace(-20, 20, 33)
    x = torch.arange(33) % 2 == 0
    z = torch.where(x, u, -u)[None].requires_grad_()
    of = {"n_steps": 50, "step": 2, "beta_1": 2.0, "reduction": "none", "noise": torch.full((1, 1, 33), 0.5)}

    def n_step(z, b, **more):
        return binary.discrete_time_loss(
            x[None], z, n_samples=1, backend=b, **of | {"noise": of["noise"].to(z), **more}
        )

    for loss in (
        n_step,
        lambda z, b: n_step(z, b, step=50, beta_1=270.0),  # log-ratios of 18 and 25
        lambda z, b: binary.reconstruction_loss(x[None], z, reduction="none", backend=b),
        lambda z, b: binary.continuous_time_loss(x[None], z, 0.5, beta_1=2.0, reduction="none", backend=b),
    ):
        got, want = loss(z, backend), loss(z.double(), "reference")
        (grad,), (wanted,) = (torch.autograd.grad(v.sum(), z) for v in (got, want))
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=0)
        torch.testing.assert_close(grad, wanted, rtol=1e-5, atol=0)


@backends
def test_eight_nodes_where_nothing_is_said(backend):
    z = random(8, *SHAPE)
    loss = lambda **k: binary.discrete_time_loss(X, z, step=2, n_steps=9, backend=backend, **BETA, **k)  # noqa: E731
    assert torch.equal(loss(), loss(quadrature=8)) and not torch.equal(loss(), loss(quadrature=7))
    assert torch.equal(loss(receiver="joint"), loss())


@backends
def test_known_noise(backend):
    """The normals and uniforms of a seed, numbered by variable: four of them to a group."""
    shape, key = (3, 7), torch.tensor(-5)
    zero, half = torch.zeros(shape), torch.zeros(shape, dtype=torch.bool)
    close = lambda got, want: torch.testing.assert_close(got, want, rtol=0, atol=4e-6)  # noqa: E731
    known = torch.tensor([0.494536707, -0.495877852, -0.25049882, -0.210165875])
    close(1 + binary.sender_sample(half, 0.25, seed=-5, backend=backend).flatten()[:4] - 0.5, known)
    normals = noise.normal(shape, key)
    close(binary.update_sample(zero, zero, 0.25, choose="mean", seed=-5, backend=backend), normals)
    drawn = binary.update_sample(zero, zero, 0.25, seed=-5, backend=backend) - normals
    close(drawn, torch.where(noise.class_uniform(shape, key) < 0.5, -0.5, 0.5))
    of = {"step": 2, "n_steps": 3, "reduction": "none", "n_samples": 2, "backend": backend, **BETA}
    draws = torch.stack([noise.normal(shape, key, noise.MONTE_CARLO, i) for i in range(2)])
    got, want = (binary.discrete_time_loss(half, zero, **of, **k) for k in ({"seed": -5}, {"noise": draws}))
    close(got, want)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@backends
def test_a_draw_is_class_0_where_its_probability_exceeds_u(dtype, backend):
    z = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, -1e4, 1e4, -1e4, 1e4], dtype=dtype)
    u = torch.tensor([0.4999, 0.5, 0.5001, 0.26, 0.27, 1.0, 1e-9, 0.5, 0.5])
    zero = torch.zeros_like(z)
    new = binary.update_sample(z, zero, 1.0, noise=zero, draw_noise=u, backend=backend)
    assert (new > 0).tolist() == [False, True, True, False, True, False, True, False, True]


@backends
def test_logits_that_are_no_numbers_send_none(backend):
    z = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0])
    zero = torch.zeros(4)
    for choose in ("sample", "mode", "mean"):
        draw = {"draw_noise": zero + 0.7} if choose == "sample" else {}
        new = binary.update_sample(z, zero, 1.0, choose=choose, noise=zero, backend=backend, **draw)
        tie = {"sample": 2.0, "mode": -2.0, "mean": 0.0}[choose]
        torch.testing.assert_close(new, torch.tensor([torch.nan, 2.0, -2.0, tie]), equal_nan=True)
