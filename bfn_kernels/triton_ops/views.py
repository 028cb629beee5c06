"""Tensors as the kernels see them: through the data's shape, in logical order, whatever their type and strides.

A view is a tuple that a kernel takes as one argument: pointer (None: the argument was not given), kind, and the numbers
that place an element: offset = (index // inner)·outer_stride + (index % inner)·inner_stride. A tensor whose strides
this does not describe is copied.
"""

import ctypes
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from bfn_kernels.checks import compute_dtype

# How much of that a kernel has to compute. All are known when it is compiled.
DENSE = tl.constexpr(0)  # offset = index
SCALAR = tl.constexpr(1)  # one number for all
ROWS = tl.constexpr(2)  # a number for each row of at least a block: a block meets two at most
GRID = tl.constexpr(3)  # all of it

# Elements that a program of an elementwise kernel takes, a multiple of 4 since noise comes in groups, and its warps.
BLOCK, WARPS = 1024, 4

_MOST_VALUES = 256  # of a table, by one launch: a kernel takes 4 KiB of arguments

KERNEL_TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}


def launch(kernel, programs: int, *arguments, warps: int = WARPS, registers: int | None = None, **constants) -> None:
    """Runs the kernel on the device of its tensors. FP fusion is asked for: its default differs between versions.
    `registers`: how many a thread may take where the compiler would rather spill some; ROCm's takes no such number."""
    if programs == 0:
        return
    if registers is not None and torch.version.hip is None:
        constants["maxnreg"] = registers
    tensor = next(t for a in arguments for t in (a if isinstance(a, tuple) else (a,)) if isinstance(t, Tensor))
    with torch.cuda.device_of(tensor):
        kernel[(programs,)](*arguments, num_warps=warps, enable_fp_fusion=True, **constants)


def programs(count: int, block: int = BLOCK) -> int:
    return (count + block - 1) // block


def compute_type(*tensors: Tensor | None):
    """The arithmetic's type, as a kernel takes it."""
    return KERNEL_TYPES[compute_dtype(*tensors)]


def view(x: Tensor | None, shape: torch.Size) -> tuple:
    """The tensor broadcast to `shape`."""
    if x is None:
        return None, DENSE, 0, 0, 0
    dims = joined(x, shape)
    if len(dims) > 2:
        return view(x.expand(shape).contiguous(), shape)
    (outer, outer_stride), (inner, inner_stride) = [(1, 0)] * (2 - len(dims)) + dims
    if outer_stride == inner_stride == 0:
        kind = SCALAR
    elif outer == 1 and inner_stride == 1:
        kind = DENSE
    else:
        kind = ROWS if inner_stride == 0 and inner >= BLOCK else GRID
    return x, kind, inner, outer_stride, inner_stride


def component_view(x: Tensor | None, shape: torch.Size) -> tuple:
    """The view of the first of those along the last dimension, and the stride to the others."""
    if x is None:
        return *view(None, shape), 0
    if len(joined(x[..., 0], shape)) > 2:
        return component_view(x.contiguous(), shape)
    _, *place = view(x[..., 0], shape)
    return x, *place, x.stride(-1)


def joined(x: Tensor, shape: torch.Size) -> list[tuple[int, int]]:
    """Sizes and strides, dimensions that run on into each other joined; none of an empty tensor."""
    dims: list[tuple[int, int]] = []
    if 0 in shape:
        return dims
    for size, stride in zip(shape, x.expand(shape).stride(), strict=True):
        if size == 1:
            continue
        if dims and dims[-1][1] == stride * size:
            dims[-1] = dims[-1][0] * size, stride
        else:
            dims.append((size, stride))
    return dims


def writable(out: Tensor) -> Tensor:
    """`out` itself if a view describes it, else a dense tensor that is to be copied into it."""
    return out if len(joined(out, out.shape)) <= 2 else out.new_empty(out.shape)


