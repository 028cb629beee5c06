"""The direct way of the CPU's operators, past the dispatcher: the same bits, for plain tensors alone."""

import subprocess
import sys

import pytest
import torch
from support import NATIVE, pairs
from torch.utils._python_dispatch import TorchDispatchMode

from bfn_kernels import continuous, discrete, operators
from bfn_kernels.backends import NAMESPACES

pytestmark = pytest.mark.skipif("cpu" not in NATIVE, reason="no native operators")

DIRECT = NAMESPACES["bfn_kernels"].direct if "cpu" in NATIVE else None


def flow(x, **options):
    return continuous.flow_sample(x, 0.5, sigma_1=0.1, seed=1, **options)


@pytest.fixture
def forbidden(monkeypatch):
    """No way but the direct one."""

    def enter():
        raise AssertionError("the dispatcher was asked")

    monkeypatch.setattr(operators, "_AutoDispatchBelowAutograd", enter)


def outcome(case, inputs) -> list[torch.Tensor]:
    """The result and the gradients."""
    inputs = {k: v.detach().requires_grad_() if k in case.diff else v for k, v in inputs.items()}
    torch.manual_seed(3)
    result = case(inputs, "cpu")
    wanted = [inputs[name] for name in case.diff]
    return [result, *torch.autograd.grad(result.sum(), wanted)] if wanted else [result]


@pairs(["cpu"] if DIRECT else [])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_both_ways_give_the_same_bits(case, backend, dtype, monkeypatch):
    inputs = case.inputs((3, 5), dtype)
    with monkeypatch.context() as patch:
        patch.setattr(operators, "_AutoDispatchBelowAutograd", None)  # which is then not called
        direct = outcome(case, inputs)
    monkeypatch.setattr(operators, "_observed", lambda: True)
    for ours, theirs in zip(direct, outcome(case, inputs), strict=True):
        assert torch.equal(ours, theirs)
        assert (ours.dtype, ours.stride()) == (theirs.dtype, theirs.stride())


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.t(),
        lambda x: x[:, ::2],
        lambda x: x[:1].expand(4, 6),
        lambda x: x[:, :1].expand(4, 6),
        lambda x: x[:, :1],
        lambda x: x[:0],
        lambda x: x.view(2, 2, 6).permute(2, 0, 1),
        lambda x: x.view(4, 3, 2)[:, :, 1:].permute(0, 2, 1),
        lambda x: x.unsqueeze(1).transpose(0, 2),
    ],
)
def test_results_have_the_strides_that_torch_gives(view, forbidden):
    x = view(torch.rand(4, 6))
    result = flow(x)
    assert torch.equal(result, flow(x.contiguous()))
    told, like = [d for d in range(x.dim()) if x.size(d) > 1], torch.empty_like(x)
    assert [result.stride(d) for d in told] == [like.stride(d) for d in told]


class Seen(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.functions = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.functions.append(str(function))
        return function(*args, **(kwargs or {}))


def test_who_looks_at_the_dispatcher_sees_every_call():
    x = torch.rand(2, 3)
    with Seen() as seen:
        flow(x)
    assert "bfn_kernels.gaussian_step.default" in seen.functions
    with torch.profiler.profile() as profile:
        flow(x)
    assert "bfn_kernels::gaussian_step" in {event.key for event in profile.key_averages()}
    traced = torch.jit.trace(flow, x, check_trace=False)
    assert "bfn_kernels::gaussian_step" in str(traced.graph)
    with pytest.raises(RuntimeError, match="vmap"):
        torch.vmap(flow)(torch.rand(2, 2, 3))


class Wrapped(torch.Tensor):
    """A subclass that lives by __torch_dispatch__ and has no memory."""

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


class Number:
    """Whose own code is never run: it might do anything to the other arguments."""

    def __float__(self):
        raise AssertionError("asked for its number")


def test_what_is_not_plain_goes_to_the_dispatcher():
    x = torch.rand(2, 3)
    assert torch.equal(flow(Wrapped(x)).inner, flow(x))
    negative = torch.complex(x, -x).conj().imag
    assert negative.is_neg() and torch.equal(flow(negative), flow(x))
    arguments = (None, [torch.ones(2, 1)], 1, (), None, None)
    assert torch.equal(DIRECT.gaussian_step(x, *arguments), x)
    assert torch.equal(DIRECT.gaussian_step(torch.nn.Parameter(x), *arguments), x)
    for odd in (negative, Wrapped(x), x.to("meta"), x.to_sparse(), x.cfloat(), x.numpy(), None):
        assert DIRECT.gaussian_step(odd, *arguments) is NotImplemented
    assert DIRECT.gaussian_step(x, None, [x[:, :1]], 1, [Number()], None, None) is NotImplemented
    for wrong in ((x,), (x, *arguments, 1), (x, *arguments[:2], None, *arguments[3:]), (x, None, x, *arguments[2:])):
        assert DIRECT.gaussian_step(*wrong) is NotImplemented


def test_errors_are_those_of_the_dispatcher(monkeypatch):
    calls = (
        lambda: flow(torch.zeros(1, 1).expand(1, 2**62)),
        lambda: flow(torch.zeros(1, 1).expand(1, 2**62 + 2**21)),  # modulo 2⁶⁴ its bytes are a few
        lambda: continuous.flow_sample(torch.rand(2, 3), torch.tensor([0.5, 1.5]), sigma_1=0.1),
        lambda: discrete.reconstruction_loss(torch.tensor([[0, 7]]), torch.zeros(1, 2, 3)),
        lambda: NAMESPACES["bfn_kernels"].gaussian_step(torch.rand(2, 3), None, [], 1, (), None, None),
    )
    for call in calls:
        errors = []
        for observed in (False, True):
            monkeypatch.setattr(operators, "_observed", lambda observed=observed: observed)
            with pytest.raises((ValueError, IndexError, RuntimeError)) as caught:
                call()
            errors.append(caught.value)
        assert type(errors[0]) is type(errors[1]) and str(errors[0]) == str(errors[1]).splitlines()[0]


def test_memory_that_is_not_there_is_an_error(forbidden):
    with pytest.raises(RuntimeError, match="no memory for"):
        flow(torch.zeros(1, 1).expand(1, 2**46))


def test_results_keep_their_memory_and_give_it_back(forbidden):
    def mapped() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1])

    x = torch.rand(1, 2**16)
    kept = [flow(x) for _ in range(8)]
    expected = kept[0].clone()
    before = mapped()
    for _ in range(500):  # 125 MiB
        flow(x)
    assert mapped() - before < 2**12  # pages of 4 KiB
    assert all(torch.equal(each, expected) and each.data_ptr() % 64 == 0 for each in kept)


def test_beside_a_torch_without_the_exchange():
    code = """
import torch
del torch.Tensor.__dlpack_c_exchange_api__
from bfn_kernels import backends, continuous
direct = backends.NAMESPACES["bfn_kernels"].direct
assert not hasattr(direct, "gaussian_step")
print(continuous.flow_sample(torch.ones(1, 2), 1.0, sigma_1=0.1, noise=torch.zeros(1, 2)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "tensor([[0.9900, 0.9900]])\n", done.stderr
