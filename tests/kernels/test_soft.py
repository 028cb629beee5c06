"""Soft data: distributions over classes in the place of classes."""

import math

import pytest
import torch

from bfn_kernels import discrete, nn
from tests.kernels.support import INTERPRETED, ON_CPU

each_backend = pytest.mark.parametrize("backend", ON_CPU)
# Triton has one kernel for rows that fit in a tile.
each_size = pytest.mark.parametrize("num_classes", [2, 5, 300, 4100] if INTERPRETED else [2, 5, 17, 40, 300, 4100])


def data(num_classes: int, gap: float = 3.0, backend: str = "cpu"):
    """Classes, their one-hot vectors, and logits, of which some are sure of the class and others of another one. The
    reference gets float64, since its squared distance cancels. Large rows are few, since interpreters are slow."""
    generator = torch.Generator().manual_seed(num_classes)
    rows = 37 if num_classes < 4000 else 7
    x = torch.randint(num_classes, (rows,), generator=generator)
    one_hot = torch.nn.functional.one_hot(x, num_classes).float()
    z = gap * torch.randn(rows, num_classes, generator=generator)
    z[1::3] += 5 * gap * one_hot[1::3]
    z[2::3, 0] += 5 * gap
    return x, one_hot, z.double() if backend == "reference" else z


@each_backend
@each_size
def test_a_one_hot_vector_is_a_class_in_flows_and_messages(num_classes, backend):
    x, one_hot, _ = data(num_classes)
    of = {"num_classes": num_classes, "seed": 3, "backend": backend}
    mask = torch.arange(len(x)) % 4 != 0
    for call in (
        lambda x: discrete.flow_sample(x, 0.6, beta_1=6.0 / num_classes, **of),
        lambda x: discrete.flow_sample(x, 0.6, beta_1=6.0 / num_classes, output="logits", mask=mask, **of),
        lambda x: discrete.sender_sample(x, torch.linspace(0, 1, len(x)), **of),
    ):
        want = call(x)
        for soft in (one_hot, one_hot.half()):
            torch.testing.assert_close(call(soft), want, rtol=1e-6, atol=1e-6)


@each_backend
@each_size
@pytest.mark.parametrize("gap", [1.0, 8.0])
@pytest.mark.parametrize("name", ["continuous_time_loss", "reconstruction_loss"])
def test_a_one_hot_vector_is_a_class_in_losses(name, gap, num_classes, backend):
    """Also where 1 − p_x or p_x is tiny: relative to the row's largest derivative."""
    x, one_hot, z = data(num_classes, gap, backend)
    time = {} if name == "reconstruction_loss" else {"t": 0.5, "beta_1": 1.0}
    found = []
    for each in (x, one_hot, one_hot.bfloat16()):
        logits = z.clone().requires_grad_()
        loss = getattr(discrete, name)(each, logits, **time, reduction="none", backend=backend)
        found.append((loss.detach(), torch.autograd.grad(loss.sum(), logits)[0]))
    (want, want_grad), *soft = found
    for loss, grad in soft:
        exact = 1e-14 * num_classes if backend == "reference" else 1e-35
        torch.testing.assert_close(loss, want, rtol=2e-5, atol=exact)
        largest = want_grad.abs().amax(-1, keepdim=True)
        assert ((grad - want_grad).abs() <= 2e-5 * largest + exact).all()


@each_backend
@each_size
def test_a_one_hot_vector_is_a_known_class(num_classes, backend):
    x, one_hot, z = data(num_classes)
    mask = torch.arange(len(x)) % 3 != 0
    hidden = torch.where(mask[:, None], one_hot, torch.nan)
    for choose in ("sample", "mode", "mean"):
        of = {"choose": choose, "known_mask": mask, "seed": 1, "backend": backend}
        got = discrete.update_sample(z, z, 0.1, known=hidden, **of)
        torch.testing.assert_close(got, discrete.update_sample(z, z, 0.1, known=x, **of), rtol=1e-6, atol=1e-5)
        of |= {"rule": "sde1", "beta_1": 6.0 / num_classes}
        got, want = (discrete.solver_step(z, z, 0.2, 0.4, known=known, **of) for known in (hidden, x))
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-5)


