"""Products of matrices by a warp, and asynchronous copies from global to shared memory."""

import numpy as np
import pytest

from tests.ptx import ptx
from tests.ptx.snippets import STORE, bits, number, run

LANES = range(32)
SHARED = ".shared .align 16 .b8 memory[1024];\n"


def product(a, b, c, kind):
    """Computes d = a·b + c by one instruction. The PTX ISA says which register of which lane holds each element. The
    instruction runs four times, and each time another register of d is read."""
    words = np.zeros((32, 12), np.uint64)  # 12 words for each lane, which loads a register from each of the first 10
    half = lambda x: bits(float(x), kind)  # noqa: E731
    for lane in LANES:
        group, place = divmod(lane, 4)
        for k, (row, column) in enumerate([(group, 0), (group + 8, 0), (group, 8), (group + 8, 8)]):
            low, high = a[row, column + 2 * place], a[row, column + 2 * place + 1]
            words[lane, k] = half(low) | half(high) << 16
        for k, row in enumerate((0, 8)):
            words[lane, 4 + k] = half(b[row + 2 * place, group]) | half(b[row + 2 * place + 1, group]) << 16
        for k in range(4):
            words[lane, 6 + k] = bits(float(c[group + k // 2 * 8, 2 * place + k % 2]), "f32")
    load = "\n".join(f".reg .b32 %a{k};\nld.global.u32 %a{k}, [%at+{8 * k}];" for k in range(10))
    a_, b_, c_ = (", ".join(f"%a{k}" for k in indices) for indices in (range(4), range(4, 6), range(6, 10)))
    found = np.zeros((16, 8), np.float32)
    for k in range(4):
        # %in points to word %t (see snippets.py). 11·%t words later, %at points to word 12·%t, the lane's first word.
        body = f""".reg .b64 %at;
mul.wide.u32 %at, %t, {8 * 11};
add.s64 %at, %at, %in;
{load}
mma.sync.aligned.m16n8k16.row.col.f32.{kind}.{kind}.f32 {{{c_}}}, {{{a_}}}, {{{b_}}}, {{{c_}}};
mov.b32 %r0, %a{6 + k};
"""
        for lane, word in enumerate(run(body + STORE, words.ravel())):
            found[lane // 4 + k // 2 * 8, 2 * (lane % 4) + k % 2] = number(word, "f32")
    return found


@pytest.mark.parametrize("kind", ["bf16", "f16"])
def test_products_of_matrices(kind):
    """The results are known exactly, since sums of small whole numbers need no rounding."""
    g = np.random.default_rng(1)
    a, b, c = g.integers(-9, 9, (16, 16)), g.integers(-9, 9, (16, 8)), g.integers(-99, 99, (16, 8))
    assert (product(a, b, c, kind) == a @ b + c).all()


def test_sums_of_products_are_cut_off():
    """`matrices.cpp` rounds the exact sum towards zero. 1 + 2⁻²⁴ + 2⁻²⁴ is a float32 and stays. 1 + 3·2⁻²⁵ becomes 1,
    although the next float32, 1 + 2⁻²³, is nearer."""
    a, b, c = np.zeros((16, 16)), np.zeros((16, 8)), np.ones((16, 8))
    a[:, :2], b[:2] = 2.0**-12, 2.0**-12
    assert (product(a, b, c, "bf16") == 1 + 2.0**-23).all()
    b[1] = 2.0**-13
    assert (product(a, b, c, "bf16") == 1).all()


COPY = """
mov.u32 %r1, memory;
mad.lo.u32 %r1, %t, 16, %r1;
mul.wide.u32 %d1, %t, 8;
add.s64 %d1, %in, %d1;
cp.async.cg.shared.global [%r1], [%d1], 16{size};
cp.async.commit_group;
{wait}
ld.shared.u32 %r0, [%r1+8];
"""


def copied(wait, size="", before=SHARED):
    words = np.arange(64, dtype=np.uint64) + 5
    return run(COPY.format(wait=wait, size=size) + STORE, words, before=before).tolist()


def test_copies_are_there_once_they_were_waited_for():
    want = [2 * lane + 6 for lane in LANES]
    assert copied("cp.async.wait_group 0;") == want
    another = "cp.async.commit_group;\n"
    assert copied(another + "cp.async.wait_group 1;") == want
    for too_early in ("", another, "cp.async.wait_group 1;"):
        assert set(copied(too_early)) == {0xCDCDCDCD}
    assert copied("cp.async.wait_group 0;", size=", 0") == [0] * 32  # reads nothing, and writes zeros
    with pytest.raises(ptx.PtxError, match="a part of its bytes"):
        copied("", size=", 8")


def test_copies_have_bounds_and_races():
    with pytest.raises(ptx.PtxError, match="bounds of shared"):
        copied("", before=SHARED.replace("1024", "496"))
    body = COPY.format(wait="cp.async.wait_group 0;", size="").replace("[%r1+8]", "[%r2]")
    # The second warp reads what the first warp copied. Without a barrier between the two, this is a race.
    racing = body.replace("ld.", "and.b32 %r2, %t, 31;\nmov.u32 %r3, memory;\nmad.lo.u32 %r2, %r2, 16, %r3;\nld.")
    with pytest.raises(ptx.PtxError, match="race"):
        run(racing + STORE, np.arange(130, dtype=np.uint64), threads=64, before=SHARED)
    with_barrier = racing.replace("and.b32", "bar.sync 0;\nand.b32")
    got = run(with_barrier + STORE, np.arange(130, dtype=np.uint64), threads=64, before=SHARED)
    assert got.tolist() == [2 * (t % 32) for t in range(64)]


def test_an_instruction_of_a_part_of_a_warp_is_refused():
    sums, product = "{%f0, %f1, %f2, %f3}", "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"
    with pytest.raises(ptx.PtxError, match="a part of a warp"):
        run(f"{product} {sums}, {{%r0, %r1, %r2, %r3}}, {{%r4, %r5}}, {sums};", [0], threads=16)
