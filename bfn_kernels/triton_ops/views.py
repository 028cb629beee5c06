"""Views: tensors as the kernels read them, broadcast to the data's shape, in logical order, of any type and strides.

A view is a tuple that a kernel takes as one argument: a pointer (None if the argument was not passed), a kind, and the
numbers inner, outer_stride and inner_stride that locate the element with a logical index:
offset = (index // inner)·outer_stride + (index % inner)·inner_stride. A tensor whose strides this formula cannot
describe is copied.

A kernel takes a record of `records.py` as one argument too, with views in the place of tensors, and reads its fields by
name. No field may be called `values` or `type`, since Triton's tuples have these attributes.
"""

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from bfn_kernels.call.checks import compute_dtype
from bfn_kernels.records import Draws, Noise

# The kind of a view says how much of the formula a kernel has to compute. It is known when the kernel is compiled.
DENSE = tl.constexpr(0)  # the offset is the index
SCALAR = tl.constexpr(1)  # all elements are one number
ROWS = tl.constexpr(2)  # one number for each row of at least a block, so that a block needs at most two of them
GRID = tl.constexpr(3)  # the whole formula

# The elements that a program of an elementwise kernel computes, a multiple of 4 since noise comes in groups, and its
# warps.
BLOCK, WARPS = 1024, 4

_MOST_VALUES = 256  # in a table that one launch writes, since a kernel takes at most 4 KiB of arguments

View = Any  # the tuple takes the place of a tensor in a record

KERNEL_TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}


def launch(kernel, programs: int, *arguments, warps: int = WARPS, registers: int | None = None, **constants) -> None:
    """Runs the kernel on the device of its tensors. The first argument is a tensor, or begins with one.

    FP fusion is requested because its default differs between versions of Triton. registers: how many registers a
    thread may use, for kernels in which the compiler would otherwise spill some; ROCm's compiler has no such option.
    """
    if programs == 0:
        return
    if registers is not None and torch.version.hip is None:
        constants["maxnreg"] = registers
    tensor = arguments[0]
    while isinstance(tensor, tuple):
        tensor = tensor[0]
    with torch.cuda.device_of(tensor):
        kernel[(programs,)](*arguments, num_warps=warps, enable_fp_fusion=True, **constants)


@functools.lru_cache(typed=True)  # 1 and True are two constants
def constants(*values) -> tuple:
    """The values as members of a tuple that a kernel takes; they are known when the kernel is compiled."""
    return tuple(map(tl.constexpr, values))


@functools.lru_cache(typed=True)  # records of two kinds may be equal
def static(record: Any) -> Any:
    """The record for a parameter `tl.constexpr` of a kernel. A compiled kernel needs a constant in each field, since
    Triton 3.6 reads no plain numbers there. An interpreted one multiplies by plain numbers only."""
    return record if triton.knobs.runtime.interpret else type(record)(*constants(*record))


def programs(count: int, block: int = BLOCK) -> int:
    return (count + block - 1) // block


def compute_type(*tensors: Tensor | None):
    """The type of the arithmetic, as a kernel takes it."""
    return KERNEL_TYPES[compute_dtype(*tensors)]


def view(x: Tensor | None, shape: torch.Size) -> View:
    """The view of a tensor broadcast to `shape`."""
    if x is None:
        return None, DENSE, 0, 0, 0
    if x.is_contiguous() and x.shape == shape and (count := x.numel()) > 1:
        return x, DENSE, count, 0, 1  # as below, in less time
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


def views(shape: torch.Size, *tensors: Tensor | None) -> tuple[View, ...]:
    return tuple(view(t, shape) for t in tensors)


def viewed(record: Any, shape: torch.Size) -> Any:
    """The record with a view in the place of each tensor."""
    return type(record)(*views(shape, *record))


def noise_views(noise: Noise, shape: torch.Size) -> Noise:
    """The noise with the view of its explicit normals."""
    return Noise(noise.seed, view(noise.noise, shape))


def component_view(x: Tensor | None, shape: torch.Size) -> View:
    """The view of the first component along the last dimension, and the stride to the others."""
    if x is None:
        return *view(None, shape), 0
    first = x[..., 0]
    if len(joined(first, shape)) > 2:
        return component_view(x.contiguous(), shape)
    _, *place = view(first, shape)
    return x, *place, x.stride(-1)


