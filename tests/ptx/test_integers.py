"""The instructions on integers and bits against the answers of Python's integers."""

import functools
import itertools
import operator
from collections.abc import Callable

import pytest

from tests.ptx.snippets import bits, evaluate, width

INTEGERS = {  # values at the edges of each type, and some within
    "u16": (0, 1, 2, 7, 255, 40000, 65535),
    "s16": (0, 1, -1, 7, -300, 32767, -32768),
    "u32": (0, 1, 3, 31, 65537, 2**31, 2**32 - 1),
    "s32": (0, 1, -1, 5, -70000, 2**31 - 1, -(2**31)),
    "u64": (0, 1, 3, 2**32, 2**40 + 12345, 2**63, 2**64 - 1),
    "s64": (0, 1, -1, 5, -(2**40), 2**63 - 1, -(2**63)),
}


def check(name: str, kinds: list[str], result: str, rows: list[tuple], answer: Callable) -> None:
    """Checks that an instruction gives the answer for each row of sources. The answer is cut to the result's type."""
    assert evaluate(name, result, kinds, rows) == [bits(answer(*row), result) for row in rows], name


def quotient(a, b):
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


WHOLE = {  # by name without the type: the number of sources, and a function of the type's width and the sources
    "add": (2, lambda size, a, b: a + b),
    "sub": (2, lambda size, a, b: a - b),
    "mul.lo": (2, lambda size, a, b: a * b),
    "mul.hi": (2, lambda size, a, b: a * b >> size),
    "mad.lo": (3, lambda size, a, b, c: a * b + c),
    "mad.hi": (3, lambda size, a, b, c: (a * b >> size) + c),
    "min": (2, lambda size, a, b: min(a, b)),
    "max": (2, lambda size, a, b: max(a, b)),
    "div": (2, lambda size, a, b: quotient(a, b)),
    "rem": (2, lambda size, a, b: a - quotient(a, b) * b),
}


@pytest.mark.parametrize("kind", INTEGERS)
@pytest.mark.parametrize("name", WHOLE)
def test_whole_numbers(name, kind):
    sources, answer = WHOLE[name]
    rows = list(itertools.product(INTEGERS[kind], repeat=sources))
    if name in ("div", "rem"):
        rows = [(a, b) for a, b in rows if b != 0]  # left open
    check(f"{name}.{kind}", [kind] * sources, kind, rows, functools.partial(answer, width(kind)))


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
    check(f"mul.wide.{kind}", [kind] * 2, wide, rows, operator.mul)
    rows = list(itertools.product(INTEGERS[kind][::2], INTEGERS[kind][1::2], INTEGERS[wide]))
    check(f"mad.wide.{kind}", [kind, kind, wide], wide, rows, lambda a, b, c: a * b + c)


@pytest.mark.parametrize("kind", ["s16", "s32", "s64"])
def test_signs(kind):
    rows = [(x,) for x in INTEGERS[kind]]
    check(f"neg.{kind}", [kind], kind, rows, operator.neg)
    check(f"abs.{kind}", [kind], kind, rows, abs)


LOGIC = {"and": operator.and_, "or": operator.or_, "xor": operator.xor}


@pytest.mark.parametrize("size", [16, 32, 64])
def test_bits(size):
    kind, unsigned, signed = f"b{size}", f"u{size}", f"s{size}"
    for name, answer in LOGIC.items():
        check(f"{name}.{kind}", [kind] * 2, kind, list(itertools.product(INTEGERS[unsigned], repeat=2)), answer)
    check(f"not.{kind}", [kind], kind, [(a,) for a in INTEGERS[unsigned]], operator.invert)
    # shifts beyond the width leave nothing, or the sign
    shifts = list(itertools.product(INTEGERS[signed], (0, 1, 5, size - 1, size, size + 1, 100, 2**32 - 1)))
    check(f"shl.{kind}", [kind, "u32"], kind, shifts, lambda a, n: a << min(n, 64))
    check(f"shr.{signed}", [signed, "u32"], signed, shifts, operator.rshift)
    check(f"shr.{unsigned}", [unsigned, "u32"], unsigned, shifts, lambda a, n: a % 2**size >> n)


def test_predicates():
    for name, answer in LOGIC.items():
        check(f"{name}.pred", ["pred"] * 2, "pred", list(itertools.product((0, 1), repeat=2)), answer)
    check("not.pred", ["pred"], "pred", [(0,), (1,)], operator.not_)
    check("mov.pred", ["pred"], "pred", [(0,), (1,)], int)
    for kind in ("b16", "u16", "s16", "b32", "u32", "s32", "f32", "b64", "u64", "s64", "f64"):
        size = f"b{kind[1:]}"
        check(f"selp.{kind}", [size, size, "pred"], size, [(7, 9, 0), (7, 9, 1)], lambda a, b, p: a if p else b)
        check(f"mov.{kind}", [size], size, [(2 ** width(size) - 2,)], int)


def inserted(a, b, at, length):
    """The number b, in which the lowest bits of a replace the field of `length` bits from bit `at`."""
    mask = (2 ** min(length, 64) - 1) << at & 0xFFFFFFFF
    return b & ~mask | a << at & mask


def extracted(size, signed, x, at, length):
    """The field of `length` bits of x from bit `at`. If `signed`, copies of the field's highest bit fill the result."""
    field = [x >> min(k, size - 1) & 1 if signed or k < size else 0 for k in range(at, at + length)]
    field += (field[-1:] if signed else [0]) * size
    return sum(bit << k for k, bit in enumerate(field[:size])) if length else 0


def test_fields_of_bits():
    word, other = 0x89ABCDEF, 0x01234567
    both = other << 32 | word
    rows = [(word, other, n) for n in (0, 1, 8, 31, 32, 40)]
    check("shf.l.wrap.b32", ["b32"] * 3, "b32", rows, lambda a, b, n: (b << 32 | a) << n % 32 >> 32)
    check("shf.r.wrap.b32", ["b32"] * 3, "b32", rows, lambda a, b, n: (b << 32 | a) >> n % 32)
    # bytes 7 … 0 of `both`; a set fourth bit asks for the sign of the byte
    assert evaluate("prmt.b32", "b32", ["b32"] * 3, [(word, other, 0x7531), (word, other, 0xB8A0)]) == [
        0x0145_89CD, 0xFF_FF_FF_EF,
    ]  # fmt: skip
    fields = [(at, length) for at in (0, 4, 31, 32) for length in (0, 1, 8, 28, 40)]
    check("bfi.b32", ["b32"] * 4, "b32", [(word, other, *field) for field in fields], inserted)
    for kind in ("u32", "s32", "u64", "s64"):
        rows = [(word if width(kind) == 32 else both, *field) for field in fields]
        answer = functools.partial(extracted, width(kind), kind[0] == "s")
        check(f"bfe.{kind}", [kind, "u32", "u32"], kind, rows, answer)
    table = 0b10010110  # the exclusive or of three
    check("lop3.b32", ["b32"] * 4, "b32", [(word, other, 0xF0F0F0F0, table)], lambda a, b, c, _: a ^ b ^ c)
    for size in (32, 64):
        rows = [(x,) for x in (0, 1, 2 ** (size - 1), word)]
        check(f"popc.b{size}", [f"b{size}"], "b32", rows, int.bit_count)
        check(f"clz.b{size}", [f"b{size}"], "b32", rows, lambda x, size=size: size - x.bit_length())
    check("brev.b32", ["b32"], "b32", [(1,), (word,)], lambda x: int(f"{x:032b}"[::-1], 2))
