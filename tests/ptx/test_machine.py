"""Warps, branches, calls and barriers, and what lanes do together."""

import functools
import operator

import pytest

from tests.ptx import ptx
from tests.ptx.snippets import STORE, run

LANES = range(32)
WORDS = [1000 + 7 * lane for lane in LANES]
LOAD = "ld.global.u32 %r1, [%in];\n"


def test_loops_of_different_lengths():
    """Thread t goes round t times, and meets the others again."""
    body = """
mov.u32 %r0, 0;
LOOP:
setp.ge.u32 %p0, %r0, %t;
@%p0 bra DONE;
add.u32 %r0, %r0, 1;
bra.uni LOOP;
DONE:
vote.sync.ballot.b32 %r2, %p0, 0xffffffff;
add.u32 %r0, %r0, %r2;
"""
    assert run(body + STORE, [0]).tolist() == [(lane + 2**32 - 1) % 2**32 for lane in LANES]


def test_guards():
    body = """
mov.u32 %r0, 1;
and.b32 %r1, %t, 1;
setp.eq.u32 %p0, %r1, 0;
@%p0 add.u32 %r0, %r0, 10;
@!%p0 add.u32 %r0, %r0, 20;
@%p0 bra EVEN;
add.u32 %r0, %r0, 100;
EVEN:
"""
    assert run(body + STORE, [0]).tolist() == [121 if lane % 2 else 11 for lane in LANES]


def test_a_table_of_branches():
    body = """
and.b32 %r1, %t, 3;
TABLE: .branchtargets A, B, C, B;
brx.idx %r1, TABLE;
A: mov.u32 %r0, 5;
bra DONE;
B: mov.u32 %r0, 6;
bra DONE;
C: mov.u32 %r0, 7;
DONE:
"""
    assert run(body + STORE, [0]).tolist() == [(5, 6, 7, 6)[lane % 4] for lane in LANES]


SQUARE = """
.func (.param .b32 result) square(.param .b32 x)
{
.reg .b32 %r<9>;
.reg .pred %p<3>;
ld.param.u32 %r1, [x];
setp.gt.u32 %p0, %r1, 20;
mov.u32 %r2, 0;
@%p0 bra LARGE;
mul.lo.u32 %r2, %r1, %r1;
LARGE:
st.param.b32 [result], %r2;
ret;
}
"""


def test_calls():
    """Lanes part within the function, which has registers of its own; some lanes do not call at all."""
    body = """
mov.u32 %r0, %t;
mov.u32 %r2, 9;
setp.eq.u32 %p1, %t, 3;
@%p1 bra NONE;
{
.param .b32 argument;
st.param.b32 [argument], %t;
.param .b32 back;
call.uni (back), square, (argument);
ld.param.b32 %r0, [back];
}
NONE:
add.u32 %r0, %r0, %r2;
"""
    want = [(3 if lane == 3 else 0 if lane > 20 else lane**2) + 9 for lane in LANES]
    assert run(body + STORE, [0], before=SQUARE).tolist() == want


def test_special_registers():
    body = """
mov.u32 %r0, %laneid;
mov.u32 %r1, %ctaid.x;
mad.lo.u32 %r0, %r1, 1000, %r0;
mov.u32 %r1, %ntid.x;
mad.lo.u32 %r0, %r1, 100000, %r0;
mov.u32 %r1, %nctaid.x;
mad.lo.u32 %r0, %r1, 100000000, %r0;
"""
    want = [300_000_000 + 6_400_000 + 1000 * block + thread % 32 for block in range(3) for thread in range(64)]
    assert run(body + STORE, [0], 64, 3).tolist() == want


def test_vectors_of_registers():
    """Packed, unpacked, and stored as one access of 16 bytes."""
    body = """
.reg .b64 %pair;
.reg .b64 %own<2>;
.local .align 16 .b8 stack[16];
mov.b64 %pair, {%t, %n};
mov.b64 {%r1, %r2}, %pair;
mov.b64 %own0, stack;
cvta.local.u64 %own1, %own0;
st.v4.u32 [%own1], {%r1, %r2, 3, 4};
ld.local.v2.u32 {%r3, %r4}, [%own0+4];
"""
    (word,) = {*run(body + "add.u32 %r0, %r3, %r4;" + STORE, [0], number=40).tolist()}
    assert word == 43


