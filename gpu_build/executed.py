"""Counts what the kernels execute for each variable. The interpreter of tests/ptx runs their PTX on random data.

A GPU does not run PTX, but the machine code that ptxas makes of it. `RULES` estimates the machine instructions.
"""

import functools
import importlib
import re
import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch

from gpu_build.calls import (
    Row,
    of_angles,
    of_bits,
    of_classes,
    of_data,
    of_intervals,
    of_outputs,
    of_products,
    of_tiles,
    output_sets,
)
from gpu_build.table import Execution

CLASSES = (4, 27, 128, 2048)

# A rule is a pattern for the names of PTX instructions, and the machine instructions that ptxas makes of one: how many
# of each class, such as "fma" or "memory" (see PIPES in table.py). The first rule that matches the whole name counts.
# A correctly rounded division or root also has a slow path for rare operands. The rules leave it out. The product
# mul.lo.s64 counts as one of 32-bit numbers, as in a random number; in an address it takes up to four instructions.
# Moves and conversions of pointers count as nothing, since ptxas makes them part of other instructions. Masks and
# shifts of 64 bits count as nothing, too: nvcc takes the halves of a product of two 32-bit numbers by them, and ptxas
# has the halves in two registers. ptxas.py compares the counts with the machine code.
FREE: dict[str, float] = {}
RULES: list[tuple[str, dict[str, float]]] = [
    (r"mov\..*|cvta.*|ld\.param.*|st\.param.*|(neg|abs)(\.ftz)?\.(f32|f64|bf16|f16)|cvt\.u64\.u32|cvt\.u32\.u64|"
     r"cvt\.[us]32\.[us]32|cvt\.[us](16|8|32)\.[us](16|8|32|64)|(and\.b|shr\.u)64|pragma.*|trap|activemask.*", FREE),
    (r"(ld|st|ldu)\..*|(atom|red|prefetch|ldmatrix|stmatrix)\..*", {"memory": 1}),
    (r"cp\.async\.cg\..*", {"memory": 4}),  # 16 bytes
    (r"cp\.async\.ca\..*", {"memory": 1}),
    (r"cp\.async\.(commit|wait)_group", {"control": 1}),
    (r"mma\.sync\.aligned\.m16n8k16\..*", {"tensor": 1}),
    *((rf"wgmma\.mma_async\.sync\.aligned\.m64n{n}k16\..*", {"tensor": n / 8}) for n in (16, 32, 64, 128)),
    (r"wgmma\.(fence|commit_group|wait_group)\..*", {"control": 1}),
    (r"(shfl|vote|match|redux)\..*", {"shuffle": 1}),
    (r"(bra|ret|exit|call|bar|barrier|brx|membar|fence|nanosleep|griddepcontrol)(\..*|)", {"control": 1}),
    (r"div\.rn(\.ftz)?\.f32", {"special": 2, "fma": 5, "control": 3}),
    (r"div\.full.*", {"special": 1, "fma": 4, "alu": 2}),
    (r"div\.approx.*", {"special": 1, "fma": 3, "alu": 1}),
    (r"rcp\.rn(\.ftz)?\.f32", {"special": 1, "fma": 3, "alu": 3, "control": 3}),
    (r"sqrt\.rn(\.ftz)?\.f32", {"special": 1, "fma": 4, "alu": 2, "control": 3}),
    (r"(ex2|lg2|rcp|rsqrt|sqrt)\.approx\.ftz\.f32|tanh\.approx.*|rcp\.approx\.ftz\.f64", {"special": 1}),
    (r"(ex2|lg2|rcp|rsqrt|sqrt)\.approx\.f32|(sin|cos)\.approx(\.ftz)?\.f32", {"special": 1, "fma": 2, "alu": 1}),
    (r"(div|sqrt|rcp)\..*f64", {"special": 1, "fp64": 8, "alu": 5, "control": 3}),
    (r"(min|max)\.f64", {"fp64": 1, "alu": 5}),
    (r"(add|sub|mul|fma|mad|setp)\..*f64", {"fp64": 1}),
    (r"cvt\..*f64.*", {"special": 1}),
    (r"cvt\.r[nzpm]i(\.ftz)?\.f32\.f32", {"special": 1}),
    (r"cvt\.(r[nz]\.)?(f32\.(bf16|f16|[us](8|16|32))|(bf16|f16)\.f32|(bf16x2|f16x2)\.f32)", {"alu": 1}),
    (r"cvt\.(r[nzpm]i?\.)?(sat\.)?(ftz\.)?(f32\.[us]64|[us]\d+\.f32|(b?f16)\.[us]\d+)", {"special": 1}),
    (r"cvt\.[us]64\..*", {"alu": 1}),
    (r"(add|sub|mul|fma|mad)\.(rn\.)?(ftz\.)?(sat\.)?(f32|bf16|f16|bf16x2|f16x2)(x2)?", {"fma": 1}),
    (r"mul\.hi\.[us]32|(mul|mad)\.(lo|wide)\.[usb](16|32)|mad\.wide.*|mul24.*|mul\.lo\.[usb]64", {"imad": 1}),
    (r"mad\.lo\.[usb]64", {"imad": 3, "alu": 1}),
    (r"(add|sub|xor)\.[sub]64", {"alu": 1}),
    (r"(mul|mad)\.hi\.[us]64", {"imad": 4, "alu": 3}),
    (r"(div|rem)\.u32", {"special": 2, "imad": 4, "alu": 10}),
    (r"(div|rem)\.s32", {"special": 3, "imad": 9, "alu": 13}),
    (r"(div|rem)\.[us]64", {"special": 2, "imad": 30, "alu": 30, "control": 4}),
    (r"(popc|clz|brev|bfind)\..*", {"special": 1}),
    (r"(and|or|xor|not)\.pred|(setp|selp|min|max|slct|set|abs|neg)\..*(f32|bf16|f16|[usb](16|32)|x2)", {"alu": 1}),
    (r"(add|sub|addc|subc|shl|shr|and|or|xor|not|neg|abs|lop3|prmt|shf|bfe|bfi|sad|szext|dp4a|testp|copysign)"
     r"\..*(32|16|pred|8)", {"alu": 1}),
    (r"(min|max)\.[us]64", {"alu": 3}),
    (r"(addc|subc|shl|shr|or|not|neg|abs|setp|selp|bfe|bfi|slct)\..*64", {"alu": 2}),
]  # fmt: skip


