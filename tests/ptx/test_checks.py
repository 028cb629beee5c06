"""The interpreter refuses what would go wrong on a GPU. Next to each faulty kernel stands a sound one."""

import struct

import numpy as np
import pytest

from tests.ptx import ptx
from tests.ptx.snippets import STORE, module, run

SHARED = ".shared .align 16 .b8 memory[256];\n"
# %r2: the address of 4 bytes of shared memory for each lane; all warps of a block have the same addresses
OWN = "mov.u32 %r2, memory;\nand.b32 %r5, %t, 31;\nmad.lo.u32 %r2, %r5, 4, %r2;\n"
WARP = "shr.u32 %r7, %t, 5;\nsetp.eq.u32 %p7, %r7, 1;\n"  # %p7: in the second warp
# %d2: the address of the 8 bytes of output that belong to the same lane of the other warp, if there are two warps
OTHER = f"{WARP}xor.b32 %r5, %t, 32;\nmul.wide.u32 %d1, %r5, 8;\nsub.u64 %d2, %out, %mine;\nadd.u64 %d2, %d2, %d1;\n"
# Stores a number that depends on %r0. A load that races is reported only if the loaded number is used.
USE = "add.u32 %r1, %r0, 1;\nst.global.u32 [%in+4], %r1;"


def two_warps(first: str, second: str, words: str = "race between warps in global memory") -> tuple:
    """An entry of FAULTS: the first warp runs `first`, and the second runs `second` without a barrier in between. The
    sound kernel has the barrier. A number that either of them loads into %r0 is used afterwards."""
    first, second = f"{OTHER}mov.u32 %r0, 0;\n@!%p7 {first}\n", f"@%p7 {second}\n{USE}"
    return first + second, f"{first}bar.sync 0;\n{second}", words, {"threads": 64}


