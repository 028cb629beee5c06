"""The instructions on integers and bits against the answers of Python's integers."""

import itertools

import pytest

from tests.ptx import ptx
from tests.ptx.snippets import bits, evaluate, width

pytestmark = pytest.mark.skipif(ptx.missing() is not None, reason=str(ptx.missing()))

INTEGERS = {  # values at the edges of each type, and some within
    "u16": (0, 1, 2, 7, 255, 40000, 65535),
    "s16": (0, 1, -1, 7, -300, 32767, -32768),
    "u32": (0, 1, 3, 31, 65537, 2**31, 2**32 - 1),
    "s32": (0, 1, -1, 5, -70000, 2**31 - 1, -(2**31)),
    "u64": (0, 1, 3, 2**32, 2**40 + 12345, 2**63, 2**64 - 1),
    "s64": (0, 1, -1, 5, -(2**40), 2**63 - 1, -(2**63)),
}


def quotient(a, b):
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


WHOLE = {  # names without the type: the number of sources, and the answer before it is cut to the type
    "add": (2, lambda a, b: a + b),
    "sub": (2, lambda a, b: a - b),
    "mul.lo": (2, lambda a, b: a * b),
    "mad.lo": (3, lambda a, b, c: a * b + c),
    "min": (2, min),
    "max": (2, max),
    "div": (2, quotient),
    "rem": (2, lambda a, b: a - quotient(a, b) * b),
}


@pytest.mark.parametrize("kind", INTEGERS)
@pytest.mark.parametrize("name", WHOLE)
def test_whole_numbers(name, kind):
    sources, answer = WHOLE[name]
    rows = list(itertools.product(INTEGERS[kind], repeat=sources))
    if name in ("div", "rem"):
        rows = [(a, b) for a, b in rows if b != 0]  # left open
    rows = rows[:512]
    got = evaluate(f"{name}.{kind}", kind, [kind] * sources, rows)
    assert got == [bits(answer(*row), kind) for row in rows]


@pytest.mark.parametrize("kind", INTEGERS)
def test_high_halves(kind):
    rows = list(itertools.product(INTEGERS[kind], repeat=2))
    got = evaluate(f"mul.hi.{kind}", kind, [kind] * 2, rows)
    assert got == [bits(a * b >> width(kind), kind) for a, b in rows]
    rows = list(itertools.product(INTEGERS[kind], repeat=3))
    got = evaluate(f"mad.hi.{kind}", kind, [kind] * 3, rows)
    assert got == [bits((a * b >> width(kind)) + c, kind) for a, b, c in rows]


CARRYING = {  # the name, with a "c" in between if it takes a carry; and of all numbers but the last what is added to it
    ("add", ""): lambda size, a: a,
    ("sub", ""): lambda size, a: a,
    ("mad", ".lo"): lambda size, a, b: a * b,
    ("mad", ".hi"): lambda size, a, b: a * b >> size,
}


@pytest.mark.parametrize("kind", ["u32", "s32", "u64", "s64"])
@pytest.mark.parametrize("name", CARRYING)
def test_carries(name, kind):
    """Of sums and borrows of differences: they are kept with .cc alone, and taken by the names with a c alone."""
    (stem, half), size = name, width(kind)
    sources = 2 if half == "" else 3
    rows = [*itertools.product(*[INTEGERS[kind]] * sources, (0, 1))]
    kinds = [kind] * sources + ["u32"]
    numbers = ", ".join(f"%s{k}" for k in range(sources))
    before = f"add.cc.u32 %r0, %s{sources}, -1;"  # keeps the last number of a row
    for takes, keeps in ((False, True), (True, False), (True, True)):
        op = f"{stem}{'c' * takes}{half}{'.cc' * keeps}.{kind}"
        results, carries = [], []
        for *first, last, carry in rows:
            other = last % 2**size + takes * carry
            total = CARRYING[name](size, *first) % 2**size + (-other if stem == "sub" else other)
            results.append(total % 2**size)
            carries.append(total >> size & 1 if keeps else carry)
        assert evaluate(f"{before}\n{op} %result, {numbers};", kind, kinds, rows) == results, op
        after = f"{before}\n{op} %d0, {numbers};\naddc.u32 %result, 0, 0;"
        assert evaluate(after, "u32", kinds, rows) == carries, op


@pytest.mark.parametrize("kind", ["u16", "s16", "u32", "s32"])
def test_wide_products(kind):
    wide = kind[0] + str(2 * width(kind))
    rows = list(itertools.product(INTEGERS[kind], repeat=2))
    got = evaluate(f"mul.wide.{kind}", wide, [kind] * 2, rows)
    assert got == [bits(a * b, wide) for a, b in rows]
    rows = list(itertools.product(INTEGERS[kind][::2], INTEGERS[kind][1::2], INTEGERS[wide]))
    got = evaluate(f"mad.wide.{kind}", wide, [kind, kind, wide], rows)
    assert got == [bits(a * b + c, wide) for a, b, c in rows]


@pytest.mark.parametrize("kind", ["s16", "s32", "s64"])
def test_signs(kind):
    rows = [(x,) for x in INTEGERS[kind]]
    assert evaluate(f"neg.{kind}", kind, [kind], rows) == [bits(-x, kind) for (x,) in rows]
    assert evaluate(f"abs.{kind}", kind, [kind], rows) == [bits(abs(x), kind) for (x,) in rows]