@pytest.mark.parametrize("width", [32, 8])
@pytest.mark.parametrize("by", [0, 1, 5, 16, 31])
def test_shuffles(by, width):
    """As CUDA documents __shfl_sync and its kin: lanes of a segment of `width` read from each other, or themselves."""
    segments = (32 - width) << 8

    def lane_read(kind, lane):
        first = lane - lane % width
        source = {"up": lane - by, "down": lane + by, "bfly": lane ^ by, "idx": first + by % width}[kind]
        # of bfly, a lane of an earlier segment may be read
        inside = source < first + width and (kind == "bfly" or source >= first)
        return (source, 1) if inside else (lane, 0)

    for kind in ("up", "down", "bfly", "idx"):
        bounds = segments | (0 if kind == "up" else 31)
        body = f"{LOAD}shfl.sync.{kind}.b32 %r2|%p0, %r1, {by}, {bounds}, -1;\n"
        body += "selp.u32 %r3, 1, 0, %p0;\nmad.lo.u32 %r0, %r3, 100000, %r2;\n"
        want = [WORDS[lane_read(kind, lane)[0]] + 100000 * lane_read(kind, lane)[1] for lane in LANES]
        assert run(body + STORE, WORDS).tolist() == want, kind


def test_shuffles_among_some_lanes():
    """Lanes of the lower half take part by their mask, while the others are elsewhere."""
    body = f"""{LOAD}
setp.ge.u32 %p0, %t, 16;
mov.u32 %r0, 0;
@%p0 bra DONE;
shfl.sync.bfly.b32 %r0, %r1, 15, 31, 0xffff;
DONE:
"""
    assert run(body + STORE, WORDS).tolist() == [WORDS[lane ^ 15] if lane < 16 else 0 for lane in LANES]


def test_two_groups_of_lanes_at_one_shuffle():
    body = f"""{LOAD}
setp.lt.u32 %p0, %t, 16;
selp.b32 %r2, 0xffff, 0xffff0000, %p0;
shfl.sync.bfly.b32 %r0, %r1, 1, 31, %r2;
"""
    assert run(body + STORE, WORDS).tolist() == [WORDS[lane ^ 1] for lane in LANES]


@pytest.mark.parametrize("mask", [0xFFFFFFFF, 0x0F0F00F1])
def test_votes_and_reductions(mask):
    named = [lane for lane in LANES if mask >> lane & 1]
    signed = [word - 1100 for word in WORDS]
    guard = (
        f"shr.u32 %r2, {mask}, %t;\nand.b32 %r2, %r2, 1;\nsetp.eq.u32 %p1, %r2, 0;\nmov.u32 %r0, 77;\n@%p1 bra DONE;\n"
    )

    def of(line: str) -> set[int]:
        found = run(LOAD + guard + line + "\nDONE:\n" + STORE, [x % 2**32 for x in signed]).tolist()
        assert all(found[lane] == 77 for lane in LANES if lane not in named)
        return {found[lane] for lane in named}

    chosen = [signed[lane] for lane in named]
    unsigned = [x % 2**32 for x in chosen]
    reduced = {"add.s32": sum(chosen), "min.s32": min(chosen), "max.s32": max(chosen)}
    reduced |= {"min.u32": min(unsigned), "max.u32": max(unsigned)}
    logic = (("and", operator.and_), ("or", operator.or_), ("xor", operator.xor))
    reduced |= {f"{name}.b32": functools.reduce(combine, unsigned) for name, combine in logic}
    for name, want in reduced.items():
        assert of(f"redux.sync.{name} %r0, %r1, {mask};") == {want % 2**32}, name

    even = "and.b32 %r2, %t, 1;\nsetp.eq.u32 %p0, %r2, 0;\n"
    ballot = sum(1 << lane for lane in named if lane % 2 == 0)
    assert of(even + f"vote.sync.ballot.b32 %r0, %p0, {mask};") == {ballot}
    assert of(even + f"vote.sync.ballot.b32 %r0, !%p0, {mask};") == {mask & ~ballot}
    as_number = "\nselp.u32 %r0, 1, 0, %p2;"
    assert of(even + f"vote.sync.any.pred %p2, %p0, {mask};" + as_number) == {1}
    assert of(even + f"vote.sync.all.pred %p2, %p0, {mask};" + as_number) == {0}
    everyone = "setp.lt.u32 %p0, %t, 32;\n"
    assert of(everyone + f"vote.sync.all.pred %p2, %p0, {mask};" + as_number) == {1}


SHARED = ".shared .align 16 .b8 memory[2048];\n"
ADDRESS = "mov.u32 %r2, memory;\nmad.lo.u32 %r2, %t, 4, %r2;\n"


def test_barriers():
    """What one warp writes, another reads behind the barrier."""
    body = f"""{ADDRESS}
st.shared.u32 [%r2], %t;
bar.sync 0;
mov.u32 %r3, memory;
sub.u32 %r4, 127, %t;
mad.lo.u32 %r3, %r4, 4, %r3;
ld.shared.u32 %r0, [%r3];
"""
    assert run(body + STORE, [0], 128, before=SHARED).tolist() == [127 - thread for thread in range(128)]


