"""Tests that execute the PTX that nvcc compiles. They compare every form of every kernel with the reference, run blocks
in several orders, and put faults into the PTX of our kernels."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

if os.environ.get("BFN_PTX") != "cuda":
    pytest.skip("in a process of its own: BFN_PTX=cuda pytest tests/ptx", allow_module_level=True)
import torch

from tests.kernels.case import Case
from tests.kernels.declared import parameters
from tests.kernels.op_cases import CASES
from tests.kernels.support import DTYPES, FIRST, error, named, scale, serves, ulp
from tests.kernels.test_accuracy import SHAPES, check, laid_out
from tests.kernels.test_coding import LARGE_RANGES, SMALL, check_equal
from tests.kernels.test_cuda import NOISE, check_seeded
from tests.kernels.test_stores import check_stores
from tests.ptx import cuda_ptx, ptx
from tests.ptx.case_checks import check_orders, check_rounding, check_with, with_classes
from tests.ptx.in_place import check_in_place, steps

BACKEND = "cuda_ptx"
SERVED = [case for case in FIRST if serves(case, BACKEND)]
SIZES = [*SHAPES[:4], (2, 16)]
NETWORK = {"prediction", "noise_pred", "pred_mean", "pred_log_std", "mixture_logits", "output_logits", "unconditional"}
UNREACHED = "discrete.sender_kernel<AnyClasses<float>"  # messages go to new memory, which is dense
NAMES = {torch.bfloat16: "BFloat16", torch.float16: "Half", torch.float64: "double"}  # other kernels are of float32


def readable(names: set[str]) -> set[str]:
    """Kernels as the source names them, with the arguments of their templates, and in front the file of those that it
    has for itself, since several files have an `update_kernel`."""
    listed = sorted(names)
    done = subprocess.run(["c++filt"], input="\n".join(listed), capture_output=True, text=True, check=True)
    short = re.sub(
        r"\(anonymous namespace\)::|bfn::|^void |\((bfn::)?Choice\)|\(.*", "", done.stdout, flags=re.MULTILINE
    )
    files = [re.search(r"_([a-z]+)_cu_", name) for name in listed]
    return {f"{file[1]}.{name}" if file else name for file, name in zip(files, short.split("\n"), strict=True)}


def of_dtype(kernels: set[str], dtype: torch.dtype) -> set[str]:
    """Those that are compiled for a type alone."""
    others = [name for other, name in NAMES.items() if other != dtype]
    found = {kernel for kernel in kernels if not any(name in kernel for name in others)}
    return {kernel for kernel in found if NAMES.get(dtype, "") in kernel}


def functions(kernels: set[str]) -> set[str]:
    return {kernel.split("<")[0] for kernel in kernels}


def forms(case: Case, dtype: torch.dtype) -> Iterator[list[dict]]:
    """Inputs that kernels read in different ways: in any layout; densely, one by one and as vectors; and, as under
    autocast, float32 data with a network's outputs in a narrow type."""
    sizes = SIZES[:2] if dtype == torch.float64 or case.long else SIZES
    dense = [case.inputs(shape, dtype, seed) for seed, shape in enumerate(sizes)]
    yield dense
    if dtype in (torch.float32, torch.float64):
        yield [laid_out(inputs, "transposed") for inputs in dense]
    elif network := network_of(case):
        wide = [case.inputs(shape, torch.float32, seed) for seed, shape in enumerate(sizes)]
        yield [{name: x.to(dtype) if name in network else x for name, x in inputs.items()} for inputs in wide]


def network_of(case: Case) -> set[str]:
    """The inputs that a network made; at a time t, continuous x̂ is one of them."""
    predicted = case.op == "continuous.update_sample" and "t" in case.fields
    return NETWORK & set(case.fields) | ({"x"} if predicted else set())


def check_drawn(case: Case, inputs: dict) -> None:
    """Noise from a seed, with gradients and without, which may be another kernel; and into memory of any layout."""
    narrow = all(x.dtype != torch.float64 for x in inputs.values() if isinstance(x, torch.Tensor))
    if narrow and not case.hard:
        check_seeded(case, inputs, BACKEND)
    drawn = {name: x for name, x in inputs.items() if name not in NOISE}
    result = case(drawn, BACKEND, seed=3)
    if not case.into and not case.part and "out" in parameters(case.op):
        out = torch.empty(*result.shape, 2, dtype=result.dtype)[..., 0]
        case(drawn, BACKEND, seed=3, out=out)
        assert error(out, result) <= 4 * ulp(result.dtype, scale(result))