@pytest.mark.parametrize("size", [16, 32, 64])
def test_bits(size):
    kind, unsigned, signed = f"b{size}", f"u{size}", f"s{size}"
    rows = list(itertools.product(INTEGERS[unsigned], repeat=2))
    assert evaluate(f"and.{kind}", kind, [kind] * 2, rows) == [a & b for a, b in rows]
    assert evaluate(f"or.{kind}", kind, [kind] * 2, rows) == [a | b for a, b in rows]
    assert evaluate(f"xor.{kind}", kind, [kind] * 2, rows) == [a ^ b for a, b in rows]
    assert evaluate(f"not.{kind}", kind, [kind], [(a,) for a in INTEGERS[unsigned]]) == [
        2**size - 1 - a for a in INTEGERS[unsigned]
    ]
    # shifts beyond the width leave nothing, or the sign
    shifts = list(itertools.product(INTEGERS[signed], (0, 1, 5, size - 1, size, size + 1, 100, 2**32 - 1)))
    u = [(a % 2**size, n) for a, n in shifts]
    assert evaluate(f"shl.{kind}", kind, [kind, "u32"], u) == [bits(a << min(n, 64), kind) for a, n in u]
    assert evaluate(f"shr.{unsigned}", unsigned, [unsigned, "u32"], u) == [a >> n for a, n in u]
    want = [bits(a >> n, signed) for a, n in shifts]
    assert evaluate(f"shr.{signed}", signed, [signed, "u32"], shifts) == want


def test_predicates():
    rows = list(itertools.product((0, 1), repeat=2))
    for name, answer in (("and", lambda a, b: a & b), ("or", lambda a, b: a | b), ("xor", lambda a, b: a ^ b)):
        assert evaluate(f"{name}.pred", "pred", ["pred"] * 2, rows) == [answer(*row) for row in rows]
    assert evaluate("not.pred", "pred", ["pred"], [(0,), (1,)]) == [1, 0]
    for kind in ("b16", "u16", "s16", "b32", "u32", "s32", "f32", "b64", "u64", "s64", "f64"):
        size = f"b{kind[1:]}"
        assert evaluate(f"selp.{kind}", size, [size, size, "pred"], [(7, 9, 0), (7, 9, 1)]) == [9, 7]
        assert evaluate(f"mov.{kind}", size, [size], [(2 ** int(size[1:]) - 2,)]) == [2 ** int(size[1:]) - 2]
    assert evaluate("mov.pred", "pred", ["pred"], [(0,), (1,)]) == [0, 1]


def test_fields_of_bits():
    word, other = 0x89ABCDEF, 0x01234567
    rows = [(word, other, n) for n in (0, 1, 8, 31, 32, 40)]
    both = other << 32 | word
    assert evaluate("shf.l.wrap.b32", "b32", ["b32"] * 3, rows) == [
        (both << n % 32) >> 32 & 0xFFFFFFFF for *_, n in rows
    ]
    assert evaluate("shf.r.wrap.b32", "b32", ["b32"] * 3, rows) == [both >> n % 32 & 0xFFFFFFFF for *_, n in rows]
    # bytes 7 … 0 of `both`; a set fourth bit asks for the sign of the byte
    assert evaluate("prmt.b32", "b32", ["b32"] * 3, [(word, other, 0x7531), (word, other, 0xB8A0)]) == [
        0x0145_89CD, 0xFF_FF_FF_EF,
    ]  # fmt: skip
    fields = [(a, n) for a in (0, 4, 31, 32) for n in (0, 1, 8, 28, 40)]
    inserted = []
    for at, length in fields:
        mask = (2 ** min(length, 64) - 1) << at & 0xFFFFFFFF
        inserted.append(other & ~mask | word << at & mask)
    rows = [(word, other, at, length) for at, length in fields]
    assert evaluate("bfi.b32", "b32", ["b32"] * 4, rows) == inserted
    for size, signed in ((32, False), (32, True), (64, False), (64, True)):
        long = word if size == 32 else both
        want = []
        for at, length in fields:
            field = [long >> min(k, size - 1) & 1 if signed or k < size else 0 for k in range(at, at + length)]
            field += (field[-1:] if signed else [0]) * size  # beyond the field there is its sign
            want.append(sum(bit << k for k, bit in enumerate(field[:size])) if length else 0)
        kind = f"{'s' if signed else 'u'}{size}"
        rows = [(long, at, length) for at, length in fields]
        assert evaluate(f"bfe.{kind}", kind, [kind, "u32", "u32"], rows) == want, kind
    table = 0b10010110  # the exclusive or of three
    assert evaluate("lop3.b32", "b32", ["b32"] * 4, [(word, other, 0xF0F0F0F0, table)]) == [word ^ other ^ 0xF0F0F0F0]
    for size in (32, 64):
        values = [0, 1, 2 ** (size - 1), 0x89ABCDEF]
        rows = [(x,) for x in values]
        assert evaluate(f"popc.b{size}", "b32", [f"b{size}"], rows) == [x.bit_count() for x in values]
        assert evaluate(f"clz.b{size}", "b32", [f"b{size}"], rows) == [size - x.bit_length() for x in values]
    assert evaluate("brev.b32", "b32", ["b32"], [(1,), (0x89ABCDEF,)]) == [2**31, int(f"{0x89ABCDEF:032b}"[::-1], 2)]
