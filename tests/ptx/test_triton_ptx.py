"""What Triton compiles for a GPU, executed: every kernel in float32 and bfloat16 against the reference, and blocks in
any order.

In a process of its own: BFN_PTX=triton pytest tests/ptx. All of tests/kernels runs there too (`make gpu-test`).
"""

import os

import pytest

if os.environ.get("BFN_PTX") != "triton":
    pytest.skip("in a process of its own: BFN_PTX=triton pytest tests/ptx", allow_module_level=True)

import ptx
import torch
import triton_ptx
from cases import CASES
from support import FIRST, evaluate, named, serves
from test_accuracy import SHAPES, check

BACKEND = "triton_ptx"
# One case of each op, and those that come to kernels which these do not.
CHOSEN = [case for case in CASES if serves(case, BACKEND) and (case in FIRST)]
CHOSEN += map(named, ("discrete.discrete_time_loss[K=257 joint]", "discrete.discrete_time_loss[K=257 factorised]"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_kernel(dtype):
    triton_ptx.executed.clear()
    for case in CHOSEN:
        check(case, [case.inputs(shape, dtype, seed) for seed, shape in enumerate(SHAPES[:4])], BACKEND)
    assert triton_ptx.executed == triton_ptx.kernels()