@functools.cache
def machine_instructions(name: str) -> dict[str, float]:
    """The number of machine instructions of each class that an instruction of PTX counts as."""
    for pattern, counts in RULES:
        if re.fullmatch(pattern, name):
            return counts
    raise ValueError(f"gpu_build/executed.py has no rule for the instruction {name!r}")


def passes(name: str) -> float:
    """The passes that the load and store unit makes for an access. One pass moves four bytes of each lane."""
    vector = re.search(r"\.v(\d)\.", name)
    element = re.search(r"[a-z](\d+)(x\d)?$", name)
    size = (int(vector[1]) if vector else 1) * (int(element[1]) if element else 32)
    return max(1.0, size / 32)


def interpreter(backend: str) -> Any:
    """The module of tests/ptx that runs the PTX of the backend."""
    return importlib.import_module(f"tests.ptx.{backend}_ptx")


class Operators:
    """The operators of a library of torch.ops, as `<family>.<operator>`."""

    def __init__(self, library: str, family: str = ""):
        self._library, self._family = library, family

    def __getattr__(self, name: str) -> Any:
        if not self._family:
            return Operators(self._library, name)
        return getattr(getattr(torch.ops, self._library), f"{self._family}_{name}").default


def rows(backend: str, ops: Any, only: str = "") -> Iterable[Row]:
    """The calls whose names in the budget contain `only`."""
    generator = torch.Generator().manual_seed(1)
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.rand(8, 3072, generator=generator).mul(1.98).sub(0.99).to(dtype)
        found = of_data(ops, x) + of_bits(ops, x) + of_angles(ops, x)
        narrow = of_data(ops, x, 0.01)
        found += [row._replace(name=f"{row.name}, std 0.01") for row in narrow if row.name == "discretised L_inf"]
        for classes in CLASSES:
            z = torch.randn(32, max(1, 1024 // classes), classes, generator=generator).to(dtype)
            found += of_classes(ops, z)
        if dtype == torch.float32:
            found += of_intervals(ops, 1024)
            found += [row for name, outputs in output_sets().items() for row in of_outputs(ops, name, outputs)]
        if backend == "triton" and dtype == torch.float32:
            found += of_tiles(ops, torch.randn(16, 4096, generator=generator))
        if backend == "triton" and dtype == torch.bfloat16:
            found += of_products(ops, *(torch.randn(size, 768, generator=generator).to(dtype) for size in (128, 512)))
        for row in found:
            named = row._replace(name=f"{row.name}, {str(dtype).removeprefix('torch.')}")
            if only in f"{backend} {named.name}":
                yield named


def ratio(part: float, whole: float) -> float:
    return part / whole if whole else 1.0


def execution(backend: str, row: Row, counts: dict[str, dict[str, Any]]) -> Execution:
    """The costs of a call, from what the interpreter counted while the call ran."""
    instructions: Counter[str] = Counter()
    worst = 0.0
    together = [(name, executed) for kernel in counts.values() for name, executed in kernel.items()]
    for name, executed in together:
        times = passes(name) if "memory" in machine_instructions(name) else 1.0
        for kind, number in machine_instructions(name).items():
            instructions[kind] += number * executed.issues * times * 32 / row.variables
            worst += number * executed.worst * times

    def total(what: str) -> int:
        return sum(getattr(executed, what) for _, executed in together)

    return Execution(
        backend=backend,
        name=row.name,
        sectors=total("sectors") / row.variables,
        coalescing=ratio(total("least_sectors"), total("sectors")),
        conflict_free=ratio(total("least_passes"), total("passes")),
        lanes=ratio(total("lanes"), 32 * total("issues")),
        instructions=dict(instructions),
        worst=worst,
        bytes=row.bytes,
    )


def executions(backend: str, only: str = "") -> list[Execution]:
    """Runs the calls on the PTX of a backend, and returns their costs. The list is empty if the interpreter or the
    compiler is missing. If `only` chooses calls, only the kernels that they launch are compiled."""
    module = interpreter(backend)
    if module.missing():
        print(f"left out: what {backend} executes, since {module.missing()}", file=sys.stderr)
        return []
    from tests.ptx import ptx

    ops = Operators(module.NAMESPACE)
    if not any(rows(backend, ops, only)):
        return []
    module.register(on_demand=bool(only))  # the interpreter knows of the tensors that are made from now on
    if backend == "triton":
        # Each program has all classes of its tokens, as if there were many more tokens.
        importlib.import_module("bfn_kernels.vocabulary.triton_products").MANY = 1
    found = []
    for row in rows(backend, ops, only):
        ptx.counts()
        with ptx.options(count=True):
            row.call()
        found.append(execution(backend, row, ptx.counts()))
    return found
