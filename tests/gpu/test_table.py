"""The table of cases on a GPU: every backend there against the float64 reference on the CPU."""

from functools import partial

import pytest
import torch

from bfn_kernels.backends import BACKENDS
from tests.kernels.op_cases import CASES
from tests.kernels.support import DTYPES, error, evaluate, serves, widened
from tests.kernels.vocabulary_cases import LARGE
from tests.kernels.yardstick import check_close

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]

HERE = BACKENDS.values() if torch.cuda.is_available() else ()  # a thousand tests take seconds to be skipped
ON_GPU = [b.name for b in HERE if b.missing is None and b.device == "cuda"]
TABLE = [pytest.param(c, b, id=f"{b}-{c.name}") for b in ON_GPU for c in (*CASES, *LARGE) if serves(c, b)]


def moved(inputs, device):
    return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize(("case", "backend"), TABLE)
def test_agrees_with_the_float64_reference(case, backend, dtype):
    for seed, shape in enumerate([(3, 7), (5, 40), (4, 3, 5), (0, 4)]):
        inputs = case.inputs(shape, dtype, seed)
        got = {name: value.cpu() for name, value in evaluate(case, moved(inputs, "cuda"), backend).items()}
        want = evaluate(case, widened(inputs), "reference")
        check_close(got, want, partial(evaluate, case, inputs, "reference"))


@pytest.mark.parametrize(("case", "backend"), [p for p in TABLE if {"noise", "draw_noise"} & set(p.values[0].fields)])
def test_noise_is_that_of_the_reference(case, backend):
    inputs = {k: v for k, v in case.inputs((4, 24), torch.float32).items() if not k.endswith("noise")}
    want, got = case(inputs, "reference", seed=-9), case(moved(inputs, "cuda"), backend, seed=-9).cpu()
    assert error(got, want) <= 2e-6 * max(1.0, want.abs().max().item()) * (4 if case.loss else 1)
