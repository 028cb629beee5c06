"""Products of matrices by a warp or by four warps, and asynchronous copies from global to shared memory."""

import struct

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


COLUMNS, LEADING, STRIDE = 16, 4096, 2048  # of a product by four warps; the last two are in bytes
AT_B, BYTES, THREADS = 8 * STRIDE, 12 * STRIDE, 128  # matrix a is in front of b


def place(line, depth, pitch, transposed):
    """The address of an element in a matrix, by the layouts of the PTX ISA, with rows of `pitch` bytes."""
    at = line // 8 * STRIDE + line % 8 * pitch + 2 * depth
    if transposed:
        at = 2 * line // pitch * LEADING + depth // 8 * STRIDE + depth % 8 * pitch + 2 * line % pitch
    return at ^ at // 128 % (pitch // 16) * 16


def group_product(a, b, in_registers, pitch=128, transposed=0, before_product="bar.sync 0;", wait="0", **changes):
    """Computes d = a·b + 1 for a of 64 lines and b of COLUMNS lines. Their depth is 16. Each run returns one of the
    8 sums of each thread."""
    image = np.zeros(BYTES, np.uint8)
    for at, lines in ((0, a), (AT_B, b)):
        for (line, depth), x in np.ndenumerate(lines):
            where = at + place(line, depth, pitch, transposed)
            image[where : where + 2] = np.frombuffer(struct.pack("H", bits(float(x), "bf16")), np.uint8)
    rows = np.zeros((THREADS, 4), np.uint32)
    for thread in range(THREADS):
        row, column = thread // 32 * 16 + thread % 32 // 4, thread % 4 * 2
        for k, (below, right) in enumerate([(0, 0), (8, 0), (0, 8), (8, 8)]):
            low, high = (bits(float(a[row + below, column + right + n]), "bf16") for n in (0, 1))
            rows[thread, k] = low | high << 16
    words = np.concatenate([image.view(np.uint64), rows.view(np.uint64).ravel()])
    copy = "".join(
        f"ld.global.u64 %d1, [%in+{8 * j}];\nst.shared.u64 [%r3+{8 * j}], %d1;\n" for j in range(0, BYTES // 8, THREADS)
    )
    mode = {128: 1, 64: 2, 32: 3}[pitch]
    describe = (mode << 62) + (STRIDE // 16 << 32) + (LEADING // 16 << 16)
    sums = f"{{{', '.join(f'%f{k}' for k in range(8))}}}"
    first = "{%r4, %r5, %r6, %r7}" if in_registers else "%d1"
    flags = f"{transposed}" if in_registers else f"{transposed}, {transposed}"
    body = f"""mov.u32 %r3, memory;
mad.lo.u32 %r3, %t, 8, %r3;
{copy}
mul.wide.u32 %d1, %t, 8;
add.s64 %d1, %in, %d1;
ld.global.v4.u32 {{%r4, %r5, %r6, %r7}}, [%d1+{BYTES}];
mov.u64 %d1, {changes.get("a_descriptor", describe)};
mov.u64 %d2, {describe + AT_B // 16};
setp.eq.u32 %p1, 0, 0;
{"".join(f"mov.f32 %f{k}, 0f3F800000;" for k in range(8))}
{before_product}
fence.proxy.async.shared::cta;
wgmma.fence.sync.aligned;
wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {sums}, {first}, %d2, %p1, 1, 1, {flags};
wgmma.commit_group.sync.aligned;
{changes.get("before_wait", "")}
wgmma.wait_group.sync.aligned {wait};
"""
    found = np.zeros((64, COLUMNS))
    memory = f".shared .align 1024 .b8 memory[{BYTES}];\n"
    for k in range(8):
        last = f"mov.b32 %r0, %f{k};\n"
        for thread, word in enumerate(
            run(body + last + STORE, words, threads=changes.get("threads", 128), before=memory)
        ):
            row, column = thread // 32 * 16 + thread % 32 // 4, thread % 4 * 2
            found[row + k // 2 % 2 * 8, column + k // 4 * 8 + k % 2] = number(word, "f32")
    return found


def whole_numbers():
    g = np.random.default_rng(2)
    return g.integers(-9, 9, (64, 16)), g.integers(-9, 9, (COLUMNS, 16))


@pytest.mark.parametrize("pitch", [32, 64, 128])
@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("in_registers", [False, True])
def test_products_by_four_warps(pitch, transposed, in_registers):
    a, b = whole_numbers()
    assert (group_product(a, b, in_registers, pitch, transposed) == a @ b.T + 1).all()


def test_products_by_four_warps_are_there_once_they_were_waited_for():
    a, b = whole_numbers()
    assert (group_product(a, b, False, wait="1") == 1).all()
    another = "wgmma.commit_group.sync.aligned;"
    assert (group_product(a, b, False, wait="1", before_wait=another) == a @ b.T + 1).all()
    # Until then, both matrices are in use.
    overwritten = "bar.sync 0;\nmov.u64 %d3, 0;\nst.shared.u64 [%r3{}], %d3;"
    for at, in_registers in (("", False), (f"+{AT_B}", False), (f"+{AT_B}", True)):
        found = group_product(a, b, in_registers, before_wait=overwritten.format(at))
        assert (found != a @ b.T + 1).any(), at


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"before_product": ""}, "nobody wrote"),
        ({"before_product": "bar.sync 0;\nst.shared.u64 [%r3], %d2;"}, "race"),
        ({"threads": 96}, "fewer than four warps"),
        ({"a_descriptor": 0}, "without a swizzle"),
        ({"a_descriptor": (1 << 62) + (1 << 49)}, "base offset"),
        ({"a_descriptor": (1 << 62) + BYTES // 16}, "bounds of shared"),
    ],
)
def test_products_by_four_warps_are_refused(changes, message):
    with pytest.raises(ptx.PtxError, match=message):
        group_product(*whole_numbers(), False, **changes)
