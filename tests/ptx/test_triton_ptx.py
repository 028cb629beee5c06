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
from many_classes import with_classes
from support import FIRST, evaluate, named, serves
from test_accuracy import SHAPES, check

from bfn_kernels.discrete.operators import RECEIVERS

BACKEND = "triton_ptx"
# One case of each op, and those of rows that several tiles of a kernel take.
CHOSEN = [case for case in FIRST if serves(case, BACKEND)]
LARGE = [with_classes(named(f"discrete.discrete_time_loss[K=27 {receiver}]"), 2500) for receiver in RECEIVERS]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_kernel(dtype):
    triton_ptx.executed.clear()
    for case in CHOSEN:
        check(case, [case.inputs(shape, dtype, seed) for seed, shape in enumerate(SHAPES[:4])], BACKEND)
    for case in LARGE:
        check(case, [case.inputs((2, 2), dtype, seed) for seed in range(2)], BACKEND)
    assert triton_ptx.executed == triton_ptx.kernels()


@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("name", ["continuous.flow_sample", "discrete.continuous_time_loss[K=27]"])
def test_blocks_in_any_order(name, architecture):
    """The same bits, whichever GPU the kernels are compiled for."""
    inputs = named(name).inputs((5, 300) if "K=" not in name else (5, 30), torch.float32)
    found = []
    try:
        triton_ptx.compile_for(architecture)
        for order in ptx.ORDERS:
            ptx.options(order=order, architecture=architecture)
            found.append(evaluate(named(name), inputs, BACKEND))
    finally:
        triton_ptx.compile_for(90)
        ptx.options()
    for other in found[1:]:
        for key, value in other.items():
            assert torch.equal(value, found[0][key]), key
