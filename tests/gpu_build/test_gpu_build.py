"""The checks of the GPU builds, which need no GPU: each must be able to fail."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from bfn_kernels.backends import CPU_BUILD, FAMILIES
from bfn_kernels.declarations import TRITON
from gpu_build import compiled_cuda, executed, extension, ptxas, sass
from gpu_build.__main__ import BUDGET, SHARED, allowed, main, over_budget, oversized, rewritten, spilling, verdict
from gpu_build.calls import Row
from gpu_build.table import CLOCK, SMS, Execution, Kernel, write_csv
from tests.ptx import ptx

ROOT = Path(executed.__file__).parents[1]
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


AMD = """
    .private_segment_fixed_size: {scratch}
    .sgpr_spill_count: 2
    .vgpr_count:     48
    .vgpr_spill_count: {spilled}
"""


def test_resources_are_those_of_the_architecture():
    assert compiled_cuda.resources(LOG, 80) == {"_Z1f": (24, 512, 12), "_Z1g": (30, 0, 0)}
    assert compiled_cuda.resources(LOG, 90) == {"_Z1f": (40, 0, 0)}


def test_a_source_without_a_log_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled_cuda, "build", lambda architectures, folder: None)
    logs = [tmp_path / "csrc" / "cuda" / f"{path.stem}.80-90.log" for path in (ROOT / "csrc" / "cuda").glob("*.cu")]
    logs[0].parent.mkdir(parents=True)
    for log in logs:
        log.write_text(LOG)
    assert len(compiled_cuda.kernels([80, 90], tmp_path)) == 2 * len(logs)
    logs[0].unlink()
    with pytest.raises(FileNotFoundError, match=logs[0].name):
        compiled_cuda.kernels([80, 90], tmp_path)


@pytest.mark.slow
def test_a_product_is_compiled_for_amd(tmp_path, monkeypatch):
    """The product of float32 numbers with 16-bit vectors takes the most shared memory."""
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    compiler = importlib.import_module("gpu_build.compiled_triton")
    (kernel,) = compiler.kernels(["gfx942"], tmp_path, "product, by hidden")
    assert (kernel.name, kernel.architecture) == ("product, by hidden, d = 768, bfloat16", "gfx942")
    assert 0 < kernel.registers <= 512 and 0 < kernel.shared <= SHARED["gfx942"] and kernel.spills == 0


def test_a_process_that_cannot_start_is_an_error(tmp_path):
    """A script from stdin is no file that a process could import."""
    pytest.importorskip("triton")
    call = f"kernels([80], Path({str(tmp_path)!r}), '?')"
    script = f"from gpu_build.compiled_triton import kernels; from pathlib import Path; {call}"
    done = subprocess.run([sys.executable], input=script, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert "the process that compiles for 80 has ended" in done.stderr and done.returncode == 1


def test_spills_on_amd_are_found(monkeypatch):
    pytest.importorskip("triton")
    compiler = importlib.import_module("gpu_build.compiled_triton")
    text = AMD.format(scratch=16, spilled=3), AMD.format(scratch=16, spilled=0)  # indexed arrays lie in scratch, too
    shared = SimpleNamespace(shared=1024)
    monkeypatch.setattr(compiler, "compiled", lambda text, _: SimpleNamespace(asm={"amdgcn": text}, metadata=shared))
    assert [compiler.resources_of_amd("f", each, "gfx942").spills for each in text] == [16, 0]
    assert compiler.resources_of_amd("f", text[0], "gfx942") == Kernel("triton", "f", "gfx942", 48, 1024, 16)


def test_a_kernel_that_spills_is_an_error():
    kernels = [Kernel("cuda", "one", "sm_90", 32), Kernel("triton", "two", "sm_90", 255, spills=8)]
    assert spilling(kernels) == ["triton two, sm_90: spills 8 bytes"]


def test_a_kernel_that_takes_too_much_shared_memory_is_an_error():
    kernels = [Kernel("triton", "one", name, 32, most) for name, most in SHARED.items()]
    assert oversized(kernels) == []
    more = Kernel("triton", "two", "gfx942", 32, SHARED["gfx942"] + 1)
    assert oversized([*kernels, more]) == ["triton two, gfx942: takes 65537 bytes of shared memory, of 65536"]


def ran(name: str, **fields) -> Execution:
    return Execution(backend="cuda", name=name, **fields)


def test_a_budget_refuses():
    one = ran("one", instructions={"fma": 10.0, "alu": 2.5}, sectors=0.5)
    budget = {"cuda one": {"total": 12.5, "sectors": 0.5}, "triton two": {"total": 1.0}}
    assert over_budget([one], budget) == []
    assert over_budget([one], budget | {"cuda two": {}}) == ["cuda two: a budget for a call that there is not"]
    (more,) = over_budget([one], {"cuda one": {"total": 12.4, "sectors": 0.5}})
    assert more == "cuda one: 12.500 total a variable, 12.4 are allowed"
    (more,) = over_budget([one], {"cuda one": {"total": 12.5, "sectors": 0.4}})
    assert more == "cuda one: 0.500 sectors a variable, 0.4 are allowed"
    (none,) = over_budget([one], {})
    assert none.startswith("cuda one: no budget for 12.5 instructions")
    assert over_budget([one], {"cuda one": allowed(one)}) == []


def test_a_budget_is_rewritten_for_calls_by_name():
    one, two = (ran(name, instructions={"fma": 10.0}) for name in ("one, float32", "two, float32"))
    known = {"cuda one, float32": {}, "cuda one, float16": {}, "cuda two, float32": {}, "triton one": {}}
    assert rewritten(known, [one], "one") == {
        "cuda one, float32": {"total": 10.2, "sectors": 0.0}, "cuda two, float32": {}, "triton one": {}
    }  # fmt: skip
    assert [*rewritten(known, [two, one])] == ["cuda one, float32", "cuda two, float32", "triton one"]
    assert over_budget([one], known, "one") == ["cuda one, float16: a budget for a call that there is not"]


def test_the_verdict_names_the_worst():
    kernels = [Kernel("cuda", "fast", "sm_90", 32)]
    fast, slow = (
        ran("fast", instructions={"fma": 1.0}, bytes=12.0),
        ran("slow", instructions={"special": 1e2}, bytes=12.0),
    )
    said = verdict(kernels, [fast, slow], [])
    assert said.startswith("verdict: well; 1 rows of kernels for sm_90, none spills; ")
    assert said.endswith("12.9%, of cuda slow")
    assert verdict(kernels, [], []).endswith("nothing was executed, and no budget looked at")
    assert verdict(kernels, [fast], ["spills", "no budget"]) == "verdict: NOT well, 2 errors"


def test_the_interpreter_is_found():
    """In a process that does not have pytest's path."""
    asked = "from gpu_build.executed import interpreter; interpreter('cuda'); interpreter('triton')"
    subprocess.run([sys.executable, "-c", asked], cwd=ROOT, check=True)