def test_votes_at_a_barrier():
    for chosen, someone in ((200, 0), (70, 1)):
        body = f"""
setp.eq.u32 %p0, %t, {chosen};
bar.red.or.pred %p1, 0, %p0;
bar.red.and.pred %p2, 0, !%p0;
selp.u32 %r0, 1, 0, %p1;
selp.u32 %r1, 0, 2, %p2;
add.u32 %r0, %r0, %r1;
"""
        assert {*run(body + STORE, [0], 128).tolist()} == {3 * someone}, chosen


def test_transposed_matrices():
    """Lane l holds two numbers of column l / 4, from rows 2 (l mod 4) and 2 (l mod 4) + 1."""
    write = f"""{ADDRESS}
st.shared.u32 [%r2], %t;
bar.sync 0;
and.b32 %r3, %t, 7;
mov.u32 %r4, memory;
mad.lo.u32 %r3, %r3, 16, %r4;
"""
    # as 16-bit numbers the memory is 0, 0, 1, 0, 2, 0, …: number k is k / 2 where k is even
    number = lambda row, column: (8 * row + column) // 2 if column % 2 == 0 else 0  # noqa: E731
    turned = run(write + "ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%r0}, [%r3];" + STORE, [0], before=SHARED)
    for lane in LANES:
        a, b = lane // 4, 2 * (lane % 4)
        assert turned[lane] == number(b, a) | number(b + 1, a) << 16
    # the load returns the numbers that the store has written
    body = f"""{write}
mad.lo.u32 %r1, %t, 70001, 3;
stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%r3], {{%r1}};
ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {{%r0}}, [%r3];
"""
    assert run(body + STORE, [0], before=SHARED).tolist() == [70001 * lane + 3 for lane in LANES]


def test_products_are_fused_where_ptxas_fuses_them():
    """1 + 2⁻¹² squared, less its rounded square: 0 in two roundings, 2⁻²⁴ in one."""
    body = """
mov.f32 %f0, 0f3F800800;
mov.f32 %f1, 0f3F801000;
mul.f32 %f2, %f0, %f0;
sub.f32 %f3, %f2, %f1;
mov.b32 %r0, %f3;
"""
    for contract, want in ((True, 0x33800000), (False, 0)):
        with ptx.options(contract=contract):
            assert {*run(body + STORE, [0]).tolist()} == {want}
    # a product is not fused if a factor is overwritten, if it is used twice, or if it names a rounding mode
    overwritten = body.replace("sub.f32", "mov.f32 %f0, 0f00000000;\nsub.f32")
    assert {*run(overwritten + STORE, [0]).tolist()} == {0}
    twice = body.replace("mov.b32 %r0, %f3", "mul.f32 %f3, %f3, %f2;\nmov.b32 %r0, %f3")
    assert {*run(twice + STORE, [0]).tolist()} == {0}
    assert {*run(body.replace("mul.f32", "mul.rn.f32") + STORE, [0]).tolist()} == {0}
    negative = body.replace("sub.f32 %f3, %f2, %f1", "sub.f32 %f3, %f1, %f2")
    assert {*run(negative + STORE, [0]).tolist()} == {0xB3800000}


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("frobnicate.b32 %r0, %r1;", "line .*: unknown instruction frobnicate.b32"),
        ("add.ftz.f64 %g0, %g1, %g2;", "unknown instruction add.ftz.f64"),
        ("add.u32 %r0, %r1;", "another number of operands"),
        ("mov.u32 %r0, %clock;", "no special register %clock"),
        ("mov.u32 %r0, %r99;", "no such register"),
        ("bra NOWHERE;", "no label NOWHERE"),
        ("bar.sync 1;", "not number 0"),
        ("bar.sync 0, 64;", "a barrier of some threads"),
    ],
)
def test_what_is_unknown_is_an_error(line, word):
    with pytest.raises(ptx.PtxError, match=word):
        run(line, [0])


def test_recursion_is_an_error():
    again = """
.func again()
{
call.uni again;
ret;
}
"""
    with pytest.raises(ptx.PtxError, match="recursive"):
        run("call.uni again;", [0], before=again)


DYNAMIC = ".extern .shared .align 16 .b8 dynamic[];\n"


def test_shared_memory_whose_size_the_launch_says():
    body = """
mov.u32 %r2, dynamic;
mad.lo.u32 %r2, %t, 4, %r2;
st.shared.u32 [%r2], %t;
ld.shared.u32 %r0, [%r2];
"""
    assert run(body + STORE, [0], shared=128, before=DYNAMIC).tolist() == [*LANES]
    with pytest.raises(ptx.PtxError, match="bounds of shared"):
        run(body + STORE, [0], shared=124, before=DYNAMIC)
    with pytest.raises(ptx.PtxError, match="behind that whose size"):
        run(body + "mov.u32 %r3, memory;\n" + STORE, [0], shared=128, before=DYNAMIC + SHARED)