# By name: the faulty code, sound code that differs little, a pattern of the error, and arguments of `run`.
FAULTS = {
    "read_beyond": ("ld.global.u32 %r0, [%in+256];", "ld.global.u32 %r0, [%in];", "bounds of every tensor", {}),
    "read_before": ("ld.global.u32 %r0, [%in+-8];", "ld.global.u32 %r0, [%in];", "bounds of every tensor", {}),
    "write_beyond": ("st.global.u32 [%out+256], 0;", "st.global.u32 [%out], 0;", "bounds of every tensor", {}),
    "half_of_a_vector_beyond": (
        "setp.eq.u32 %p0, %t, 30;\n@%p0 ld.global.v2.u64 {%d0, %d1}, [%in];",
        "setp.eq.u32 %p0, %t, 28;\n@%p0 ld.global.v2.u64 {%d0, %d1}, [%in];",
        "bounds of every tensor",
        {"threads": 31},
    ),
    "misaligned_vector": (
        "setp.eq.u32 %p0, %t, 1;\n@%p0 ld.global.v2.u64 {%d0, %d1}, [%in];",
        "setp.eq.u32 %p0, %t, 2;\n@%p0 ld.global.v2.u64 {%d0, %d1}, [%in];",
        "misaligned access",
        {},
    ),
    "misaligned_number": ("ld.global.u32 %r0, [%in+2];", "ld.global.u16 %h0, [%in+2];", "misaligned access", {}),
    "misaligned_shared": (
        OWN + "st.shared.u64 [%r2], %d0;",
        OWN + "st.shared.u32 [%r2], %r1;",
        "misaligned access to shared",
        {"before": SHARED},
    ),
    "shared_beyond": (
        OWN + "st.shared.u32 [%r2+192], 0;",
        OWN + "st.shared.u32 [%r2+128], 0;",
        "bounds of shared",
        {"before": SHARED},
    ),
    "shared_by_a_generic_address": (
        OWN + "cvt.u64.u32 %d0, %r2;\ncvta.shared.u64 %d1, %d0;\nld.u32 %r0, [%d1];",
        OWN + "cvt.u64.u32 %d0, %r2;\ncvta.shared.u64 %d1, %d0;\nst.u32 [%d1], %r0;\nld.u32 %r0, [%d1];",
        "nobody wrote",
        {"before": SHARED},
    ),
    "local_beyond": (
        ".local .align 4 .b8 stack[16];\nmov.u64 %d0, stack;\nld.local.u32 %r0, [%d0+16];",
        ".local .align 4 .b8 stack[16];\nmov.u64 %d0, stack;\nld.local.u32 %r0, [%d0+12];",
        "bounds of local",
        {},
    ),
    "unwritten_shared": (
        OWN + "ld.shared.u32 %r0, [%r2];",
        OWN + "st.shared.u32 [%r2], 1;\nld.shared.u32 %r0, [%r2];",
        "nobody wrote",
        {"before": SHARED},
    ),
    "missing_barrier": (
        f"{WARP}{OWN}@!%p7 st.shared.u32 [%r2], %t;\n@%p7 ld.shared.u32 %r0, [%r2];",
        f"{WARP}{OWN}@!%p7 st.shared.u32 [%r2], %t;\nbar.sync 0;\n@%p7 ld.shared.u32 %r0, [%r2];",
        "race in shared memory|nobody wrote",
        {"before": SHARED, "threads": 64},
    ),
    "write_after_read": (
        f"{WARP}{OWN}@!%p7 st.shared.u32 [%r2], 3;\n@!%p7 ld.shared.u32 %r0, [%r2];\n@%p7 st.shared.u32 [%r2], 5;",
        f"{WARP}{OWN}@!%p7 st.shared.u32 [%r2], 3;\n@!%p7 ld.shared.u32 %r0, [%r2];\nbar.sync 0;\n"
        "@%p7 st.shared.u32 [%r2], 5;",
        "race in shared memory",
        {"before": SHARED, "threads": 64},
    ),
    "two_warps_write": (
        f"{OWN}st.shared.u32 [%r2], %t;",
        f"{OWN}st.shared.u32 [%r2], %r5;",  # the same value
        "race in shared memory",
        {"before": SHARED, "threads": 64},
    ),
    "two_blocks_write": (
        "sub.u64 %out, %out, %mine;\nst.global.u32 [%out], %t;",
        "st.global.u32 [%out], %t;",
        "race between blocks",
        {"blocks": 2},
    ),
    "a_block_reads_what_another_wrote": (
        "st.global.u32 [%out], %t;\nsub.u64 %out, %out, %mine;\nld.global.u32 %r0, [%out];",
        "st.global.u32 [%out], %t;\nld.global.u32 %r0, [%out];",
        "race between blocks",
        {"blocks": 2},
    ),
    "a_block_writes_what_another_read": (
        "ld.global.u32 %r0, [%out];\nxor.b32 %r0, %t, 32;\nsub.u64 %out, %out, %mine;\nmul.wide.u32 %d1, %r0, 8;\n"
        "add.u64 %out, %out, %d1;\nst.global.u32 [%out], 0;",
        "ld.global.u32 %r0, [%out];\nst.global.u32 [%out], 0;",
        "race between blocks",
        {"blocks": 2},
    ),
    "a_warp_reads_what_another_wrote": two_warps("st.global.u32 [%out], 7;", "ld.global.u32 %r0, [%d2];"),
    "a_warp_reads_a_part_of_what_another_wrote": two_warps("st.global.u64 [%out], -1;", "ld.global.u8 %r0, [%d2+7];"),
    "a_warp_writes_what_another_read": two_warps("ld.global.u32 %r0, [%out];", "st.global.u32 [%d2], 7;"),
    "a_warp_writes_a_part_of_what_another_read": two_warps("ld.global.u64 %d0, [%out];", "st.global.u8 [%d2+7], 7;"),
    "two_warps_write_global": two_warps("st.global.u32 [%out], 7;", "st.global.u32 [%d2], 8;"),
    "a_branch_by_what_another_wrote": two_warps(
        "st.global.u32 [%out], 7;", "ld.global.u32 %r3, [%d2];\nsetp.eq.u32 %p1, %r3, 0;\n@%p1 bra END;\nEND:"
    ),
    "other_lanes_get_what_another_wrote": two_warps(
        "st.global.u32 [%out], 7;", "ld.global.u32 %r3, [%d2];\nshfl.sync.bfly.b32 %r4, %r3, 1, 31, 0xffffffff;"
    ),
    "by_a_generic_address": two_warps("ld.u32 %r0, [%out];", "st.u32 [%d2], 7;"),
    "each_warp_writes_what_the_other_read": (
        f"{OTHER}ld.global.u32 %r0, [%out];\nst.global.u32 [%d2], 7;",
        f"{OTHER}ld.global.u32 %r0, [%out];\nbar.sync 0;\nst.global.u32 [%d2], 7;",
        "race between warps in global memory",
        {"threads": 64},
    ),
    "divergent_barrier": (
        f"{WARP}@%p7 bra ELSE;\nbar.sync 0;\nbra DONE;\nELSE: bar.sync 0;\nDONE:",
        f"{WARP}@%p7 bra ELSE;\nELSE: bar.sync 0;",
        "different barriers",
        {"threads": 64},
    ),
    "barrier_that_some_do_not_reach": (
        "setp.eq.u32 %p0, %t, 3;\n@%p0 shfl.sync.idx.b32 %r0, %t, 0, 31, 0xffffffff;\nbar.sync 0;",
        "shfl.sync.idx.b32 %r0, %t, 0, 31, 0xffffffff;\nbar.sync 0;",
        "not reached by every thread",
        {},
    ),
    "lanes_missing_from_a_shuffle": (
        "setp.lt.u32 %p0, %t, 16;\n@%p0 shfl.sync.bfly.b32 %r0, %t, 1, 31, 0xffffffff;\nbar.sync 0;",
        "setp.lt.u32 %p0, %t, 16;\n@%p0 shfl.sync.bfly.b32 %r0, %t, 1, 31, 0xffff;\nbar.sync 0;",
        "not reached by every thread",
        {},
    ),
    "a_lane_that_the_mask_leaves_out": (
        "shfl.sync.bfly.b32 %r0, %t, 1, 31, 0xfffffffe;",
        "shfl.sync.bfly.b32 %r0, %t, 1, 31, 0xffffffff;",
        "the mask leaves out a lane",
        {},
    ),
    "a_shuffle_from_outside_of_its_mask": (
        "setp.lt.u32 %p0, %t, 16;\n@%p0 shfl.sync.bfly.b32 %r0, %t, 16, 31, 0xffff;",
        "setp.lt.u32 %p0, %t, 16;\n@%p0 shfl.sync.bfly.b32 %r0, %t, 8, 31, 0xffff;",
        "reads a lane that takes no part",
        {},
    ),
    "too_many_threads": ("", "", "1025 threads", {"threads": 1025}),
    "too_much_shared_memory": ("", "", "bytes of shared memory", {"shared": (227 << 10) + 1}),
    "trap": ("trap;", "", "trap", {}),
}
LIMITS = {"too_many_threads": {"threads": 1024}, "too_much_shared_memory": {"shared": 227 << 10}}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_found(name):
    fault, sound, words, options = FAULTS[name]
    with pytest.raises(ptx.PtxError, match=words):
        run(fault, **options)
    run(sound, **(options | LIMITS.get(name, {})))


