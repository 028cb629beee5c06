"""How operators are called: everything that observes torch sees every call, and no private function of torch changes a
result."""

import contextlib
import json

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from bfn_kernels import autograd, continuous, torch_private
from tests.kernels.support import NATIVE

pytestmark = pytest.mark.skipif("cpu" not in NATIVE, reason="no native operators")


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


class Seen:
    """A base class of modes, which records the functions that a mode sees."""

    def __init__(self):
        super().__init__()
        self.functions = []

    def see(self, function, types, args=(), kwargs=None):
        self.functions.append(str(function))
        return function(*args, **(kwargs or {}))


class SeenByFunction(Seen, TorchFunctionMode):
    __torch_function__ = Seen.see


class SeenByDispatch(Seen, TorchDispatchMode):
    __torch_dispatch__ = Seen.see


class Tagged(torch.Tensor):
    """A subclass that works through __torch_function__."""


class Wrapped(torch.Tensor):
    """A subclass that works through __torch_dispatch__ and has no memory."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner):
        self.inner = inner

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        inner = [arg.inner if isinstance(arg, cls) else arg for arg in args]
        return cls(function(*inner, **(kwargs or {})))


@pytest.mark.parametrize("needs_gradient", [False, True])
@pytest.mark.parametrize("mode", [SeenByFunction, SeenByDispatch])
def test_modes_see_the_operators(mode, needs_gradient):
    x = torch.rand(2, 3, requires_grad=needs_gradient)
    with mode() as seen:
        result = flow(x)
    assert "bfn_kernels.continuous_gaussian_step" in " ".join(seen.functions) and result.requires_grad == needs_gradient


def test_subclasses_see_the_operators():
    x = torch.rand(2, 3, requires_grad=True)
    tagged = flow(x.detach().as_subclass(Tagged).requires_grad_())
    assert isinstance(tagged, Tagged) and tagged.requires_grad
    assert torch.equal(tagged.as_subclass(torch.Tensor), flow(x))
    assert torch.equal(flow(Wrapped(x.detach())).inner, flow(x))
    negative = torch.complex(x, -x).detach().conj().imag
    assert negative.is_neg() and torch.equal(flow(negative), flow(x))


def test_profiles_and_traces_see_the_operators(tmp_path):
    x = torch.rand(2, 3)
    with torch.profiler.profile() as profile:
        flow(x)
    assert "bfn_kernels::continuous_gaussian_step" in {event.key for event in profile.key_averages()}
    observer = torch.profiler.ExecutionTraceObserver().register_callback(str(tmp_path / "trace.json"))
    observer.start()
    flow(x)
    observer.stop()
    observer.unregister_callback()
    nodes = json.loads((tmp_path / "trace.json").read_text())["nodes"]
    assert "bfn_kernels::continuous_gaussian_step" in {node["name"] for node in nodes}
    traced = torch.jit.trace(flow, x, check_trace=False)
    assert "bfn_kernels::continuous_gaussian_step" in str(traced.graph)


def test_without_torchs_private_names(monkeypatch):
    """The private names only save time, and results are the same without them."""
    x = torch.rand(2, 3, requires_grad=True)
    want = flow(x), *torch.autograd.grad(flow(x).sum(), x)
    monkeypatch.setattr(autograd, "below_autograd", contextlib.nullcontext)
    monkeypatch.setattr(autograd, "transformed", lambda: False)
    for got, expected in zip((flow(x), *torch.autograd.grad(flow(x).sum(), x)), want, strict=True):
        assert torch.equal(got, expected)
    assert torch.equal(flow(x.detach()), want[0]) and not flow(x.detach()).requires_grad
    operator = torch.ops.bfn_kernels.discrete_theta.default
    assert torch_private.below_python(operator) is not operator
    assert torch_private.below_python(object) is object


def test_sizes_that_cannot_be_counted_are_errors():
    for wide in (2**62, 2**62 + 2**21):  # the second one has few bytes modulo 2⁶⁴
        with pytest.raises(RuntimeError, match="more bytes than can be counted"):
            flow(torch.zeros(1, 1).expand(1, wide))
    with pytest.raises(RuntimeError, match=f"there is no memory for {2**48} bytes"):
        flow(torch.zeros(1, 1).expand(1, 2**46))
