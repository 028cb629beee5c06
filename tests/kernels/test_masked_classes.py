"""A logit of −∞ masks its class: everything that follows from the other classes stays finite."""

import functools

import pytest
import torch

from bfn_kernels import binary, discrete, vocabulary
from tests.kernels.support import INTERPRETED, NATIVE, ON_CPU

inf = torch.inf
FLOORS = (-inf, -1e30)
SIZES = (2, 17, 4100)  # the last is larger than a tile
each_backend = pytest.mark.parametrize("backend", ON_CPU)
each_size = pytest.mark.parametrize("num_classes", SIZES)
each_floor = pytest.mark.parametrize("floor", FLOORS)
INVALID = ("another", "half", "others", "x", "all but another")  # the classes that a row does without


def rows(num_classes: int, floor: float, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """A class x and logits for each of INVALID."""
    generator = torch.Generator().manual_seed(0)
    z = 2 * torch.randn(len(INVALID), num_classes, generator=generator, dtype=torch.float64)
    x, another = torch.ones(len(INVALID), dtype=torch.int64), num_classes - 1 if num_classes > 2 else 0
    classes = torch.arange(num_classes)
    z[0, another] = z[1, classes % 2 == 0] = z[2, classes != 1] = z[3, 1] = z[4, classes != another] = floor
    return x, z.to(dtype)


DRAWS, NODES = {"n_steps": 5, "t": 0.8, "n_samples": 3}, {"n_steps": 5, "t": 0.8, "quadrature": 8}
LOSSES = {
    "continuous_time_loss": {"t": 0.5},
    "reconstruction_loss": {},
    "joint": {**DRAWS, "receiver": "joint"},
    "factorised": {**DRAWS, "receiver": "factorised"},
    "nodes": {**NODES, "receiver": "factorised"},
    "nodes of two": {**NODES, "receiver": "joint"},
}
N_STEP = [name for name, options in LOSSES.items() if "n_steps" in options]
SIZED = [(name, k) for name in LOSSES for k in SIZES if k == 2 or name != "nodes of two"]
# With a strength of 200 the mean of the density ratios leaves float's range. Other losses have none.
STRONG = [(*sized, strength) for sized in SIZED for strength in (6.0, 200.0) if strength < 9 or sized[0] in N_STEP]


def losses(name: str, x: torch.Tensor, z: torch.Tensor, strength: float, backend: str, **more):
    """The loss of each row, and its gradient. strength: K·β₁."""
    more |= LOSSES[name]
    if name != "reconstruction_loss":
        more["beta_1"] = strength / z.shape[-1]
    if "n_samples" in more:
        generator = torch.Generator().manual_seed(1)
        more["noise"] = torch.randn(more["n_samples"], *z.shape, generator=generator).to(z.dtype)
    z = z.detach().requires_grad_()
    loss = getattr(discrete, name, discrete.discrete_time_loss)(x, z, **more, reduction="none", backend=backend)
    return loss.detach(), torch.autograd.grad(loss.sum(), z)[0]


@functools.cache
def limit(name: str, num_classes: int, strength: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The losses and gradients that logits of −10 000 have reached in float64."""
    return losses(name, *rows(num_classes, -1e4), strength, "reference")


@each_backend
@each_floor
@pytest.mark.parametrize(("name", "num_classes", "strength"), STRONG)
def test_losses(name, strength, num_classes, floor, backend):
    """They are the limit, and finite, but for −ln p of a class that has no probability."""
    want, want_grad = limit(name, num_classes, strength)
    if name == "reconstruction_loss":
        want = torch.where(want < 5e3, want, -floor)  # -ln p is what the logit lacks
    for dtype in (torch.float32,) if INTERPRETED else (torch.float32, torch.float64):  # slow, and of one source
        got, grad = losses(name, *rows(num_classes, floor, dtype), strength, backend)
        close = {"rtol": 1e-5, "atol": 1e-6 * want[want < 5e3].max().item()}
        torch.testing.assert_close(got.double(), want, **close)
        torch.testing.assert_close(grad.double(), want_grad, rtol=1e-4, atol=1e-5 * want_grad.abs().max().item())


def with_mask(x: torch.Tensor, z: torch.Tensor) -> dict[str, tuple]:
    """Logits of −∞ in the place of a mask, and finite logits with the mask: of each row and, for the last row alone,
    of the call."""
    valid, finite = z > -inf, torch.where(z > -inf, z, 50.0)
    return {"rows": (x, z, finite, valid), "call": (x[-1:], z[-1:], finite[-1:], valid[-1])}


@each_backend
@pytest.mark.parametrize("form", ["rows", "call"])
@pytest.mark.parametrize(("name", "num_classes"), SIZED)
def test_a_class_mask_is_a_logit_of_minus_infinity(name, form, num_classes, backend):
    """In a loss and its gradient. The logits behind the mask do not count, even if they are NaN."""
    x, z, finite, valid = with_mask(*rows(num_classes, -inf, torch.float32))[form]
    want, want_grad = losses(name, x, z, 6.0, backend)
    got, grad = losses(name, x, finite, 6.0, backend, class_mask=valid)
    if form == "call" or not INTERPRETED:  # what is loaded is masked alike in both forms
        poisoned, _ = losses(name, x, torch.where(valid, z, torch.nan), 6.0, backend, class_mask=valid)
        assert torch.equal(poisoned, got)
    torch.testing.assert_close(got, want, rtol=2e-6, atol=1e-6)
    torch.testing.assert_close(grad, want_grad, rtol=1e-5, atol=1e-6)


@each_backend
@each_size
@pytest.mark.parametrize("form", ["rows", "call"])
def test_a_class_mask_of_a_step(form, num_classes, backend):
    _, z, finite, valid = with_mask(*rows(num_classes, -inf, torch.float32))[form]
    finite = torch.where(valid, finite, torch.nan)
    state, sent, want_sent = torch.linspace(-1, 1, z.numel()).view_as(z), torch.empty_like(z), torch.empty_like(z)
    close = {"rtol": 2e-6, "atol": 2e-6}
    for choose in ("sample", "mode", "mean"):
        draw = {"draw_noise": torch.full((len(z),), 0.7)} if choose == "sample" else {}
        of = {"choose": choose, "noise": torch.ones_like(z), "backend": backend, **draw}
        got = discrete.update_sample(finite, state, 0.3, class_mask=valid, **of)
        torch.testing.assert_close(got, discrete.update_sample(z, state, 0.3, **of), **close)
        for guidance in ({}, {"guidance": 0.5, "unconditional": state, "temperature": 2.0}):
            of = {"rule": "ode1", "beta_1": 6.0 / num_classes, "choose": choose, "backend": backend, **guidance, **draw}
            got = discrete.solver_step(finite, state, 0.2, 0.4, class_mask=valid, predicted_out=sent, **of)
            want = discrete.solver_step(z, state, 0.2, 0.4, predicted_out=want_sent, **of)
            torch.testing.assert_close(got, want, **close)
            torch.testing.assert_close(sent, want_sent, **close)


@each_backend
@each_floor
@each_size
def test_probabilities_and_steps(num_classes, floor, backend):
    """The value that is chosen and the state after it are finite, and an invalid class is never sent."""
    _, z = rows(num_classes, floor, torch.float32)
    ruled_out, state, zero = z < -1e29, torch.zeros_like(z), torch.zeros_like(z)
    theta = discrete.theta(z, backend=backend)
    torch.testing.assert_close(theta, z.double().softmax(-1).float(), rtol=1e-5, atol=1e-7)
    assert (theta[ruled_out] == 0).all()
    beta_1 = 6.0 / num_classes
    sent = torch.empty_like(z)
    for choose in ("sample", "mode", "mean"):
        draw = {"draw_noise": torch.full((len(z),), 0.999999)} if choose == "sample" else {}
        new = discrete.update_sample(z, state, 1.0, choose=choose, noise=zero, backend=backend, **draw)
        assert new.isfinite().all() and (new[ruled_out] <= -1 + 1e-6).all(), choose
        for guidance in ({}, {"temperature": 2.0}, {"guidance": 0.5, "unconditional": z.roll(1, 0).clamp(min=-9)}):
            stepped = discrete.solver_step(
                z, state, 0.2, 0.4, rule="ode1", choose=choose, beta_1=beta_1, predicted_out=sent, backend=backend,
                **guidance, **draw,
            )  # fmt: skip
            assert stepped.isfinite().all() and (sent[ruled_out] == 0).all(), (choose, guidance)
            torch.testing.assert_close(sent.sum(-1), torch.ones(len(z)))


@pytest.mark.parametrize("backend", NATIVE)
@each_size
def test_large_logits_count_by_their_differences(num_classes, backend):
    """Where the mean of the density ratios leaves float's range, they leave the message its digits."""
    x, z = rows(num_classes, -inf, torch.float32)
    z = (16 * z).round() / 16
    for got, want in zip(*(losses("joint", x, z + by, 200.0, backend) for by in (65536.0, 0.0)), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5 * want.abs().max().item())


@each_backend
@pytest.mark.parametrize("receiver", ["joint", "factorised"])
@pytest.mark.parametrize("beta_1", [3.0, 300.0])
@each_floor
def test_binary_losses(floor, beta_1, receiver, backend):
    """A logit of ±∞ is sure of a class: losses are the limit, but for −ln p of the other one."""
    x, noise = torch.tensor([1, 0, 1, 0]), torch.linspace(-2, 2, 12).view(3, 4)
    of = {"n_steps": 5, "t": 0.8, "receiver": receiver, "beta_1": beta_1, "reduction": "none"}
    sure = torch.tensor([-1.0, 1.0, 1.0, -1.0])
    for draws in ({"quadrature": 8}, {"n_samples": 3, "noise": noise}):
        found = []
        for size, by in ((-floor, backend), (1e4, "reference")):
            z = (sure * size).requires_grad_()
            loss = binary.discrete_time_loss(x, z, **of, **draws, backend=by)
            found.append((loss.detach(), torch.autograd.grad(loss.sum(), z)[0]))
        for got, want in zip(*found, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    of = {"reduction": "none", "backend": backend}
    assert torch.equal(binary.reconstruction_loss(x, sure * -floor, **of), torch.tensor([-floor, -floor, 0.0, 0.0]))
    far = binary.continuous_time_loss(x, sure * -floor, 0.5, beta_1=1.0, **of)
    torch.testing.assert_close(far, torch.tensor([2.0, 2.0, 0.0, 0.0]))


@each_backend
@each_size
def test_guidance_where_both_networks_rule_a_class_out(num_classes, backend):
    """It stays ruled out, where (1 + w)·(−∞) − w·(−∞) would be NaN."""
    _, z = rows(num_classes, -inf, torch.float32)
    sent = torch.empty_like(z)
    discrete.solver_step(
        z, torch.zeros_like(z), 0.2, 0.4, rule="ode1", beta_1=6.0 / num_classes, guidance=0.5, unconditional=z / 2,
        predicted_out=sent, backend=backend,
    )  # fmt: skip
    torch.testing.assert_close(sent, (1.5 * z - torch.where(z == -inf, 0, 0.25 * z)).softmax(-1), rtol=1e-5, atol=1e-6)


@each_backend
@each_size
def test_a_state_without_a_class(num_classes, backend):
    """A state of −∞ stays −∞, and its probability 0."""
    _, z = rows(num_classes, -inf, torch.float32)
    theta = torch.empty_like(z)
    for step in (
        lambda **to: discrete.update_sample(z, z, 0.1, choose="mean", noise=torch.zeros_like(z), **to),
        lambda **to: discrete.solver_step(z, z, 0.2, 0.4, rule="ode1", beta_1=6.0 / num_classes, **to),
    ):
        new = step(theta_out=theta, backend=backend)
        assert torch.equal(new.isfinite(), z.isfinite()) and (new[z == -inf] == -inf).all()
        assert theta.isfinite().all() and (theta[z == -inf] == 0).all()


def head(num_classes: int):
    """Hidden states, a weight, a bias that rules out every other class, and classes of the others."""
    generator = torch.Generator().manual_seed(3)
    hidden, weight = (torch.randn(n, 8, generator=generator) for n in (6, num_classes))
    bias = torch.randn(num_classes, generator=generator)
    bias[::2] = -inf
    return hidden, weight, bias, 2 * torch.randint(num_classes // 2, (6,), generator=generator) + 1


@each_backend
@pytest.mark.parametrize("num_classes", [17, 4100])
@pytest.mark.parametrize("op", ["continuous_time_loss", "reconstruction_loss", "discrete_time_loss"])
def test_losses_of_a_head_with_a_masked_bias(op, num_classes, backend):
    """They and their gradients are finite, and those of the op on logits; a class that is ruled out has none."""
    hidden, weight, bias, x = head(num_classes)
    options = {} if op == "reconstruction_loss" else {"t": 0.8, "beta_1": 6.0 / num_classes}
    if op == "discrete_time_loss":
        options |= {"n_steps": 5, "n_samples": 2, "seed": 1}
    found = []
    for by, linear in ((backend, True), ("reference", False)):
        made = [each.clone().requires_grad_() for each in (hidden, weight, bias)]
        if linear:
            loss = getattr(vocabulary, op)(x, *made, **options, backend=by)
        else:
            loss = getattr(discrete, op)(x, torch.nn.functional.linear(*made), **options, backend=by)
        found.append((loss.detach(), *torch.autograd.grad(loss, made)))
    for got, want in zip(*found, strict=True):
        assert got.isfinite().all()
        torch.testing.assert_close(got, want, rtol=2e-4, atol=2e-6)
    assert (found[0][-1][bias == -inf] == 0).all()