def joined(x: Tensor, shape: torch.Size) -> list[tuple[int, int]]:
    """The sizes and strides of x broadcast to `shape`, with dimensions that continue each other joined into one. An
    empty tensor has none."""
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
    """`out` itself if a view describes it, else a new dense tensor, which the caller must copy into it."""
    return out if out.is_contiguous() or len(joined(out, out.shape)) <= 2 else out.new_empty(out.shape)


def table(values: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of these values on the device, written by a kernel that takes them as arguments. A copy from the host
    would break the capture of a CUDA graph, and a cached table would lie in the memory of the first graph."""
    out = torch.empty(len(values), dtype=dtype, device=device)
    for first in range(0, len(values), _MOST_VALUES):
        some = values[first : first + _MOST_VALUES]
        parts = _parts(some, 3 if dtype == torch.float64 else 1)
        launch(write_table, 1, out[first:], parts, COUNT=len(some), PARTS=len(parts), warps=1)
    return out


def draws_with_tables(draws: Draws, like: Tensor, noise: View) -> Draws:
    """The draws as a kernel takes them. The nodes and their weights are tables, or None for draws, and `n_samples` is
    the number of nodes or draws. noise: the view of the explicit normals."""
    if draws.n_samples:
        return Draws(None, None, draws.n_samples, draws.seed, noise)
    tables: Any = table((*draws.nodes, *draws.node_weights), compute_dtype(like), like.device).chunk(2)
    return Draws(tables[0], tables[1], len(draws.nodes), draws.seed, noise)


def _parts(values: Sequence[float], count: int) -> tuple[tuple[float, ...], ...]:
    """Splits each value into float32 numbers that add up to it, since a kernel takes the numbers in a tuple as float32;
    three of them hold a float64."""
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
    """New tensors for gradients, each like its input or empty if it is not wanted, and the views that kernels write
    to. dtype: their type, if it is not that of the inputs."""

    def __init__(self, *wanted: tuple[Tensor, bool], dtype: torch.dtype | None = None):
        self.results = tuple(torch.empty_like(x if n else x.new_empty(0), dtype=dtype) for x, n in wanted)
        self.written = tuple(writable(t) for t in self.results)
        pairs = zip(self.written, wanted, strict=True)
        self.views = tuple(view(t if needed else None, x.shape) for t, (x, needed) in pairs)

    def finish(self) -> tuple[Tensor, ...]:
        """The gradients, once a kernel has written them."""
        for result, written in zip(self.results, self.written, strict=True):
            if written is not result:
                result.copy_(written)
        return self.results


class Results:
    """The views of what a step writes into, `out` and what may be passed beside it, or None."""

    def __init__(self, *given: Tensor | None):
        self.given = given
        self.written = tuple(t if t is None else writable(t) for t in given)
        self.views = tuple(view(t, given[0].shape) for t in self.written)  # type: ignore[union-attr]

    def finish(self) -> None:
        """Copies what a kernel wrote elsewhere, where no view describes the strides."""
        for given, written in zip(self.given, self.written, strict=True):
            if given is not None and written is not given:
                given.copy_(written)


@triton.jit
def block_of(count, BLOCK: tl.constexpr):
    """The elements of the program: the index of the first (int64), their places from it on, whether each one exists,
    and how many do."""
    return numbered_block(tl.program_id(0), count, BLOCK)


@triton.jit
def numbered_block(number, count, BLOCK: tl.constexpr):
    start = (tl.zeros((), tl.int64) + number) * BLOCK
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
    """The elements of a block in the type of the arithmetic, or `missing` if the argument was not passed."""
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
    """Writes the elements of a block; does nothing if the argument was not passed."""
    pointer, kind = view[0], view[1]
    start, place, there, _ = block
    if pointer is not None:
        value = value.to(pointer.dtype.element_ty)
        if kind == GRID:
            tl.store(pointer + grid_offset(view, start, place), value, mask=there)
        else:
            tl.store(pointer + start + place, value, mask=there)
