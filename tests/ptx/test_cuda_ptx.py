"""What nvcc compiles, executed: every kernel, in every form of it that is compiled, against the reference; and blocks in
any order.

In a process of its own: BFN_PTX=cuda pytest tests/ptx. All of tests/kernels runs there too (`make gpu-test`).
"""

import os
import re
import subprocess
from collections.abc import Iterator
from inspect import signature

import pytest

if os.environ.get("BFN_PTX") != "cuda":
    pytest.skip("in a process of its own: BFN_PTX=cuda pytest tests/ptx", allow_module_level=True)

import cuda_ptx
import ptx
import torch
from cases import CASES, Case
from many_classes import with_classes
from support import DTYPES, FIRST, error, evaluate, scale, serves, ulp
from test_accuracy import SHAPES, check, test_narrow_types_are_read_and_rounded_as_by_torch
from test_cuda import NOISE, check_seeded

import bfn_kernels

BACKEND = "cuda_ptx"
SIZES = [*SHAPES[:4], (2, 16)]
NETWORK = ("prediction", "noise_pred", "pred_mean", "pred_log_std", "mixture_logits")
UNREACHED = "sender_kernel<AnyClasses<float>"  # messages go to new memory, which is dense
NAMES = {torch.bfloat16: "BFloat16", torch.float16: "Half", torch.float64: "double"}  # other kernels are of float32


def readable(names: set[str]) -> set[str]:
    """Kernels as the source names them, with the arguments of their templates."""
    done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    short = re.sub(
        r"\(anonymous namespace\)::|bfn::|^void |\((bfn::)?Choice\)|\(.*", "", done.stdout, flags=re.MULTILINE
    )
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
    sizes = SIZES if "4096" not in case.name and "257" not in case.name else SIZES[:2]
    dense = [case.inputs(shape, dtype, seed) for seed, shape in enumerate(sizes)]
    yield dense
    if dtype in (torch.float32, torch.float64):
        yield [*map(transposed, dense)]
    elif set(NETWORK) & set(case.fields):
        wide = [case.inputs(shape, torch.float32, seed) for seed, shape in enumerate(sizes)]
        yield [{name: x.to(dtype) if name in NETWORK else x for name, x in inputs.items()} for inputs in wide]


def check_drawn(case: Case, inputs: dict) -> None:
    """Noise from a seed, with gradients and without, which may be another kernel; and into memory of any layout."""
    narrow = all(x.dtype != torch.float64 for x in inputs.values() if isinstance(x, torch.Tensor))
    if narrow and not case.hard:
        check_seeded(case, inputs, BACKEND)
    drawn = {name: x for name, x in inputs.items() if name not in NOISE}
    result = case(drawn, BACKEND, seed=3)
    if "out" in signature(getattr(getattr(bfn_kernels, case.op.split(".")[0]), case.op.split(".")[1])).parameters:
        out = torch.empty(*result.shape, 2, dtype=result.dtype)[..., 0]
        case(drawn, BACKEND, seed=3, out=out)
        assert error(out, result) <= 4 * ulp(result.dtype, scale(result))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_kernel(dtype):
    """All kernels that are compiled for this type, and in float32 and bfloat16 every function of them."""
    ptx.executed()
    for case in [case for case in CASES if serves(case, BACKEND)]:
        for form in forms(case, dtype):
            check(case, form, BACKEND)
            for inputs in form if {*NOISE} & {*case.fields} else ():
                check_drawn(case, inputs)
        if case.op.startswith("discrete.") and "[K=27" in case.name and "known" not in case.fields:
            many = with_classes(case, 4100)  # a block reads its rows again in every sweep
            rows = [many.inputs((2, 2), dtype, seed) for seed in range(2)]
            check(many, [*rows, *map(transposed, rows)], BACKEND)
    every, done = readable(cuda_ptx.kernels()), readable(ptx.executed())
    every = {kernel for kernel in every if not kernel.startswith(UNREACHED)}
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


READ, BARRIER = r"(ld\.global\.f32\s+%f\d+, \[%rd\d+)(\+\d+)?\]", r"bar\.sync\s+0;"
FAULTS = {  # the kernels, what is replaced in their PTX, by what, how often at most, the case that runs them, and the error
    "a read past a tensor": (
        r"predict_data_kernel.*GeneralIf", READ, r"\1+4]", 0, "continuous.predict_data[unclipped]", "bounds of every tensor",
    ),
    "a misaligned vector": (
        r"predict_data_kernel.*DenseIffLi4", r"(ld\.global\.v4\.f32.*\[%rd\d+)\]", r"\1+4]", 1, "continuous.predict_data",
        "misaligned access",
    ),
    "a missing barrier of a sum": (
        r"finish_kernelIf", BARRIER, "", 1, "continuous.continuous_time_loss", "race in shared memory|nobody wrote",
    ),
    "a missing barrier of a row": (
        r"theta_kernel.*DenseClassesIf.*BlockTeamELi4", BARRIER, "", 2, "discrete.theta[K=257]",
        "race in shared memory|nobody wrote",
    ),
    "a wrong mask": (
        r"theta_kernel.*DenseClassesIf.*BlockTeamELi4", r"(shfl\.sync\.bfly.*), -1;", r"\1, 65535;", 1,
        "discrete.theta[K=257]", "the mask leaves out a lane",
    ),
    "a wrong mask within a warp": (
        r"theta_kernel.*DenseClassesIf.*WarpTeam", r"(shfl\.sync\.bfly.*), %r\d+;", r"\1, 65535;", 1, "discrete.theta[K=27]",
        "the mask leaves out a lane",
    ),
    "max for min": (
        r"predict_data_kernel.*DenseIffLi4", r"min\.f32", "max.f32", 0, "continuous.predict_data", None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_seeded_faults_are_found(name):
    kernels, old, new, most, case, words = FAULTS[name]
    chosen = [kernel for kernel in cuda_ptx.kernels() if re.search(kernels, kernel)]
    case = next(c for c in CASES if c.name == case)
    batches = [case.inputs(shape, torch.float32) for shape in ((5, 33), (2, 16))]
    if "General" in kernels:
        batches = [*map(transposed, batches)]
    check(case, batches, BACKEND)

    def edit(text: str) -> str:
        edited, count = re.subn(old, new, text, count=most)
        assert count > 0
        return edited

    kind = RuntimeError if words else AssertionError  # what the interpreter refuses, or a wrong result
    with cuda_ptx.edited(chosen, edit), pytest.raises(kind, match=words):
        check(case, batches, BACKEND)


def test_truncation_in_the_place_of_rounding_is_found():
    test = test_narrow_types_are_read_and_rounded_as_by_torch
    test(BACKEND, torch.bfloat16)
    chosen = [kernel for kernel in cuda_ptx.kernels() if "gaussian_step" in kernel]
    with (
        cuda_ptx.edited(chosen, lambda text: text.replace("cvt.rn.bf16", "cvt.rz.bf16")),
        pytest.raises(AssertionError),
    ):
        test(BACKEND, torch.bfloat16)
