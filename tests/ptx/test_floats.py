"""The instructions on floating-point numbers against exact fractions that are rounded by definition, and against
torch's conversions of narrow types."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from tests.ptx import ptx
from tests.ptx.snippets import FORMATS, INFINITY, NAN, bits, evaluate, evaluate_bits, number, rounded, run

KINDS = ("f32", "f64")
ROUNDINGS = ("rn", "rz", "rm", "rp")
CANONICAL = 0x7FFFFFFF  # the NaN of float32


def finite(kind: str) -> list[float]:
    """Numbers of every sort: ties, neighbours of one, the smallest and largest, subnormal ones."""
    fraction, lowest, highest = FORMATS[kind]
    unit = 2.0**-fraction
    chosen = [0.0, -0.0, 1.0, 1 + unit, -1 - 3 * unit, 1 - unit / 2, unit / 2, -unit / 2, 3.0, 1 / 3, -0.1, 1e5]
    chosen += [2.0**lowest, -(2.0**lowest) * unit, 5 * 2.0**lowest * unit, 2.0**highest, -1.5 * 2.0**highest]
    return [number(bits(x, kind), kind) for x in chosen]


def same(got: list[int], want: list[float], kind: str, what) -> None:
    """The same bits, but for the sign of a zero, which the fractions do not have."""
    for word, value, row in zip(got, want, what, strict=True):
        found = number(word, kind)
        assert found == value or (found != found and value != value), f"{row}: {found!r} in the place of {value!r}"


EXACT = {"add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "div": lambda a, b: a / b}


@pytest.mark.parametrize("mode", ROUNDINGS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", EXACT)
def test_rounding(name, kind, mode):
    rows = [row for row in itertools.product(finite(kind), repeat=2) if name != "div" or row[1] != 0]
    want = [rounded(EXACT[name](*map(Fraction, row)), kind, mode) for row in rows]
    same(evaluate(f"{name}.{mode}.{kind}", kind, [kind] * 2, rows), want, kind, rows)
    if mode == "rn" and name != "div":
        same(evaluate(f"{name}.{kind}", kind, [kind] * 2, rows), want, kind, rows)  # what is not said


@pytest.mark.parametrize("mode", ROUNDINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_one_rounding_of_a_sum_of_a_product(kind, mode):
    rows = list(itertools.product(finite(kind)[2:], finite(kind)[2::3], finite(kind)))
    want = [rounded(Fraction(a) * Fraction(b) + Fraction(c), kind, mode) for a, b, c in rows]
    same(evaluate(f"fma.{mode}.{kind}", kind, [kind] * 3, rows), want, kind, rows)


@pytest.mark.parametrize("mode", ROUNDINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_roots_and_reciprocals(kind, mode):
    rows = [(x,) for x in finite(kind) if x > 0]
    want = [rounded(1 / Fraction(x), kind, mode) for (x,) in rows]
    same(evaluate(f"rcp.{mode}.{kind}", kind, [kind], rows), want, kind, rows)
    # the root's bits to twice the precision, and a last one that says whether there is more
    scale, roots = 2**2400, []
    for (x,) in rows:
        whole = math.isqrt(int(Fraction(x) * scale**2))
        exact = Fraction(whole) ** 2 == Fraction(x) * scale**2
        roots.append(rounded(Fraction(2 * whole + (not exact), 2 * scale), kind, mode))
    same(evaluate(f"sqrt.{mode}.{kind}", kind, [kind], rows), roots, kind, rows)


def test_special_numbers():
    """Operations that have no answer give the canonical NaN, whatever NaN comes in."""
    other = 0xFFC01234
    infinity, minus, one = bits(INFINITY, "f32"), bits(-INFINITY, "f32"), bits(1.0, "f32")
    rows = [[infinity, minus], [other, one], [one, other]]
    assert evaluate_bits("add.f32", "f32", ["f32"] * 2, rows).tolist() == [CANONICAL] * 3
    rows = [[infinity, 0], [other, one], [0, minus]]
    assert evaluate_bits("mul.f32", "f32", ["f32"] * 2, rows).tolist() == [CANONICAL] * 3
    assert evaluate_bits("sqrt.rn.f32", "f32", ["f32"], [[minus], [infinity]]).tolist() == [CANONICAL, infinity]
    zeros = evaluate("add.f32", "f32", ["f32"] * 2, [(-0.0, -0.0), (0.0, -0.0), (1.0, -1.0)])
    assert zeros == [bits(-0.0, "f32"), 0, 0]
    for kind in KINDS:
        assert evaluate(f"neg.{kind}", kind, [kind], [(0.0,), (-2.5,)]) == [bits(-0.0, kind), bits(2.5, kind)]
        assert evaluate(f"abs.{kind}", kind, [kind], [(-0.0,), (-2.5,)]) == [0, bits(2.5, kind)]
    signs = [(-0.0, 3.0), (1.0, -3.0)]
    assert evaluate("copysign.f64", "f64", ["f64"] * 2, signs) == [bits(-3.0, "f64"), bits(3.0, "f64")]


def test_subnormal_numbers_are_flushed_only_where_it_says_so():
    tiny, small = 2.0**-149, 2.0**-126
    rows = [(tiny, 1.0), (small, 0.5), (-small, 0.5), (small, 1.0)]
    assert evaluate("mul.f32", "f32", ["f32"] * 2, rows) == [bits(a * b, "f32") for a, b in rows]
    flushed = [0, 0, bits(-0.0, "f32"), bits(small, "f32")]
    assert evaluate("mul.ftz.f32", "f32", ["f32"] * 2, rows) == flushed
    assert (
        evaluate("fma.rn.ftz.f32", "f32", ["f32"] * 3, [(tiny, 2.0**40, 1.0), (1.0, 1.0, tiny)])
        == [bits(1.0, "f32")] * 2
    )
    assert evaluate("ex2.approx.f32", "f32", ["f32"], [(-140.0,)]) == [bits(2.0**-140, "f32")]
    assert evaluate("ex2.approx.ftz.f32", "f32", ["f32"], [(-140.0,)]) == [0]
    assert evaluate("abs.ftz.f32", "f32", ["f32"], [(-tiny,), (-2.0,)]) == [0, bits(2.0, "f32")]
    assert evaluate("cvt.rmi.ftz.f32.f32", "f32", ["f32"], [(-tiny,), (2.5,)]) == [bits(-0.0, "f32"), bits(2.0, "f32")]
    assert evaluate("cvt.rmi.f32.f32", "f32", ["f32"], [(-tiny,)]) == [bits(-1.0, "f32")]
    for name in ("rcp", "sqrt"):
        (word,) = evaluate(f"{name}.approx.ftz.f32", "f32", ["f32"], [(tiny,)])
        assert word == (bits(INFINITY, "f32") if name == "rcp" else 0)


@pytest.mark.parametrize("kind", KINDS)
def test_smaller_and_larger(kind):
    """A NaN gives way to a number, unless .NaN asks for it; -0 is below 0."""
    minus_zero = bits(-0.0, kind)
    rows = [(1.0, 2.0), (2.0, 1.0), (-0.0, 0.0), (0.0, -0.0), (NAN, 1.0), (1.0, NAN), (-INFINITY, 5.0)]
    of = lambda *values: [bits(x, kind) for x in values]  # noqa: E731
    want = [*of(1.0, 1.0), minus_zero, minus_zero, *of(1.0, 1.0, -INFINITY)]
    assert evaluate(f"min.{kind}", kind, [kind] * 2, rows) == want
    assert evaluate(f"max.{kind}", kind, [kind] * 2, rows) == of(2.0, 2.0, 0.0, 0.0, 1.0, 1.0, 5.0)
    if kind == "f32":
        asked = evaluate("max.NaN.f32", kind, [kind] * 2, rows)
        assert asked == [*of(2.0, 2.0, 0.0, 0.0), CANONICAL, CANONICAL, bits(5.0, kind)]
        assert evaluate("min.NaN.f32", kind, [kind] * 2, rows)[2:6] == [minus_zero] * 2 + [CANONICAL] * 2


COMPARISONS = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b and a == a and b == b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "num": lambda a, b: a == a and b == b,
    "nan": lambda a, b: a != a or b != b,
}
COMPARISONS |= {
    f"{name}u": lambda a, b, of=of: of(a, b) or a != a or b != b for name, of in list(COMPARISONS.items())[:6]
}


@pytest.mark.parametrize("kind", [*KINDS, "bf16", "f16"])
@pytest.mark.parametrize("name", COMPARISONS)
def test_comparisons(name, kind):
    rows = list(itertools.product([-INFINITY, -1.0, -0.0, 0.0, 1.0, INFINITY, NAN], repeat=2))
    want = [COMPARISONS[name](*row) for row in rows]
    assert evaluate(f"setp.{name}.{kind}", "pred", [kind] * 2, rows) == want
    with_others = [(*row, k % 2) for k, row in enumerate(rows)]
    for word, combine in (("and", lambda a, b: a & b), ("or", lambda a, b: a | b), ("xor", lambda a, b: a ^ b)):
        got = evaluate(f"setp.{name}.{word}.{kind}", "pred", [kind, kind, "pred"], with_others)
        assert got == [combine(bool(is_so), bool(k % 2)) for k, is_so in enumerate(want)]


@pytest.mark.parametrize("kind", ["bf16", "f16"])
@pytest.mark.parametrize("name", ["eq", "ne", "lt", "le", "gt", "ge", "neu", "ltu"])
def test_comparisons_of_pairs(name, kind):
    """The first predicate is that of the lower halves, the second one that of the upper."""
    rows = list(itertools.product([-1.0, 0.0, INFINITY, NAN], repeat=4))
    words = [bits(a, kind) | bits(b, kind) << 16 | bits(c, kind) << 32 | bits(d, kind) << 48 for a, b, c, d in rows]
    body = f"""