def agrees(loss, logits, want, wide, rtol, atol):
    """The loss and its gradient by the logits are those of `want`, which was computed of the logits in float64."""
    torch.testing.assert_close(loss.double(), want, rtol=rtol, atol=atol)
    (got,), (exact,) = torch.autograd.grad(loss.sum(), logits), torch.autograd.grad(want.sum(), wide)
    torch.testing.assert_close(got.double(), exact, rtol=1e-4, atol=1e-6)


@each_backend
@each_size
def test_losses_of_any_distribution(num_classes, backend):
    """‖x − p‖² and −Σ x_k ln p_k, which is the loss of torch."""
    _, _, z = data(num_classes, backend=backend)
    x = z.roll(1, 0).softmax(-1)
    logits = z.clone().requires_grad_()
    wide, options = z.double().requires_grad_(), {"reduction": "none", "backend": backend}

    want = torch.nn.functional.cross_entropy(wide, x.double(), reduction="none")
    agrees(discrete.reconstruction_loss(x, logits, **options), logits, want, wide, 1e-5, 1e-5)
    want = (x.double() - wide.softmax(-1)).square().sum(-1)
    loss = discrete.continuous_time_loss(x, logits, 1.0, beta_1=1.0 / num_classes, **options)
    agrees(loss, logits, want, wide, 1e-5, 1e-6)


@each_backend
@each_size
@pytest.mark.parametrize("name", ["continuous_time_loss", "reconstruction_loss"])
def test_a_class_has_half_of_the_probability(name, num_classes, backend):
    """Or half of it but for a rounding error, to either side."""
    off = torch.arange(-32, 32, 1 if num_classes < 4000 else 7)  # large rows are few, since interpreters are slow
    z = torch.full((len(off), num_classes), -math.log(num_classes - 1))
    z[:, 0] = 0
    z[:, 1] += off * 2.0**-26
    x = torch.nn.functional.one_hot(torch.arange(len(off)) % 2, num_classes).float()
    logits, wide = (v.requires_grad_() for v in (z.double() if backend == "reference" else z.clone(), z.double()))
    time = {} if name == "reconstruction_loss" else {"t": 1.0, "beta_1": 1.0 / num_classes}
    loss = getattr(discrete, name)(x, logits, **time, reduction="none", backend=backend)
    p = wide.softmax(-1)
    want = (x - p).square().sum(-1) if time else -(x * p.log()).sum(-1)
    agrees(loss, logits, want, wide, 1e-6, 0)


def test_a_model_trains_on_soft_data():
    network = torch.nn.Linear(4, 4)
    model = nn.Discrete(lambda theta, t: network(theta), beta_1=3.0, num_classes=4)
    x, one_hot = torch.arange(4).expand(2, 4), torch.eye(4).expand(2, 4, 4)
    torch.testing.assert_close(model(one_hot, seed=1), model(x, seed=1))
    torch.testing.assert_close(model.reconstruction(one_hot, seed=1), model.reconstruction(x, seed=1))


Z, P = torch.zeros(2, 3, 4), torch.full((2, 3, 4), 0.25)
REFUSED = [
    (lambda: discrete.discrete_time_loss(P, Z, 0.0, n_steps=3, beta_1=1.0), TypeError, "not implemented for soft data"),
    (lambda: discrete.flow_sample(P, 0.5, num_classes=5, beta_1=1.0), TypeError, r"soft data of shape \[B, ..., 5\]"),
    (lambda: discrete.reconstruction_loss(P.clone().requires_grad_(), Z), ValueError, "x requires a gradient"),
]


@pytest.mark.parametrize(("call", "kind", "words"), REFUSED)
def test_refused(call, kind, words):
    with pytest.raises(kind, match=words):
        call()
