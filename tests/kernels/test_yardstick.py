"""The yardstick of the tests of accuracy is the same on every processor, and it is strict."""

import os
import subprocess
import sys

import pytest
import torch

from tests.kernels import test_accuracy
from tests.kernels.support import NATIVE, error, evaluate, named, ulp, widened
from tests.kernels.yardstick import FACTOR, RoundedOnce, check_close, rounded_once
from tests.ptx import cuda_ptx

pytestmark = pytest.mark.skipif("cpu" not in NATIVE, reason="the yardstick does not depend on the backend")
NUMBERS = torch.randn(4, 45, generator=torch.Generator().manual_seed(0))
LIBRARIES = [
    {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "2"},
    {"MKL_CBWR": "COMPATIBLE", "ATEN_CPU_CAPABILITY": "avx2"},
    {},
]


def test_is_the_same_under_every_mathematical_library():
    command = [sys.executable, "-m", "tests.kernels.yardstick"]
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("MKL_", "ATEN_", "OMP_"))}
    options = {"cwd": cuda_ptx.ROOT, "stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, env=bare | each, **options) for each in LIBRARIES]
    first, *others = [process.communicate()[0].splitlines() for process in running]
    assert len(first) > 500
    for other in others:
        assert other == first


@pytest.mark.parametrize("function", [torch.exp, torch.erf, torch.tanh, torch.sigmoid, torch.special.i0e])
def test_a_function_is_rounded_once(function):
    with RoundedOnce():
        got = function(NUMBERS)
    assert torch.equal(got, function(NUMBERS.double()).float())


def test_sums_add_halves_and_products_of_matrices_add_one_by_one():
    with RoundedOnce():
        got_sum, got_product = NUMBERS.sum(-1), NUMBERS[:1] @ NUMBERS[1:2].t()

    def halved(numbers):
        if len(numbers) == 1:
            return numbers[0]
        half = len(numbers) // 2
        rest = numbers[2 * half :]
        return halved([*(a + b for a, b in zip(numbers[:half], numbers[half : 2 * half], strict=True)), *rest])

    assert torch.equal(got_sum, torch.stack([halved([*row]) for row in NUMBERS]))
    total = torch.tensor(0.0)
    for a, b in zip(NUMBERS[0], NUMBERS[1], strict=True):
        total = total + a * b
    assert torch.equal(got_product, total.reshape(1, 1))
    assert not torch.equal(got_product.double(), NUMBERS[:1].double() @ NUMBERS[1:2].double().t())


def test_the_gradient_of_a_softmax_is_rounded_within():
    """Torch computes it by one kernel, which would be rounded once as a whole."""
    z = (5 * NUMBERS).requires_grad_()
    with RoundedOnce():
        (got,) = torch.autograd.grad(z.softmax(-1).square().sum(), z)
        p = z.detach().softmax(-1)
        want = 2 * p * p - p * (2 * p * p).sum(-1, keepdim=True)
    assert torch.equal(got, want)


@pytest.mark.parametrize("name", ["discrete.continuous_time_loss[K=27]", "continuous.flow_sample"])
def test_a_result_that_is_too_far_off_is_refused(name, monkeypatch):
    """Of a case whose formula loses much, and of one where the fixed number of ulp decides."""
    case = named(name)
    inputs = case.inputs((5, 33), torch.float32)
    want, formula = evaluate(case, widened(inputs), "reference"), rounded_once(case, inputs)
    exact = {key: value.to(formula[key].dtype) for key, value in want.items()}
    check_close(exact, want, lambda: evaluate(case, inputs, "reference"))
    for key, value in exact.items():
        most = max(FACTOR * error(formula[key], want[key]), 4 * ulp(value.dtype, want[key].abs().max().item()))
        off = {**exact, key: value + 1.1 * most}
        with pytest.raises(AssertionError, match=rf"{key}: error .* allowed"):
            check_close(off, want, lambda: evaluate(case, inputs, "reference"))
        monkeypatch.setattr(
            test_accuracy, "evaluate", lambda c, i, b, off=off: off if b == "off" else evaluate(c, i, b)
        )
        with pytest.raises(AssertionError, match=rf"{key}.*: error .* allowed"):
            test_accuracy.check(case, [inputs], "off")