@pytest.mark.parametrize("name", [name for name, (_, _, words, _) in FAULTS.items() if "race" in words])
def test_without_races_none_is_reported(name):
    """With races=False, the interpreter reports no race, and no read of shared memory that nobody wrote."""
    fault, sound, _, options = FAULTS[name]
    with ptx.options(races=False):
        run(fault, **options)
        run(sound, **options)


# %d2: the address of the 8 bytes of output that belong to the same lane of the first warp, in both warps
SAME = f"{WARP}and.b32 %r5, %t, 31;\nmul.wide.u32 %d1, %r5, 8;\nsub.u64 %d2, %out, %mine;\nadd.u64 %d2, %d2, %d1;\n"
HARMLESS = {
    "warps read the same": f"{SAME}ld.global.u32 %r0, [%d2];\nld.global.u32 %r1, [%d2];",
    "a warp reads what it wrote": "st.global.u32 [%out], 7;\nld.global.u32 %r0, [%out];\nst.global.u32 [%out], 8;",
    "another lane of the warp": (
        "xor.b32 %r5, %t, 1;\nmul.wide.u32 %d1, %r5, 8;\nsub.u64 %d2, %out, %mine;\nadd.u64 %d2, %d2, %d1;\n"
        "st.global.u32 [%out], 7;\nld.global.u32 %r0, [%d2];"
    ),
    "warps write the same value": f"{SAME}st.global.u32 [%d2], 7;",
    "and read it": f"{SAME}st.global.u32 [%d2], 7;\nld.global.u32 %r0, [%d2];",
    # Memory starts as zeros, so a zero that is written changes nothing.
    "one reads, the other writes a zero": f"{OTHER}@!%p7 ld.global.u32 %r0, [%out];\n@%p7 st.global.u32 [%d2], 0;",
    "one writes a zero, the other reads": f"{OTHER}@!%p7 st.global.u32 [%out], 0;\n@%p7 ld.global.u32 %r0, [%d2];",
    "only one warp uses what both load": (
        f"{SAME}ld.global.u32 %r0, [%d2];\nadd.u32 %r0, %r0, 1;\n@!%p7 st.global.u32 [%d2], %r0;\n"
        "mov.u32 %r0, 1;\nst.global.u32 [%in], %r0;"
    ),
    "neighbours": f"{OTHER}@!%p7 ld.global.u32 %r0, [%out+4];\n@%p7 st.global.u32 [%d2], 7;",
}


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_accesses_of_warps_are_no_race(name):
    run(f"{HARMLESS[name]}\n{USE}", threads=64)


