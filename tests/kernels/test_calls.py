"""The short way of small calls: operators without the dispatcher's detour. It gives what the long way gives, and is
left where it would not."""

import pytest
import torch
from support import NATIVE
from torch.overrides import TorchFunctionMode

from bfn_kernels import continuous, operators, rows
from bfn_kernels.backends import NAMESPACES

pytestmark = pytest.mark.skipif("cpu" not in NATIVE, reason="no native operators")

CPU = NAMESPACES.get("bfn_kernels")


def flow(x, **options):
    return continuous.flow_sample(x, 0.5, sigma_1=0.1, seed=1, **options)


def test_when_there_is_a_graph():
    x = torch.rand(2, 3, requires_grad=True)
    assert flow(x).requires_grad and not flow(x.detach()).requires_grad
    with torch.no_grad():
        assert not flow(x).requires_grad
        with torch.enable_grad():
            assert flow(x).requires_grad
            with torch.set_grad_enabled(False):
                assert not flow(x).requires_grad
        assert not flow(x).requires_grad
    with torch.inference_mode():
        made = flow(x)
        assert made.is_inference() and torch.equal(made, flow(x.detach()))
    assert torch.equal(made, flow(x).detach())


def test_transforms_of_functions_see_the_operators():
    """Never a gradient of 0 instead."""
    x = torch.rand(2, 3)
    (want,) = torch.autograd.grad(flow(x.requires_grad_()).sum(), x)
    assert torch.equal(torch.func.grad(lambda x: flow(x).sum())(x.detach()), want) and want.all()


class Seen(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.functions = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.functions.append(str(function))
        return function(*args, **(kwargs or {}))


class Tagged(torch.Tensor):
    """A subclass that lives by __torch_function__."""


def test_modes_and_subclasses_see_the_operators():
    x = torch.rand(2, 3, requires_grad=True)
    with Seen() as seen:
        result = flow(x)
    assert "bfn_kernels.gaussian_step" in " ".join(seen.functions) and result.requires_grad
    tagged = flow(x.detach().as_subclass(Tagged).requires_grad_())
    assert isinstance(tagged, Tagged) and tagged.requires_grad
    assert torch.equal(tagged.as_subclass(torch.Tensor), result)


def test_without_torchs_private_names(monkeypatch):
    monkeypatch.setattr(operators, "SHORT_WAY", False)
    overload = torch.ops.bfn_kernels.gaussian_step.default
    x, row = torch.rand(2, 3), torch.ones(2, 1)
    arguments = x, None, [row], rows.GAMMA, (), None, None
    with Seen() as seen:
        result = operators._call(overload, None, None, None, None)(*arguments)
    assert torch.equal(result, CPU.gaussian_step(*arguments))
    assert "bfn_kernels.gaussian_step" in " ".join(seen.functions)