def check_every_kernel(dtype):
    """All kernels that are compiled for this type, and in float32 and bfloat16 every function of them."""
    ptx.executed()
    for case in [case for case in CASES if serves(case, BACKEND)]:
        for form in forms(case, dtype):
            check(case, form, BACKEND)
            # The first shape has an odd end, and the last one whole vectors. Other shapes choose no other kernel.
            for inputs in (form[0], form[-1]) if {*NOISE} & {*case.fields} else ():
                check_drawn(case, inputs)
        if case.num_classes == 27 and "known" not in case.fields:
            for many in (with_classes(case, 600), with_classes(case, 4100)):  # held by a block, and read in every sweep
                rows = [many.inputs((2, 2), dtype, seed) for seed in range(2)]
                check(many, [*rows, *(laid_out(inputs, "transposed") for inputs in rows)], BACKEND)
    for make in (*SMALL.values(), *LARGE_RANGES.values()):
        check_equal(make(), BACKEND)
    every, done = readable(cuda_ptx.kernels()), readable(ptx.executed())
    every = {kernel for kernel in every if not kernel.startswith(UNREACHED)}
    assert of_dtype(every, dtype) <= done, "never executed: " + ", ".join(sorted(of_dtype(every, dtype) - done))
    if dtype in (torch.float32, torch.bfloat16):
        assert functions(every) == functions(done)


@pytest.mark.parametrize("dtype", DTYPES[:1], ids=str)
def test_every_kernel(dtype):
    check_every_kernel(dtype)


@pytest.mark.parametrize("case", SERVED, ids=str)
def test_blocks_in_any_order(case):
    check_orders(case, BACKEND)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_every_kernel_of_other_types(dtype):
    """Not next to that of float32, so that another process takes it."""
    check_every_kernel(dtype)


# Rows of classes that a team of a warp has, that a block holds, and that it reads in every sweep; and numbers in whole
# vectors, and with an odd end.
@pytest.mark.parametrize(("case", "shape"), [*steps((40, 1040, 8193), (40, 1041))], ids=str)
@pytest.mark.parametrize("network", [torch.bfloat16, torch.float32], ids=str)
def test_results_may_be_written_over_inputs(case, shape, network):
    check_in_place(case, shape, network, BACKEND)


