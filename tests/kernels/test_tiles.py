"""Discrete data whose classes just fill what the kernels take at a time, or are one too many: lanes, tiles, teams."""

import inspect

import pytest
import torch

from bfn_kernels import discrete
from bfn_kernels.solvers import Coefficients
from tests.kernels.declared import OPS, parameters, public
from tests.kernels.support import INTERPRETED, NATIVE

ROWS = 17  # one more than lanes
COUNTS = (2, 15, 16, 17, 32, 33, 63, 64, 65, 128, 129, 512, 513, 1023, 1024, 1025, 4096, 4097)
MANY = 1000 if INTERPRETED else 5000  # with more classes there are five rows, since the interpreter is slow
if INTERPRETED:  # tests/ptx runs full tiles of many classes
    COUNTS = tuple(count for count in COUNTS if count not in (1024, 4096))


def data_of(op: str) -> list[str]:
    """The arguments of an op that have no default."""
    each = inspect.signature(public(op)).parameters.values()
    return [argument.name for argument in each if argument.default is argument.empty]


LOSSES = [op for op in OPS if op.startswith("discrete.") and "reduction" in parameters(op)]
TIMELESS = [op for op in LOSSES if {*data_of(op)} <= {"x", "logits"} and "t" not in parameters(op)]


def results(num_classes: int, backend: str) -> dict[str, torch.Tensor]:
    """A call of every op, with gradients by the logits. x is the first class, the last one, and others."""
    dtype, rows = torch.float64, ROWS if num_classes <= MANY else 5
    g = torch.Generator().manual_seed(num_classes)
    z = torch.randn(1, rows, num_classes, generator=g, dtype=dtype).mul(3)
    x = torch.randint(num_classes, (1, rows), generator=g)
    x[0, :2] = torch.tensor([0, num_classes - 1])
    t, alpha = torch.tensor([0.3]), torch.tensor(2 / num_classes)
    shared = {"beta_1": 16 / num_classes, "backend": backend}
    found = {
        "theta": discrete.theta(z, backend=backend),
        "flow": discrete.flow_sample(x, t, num_classes=num_classes, seed=1, dtype=dtype, **shared),
        "sender": discrete.sender_sample(x, alpha, num_classes=num_classes, seed=1, dtype=dtype, backend=backend),
        **{
            f"update by {choose}": discrete.update_sample(z, z, alpha, choose=choose, seed=2, backend=backend)
            for choose in ("sample", "mode", "mean")
        },
    }
    soft, valid = z.roll(1, 1).softmax(-1), torch.arange(num_classes) % 3 != 1
    known = {"known": soft, "known_mask": x % 2 == 0, "coefficients": Coefficients(None, alpha)}
    found["soft flow"] = discrete.flow_sample(soft, t, num_classes=num_classes, seed=1, dtype=dtype, **shared)
    found["step"] = discrete.solver_step(z, z, class_mask=valid, score=z, score_clip=0.5, **known, backend=backend)
    found["theta of an update"] = torch.empty_like(z)
    discrete.update_sample(z, z, alpha, seed=2, theta_out=found["theta of an update"], backend=backend)
    z.requires_grad_()
    steps, data = {"n_steps": 5, "reduction": "batch", **shared}, {"x": x, "logits": z}
    losses = {
        "L_inf": discrete.continuous_time_loss(x, z, t, reduction="batch", **shared),
        # those without a time
        **{op: public(op)(*map(data.get, data_of(op)), reduction="batch", backend=backend) for op in TIMELESS},
        "L_inf of valid classes": discrete.continuous_time_loss(x, z, t, class_mask=valid, **shared),
        "L_inf of soft data": discrete.continuous_time_loss(soft, z, t, **shared),
        "reconstruction of soft data": discrete.reconstruction_loss(soft, z, backend=backend),
        "L_n joint": discrete.discrete_time_loss(x, z, step=2, n_samples=2, seed=3, **steps),
        "L_n factorised": discrete.discrete_time_loss(
            x, z, step=2, n_samples=2, seed=3, receiver="factorised", **steps
        ),
    }
    for name, loss in losses.items():
        found[name], found[f"{name} by logits"] = loss.detach(), torch.autograd.grad(loss.sum(), z)[0]
    return found


@pytest.mark.parametrize("backend", NATIVE)
@pytest.mark.parametrize("num_classes", COUNTS)
def test_counts_of_classes(num_classes, backend):
    got, want = (results(num_classes, name) for name in (backend, "reference"))
    for name, value in want.items():
        torch.testing.assert_close(
            got[name], value, rtol=1e-9, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}"
        )
