"""Small kernels of PTX, written for a test, and what they leave in memory; numbers as Python's fractions and struct
have them."""

import math
import struct
from fractions import Fraction

import numpy as np

from tests.ptx import ptx

HEADER = ".version 9.0\n.target sm_90\n.address_size 64\n"
# What a snippet may use without declaring it: %t is the number of a thread in the grid.
REGISTERS = """
.reg .pred %p<9>;
.reg .b16 %h<9>;
.reg .b32 %r<9>;
.reg .f32 %f<9>;
.reg .b64 %d<9>;
.reg .f64 %g<9>;
.reg .b64 %in, %out, %mine;
.reg .b32 %t, %n;
ld.param.u64 %in, [in];
ld.param.u64 %out, [out];
ld.param.u32 %n, [n];
mov.u32 %r0, %ctaid.x;
mov.u32 %r1, %ntid.x;
mov.u32 %r2, %tid.x;
mad.lo.s32 %t, %r0, %r1, %r2;
mul.wide.u32 %mine, %t, 8;
add.s64 %in, %in, %mine;
add.s64 %out, %out, %mine;
"""
STORE = "cvt.u64.u32 %d0, %r0;\nst.global.u64 [%out], %d0;"  # the result of each thread is %r0


def module(body: str, before: str = "") -> ptx.Module:
    """The kernel `k` with this body, where %in and %out point to the 8 bytes of a thread, %t is its number and %n the
    one that was passed. before: functions and variables."""
    parameters = ".param .u64 in, .param .u64 out, .param .u32 n"
    return ptx.Module(f"{HEADER}{before}\n.visible .entry k({parameters})\n{{{REGISTERS}{body}\nret;\n}}\n")


def run(body: str, inputs=None, threads: int = 32, blocks: int = 1, number: int = 0, shared: int = 0, before: str = ""):
    """Runs a snippet and returns the words that the threads of all blocks wrote. inputs: a word of 64 bits for each
    thread. None: zeros."""
    out = np.zeros(threads * blocks, np.uint64)
    values = np.zeros_like(out) if inputs is None else np.asarray(inputs, np.uint64)
    for memory in (values, out):
        ptx.library().ptx_allow(memory.ctypes.data, memory.nbytes)
    try:
        arguments = [struct.pack("Q", values.ctypes.data), struct.pack("Q", out.ctypes.data), struct.pack("I", number)]
        module(body, before).launch("k", (blocks,), (threads,), arguments, shared)
    finally:
        for memory in (values, out):
            ptx.library().ptx_forget(memory.ctypes.data)
    return out


INFINITY, NAN = float("inf"), float("nan")
WIDTHS = {"pred": 8, "bf16": 16}  # the names of other types end with the width
# bits of the fraction, the smallest exponent of a normal number, and the largest exponent
FORMATS = {"f32": (23, -126, 127), "f64": (52, -1022, 1023), "f16": (10, -14, 15), "bf16": (7, -126, 127)}
CODES = {"f32": ("f", "I"), "f64": ("d", "Q"), "f16": ("e", "H")}


def width(kind: str) -> int:
    return WIDTHS.get(kind) or int(kind[1:])


def bits(value, kind: str) -> int:
    """A number as a register holds it."""
    if kind == "bf16":
        return bits(value, "f32") >> 16
    if kind in CODES:
        code, whole = CODES[kind]
        return struct.unpack(whole, struct.pack(code, value))[0]
    return int(value) % 2 ** width(kind)


def number(word: int, kind: str):
    """The number that the lowest bits of a register hold."""
    word = int(word) % 2 ** width(kind)
    if kind == "bf16":
        return number(word << 16, "f32")
    if kind in CODES:
        code, whole = CODES[kind]
        return struct.unpack(code, struct.pack(whole, word))[0]
    return word - 2 ** width(kind) if kind[0] == "s" and word >= 2 ** (width(kind) - 1) else word


def rounded(exact: Fraction, kind: str, mode: str = "rn") -> float:
    """An exact number in a floating-point format, by the definition of its rounding."""
    if exact == 0:
        return 0.0
    fraction, lowest, highest = FORMATS[kind]
    exponent = max(lowest, _exponent(abs(exact)))
    unit = Fraction(2) ** (exponent - fraction)
    turn = {"rn": round, "rz": int, "rm": math.floor, "rp": math.ceil}[mode]  # round() takes ties to even
    result = turn(exact / unit) * unit
    largest = (2 - Fraction(2) ** -fraction) * Fraction(2) ** highest
    if abs(result) > largest:
        towards_zero = mode == "rz" or mode == ("rm" if exact > 0 else "rp")
        return float(largest if towards_zero else INFINITY) * (1 if exact > 0 else -1)
    return float(result)


def _exponent(exact: Fraction) -> int:
    exponent = exact.numerator.bit_length() - exact.denominator.bit_length()
    return exponent if Fraction(2) ** exponent <= exact else exponent - 1


def evaluate(name: str, result: str, kinds: list[str], rows: list[tuple]) -> list:
    """Executes an instruction for each row of sources; returns the results as raw bits of the type of the result.

    name: the instruction's name, or code that makes %result of the sources %s0, %s1, …
    """
    words = [[bits(x, kind) for x, kind in zip(row, kinds, strict=True)] for row in rows]
    return [int(w) for w in evaluate_bits(name, result, kinds, words)]


def evaluate_bits(name: str, result: str, kinds: list[str], words: list[list[int]]) -> np.ndarray:
    """Each thread reads its row of words."""
    sources, count, blocks = len(kinds), len(words), -(-len(words) // 256)
    words = np.resize(np.array(words, np.uint64), (256 * blocks, sources))  # the rows again, up to whole blocks
    register = [f"%s{k}" for k in range(sources)]
    lines = [".reg .b64 %at;", f"mul.wide.u32 %at, %t, {8 * (sources - 1)};", "add.s64 %at, %at, %in;"]
    for k, kind in enumerate(kinds):
        size = width(kind)
        lines.append(f".reg .{'b' + str(max(size, 16)) if kind != 'pred' else 'pred'} {register[k]};")
        if kind == "pred":
            lines += [f"ld.global.u8 %h0, [%at+{8 * k}];", f"setp.ne.u16 {register[k]}, %h0, 0;"]
        else:
            lines.append(f"ld.global.b{size} {register[k]}, [%at+{8 * k}];")
    size = width(result)
    lines.append(f".reg .{'pred' if result == 'pred' else 'b' + str(max(size, 16))} %result;")
    lines.append(name if "%result" in name else f"{name} %result, {', '.join(register)};")
    if result == "pred":
        lines += ["selp.u32 %r0, 1, 0, %result;", "st.global.u32 [%out], %r0;"]
    else:
        lines.append(f"st.global.b{size} [%out], %result;")
    return run("\n".join(lines), words.ravel(), 256, blocks)[:count]