ld.global.v2.b32 {{%r1, %r2}}, [%in];
setp.{name}.{kind}x2 %p1|%p2, %r1, %r2;
selp.b32 %r3, 1, 0, %p1;
selp.b32 %r4, 2, 0, %p2;
or.b32 %r3, %r3, %r4;
st.global.b32 [%out], %r3;
"""
    want = [COMPARISONS[name](a, c) + 2 * COMPARISONS[name](b, d) for a, b, c, d in rows]
    assert run(body, words, threads=256).tolist() == want


@pytest.mark.parametrize("kind", ["u16", "s16", "u32", "s32", "u64", "s64"])
def test_comparisons_of_integers(kind):
    values = [0, 1, -1, 2 ** (int(kind[1:]) - 1)]
    read = lambda x: number(bits(x, kind), kind)  # noqa: E731
    rows = list(itertools.product(values, repeat=2))
    for name in ("eq", "ne", "lt", "le", "gt", "ge"):
        want = [COMPARISONS[name](read(a), read(b)) for a, b in rows]
        assert evaluate(f"setp.{name}.{kind}", "pred", [kind] * 2, rows) == want, name
        if name in ("eq", "ne"):
            assert evaluate(f"setp.{name}.b{kind[1:]}", "pred", [kind] * 2, rows) == want


WHOLE = ("u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64")
TURNS = {"rni": round, "rzi": math.trunc, "rmi": math.floor, "rpi": math.ceil}


def ends(kind: str) -> tuple[int, int]:
    """The least and the largest number of a type of WHOLE."""
    size = int(kind[1:])
    return (-(2 ** (size - 1)), 2 ** (size - 1) - 1) if kind[0] == "s" else (0, 2**size - 1)


@pytest.mark.parametrize("source", KINDS)
@pytest.mark.parametrize("kind", WHOLE)
def test_floats_to_integers(kind, source):
    """What is beyond the type becomes its end; NaN is 0, or the highest bit where a type of 64 bits takes part."""
    size, (low, high) = int(kind[1:]), ends(kind)
    values = [0.0, 0.5, 1.5, 2.5, -0.5, -1.5, 1e3 + 0.25, float(high), 2.0**size, -(2.0**size), INFINITY, -INFINITY]
    values = [number(bits(x, source), source) for x in values]
    for mode, turn in TURNS.items():
        want = [x if math.isinf(x) else turn(x) for x in values]
        want = [bits(int(max(low, min(high, x))), kind) for x in want]
        got = evaluate(f"cvt.{mode}.{kind}.{source}", f"b{max(size, 16)}", [source], [(x,) for x in values])
        assert [word % 2**size for word in got] == want, mode
    (nan,) = evaluate(f"cvt.rzi.{kind}.{source}", f"b{max(size, 16)}", [source], [(NAN,)])
    assert nan % 2**size == (2 ** (size - 1) if "64" in kind + source else 0)


@pytest.mark.parametrize("mode", ROUNDINGS)
@pytest.mark.parametrize("kind", WHOLE)
def test_integers_to_floats(kind, mode):
    size = int(kind[1:])
    values = [0, 1, 100, 2 ** (size - 1) - 1, 2**24 + 1, 2**24 + 3, 2**53 + 1, 2**63 + 2**40 - 1, -1, -(2**25) - 1]
    values = [number(bits(x, kind), kind) for x in values]
    for to in KINDS:
        got = evaluate(f"cvt.{mode}.{to}.{kind}", to, [kind], [(x,) for x in values])
        same(got, [rounded(Fraction(x), to, mode) for x in values], to, values)


def test_integers_to_integers():
    values = [0, 1, 127, 128, 255, 40000, 2**31, 2**32 - 1, 2**63, -1]
    for to, source in itertools.product(WHOLE, repeat=2):
        read = [number(bits(x, source), source) for x in values]
        low, high = ends(to)
        wide = f"b{max(16, int(to[1:]))}"
        got = evaluate(f"cvt.{to}.{source}", wide, [source], [(x,) for x in read])
        assert got == [bits(number(bits(x, to), to), wide) for x in read], (to, source)  # with its sign
        got = evaluate(f"cvt.sat.{to}.{source}", wide, [source], [(x,) for x in read])
        assert got == [bits(max(low, min(high, x)), wide) for x in read], (to, source)


@pytest.mark.parametrize("kind", KINDS)
def test_whole_floats(kind):
    values = [0.5, 1.5, 2.5, -0.5, -1.5, 1e6 + 0.5, -(2.0**60), 0.49999997]
    for mode, turn in TURNS.items():
        got = evaluate(f"cvt.{mode}.{kind}.{kind}", kind, [kind], [(x,) for x in values])
        same(got, [float(turn(number(bits(x, kind), kind))) for x in values], kind, values)


def test_doubles_to_floats():
    values = [1 / 3, 1 + 2.0**-24, 1 + 3 * 2.0**-24, 2.0**-150, 1.5 * 2.0**-149, 1e39, -1e39]
    for mode in ROUNDINGS:
        got = evaluate(f"cvt.{mode}.f32.f64", "f32", ["f64"], [(x,) for x in values])
        same(got, [rounded(Fraction(x), "f32", mode) for x in values], "f32", values)
    got = evaluate("cvt.f64.f32", "f64", ["f32"], [(0.1,), (-INFINITY,)])
    assert got == [bits(number(bits(0.1, "f32"), "f32"), "f64"), bits(-INFINITY, "f64")]


@pytest.mark.parametrize("kind", ["bf16", "f16"])
def test_narrow_types(kind):
    """Every number that is narrow; every number between two of them, on ties and beside; truncation drops bits."""
    dtype = {"bf16": torch.bfloat16, "f16": torch.float16}[kind]
    every = torch.arange(2**16).to(torch.int16).view(dtype)
    got = evaluate_bits(f"cvt.f32.{kind}", "f32", [kind], [[w] for w in range(2**16)])
    want = every.float().view(torch.int32).numpy().astype(np.uint32)
    nan = every.isnan().numpy()
    assert (got[~nan] == want[~nan]).all() and (got[nan] == CANONICAL).all()

    # neighbours in float32 of what lies halfway between two narrow numbers, and of these
    step = 2 ** (22 - FORMATS[kind][0])
    middles = every[: 2**15][~every[: 2**15].isnan()].float().view(torch.int32).long() + torch.tensor([[0], [step]])
    words = (middles.unsqueeze(-1) + torch.tensor([-1, 0, 1])).flatten().clamp(0, 0x7F800000)
    words = torch.cat([words[:: 7 if kind == "f16" else 11], torch.tensor([0x7F800000, 0x7F7FFFFF, 1, 0])])
    wide = words.int().view(torch.float32)
    for sign in (1, -1):
        sources = [[w] for w in (sign * wide).view(torch.int32).numpy().astype(np.uint32)]
        nearest = evaluate_bits(f"cvt.rn.{kind}.f32", kind, ["f32"], sources)
        assert (nearest == (sign * wide).to(dtype).view(torch.int16).numpy().astype(np.uint16)).all()
        short = evaluate_bits(f"cvt.rz.{kind}.f32", kind, ["f32"], sources)
        for word, x in list(zip(short, (sign * wide).tolist(), strict=True))[::17]:
            want = x if math.isinf(x) else rounded(Fraction(x), kind, "rz")
            assert number(word, kind) == want, x
    assert evaluate(f"cvt.rn.{kind}.f32", kind, ["f32"], [(NAN,)]) == [0x7FFF]


@pytest.mark.parametrize("kind", ["bf16", "f16"])
def test_signs_of_narrow_numbers(kind):
    rows = [(1.5,), (-0.25,), (-0.0,), (INFINITY,)]
    assert evaluate(f"abs.{kind}", kind, [kind], rows) == [bits(abs(x), kind) for (x,) in rows]
    assert evaluate(f"neg.{kind}", kind, [kind], rows) == [bits(-x, kind) for (x,) in rows]
    pair = lambda high, low: bits(high, kind) << 16 | bits(low, kind)  # noqa: E731
    assert evaluate(f"abs.{kind}x2", "b32", ["b32"], [(pair(-1.5, 2.5),)]) == [pair(1.5, 2.5)]
    assert evaluate(f"neg.{kind}x2", "b32", ["b32"], [(pair(-1.5, 2.5),)]) == [pair(1.5, -2.5)]


def test_pairs_of_narrow_numbers():
    assert evaluate("cvt.rn.bf16x2.f32", "b32", ["f32"] * 2, [(1.0, -2.0)]) == [0x3F80_C000]
    assert evaluate("cvt.rn.f16x2.f32", "b32", ["f32"] * 2, [(1.0, -2.0)]) == [0x3C00_C000]


def ulp(exact: float) -> float:
    return 2.0 ** (math.frexp(exact)[1] - 24)


APPROXIMATIONS = {  # the exact function, numbers, and the error that the manual of PTX allows
    "rcp.approx": (lambda x: 1 / x, (3.0, 0.7, 1e20), ulp),
    "rsqrt.approx": (lambda x: x**-0.5, (3.0, 0.7, 1e20), lambda exact: 2.0**-22.9 * exact),
    "sqrt.approx": (math.sqrt, (3.0, 0.7, 1e20), lambda exact: 2.0**-23 * exact),
    "ex2.approx": (lambda x: 2.0**x, (0.3, -20.4, 100.7), lambda exact: 2 * ulp(exact)),
    "lg2.approx": (math.log2, (3.7, 1e20), lambda exact: 2.0**-22 * exact),
    "sin.approx": (math.sin, (0.3, -2.0, 3.1), lambda exact: 2.0**-20.5),
    "cos.approx": (math.cos, (0.3, -2.0, 3.1), lambda exact: 2.0**-20.5),
    "tanh.approx": (math.tanh, (0.3, -2.0, 3.1), lambda exact: 2.0**-11 * abs(exact)),
}


@pytest.mark.parametrize("name", APPROXIMATIONS)
def test_approximations_lie_within_their_errors(name):
    """As close as the type allows, or moved by the documented error, upwards or downwards."""
    exact, numbers, allowed = APPROXIMATIONS[name]
    rows = [(number(bits(x, "f32"), "f32"),) for x in numbers]
    for shift in (0, 1, -1):
        with ptx.options(shift=shift):
            for word, (x,) in zip(evaluate(f"{name}.f32", "f32", ["f32"], rows), rows, strict=True):
                off = number(word, "f32") - (exact(x) + shift * allowed(exact(x)))
                assert abs(off) <= 0.51 * ulp(exact(x)), (shift, x, off)
            for division in ("div.full.f32", "div.approx.f32"):
                (word,) = evaluate(division, "f32", ["f32"] * 2, [(1.0, 3.0)])
                assert abs(number(word, "f32") - (1 / 3 + 2 * shift * ulp(1 / 3))) <= 0.51 * ulp(1 / 3)


def test_a_reciprocal_of_which_half_is_computed():
    words = evaluate("rcp.approx.ftz.f64", "f64", ["f64"], [(3.0,), (-0.7,)])
    for word, exact in zip(words, (1 / 3, -1 / 0.7), strict=True):
        assert word % 2**32 == 0 and abs(number(word, "f64") / exact - 1) < 2.0**-19