def test_products_of_integers_share_the_pipe_of_floats():
    seconds = ran("one", instructions={"fma": 64.0, "imad": 32.0}).seconds()
    assert seconds["fma"] == pytest.approx(1 / SMS / CLOCK) and seconds["issue"] == pytest.approx(0.75 / SMS / CLOCK)


def test_what_is_executed_is_taken_for_machine_instructions():
    """Of a call on 64 variables: two warps that load 16 bytes a lane, and add."""
    load, add = ptx.Executed(2, 64, 32, 16, 0, 0), ptx.Executed(6, 96, 0, 0, 4, 3)
    found = executed.execution("cuda", Row("x", 64, 8.0, print), {"k": {"ld.global.v4.f32": load, "add.rn.f32": add}})
    assert found.instructions == {"memory": 4.0, "fma": 3.0}
    assert (found.sectors, found.coalescing, found.conflict_free) == (0.5, 0.5, 0.75)
    assert found.lanes == 160 / 256
    with pytest.raises(ValueError, match=r"no rule for the instruction 'wgmma\.mma'"):
        executed.machine_instructions("wgmma.mma")


PTX = """
	@!%p1 bra $L__BB0_1;
	div.s64 %rd3, %rd1, %rd2;
	bra.uni $L__BB0_2;
$L__BB0_1:
	div.u32 %r3, %r1, %r2;
$L__BB0_2:
	@%p2 ld.global.v4.b32 { %r4, %r5, %r6, %r7 }, [ %rd3 + 0 ];
	ret;
"""


def instruction(name: str, stall=1, result=7, read=7, waits=0, guarded=False) -> sass.Instruction:
    return sass.Instruction(name, guarded, "", stall << 41 | result << 46 | read << 49 | waits << 52)


def test_a_warp_waits_for_stalls_and_barriers():
    code = [
        instruction("LDG.E", result=0), instruction("MUFU.EX2", result=1), instruction("FADD", stall=4, waits=0b10),
        instruction("STG.E", read=0, waits=0b1), instruction("EXIT", waits=0b1),
    ]  # fmt: skip
    assert [ptxas.alone(code[:n]) for n in range(6)] == [0, 1, 2, 35, 601, 631]


