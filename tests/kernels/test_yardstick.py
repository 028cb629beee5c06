"""The yardstick of the tests of accuracy is the same on every processor, and it is strict."""

import os
import subprocess
import sys
from functools import partial

import pytest
import torch

from tests.kernels import test_accuracy
from tests.kernels.support import NATIVE, evaluate, named, ulp, widened
from tests.kernels.yardstick import FACTOR, Rounded, check_close, check_errors, errors
from tests.ptx import cuda_ptx

pytestmark = pytest.mark.skipif("cpu" not in NATIVE, reason="the yardstick does not depend on the backend")
NUMBERS = torch.randn(4, 45, generator=torch.Generator().manual_seed(0))
LIBRARIES = [
    {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "2"},
    {"MKL_CBWR": "COMPATIBLE", "ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "1"},
]


@pytest.mark.slow
def test_is_the_same_under_every_mathematical_library():
    command = [sys.executable, "-m", "tests.kernels.yardstick", "--few"]
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("MKL_", "ATEN_", "OMP_"))}
    options = {"cwd": cuda_ptx.ROOT, "stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, env=bare | each, **options) for each in LIBRARIES]
    first, other = [process.communicate()[0].splitlines() for process in running]
    assert len(first) > 40
    assert other == first


@pytest.mark.parametrize("function", [torch.exp, torch.erf, torch.tanh, torch.sigmoid, torch.special.i0e])
def test_a_function_is_rounded_once(function):
    exact, few = function(NUMBERS.double()), torch.tensor([0.0, 0.5, 1.0, torch.nan, torch.inf])
    with Rounded():
        assert torch.equal(function(NUMBERS), exact.float())
    with Rounded(0):
        several = torch.stack([function(NUMBERS) for _ in range(400)])
        assert torch.equal((few + few).nan_to_num(7), torch.tensor([0.0, 1.0, 2.0, 7.0, torch.finfo().max]))
    below, above = (torch.where(s * (exact - exact.float()) > 0, exact.float().nextafter(s * torch.tensor(torch.inf)),
                    exact.float()) for s in (-1.0, 1.0))  # fmt: skip
    assert ((several == below) | (several == above)).all() and (several != several[0]).any(0).float().mean() > 0.9
    gap = (above.double() - below.double()).clamp(min=1e-300)
    assert (((several.double().mean(0) - exact) / gap).abs() < 5 * 0.5 / 20).all()  # 5 standard deviations at most


def test_sums_add_halves_and_products_of_matrices_add_one_by_one():
    with Rounded():
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
    p = z.detach().double().softmax(-1)
    grad = torch.ones_like(z) + NUMBERS / 64  # nearly the same for all classes, so that the difference cancels
    exact = p * (grad.double() - (p * grad).sum(-1, keepdim=True))
    with Rounded():
        (got,) = torch.autograd.grad(z.softmax(-1), z, grad)
    assert ((got - exact).abs() > 4 * torch.finfo().eps * exact.abs()).float().mean() > 0.5


@pytest.mark.parametrize("name", ["discrete.continuous_time_loss[K=27]", "continuous.flow_sample"])
def test_a_result_that_is_too_far_off_is_refused(name, monkeypatch):
    """Of a case whose formula loses much, and of one where the fixed number of ulp decides."""
    case = named(name)
    inputs = case.inputs((5, 33), torch.float32)
    compute, want = partial(evaluate, case, inputs, "reference"), evaluate(case, widened(inputs), "reference")
    *_, loses = errors(compute, want)
    exact = {key: value.to(compute()[key].dtype) for key, value in want.items()}
    check_close(exact, want, compute)
    for key, value in exact.items():
        most = max(FACTOR * loses[key], 4 * ulp(value.dtype, want[key].abs().max().item()))
        off = {**exact, key: value + 1.1 * most}
        with pytest.raises(AssertionError, match=rf"{key}: error .* allowed"):
            check_close(off, want, compute)
        monkeypatch.setattr(
            test_accuracy, "evaluate", lambda c, i, b, off=off: off if b == "off" else evaluate(c, i, b)
        )
        with pytest.raises(AssertionError, match=rf"{key}.*: error .* allowed"):
            test_accuracy.check(case, [inputs], "off")


def test_the_formula_runs_until_all_errors_are_allowed():
    runs = iter([{"x": 2.0, "y": 0.0}, {"x": 3.0, "y": 0.0}, {"x": 4.0, "y": 0.0}])
    check_errors({"x": 3.0, "y": 1.0}, {"x": 1.0, "y": 1.0}, runs)
    assert len([*runs]) == 1