def test_a_later_launch_is_in_no_race():
    """One warp reads what the other wrote in the launch before."""
    words = np.zeros(64, np.uint64)
    ptx.library().ptx_allow(words.ctypes.data, words.nbytes)
    try:
        for body in ("st.global.u32 [%out], 7;", f"{OTHER}ld.global.u32 %r0, [%d2];"):
            module(body).launch("k", (1,), (64,), [struct.pack("Q", words.ctypes.data)] * 2 + [bytes(4)])
    finally:
        ptx.library().ptx_forget(words.ctypes.data)


def test_an_architecture_has_its_limits():
    with ptx.options(architecture=80):
        run("", [0], shared=163 << 10)
        with pytest.raises(ptx.PtxError, match="bytes of shared memory"):
            run("", [0], shared=(163 << 10) + 1)


@pytest.mark.parametrize("order", ptx.ORDERS)
def test_the_order_of_blocks(order):
    """Blocks that write their own words give the same result in any order. If all blocks write one word, it tells which
    block ran last. This is a race, so the interpreter is told not to look for races."""
    own = "mov.u32 %r0, %t;\n" + STORE
    last = "mov.u32 %r0, %t;\nsub.u64 %out, %out, %mine;\n" + STORE
    with ptx.options(order=order, races=False):
        assert run(own, [0], 1, 8).tolist() == [*range(8)]
        found = run(last, [0], 1, 8).tolist()[0]
    assert found == {"forward": 7, "backward": 0, "shuffled": found}[order]
    assert order != "shuffled" or found not in (0, 7)
