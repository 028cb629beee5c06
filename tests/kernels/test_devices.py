"""Devices that no kernel serves and that have no float64, such as Apple's: the reference serves them, and computes row
scalars on the CPU. The device of these tests is a stand-in, whose memory is the CPU's. It has the name of torch's
device without memory, since autograd refuses the names of devices that torch was built without."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from bfn_kernels import nn, samplers
from bfn_kernels.call import checks
from tests.kernels.op_cases import CASES

DEVICE = torch.device("meta")
SHAPE = (3, 5)


class Elsewhere(torch.Tensor):
    """A tensor on the stand-in."""

    @staticmethod
    def __new__(cls, here):
        if here.dtype == torch.float64:
            raise TypeError("the device has no float64")
        options = {"dtype": here.dtype, "device": DEVICE, "storage_offset": here.storage_offset()}
        made = torch.Tensor._make_wrapper_subclass(cls, here.shape, strides=here.stride(), **options)
        made.here = here
        return made

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function} outside of the mode")


def here(value):
    return value.here if isinstance(value, Elsewhere) else value


class Device(TorchDispatchMode):
    """Runs the ops of the stand-in on the CPU. Refuses float64, and tensors of both devices in one op."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        there = any(isinstance(each, Elsewhere) for each in tensors)
        name = function.name()
        if name == "aten::_to_copy" and there and kwargs.get("dtype") == torch.float64:
            raise TypeError("the device has no float64")
        if there and name not in ("aten::copy_", "aten::_to_copy"):
            mixed = [each.shape for each in tensors if not isinstance(each, Elsewhere) and each.dim() > 0]
            assert not mixed, f"{name} has tensors {mixed} of the CPU too"
        if kwargs.get("device") is not None:
            there = torch.device(kwargs["device"]) == DEVICE
            if there and kwargs.get("dtype") == torch.float64:
                raise TypeError("the device has no float64")
            kwargs["device"] = torch.device("cpu")
        result = function(*tree_map(here, args), **tree_map(here, kwargs))
        if function._schema.is_mutable:
            return kwargs.get("out", args[0])
        wrap = lambda value: Elsewhere(value) if isinstance(value, torch.Tensor) else value  # noqa: E731
        return tree_map(wrap, result) if there else result


def moved(value):
    return Elsewhere(value.detach().clone()) if isinstance(value, torch.Tensor) else value


@pytest.fixture(autouse=True)
def tried(monkeypatch):
    """Nothing is known of the stand-in before it is tried."""
    monkeypatch.setattr(checks, "WIDE", ("cpu",))
    checks.has_float64.cache_clear()
    yield
    checks.has_float64.cache_clear()


@pytest.mark.parametrize("case", [case for case in CASES if not case.huge and case.num_classes <= 5], ids=repr)
def test_every_op_on_a_device_without_float64(case):
    """Its results, and gradients, are those on the CPU."""
    results = []
    for device in (False, True):
        inputs = case.inputs(SHAPE, torch.float32)
        with Device():
            if device:
                inputs = {name: moved(value) for name, value in inputs.items()}
            leaves = [inputs[name].requires_grad_() for name in case.diff]
            result = case(inputs, "reference")
            assert isinstance(result, Elsewhere) == device
            grads = torch.autograd.grad(result.sum(), leaves) if leaves else []
            results.append([here(each.detach()) for each in (result, *grads)])
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("sampler", ["ancestral", "ode2", "sde2"])
def test_a_sampling_run_on_a_device_without_float64(sampler):
    def network(theta, t):
        return theta * 3 + t.view(-1, 1, 1)

    model = nn.Discrete(network, beta_1=3.0, num_classes=5)
    want = samplers.sample(model, (2, 4), 4, seed=1, sampler=sampler)
    with Device():
        got = samplers.sample(model, (2, 4), 4, seed=1, sampler=sampler, device=DEVICE)
    assert torch.equal(here(got), want)
    reals = nn.Continuous(lambda mean, t: mean * 0.5, sigma_1=0.1)
    with Device():
        drawn = samplers.sample(reals, (2, 4), 4, seed=1, sampler=sampler, device=DEVICE)
        within, _ = samplers.sample_within(reals, (2, 4), 0.1, seed=1, device=DEVICE)
    torch.testing.assert_close(here(drawn), samplers.sample(reals, (2, 4), 4, seed=1, sampler=sampler))
    torch.testing.assert_close(here(within), samplers.sample_within(reals, (2, 4), 0.1, seed=1)[0])


def test_what_has_no_float64_is_found_out_by_trying():
    with Device():
        assert checks.widest(DEVICE) == torch.float32 and checks.wide_device(DEVICE) == torch.device("cpu")
    checks.has_float64.cache_clear()
    assert checks.widest(DEVICE) == torch.float64 and checks.wide_device(DEVICE) == DEVICE
