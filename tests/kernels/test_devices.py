"""Devices that no kernel serves and that have no float64, such as Apple's: the reference serves them, and computes row
scalars on the CPU."""

import pytest
import torch

from bfn_kernels import checks, nn, samplers
from tests.kernels.op_cases import CASES
from tests.kernels.vocabulary_cases import LARGE, MODES, STEPS
from tests.stand_in import DEVICE, Device, Elsewhere, here, moved, tried

SHAPE = (3, 5)


@pytest.fixture(autouse=True)
def unknown():
    with tried():
        yield


ELSEWHERE = [c for c in CASES if not c.huge and c.num_classes <= 5] + [
    c for c in [*LARGE, *STEPS, *MODES] if not c.huge
]


def of_call(case, inputs):
    """The result of a call on the reference, and the gradients of its sum."""
    with Device():
        leaves = [inputs[name].requires_grad_() for name in case.diff]
        result = case(inputs, "reference")
        return [result.detach(), *(torch.autograd.grad(result.sum(), leaves) if leaves else [])]


@pytest.mark.parametrize("case", ELSEWHERE, ids=repr)
def test_every_op_on_a_device_without_float64(case):
    """Its results, and gradients, are those on the CPU."""
    want = of_call(case, case.inputs(SHAPE, torch.float32))
    got = of_call(case, {name: moved(value) for name, value in case.inputs(SHAPE, torch.float32).items()})
    assert all(isinstance(each, Elsewhere) for each in got)
    torch.testing.assert_close([here(each) for each in got], want, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("case", [case for case in ELSEWHERE if case.loss and "mask" in case.fields], ids=repr)
def test_a_loss_of_nothing_is_zero_on_every_device(case):
    """If a mask leaves out every variable, the loss and its gradients are 0."""
    inputs = case.inputs(SHAPE, torch.float32)
    inputs["mask"] = torch.zeros_like(inputs["mask"])
    for each in of_call(case, {name: moved(value) for name, value in inputs.items()}):
        assert (here(each) == 0).all()


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
