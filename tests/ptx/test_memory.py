"""Loads and stores of every type, number and space."""

import pytest

from tests.ptx.snippets import bits, run

WORDS = [0x8182838485868788, 0x91929394959697F8, 0xA1A2A3A4A5A6A7A8, 0xB1B2B3B4B5B6B7B8]
BYTES = b"".join(word.to_bytes(8, "little") for word in WORDS)
KINDS = ("u8", "s8", "b8", "u16", "s16", "b16", "u32", "s32", "b32", "f32", "u64", "s64", "b64", "f64")
ONLY_THE_FIRST = "setp.ne.u32 %p0, %t, 0;\n@%p0 bra DONE;\n"
SPACES = {  # how %at becomes the address of 32 bytes of a space
    ".global": "mov.u64 %at, buffer;",
    "": "mov.u64 %at, buffer;",
    ".shared": "mov.u64 %at, memory;",
    ".shared::cta": "mov.u64 %at, memory;",
    ".local": ".local .align 16 .b8 stack[32];\nmov.u64 %at, stack;",
}
VARIABLES = ".shared .align 16 .b8 memory[32];\n.global .align 16 .b8 buffer[32];\n"


# No GPU of compute capability 9.0 has accesses of 32 bytes.
ACCESSES = [(kind, count) for kind in KINDS for count in (1, 2, 4) if int(kind[1:]) * count <= 128]


@pytest.mark.parametrize(("kind", "count"), ACCESSES)
def test_bytes_go_through_every_space(kind, count):
    size = int(kind[1:]) // 8
    vector = "" if count == 1 else f".v{count}"
    x, y = (", ".join(f"%{name}{k}" for k in range(count)) for name in "xy")
    x, y = (f"{{{names}}}" if count > 1 else names for names in (x, y))
    for space, address in SPACES.items():
        body = f"""
.reg .b64 %at, %x<4>, %y<4>;
{ONLY_THE_FIRST}{address}
ld.global{vector}.{kind} {x}, [%in];
st{space}{vector}.{kind} [%at], {x};
ld{space}{vector}.{kind} {y}, [%at];
st.global.wb{vector}.{kind} [%out], {y};
DONE:
"""
        out = run(body, WORDS, 4, before=VARIABLES).tobytes()
        assert out == BYTES[: size * count] + bytes(32 - size * count), space


@pytest.mark.parametrize("kind", ["u8", "s8", "u16", "s16", "u32", "s32"])
def test_signs_fill_the_register(kind):
    size = int(kind[1:])
    number = WORDS[0] % 2**size - (2**size if kind[0] == "s" else 0)
    assert number < 0 or kind[0] == "u"
    body = f".reg .b64 %x;\nld.global.nc.{kind} %x, [%in];\nst.global.u64 [%out], %x;"
    assert run(body, WORDS, 1).tolist() == [bits(number, "u64")]
    parameter = f".reg .b64 %x;\nld.param.{kind} %x, [n];\nst.global.u64 [%out], %x;"
    number = 2 ** min(size, 31) - 1 - (2**size if kind[0] == "s" and size < 32 else 0)
    assert run(parameter, WORDS, 1, number=2**31 - 1).tolist() == [bits(number, "u64")]


def test_constants_of_a_module():
    table = ".global .align 4 .f32 table[3] = {0f3F800000, 0f40000000, 0f40400000};\n"
    table += ".const .align 1 .b8 other[4] = {7, 8, 9, 250};\n"
    body = """
.reg .b64 %at;
ld.global.f32 %f0, [table+4];
mov.u64 %at, other;
ld.global.u8 %h0, [%at+3];
cvt.rn.f32.u16 %f1, %h0;
add.f32 %f0, %f0, %f1;
cvt.rzi.u64.f32 %d0, %f0;
st.global.u64 [%out], %d0;
"""
    assert run(body, WORDS, 1, before=table).tolist() == [252]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_matrices_of_several(count):
    """Lane 8 m + r gives the address of row r of matrix m, and every lane gets two numbers of each matrix."""
    names = ", ".join(f"%q{k}" for k in range(count))
    store = "\n".join(f"cvt.u64.u32 %d{k + 1}, %q{k};" for k in range(count))
    for lane_part in range(count):
        body = f"""
.reg .b32 %q<4>;
mov.u32 %r2, memory;
mad.lo.u32 %r3, %t, 16, %r2;
mul.lo.u32 %r4, %t, 1000;
st.shared.v4.u32 [%r3], {{%r4, %t, %r4, %t}};
bar.sync 0;
ldmatrix.sync.aligned.m8n8.x{count}.shared.b16 {{{names}}}, [%r3];
stmatrix.sync.aligned.m8n8.x{count}.shared.b16 [%r3], {{{names}}};
ldmatrix.sync.aligned.m8n8.x{count}.shared.b16 {{{names}}}, [%r3];
{store}
st.global.u64 [%out], %d{lane_part + 1};
"""
        # the row of lane l / 4 holds, as words, 1000 r, r, 1000 r, r for the lane r that gave its address
        rows = [8 * lane_part + lane // 4 for lane in range(32)]
        want = [row if lane % 2 else 1000 * row for lane, row in enumerate(rows)]
        found = run(body, [0] * 32, before=".shared .align 16 .b8 memory[512];\n")
        assert found.tolist() == want