def test_a_kernel_without_loops_is_compared():
    code = [
        instruction("BRA", guarded=True), instruction("CALL.REL"), sass.Instruction("", False, ".L_x_0"),
        instruction("EXIT", guarded=True), instruction("LDG.E.128"), instruction("IMAD.MOV.U32"), instruction("EXIT"),
        instruction("FFMA"),
    ]  # fmt: skip
    found = ptxas.compared(PTX, code, 2)
    assert (found["rules"], found["ptxas"], found["memory"], found["integer"]) == (19, 5, 1, 14)
    assert (found["alone"], found["latency"]) == (5, 0.125)
    assert ptxas.compared(PTX + "bra.uni $L__BB0_1;", code, 2) is None
    assert ptxas.compared(PTX + "@%p3 bra $L__BB0_3;\n$L__BB0_3:\n", code, 2) is None


@pytest.mark.slow
def test_the_rules_agree_with_ptxas(tmp_path, monkeypatch):
    """In a kernel with divisions and with conversions of integers."""
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    compiler = importlib.import_module("gpu_build.compiled_triton")
    (kernel,) = compiler.kernels([90], tmp_path, "binary update, a draw, float32")
    for kind, most in {"rules/ptxas": 0.05, "fma": 0.03, "special": 0.12, "memory": 0.01, "integer": 0.1}.items():
        assert kernel.straight[kind] == pytest.approx(1, abs=most), kind


@pytest.mark.parametrize(
    ("name", "passes"), [("ld.global.v4.f32", 4), ("ld.global.f32", 1), ("st.shared.u8", 1), ("ld.global.nc.v2.b64", 4)]
)
def test_passes_of_an_access(name, passes):
    assert executed.passes(name) == passes


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
def test_operators_that_are_not_there_are_found(library, monkeypatch):
    empty = library("int nothing;")
    known = extension.operators(empty)
    assert "bfn_kernels::common_row_scalars" in known and not any(known.values())
    monkeypatch.setattr(extension, "operators", lambda library: known)  # asks a process, which takes seconds
    found = extension.wrong(empty)
    assert "_cuda.so is not linked with libtorch.so" in found
    assert "_cuda.so has no CUDA kernel of bfn_kernels::discretised_expected_value" in found


@pytest.mark.skipif(CPU_BUILD is None, reason="no extension was built")
def test_a_library_that_does_not_load_is_an_error(library):
    bad = library("int aoti_torch_of_another_torch(); int (*f)() = aoti_torch_of_another_torch;")
    with pytest.raises(RuntimeError, match=r"(?s)does not load: .*undefined symbol: aoti_torch_of_another_torch"):
        extension.operators(bad)


class Asked:
    """In the place of the operators of a library: notes which of them a call asks for, as (family, operator)."""

    def __init__(self, names: set, family: str = ""):
        self.names, self.family = names, family

    def __getattr__(self, name: str):
        if not self.family:
            return Asked(self.names, name)
        return lambda *arguments: self.names.add((self.family, name.removesuffix("_out")))


def test_every_operator_of_a_gpu_has_a_call_with_a_budget():
    names, calls = set(), []
    for backend in ("cuda", "triton"):
        for row in executed.rows(backend, Asked(names)):
            row.call()
            calls.append(f"{backend} {row.name}")
    declared = {
        (family, operator.name)
        for family, operators in FAMILIES.items()
        for operator in operators
        if not operator.composed and (not operator.library or TRITON in operator.library.split())
    }
    assert names == declared, f"gpu_build/calls.py needs a call of each of {sorted(declared - names)}"
    budgets = json.loads(BUDGET.read_text()).keys()
    assert len(calls) == len(set(calls))
    assert budgets == set(calls), (
        f"python -m gpu_build --only-call NAME --write-budget, for each of {sorted(set(calls) - budgets)}; "
        f"there are no calls for the budgets {sorted(budgets - set(calls))}"
    )


def test_calls_are_chosen_by_name():
    (row,) = executed.rows("cuda", Asked(set()), "cuda squared_loss, b")
    assert row.name == "squared_loss, bfloat16"


def test_a_call_that_there_is_not(capsys):
    with pytest.raises(SystemExit):
        main(["--only-call", "nothing of this name"])
    assert "is in the name of no call" in capsys.readouterr().err


def test_without_nvcc_the_cuda_kernels_are_left_out(monkeypatch, capsys):
    monkeypatch.setattr(sass, "find_tool", lambda name: None)
    assert main(["--only", "cuda"]) == 0
    said = capsys.readouterr()
    assert "left out: the cuda kernels, since their compiler is not installed" in said.err
    assert "nothing was executed" in said.out


def test_a_csv_is_written_into_a_folder_that_is_not_there(tmp_path):
    ran = [Execution(backend="cuda", name="f", instructions={"fma": 2.0}, bytes=8.0)]
    write_csv(ran, tmp_path / "new" / "f.csv")
    assert (tmp_path / "new" / "f.csv").read_text().splitlines()[1].startswith("cuda,f,2.0,8,")
