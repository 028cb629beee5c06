"""What the interpreter counts for a kernel: instructions by warps and lanes, sectors of global memory, passes of shared
memory."""

import pytest

from tests.ptx import ptx
from tests.ptx.snippets import run


def counted(body: str, threads: int = 32, blocks: int = 1, before: str = "") -> dict[str, ptx.Executed]:
    ptx.counts()
    with ptx.options(count=True):
        run(body, None, threads, blocks, before=before)
    return ptx.counts()["k"]


def test_warps_issue_and_lanes_execute():
    body = """
mov.u32 %r3, 0;
LOOP:
add.s32 %r3, %r3, 1;
setp.lt.u32 %p0, %r3, 5;
@%p0 bra LOOP;
setp.lt.u32 %p1, %tid.x, 12;
@%p1 sub.s32 %r4, %r3, 1;
@%p1 bra DONE;
xor.b32 %r5, %r3, 1;
DONE:
"""
    found = counted(body, threads=64, blocks=3)
    assert (found["add.s32"].issues, found["add.s32"].lanes) == (5 * 2 * 3, 5 * 64 * 3)
    assert (found["sub.s32"].issues, found["sub.s32"].lanes) == (2 * 3, 12 * 3)
    assert (found["xor.b32"].issues, found["xor.b32"].lanes) == (2 * 3, (64 - 12) * 3)


def test_only_what_was_asked_for_is_counted():
    counted("add.s32 %r3, %t, 1;")
    run("add.s32 %r3, %t, 1;")
    assert ptx.counts() == {}


def counted_access(space: str, instruction: str, stride: int) -> ptx.Executed:
    """The counts of an access. The address %at of a lane is `stride` bytes above the address of the lane before it."""
    body = f"""
.reg .b64 %at;
mov.u64 %at, memory;
mul.wide.u32 %d1, %t, {stride};
add.s64 %at, %at, %d1;
{instruction}
"""
    return counted(body, before=f".{space} .align 128 .b8 memory[8192];\n")[instruction.split()[0]]


@pytest.mark.parametrize(
    ("offset", "stride", "vector", "sectors", "least"),
    [(0, 4, 1, 4, 4), (0, 8, 1, 8, 4), (4, 4, 1, 5, 4), (0, 0, 1, 1, 1), (0, 32, 1, 32, 4), (0, 16, 4, 16, 16)],
)
def test_sectors(offset, stride, vector, sectors, least):
    load = "f32 %f1" if vector == 1 else "v4.f32 {%f1, %f2, %f3, %f4}"
    found = counted_access("global", f"ld.global.{load}, [%at+{offset}];", stride)
    assert (found.sectors, found.least_sectors, found.passes) == (sectors, least, 0)


@pytest.mark.parametrize(
    ("stride", "vector", "passes", "least"),
    [
        (4, 1, 1, 1), (8, 1, 2, 1), (132, 1, 1, 1), (128, 1, 32, 1), (0, 1, 1, 1),
        (16, 4, 4, 4), (32, 4, 8, 4), (0, 4, 4, 4),
    ],
)  # fmt: skip
def test_passes_of_shared_memory(stride, vector, passes, least):
    store = "b32 [%at], %r1;" if vector == 1 else "v4.b32 [%at], {%r1, %r2, %r3, %r4};"
    found = counted_access("shared", f"st.shared.{store}", stride)
    assert (found.passes, found.least_passes, found.sectors) == (passes, least, 0)