# The barrier behind a store to shared memory, and the mask of a shuffle.
BARRIER, MASK = r"(st\.shared\.f\d\d [^;]*;\n(?:[^\n]*\n){0,12}?)bar\.sync 0;", r"(shfl\.sync\.bfly\.b32 .*), %r\d+;"
VECTOR = r"(ld\.global\.v4\.f32 .*\[%rd\d+)\]"
SQUARED, NSTEP = "element_loss_kernel.*DenseIffLi4.*SquaredLoss", "nstep_kernel.*DenseClassesIf.*WarpTeam"
OF_A_BLOCK, OF_A_WARP = "theta_kernel.*DenseClassesIf.*BlockTeamELi4", "theta_kernel.*DenseClassesIf.*WarpTeam"
OF_ONE_WARP = r"and\.b32 (%r\d+), %r\d+, \d+;(\s+mov\.u32 %r\d+, \w+of_warp;\s+add\.s32 [^;]*;\s+st\.shared)"
UNORDERED, LEFT_OUT = "race in shared memory|nobody wrote", "the mask leaves out a lane"
DATA, LOSS, THETA = map(named, ("continuous.predict_data", "continuous.continuous_time_loss", "discrete.theta[K=27]"))
LONG, NSTEP_LOSS = with_classes(THETA, 1024), named("discrete.discrete_time_loss[K=27 factorised]")
FAULTS = {  # the kernels, what is replaced in their PTX, by what, the case that runs them, and the error, if it is one
    "a read past a tensor": ("predict_data_kernel.*DenseIffLi4", VECTOR, r"\1+16]", DATA, "bounds of every"),
    "a misaligned vector": ("predict_data_kernel.*DenseIffLi4", VECTOR, r"\1+4]", DATA, "misaligned access"),
    "a missing barrier of a sum": (SQUARED, BARRIER, r"\1", LOSS, UNORDERED),
    "a missing barrier of a row": (OF_A_BLOCK, BARRIER, r"\1", LONG, UNORDERED),
    "a wrong mask of a block": (OF_A_BLOCK, MASK, r"\1, 65535;", LONG, LEFT_OUT),
    "a wrong mask of a team": (OF_A_WARP, MASK, r"\1, 65535;", THETA, LEFT_OUT),
    "a race in shared memory": (OF_A_BLOCK, OF_ONE_WARP, r"mov.u32 \1, 0;\2", LONG, "race in shared memory"),
    "two blocks write one address": (OF_A_BLOCK, r"%ctaid\.x", "0", LONG, "race between blocks"),
    "shared memory that nobody wrote": (OF_A_BLOCK, r"st\.shared\.f32 [^;]*;", "", LONG, "nobody wrote"),
    "a sum that nobody wrote": (SQUARED, r"st\.global\.f64 [^;]*;", "", LOSS, None),
    "max for min": (NSTEP, r"min\.f32", "max.f32", NSTEP_LOSS, None),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_seeded_faults_are_found(name):
    kernels, old, new, case, words = FAULTS[name]
    batches = [case.inputs(shape, torch.float32) for shape in ((5, 33), (2, 16))]
    check(case, batches, BACKEND)

    def edit(text: str) -> str:
        edited, count = re.subn(old, new, text)
        assert count > 0
        return edited

    chosen = [kernel for kernel in cuda_ptx.kernels() if re.search(kernels, kernel)]
    kind = RuntimeError if words else AssertionError  # what the interpreter refuses, or a wrong result
    with cuda_ptx.edited(chosen, edit), pytest.raises(kind, match=words):
        check(case, batches, BACKEND)


@pytest.mark.parametrize("others", [{"shift": -1}, {"shift": 1}, {"contract": False}], ids=str)
def test_results_may_depend_on_the_hardware(others):
    """Its approximations may be off by their documented error, and ptxas may leave products and sums apart."""
    check_with(others, SERVED, BACKEND, cuda_ptx.reload)


@pytest.mark.parametrize("case", SERVED, ids=str)
def test_narrow_results_are_those_of_float32_rounded(case):
    check_rounding(case, BACKEND)


@pytest.mark.parametrize("name", ["binary.solver_step[ode2 theta]", "continuous.solver_step[ode2]"])
def test_outputs_of_any_type_hold_rounded_results(name):
    """Kernels write the first shape one by one, and the second in vectors. Both make normals, which have other last
    digits, in other ways, so these steps have no noise."""
    for shape in ((2, 5), (2, 16)):
        check_stores(replace(named(name), into=""), shape, BACKEND)


def test_truncation_in_the_place_of_rounding_is_found():
    for kind in ("bf16", "f16"):
        chosen = [kernel for kernel in cuda_ptx.kernels() if "gaussian_step" in kernel]
        nearest, truncated = f"cvt.rn.{kind}.f32", f"cvt.rz.{kind}.f32"
        edited = cuda_ptx.edited(chosen, lambda text, old=nearest, new=truncated: text.replace(old, new))
        with edited, pytest.raises(AssertionError):
            check_rounding(named("continuous.flow_sample"), BACKEND)


def test_one_call_compiles_what_it_launches(tmp_path):
    """`python -m gpu_build --only-call`, in a process that has not compiled anything."""
    asked = """
import gpu_build.__main__, sys
assert gpu_build.__main__.main(["--only", "cuda", "--only-call", "discretised sample, float32", "--csv", "of.csv"]) == 0
assert sys.modules["tests.ptx.cuda_ptx"].compiled_on_demand == ["choose"]
"""
    environment = os.environ | {"PYTHONPATH": str(cuda_ptx.ROOT)}
    done = subprocess.run([sys.executable, "-c", asked], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "of.csv").read_text().splitlines()) == 2, "a heading, and the call"