def table(values: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """On the device, by a kernel whose arguments they are: a copy from the host would break the capture of a CUDA
    graph, and a table kept from one capture to the next would lie in the first one's memory."""
    out = torch.empty(len(values), dtype=dtype, device=device)
    for first in range(0, len(values), _MOST_VALUES):
        some = values[first : first + _MOST_VALUES]
        parts = _parts(some, 3 if dtype == torch.float64 else 1)
        launch(write_table, 1, out[first:], parts, COUNT=len(some), PARTS=len(parts), warps=1)
    return out


def _parts(values: Sequence[float], count: int) -> tuple[tuple[float, ...], ...]:
    """Numbers of float32, as which a kernel takes a number in a tuple, that add up: three hold a float64."""
    found, rest = [], [*values]
    for _ in range(count):
        found.append(tuple(ctypes.c_float(value).value for value in rest))
        rest = [value - part for value, part in zip(rest, found[-1], strict=True)]
    return tuple(found)


@triton.jit
def write_table(out, parts, COUNT: tl.constexpr, PARTS: tl.constexpr):
    for k in tl.static_range(COUNT):
        value = tl.zeros((), tl.float64)
        for part in tl.static_range(PARTS):
            value += parts[part][k]
        tl.store(out + k, value.to(out.dtype.element_ty))


class Gradients:
    """New tensors like those of which a gradient is needed, empty where none is, and the views to write them."""

    def __init__(self, *wanted: tuple[Tensor, bool]):
        self.results = tuple(torch.empty_like(t) if needed else t.new_empty(0) for t, needed in wanted)
        self.to = tuple(writable(t) for t in self.results)
        pairs = zip(self.to, wanted, strict=True)
        self.views = tuple(view(t if needed else None, of.shape) for t, (of, needed) in pairs)

    def finish(self) -> tuple[Tensor, ...]:
        for result, to in zip(self.results, self.to, strict=True):
            if to is not result:
                result.copy_(to)
        return self.results


@triton.jit
def block_of(count, BLOCK: tl.constexpr):
    """The elements that are the program's: where they start (int64), their places, which there are, and how many."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    rest = tl.minimum(count - start, BLOCK).to(tl.int32)
    place = tl.arange(0, BLOCK)
    return start, place, place < rest, rest


@triton.jit
def grid_offset(view, start, place):
    inner, outer_stride, inner_stride = view[2], view[3], view[4]
    row = start // inner
    inner_type: tl.constexpr = tl.uint64 if inner.dtype == tl.int64 else tl.uint32  # the cheaper to divide
    along = (start - row * inner).to(inner_type) + place.to(inner_type)
    further = along // inner.to(inner_type)
    rest = (along - further * inner.to(inner_type)).to(tl.int64)
    return (row + further.to(tl.int64)) * outer_stride + rest * inner_stride


@triton.jit
def load(view, block, T: tl.constexpr, missing: tl.constexpr = 0.0):
    """The view's elements of a block, in the arithmetic's type; `missing` where the argument was not given."""
    pointer, kind = view[0], view[1]
    start, place, there, rest = block
    if pointer is None:
        return tl.full(place.shape, missing, T)
    elif kind == SCALAR:
        return tl.zeros(place.shape, T) + tl.load(pointer).to(T)
    elif kind == ROWS:
        inner, stride = view[2], view[3]
        row = start // inner
        left = tl.minimum(inner - (start - row * inner), place.shape[0]).to(tl.int32)
        first = tl.load(pointer + row * stride).to(T)
        second = tl.load(pointer + (row + 1) * stride, mask=left < rest).to(T)
        return tl.where(place < left, first, second)
    elif kind == DENSE:
        return tl.load(pointer + start + place, mask=there, other=0).to(T)
    else:
        return tl.load(pointer + grid_offset(view, start, place), mask=there, other=0).to(T)


@triton.jit
def store(view, block, value):
    """Nothing where the argument was not given."""
    pointer, kind = view[0], view[1]
    start, place, there, _ = block
    if pointer is not None:
        value = value.to(pointer.dtype.element_ty)
        if kind == GRID:
            tl.store(pointer + grid_offset(view, start, place), value, mask=there)
        else:
            tl.store(pointer + start + place, value, mask=there)
