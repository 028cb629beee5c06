"""The checks of the GPU builds, which need no GPU: each must be able to fail."""

import subprocess
from pathlib import Path

import pytest

from bfn_kernels.backends import CPU_BUILD
from gpu_build import cuda, extension, sass
from gpu_build.__main__ import over_budget, verdict
from gpu_build.table import Kernel

LOG = """
ptxas info    : Compiling entry function '_Z1f' for 'sm_80'
    8 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 24 registers, used 1 barriers, 512 bytes smem
ptxas info    : Compiling entry function '_Z1g' for 'sm_80'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 30 registers
ptxas info    : Compiling entry function '_Z1f' for 'sm_90'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers
"""


def test_resources_are_those_of_the_architecture():
    assert cuda.resources(LOG, 80) == {"_Z1f": (24, 512, 12), "_Z1g": (30, 0, 0)}
    assert cuda.resources(LOG, 90) == {"_Z1f": (40, 0, 0)}


def test_a_budget_refuses():
    one = Kernel("cuda", "one", 90, 32, instructions={"fma": 10.0, "alu": 2.5}, gated=True)
    spilled = Kernel("triton", "two", 90, 255, spills=8)
    assert over_budget([one], {"one, sm_90": 12.5}) == []
    assert over_budget([one], {"one, sm_90": 12.4}) == ["one, sm_90: 12.5 instructions, 12.4 are allowed"]
    assert over_budget([one], {}) == ["one, sm_90: no budget, 12.5 instructions"]
    assert over_budget([], {"one, sm_90": 1}) == ["one, sm_90: a budget for a kernel that there is not"]
    assert over_budget([spilled], {}) == ["triton two, sm_90: spills 8 bytes"]


def test_the_verdict_names_the_worst():
    fast = Kernel("cuda", "fast", 90, 32, instructions={"fma": 1.0}, bytes=12.0)
    slow = Kernel("triton", "slow", 90, 32, instructions={"special": 100.0}, bytes=12.0)
    said = verdict([fast, slow, Kernel("cuda", "uncounted", 90, 32)], [])
    assert said.startswith("verdict: well; 3 kernels for sm_80, ") and said.endswith("13%, of slow")
    assert verdict([fast], ["spills", "no budget"]) == "verdict: NOT well, 2 errors"


def test_a_loop_within_counts_as_often_as_it_runs():
    loops = [("FADD", ""), ("FMUL", ""), ("BRA", "`(.L_x_1)"), ("STG", ""), ("BRA", "`(.L_x_0)"), ("EXIT", "")]
    function = sass.Function(loops, {".L_x_0": 0, ".L_x_1": 1})
    assert function.main_loop() == {"FADD": 1, "FMUL": 1, "BRA": 2, "STG": 1}
    assert function.main_loop(4) == {"FADD": 1, "FMUL": 4, "BRA": 5, "STG": 1}


@pytest.fixture
def library(tmp_path):
    """library(code) compiles C to a shared library."""

    def make(code: str) -> Path:
        (tmp_path / "code.c").write_text(code)
        made = tmp_path / "_cuda.so"
        subprocess.run(["cc", "-shared", "-fPIC", tmp_path / "code.c", "-o", made], check=True)
        return made

    return make


def test_symbols_that_are_not_of_the_stable_abi_are_found(library):
    good = library("#include <stdlib.h>\nint aoti_torch_get_dim(); int f() { return aoti_torch_get_dim() + rand(); }")
    assert extension.foreign_symbols(good) == []
    bad = library("int _ZN3c1013something(); int at_other(); int f() { return _ZN3c1013something() + at_other(); }")
    assert sorted(extension.foreign_symbols(bad)) == ["_ZN3c1013something", "at_other"]


@pytest.mark.skipif(CPU_BUILD is None, reason="no extension was built")
def test_operators_that_are_not_there_are_found(library):
    empty = library("int nothing;")
    known = extension.operators(empty)
    assert "bfn_kernels::common_row_scalars" in known and not any(known.values())
    found = extension.wrong(empty)
    assert "_cuda.so is not linked with libtorch.so" in found
    assert "_cuda.so has no CUDA kernel of bfn_kernels::discretised_expected_value" in found


@pytest.mark.skipif(CPU_BUILD is None, reason="no extension was built")
def test_a_library_that_does_not_load_is_an_error(library):
    bad = library("int aoti_torch_of_another_torch(); int (*f)() = aoti_torch_of_another_torch;")
    with pytest.raises(RuntimeError, match=r"(?s)does not load: .*undefined symbol: aoti_torch_of_another_torch"):
        extension.operators(bad)
