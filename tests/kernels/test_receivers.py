"""The receivers of the n-step loss. For logits so far apart, and messages so accurate, that shares and densities
underflow, the factorised receiver computes with logarithms. For messages that say little, the joint receiver computes
with differences from 1."""

import pytest
import torch

from bfn_kernels import discrete
from tests.kernels.support import INTERPRETED, NATIVE, Accuracy
from tests.kernels.yardstick import check_close

GAPS, ACCURACIES = (60.0, 80.0, 90.0, 120.0, 250.0, 400.0, 1500.0), (100.0, 200.0, 500.0, 2000.0, 6000.0)

# The interpreter of Triton takes seconds for rows of several tiles.
LONG = pytest.param(4100, marks=[pytest.mark.slow] * INTERPRETED)


def rows(num_classes: int, dtype: torch.dtype):
    """For each gap and accuracy: x and logits in which x is far below one class, far below two equal ones, and far
    above all; and Kα."""
    g = torch.Generator().manual_seed(num_classes)
    x, z, accuracy, gaps = [], [], [], []
    few = num_classes > 1000
    for gap in GAPS[3::3] if few else GAPS:
        for k_alpha in ACCURACIES[1:4:2] if few else ACCURACIES:
            base = torch.randn(3, num_classes, generator=g, dtype=torch.float64)
            base[0, -1], base[1, -1] = gap, gap
            base[1, 0] = gap - 0.5 if num_classes > 2 else 0.0
            base[2, 1] = gap
            if num_classes > 3:
                base[0, 2] = -gap  # underflows even beside x
            x.append(torch.tensor([num_classes // 3, num_classes // 2, 1]).clamp(max=num_classes - 1))
            x[-1][0], x[-1][1] = (0, 0) if num_classes == 2 else (x[-1][0], x[-1][1])
            z.append(base)
            accuracy.append(k_alpha)
            gaps.append(gap)
    return torch.stack(x), torch.stack(z).to(dtype), *torch.tensor([accuracy, gaps], dtype=torch.float64)


def results(x, z, accuracy, backend, receiver="factorised", **expect):
    z = z.clone().requires_grad_()
    loss = discrete.discrete_time_loss(
        x,
        z,
        torch.zeros(len(x), 1),
        n_steps=1,
        schedule=Accuracy(accuracy.unsqueeze(-1) / z.shape[-1]),
        receiver=receiver,
        reduction="none",
        backend=backend,
        **expect,
    )
    return loss.detach(), torch.autograd.grad(loss.sum(), z)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("num_classes", [2, 3, 27, LONG] if INTERPRETED else [2, 3, 27, 100, 1030, LONG])
@pytest.mark.parametrize("backend", NATIVE)
def test_far_logits_and_accurate_messages(num_classes, backend, dtype):
    """The error is at most the rounding of numbers as large as the gap and Kα, for nodes and for draws."""
    x, z, accuracy, gap = rows(num_classes, dtype)
    size = gap + accuracy
    g = torch.Generator().manual_seed(1)
    noise = torch.randn(2, *z.shape, generator=g, dtype=torch.float64).to(dtype)
    for expect in ({"quadrature": 5}, {"n_samples": 2, "noise": noise}):
        wide = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in expect.items()}
        loss, grad = results(x, z, accuracy, backend, **expect)
        want, want_grad = results(x, z.double(), accuracy, "reference", **wide)
        most = 4 * torch.finfo(dtype).eps * size.unsqueeze(-1)
        assert ((loss - want).abs() <= most).all(), (loss - want).abs().div(most).max()
        off = (grad - want_grad).abs().amax(-1)
        assert (off <= most).all(), off.div(most).max()


@pytest.mark.parametrize("backend", NATIVE)
@pytest.mark.parametrize("num_classes", [3, 4100])
def test_a_class_that_is_ruled_out_beside_an_accurate_message(num_classes, backend):
    """Its loss is the message's own, also where all but one are ruled out. Losses and gradients are finite."""
    z, x = torch.zeros(1, 2, num_classes), torch.ones(1, 2, dtype=torch.int64)
    z[0, 0, 1], z[0, 1, 1:] = -torch.inf, -torch.inf
    for expect in ({"quadrature": 5}, {"n_samples": 2, "seed": 1}):
        loss, grad = results(x, z, torch.tensor([300.0]), backend, **expect)
        want, _ = results(x, z.double(), torch.tensor([300.0]), "reference", **expect)
        torch.testing.assert_close(loss.double(), want, rtol=1e-5, atol=0)
        assert want.isfinite().all() and grad.isfinite().all()


@pytest.mark.parametrize("backend", NATIVE)
@pytest.mark.parametrize("gap", [8.0, 12.0, 20.0])
def test_a_likely_class_costs_little_to_the_last_digits(gap, backend):
    """1 - p, subtracted, would have none of them."""
    x, z = torch.zeros(1, 2, dtype=torch.int64), torch.tensor([[[gap, 0.0, -1.0], [gap, -3.0, 0.5]]])
    for call in (
        lambda z, b: discrete.reconstruction_loss(x, z, reduction="none", backend=b),
        lambda z, b: discrete.discrete_time_loss(
            x,
            z,
            0.5,
            beta_1=3.0,
            n_steps=4,
            n_samples=1,
            noise=torch.full_like(z, 0.7).unsqueeze(0),
            receiver="factorised",
            reduction="none",
            backend=b,
        ),
    ):
        torch.testing.assert_close(call(z, backend).double(), call(z.double(), "reference"), rtol=1e-4, atol=0)


@pytest.mark.parametrize("backend", NATIVE)
@pytest.mark.parametrize("spread", [0.01, 0.24, 0.3, 0.79, 0.81, 3.0, *([] if INTERPRETED else [0.1, 0.5])])
@pytest.mark.parametrize("num_classes", [2, 5, 100] if INTERPRETED else [2, 5, 27, 100])
def test_joint_messages_of_any_spread(num_classes, spread, backend):
    """The ratios of densities are near 1 if the spread √(Kα) of a message is small. Their differences from 1 count."""
    generator = torch.Generator().manual_seed(num_classes)
    x = torch.randint(num_classes, (1, 200), generator=generator)
    z = 3 * torch.randn(1, 200, num_classes, generator=generator)
    noise = torch.randn(3, *z.shape, generator=generator)

    def found(by, dtype):
        drawn = {"receiver": "joint", "n_samples": 3, "noise": noise.to(dtype)}
        return results(x, z.to(dtype), torch.tensor([spread**2], dtype=torch.float64), by, **drawn)

    want = found("reference", torch.float64)
    check_close(found(backend, z.dtype), want, lambda: found("reference", z.dtype))
