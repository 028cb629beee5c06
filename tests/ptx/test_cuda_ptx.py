"""What nvcc compiles, executed: every kernel, in every form of it that is compiled, against the reference; and blocks in
any order.

In a process of its own: BFN_PTX=cuda pytest tests/ptx. All of tests/kernels runs there too (`make gpu-test`).
"""

import os
import re
import subprocess
from collections.abc import Iterator

import pytest

if os.environ.get("BFN_PTX") != "cuda":
    pytest.skip("in a process of its own: BFN_PTX=cuda pytest tests/ptx", allow_module_level=True)

import cuda_ptx
import ptx
import torch
from cases import CASES, Case
from many_classes import with_classes
from support import DTYPES, FIRST, error, evaluate, serves
from test_accuracy import SHAPES, check
from test_cuda import NOISE, check_seeded

BACKEND = "cuda_ptx"
SIZES = [*SHAPES[:4], (2, 16)]
NETWORK = ("prediction", "noise_pred", "pred_mean", "pred_log_std", "mixture_logits")
NAMES = {torch.bfloat16: "BFloat16", torch.float16: "Half", torch.float64: "double"}  # other kernels are of float32


def readable(names: set[str]) -> set[str]:
    """Kernels as the source names them, with the arguments of their templates."""
    done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    short = re.sub(r"\(anonymous namespace\)::|bfn::|^void |\((bfn::)?Choice\)|\(.*", "", done.stdout, flags=re.MULTILINE)
    return {*short.split("\n")} - {""}


def of_dtype(kernels: set[str], dtype: torch.dtype) -> set[str]:
    """Those that are compiled for a type alone."""
    others = [name for other, name in NAMES.items() if other != dtype]
    found = {kernel for kernel in kernels if not any(name in kernel for name in others)}
    return {kernel for kernel in found if NAMES.get(dtype, "") in kernel}


def functions(kernels: set[str]) -> set[str]:
    return {kernel.split("<")[0] for kernel in kernels}


def transposed(inputs: dict) -> dict:
    """The same numbers in other strides."""
    turn = lambda x: x.transpose(0, 1).contiguous().transpose(0, 1)  # noqa: E731
    return {k: turn(v) if isinstance(v, torch.Tensor) and v.dim() > 1 else v for k, v in inputs.items()}


def forms(case: Case, dtype: torch.dtype) -> Iterator[list[dict]]:
    """Inputs that kernels read in different ways: in any layout; densely, one by one and as vectors; and, as under
    autocast, float32 data with a network's outputs in a narrow type."""
    dense = [case.inputs(shape, dtype, seed) for seed, shape in enumerate(SIZES)]
    yield dense
    if dtype in (torch.float32, torch.float64):
        yield [*map(transposed, dense)]
    elif set(NETWORK) & set(case.fields):
        wide = [case.inputs(shape, torch.float32, seed) for seed, shape in enumerate(SIZES)]
        yield [{name: x.to(dtype) if name in NETWORK else x for name, x in inputs.items()} for inputs in wide]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_kernel(dtype):
    """All kernels that are compiled for this type, and in float32 and bfloat16 every function of them."""
    ptx.executed()
    for case in [case for case in CASES if serves(case, BACKEND)]:
        for form in forms(case, dtype):
            check(case, form, BACKEND)
            evaluate(case, form[-1], BACKEND, ())  # without gradients it may be another kernel
            for inputs in form if {*NOISE} & {*case.fields} and not case.hard and dtype != torch.float64 else ():
                check_seeded(case, inputs, BACKEND)
        if case.op.startswith("discrete.") and "[K=27" in case.name and "known" not in case.fields:
            many = with_classes(case, 4100)  # a block reads its rows again in every sweep
            rows = [many.inputs((2, 2), dtype, seed) for seed in range(2)]
            check(many, [*rows, *map(transposed, rows)], BACKEND)
    every, done = readable(cuda_ptx.kernels()), readable(ptx.executed())
    assert of_dtype(every, dtype) <= done, "never executed: " + ", ".join(sorted(of_dtype(every, dtype) - done))
    if dtype in (torch.float32, torch.bfloat16):
        assert functions(every) == functions(done)


@pytest.mark.parametrize("case", FIRST, ids=str)
def test_blocks_in_any_order(case):
    """The same bits, and no block reads or writes what another one writes (the interpreter looks)."""
    if not serves(case, BACKEND):
        pytest.skip("the reference alone has it")
    inputs = case.inputs((5, 300) if not case.op.startswith("discrete.") else (5, 30), torch.float32)
    found = []
    try:
        for order in ptx.ORDERS:
            ptx.options(order=order)
            found.append(evaluate(case, inputs, BACKEND))
    finally:
        ptx.options()
    for other in found[1:]:
        for name, value in other.items():
            assert torch.equal(value.nan_to_num(), found[0][name].nan_to_num()), name
