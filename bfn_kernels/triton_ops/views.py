"""Views. A tensor's view tells a kernel where each element lies, once the tensor is broadcast to the shape of the data.

A view is a tuple that a kernel takes as one argument: a pointer (None if the argument was not passed), a kind, and the
numbers inner, outer_stride and inner_stride. The element with a logical index has the offset
(index // inner)·outer_stride + (index % inner)·inner_stride. A tensor whose strides do not fit this formula is copied.

A kernel also takes a record of `records.py` as one argument, with views instead of tensors, and reads its fields by
name. No field may be called `values` or `type`, since Triton's tuples have these attributes.
"""

import ctypes
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from bfn_kernels.checks import compute_dtype
from bfn_kernels.records import Draws, Noise

# The kind of a view says how much of the formula a kernel computes. It is a constant of the compiled kernel.
DENSE = tl.constexpr(0)  # the offset is the index
SCALAR = tl.constexpr(1)  # all elements are one number
# One number for each row. A row has at least BLOCK elements, so a block lies in at most two rows and reads two numbers.
ROWS = tl.constexpr(2)
GRID = tl.constexpr(3)  # the whole formula

# A program of an elementwise kernel computes BLOCK elements with WARPS warps. BLOCK is a multiple of 4, since normals
# come in groups of four.
BLOCK, WARPS = 1024, 4

_MOST_VALUES = 256  # the most values that one launch writes to a table, since a kernel takes 4 KiB of arguments at most

View = Any  # a tuple; not annotated as one, since records of views keep views in fields that are annotated as tensors

KERNEL_TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}


def launch(kernel, programs: int, *arguments, warps: int = WARPS, registers: int | None = None, **constants) -> None:
    """Runs the kernel on the device of its first tensor. The first argument is this tensor or a tuple that begins with
    it.

    FP fusion is set, since its default differs between versions of Triton. registers: the largest number of registers
    of a thread. Some kernels set it to the hardware's maximum, since the compiler would choose fewer and spill
    registers to memory. ROCm's compiler has no such option. On AMD's GPUs a program has 64 KiB of shared memory, which
    two stages fit in.
    """
    if programs == 0:
        return
    if registers is not None and torch.version.hip is None:
        constants["maxnreg"] = registers
    if torch.version.hip is not None and "num_stages" in constants:
        constants["num_stages"] = 2
    tensor = arguments[0]
    while isinstance(tensor, tuple):
        tensor = tensor[0]
    with torch.cuda.device_of(tensor):
        kernel[(programs,)](*arguments, num_warps=warps, enable_fp_fusion=True, **constants)


@functools.lru_cache(typed=True)  # typed, since 1 and True are equal but different constants
def constants(*values) -> tuple:
    """A tuple of these values for a kernel, as constants of the compiled kernel."""
    return tuple(map(tl.constexpr, values))


@functools.lru_cache(typed=True)  # typed, since records of different classes may be equal
def static(record: Any) -> Any:
    """Prepares a record for a parameter `tl.constexpr` of a kernel. Each field becomes a `tl.constexpr`, since compiled
    code of Triton 3.6 cannot read plain numbers in a record. Triton's interpreter needs plain numbers, since it cannot
    multiply by a `tl.constexpr`."""
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
        return x, DENSE, count, 0, 1  # the result of the code below, in less time
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
    """The record with the views of its tensors."""
    return type(record)(*views(shape, *record))


def noise_views(noise: Noise, shape: torch.Size, make_view: Callable[..., View] = view) -> Noise:
    """The noise with the view of its explicit normals."""
    return Noise(noise.seed, make_view(noise.noise, shape))


def component_view(x: Tensor | None, shape: torch.Size) -> View:
    """The view of the first component along the last dimension, followed by the stride between components."""
    if x is None:
        return *view(None, shape), 0
    first = x[..., 0]
    if len(joined(first, shape)) > 2:
        return component_view(x.contiguous(), shape)
    _, *strides = view(first, shape)
    return x, *strides, x.stride(-1)


def joined(x: Tensor, shape: torch.Size) -> list[tuple[int, int]]:
    """The sizes and strides of x broadcast to `shape`. Neighbouring dimensions that one stride describes are joined,
    and dimensions of size 1 are dropped. An empty tensor has no dimensions."""
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
    """`out` itself if a view describes it, else a new dense tensor, which the caller must copy into `out`."""
    return out if out.is_contiguous() or len(joined(out, out.shape)) <= 2 else out.new_empty(out.shape)


def table(values: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A new tensor of these values on the device. A kernel takes the values as arguments and writes them to the tensor.

    The values are not copied from the host, since a copy would break the capture of a CUDA graph. The table is not
    cached, since a table that is made during a capture lies in the memory of the graph, and later calls could not rely
    on it.
    """
    out = torch.empty(len(values), dtype=dtype, device=device)
    for first in range(0, len(values), _MOST_VALUES):
        chunk = values[first : first + _MOST_VALUES]
        parts = _parts(chunk, 3 if dtype == torch.float64 else 1)
        launch(write_table, 1, out[first:], parts, COUNT=len(chunk), PARTS=len(parts), warps=1)
    return out


def draws_with_tables(draws: Draws, like: Tensor, make_view: Callable[..., View] = view) -> Draws:
    """The draws as a kernel takes them. The nodes and their weights become tables, or are None for random draws.
    `n_samples` becomes the number of nodes or draws. make_view: a function that makes the view of explicit normals. The
    normals of each draw are contiguous in memory."""
    normals = draws.noise if draws.noise is None else draws.noise.contiguous()
    noise = make_view(normals, like.shape if normals is None else normals.shape)
    if draws.n_samples:
        return Draws(n_samples=draws.n_samples, seed=draws.seed, noise=noise)
    tables: Any = table((*draws.nodes, *draws.node_weights), compute_dtype(like), like.device).chunk(2)
    return Draws(tables[0], tables[1], len(draws.nodes), draws.seed, noise)


def _parts(values: Sequence[float], count: int) -> tuple[tuple[float, ...], ...]:
    """Splits each value into a sum of `count` float32 numbers, since a kernel takes the numbers in a tuple as float32.
    With a count of 1, the number is the value rounded to float32. With 3, the sum is the value itself, except for an
    error below 1e-44, if the value lies in the range of float32."""
    parts, remainders = [], [*values]
    for _ in range(count):
        parts.append(tuple(ctypes.c_float(value).value for value in remainders))
        remainders = [value - part for value, part in zip(remainders, parts[-1], strict=True)]
    return tuple(parts)


@triton.jit
def write_table(out, parts, COUNT: tl.constexpr, PARTS: tl.constexpr):
    for k in tl.static_range(COUNT):
        value = tl.zeros((), tl.float64)
        for part in tl.static_range(PARTS):
            value += parts[part][k]
        tl.store(out + k, value.to(out.dtype.element_ty))


class Gradients:
    """New tensors for gradients, and the views that kernels write to.

    wanted: Each input, and whether its gradient is wanted. If not, its gradient is an empty tensor. dtype: the type of
    the gradients; None: the types of the inputs.
    """

    def __init__(self, *wanted: tuple[Tensor, bool], dtype: torch.dtype | None = None):
        self.results = tuple(torch.empty_like(x if n else x.new_empty(0), dtype=dtype) for x, n in wanted)
        self.written = tuple(writable(t) for t in self.results)
        pairs = zip(self.written, wanted, strict=True)
        self.views = tuple(view(t if needed else None, x.shape) for t, (x, needed) in pairs)

    def finish(self) -> tuple[Tensor, ...]:
        """The gradients, after a kernel has written them."""
        for result, written in zip(self.results, self.written, strict=True):
            if written is not result:
                result.copy_(written)
        return self.results


class Results:
    """The tensors that a kernel writes its results into, and their views. `out` is always written; each of `others` is
    a tensor or None."""

    def __init__(self, out: Tensor, *others: Tensor | None):
        self.outputs = out, *others
        self.written = tuple(t if t is None else writable(t) for t in self.outputs)
        self.views = tuple(view(t, out.shape) for t in self.written)

    def finish(self) -> Tensor:
        """Copies the results into the outputs whose strides no view describes. Returns `out`."""
        for output, written in zip(self.outputs, self.written, strict=True):
            if written is not output:
                output.copy_(written)
        return self.outputs[0]


@triton.jit
def block_of(count, BLOCK: tl.constexpr):
    """The block of elements of the program, as a tuple: the index of its first element (int64); the offsets of the
    elements from the first one; a mask that is True for the elements that exist; and the number of existing
    elements."""
    return numbered_block(tl.program_id(0), count, BLOCK)


@triton.jit
def numbered_block(number, count, BLOCK: tl.constexpr):
    start = (tl.zeros((), tl.int64) + number) * BLOCK
    size = tl.minimum(count - start, BLOCK).to(tl.int32)
    offsets = tl.arange(0, BLOCK)
    return start, offsets, offsets < size, size


@triton.jit
def grid_offset(view, start, offsets):
    """The offsets in memory of the elements of a block. Only the block's first index needs a division by `inner`."""
    inner, outer_stride, inner_stride = view[2], view[3], view[4]
    row = start // inner
    inner_type: tl.constexpr = tl.uint64 if inner.dtype == tl.int64 else tl.uint32
    from_row = (start - row * inner).to(inner_type) + offsets.to(inner_type)
    rows = _rows_passed(from_row, inner.to(inner_type), offsets.shape[0])
    column = (from_row - rows * inner).to(tl.int64)
    return (row + rows.to(tl.int64)) * outer_stride + column * inner_stride


@triton.jit
def _rows_passed(from_row, inner, BLOCK: tl.constexpr):
    """from_row // inner, for from_row < inner + BLOCK. A row of at least BLOCK elements ends at most once in a block.
    For a shorter row, from_row is multiplied by 2³²/inner, rounded up, since a division would take longer. The result
    is exact, as from_row·inner < 2³²."""
    tl.static_assert(BLOCK <= 32768)
    short = tl.minimum(inner, BLOCK).to(tl.uint32)
    passed = tl.umulhi(from_row.to(tl.uint32), 0xFFFFFFFF // short + 1)
    return tl.where(inner < BLOCK, passed.to(inner.dtype), (from_row >= inner).to(inner.dtype))


@triton.jit
def load(view, block, T: tl.constexpr, missing: tl.constexpr = 0.0):
    """The elements of a block in the type of the arithmetic, or `missing` if the argument was not passed."""
    pointer, kind = view[0], view[1]
    start, offsets, mask, size = block
    if pointer is None:
        return tl.full(offsets.shape, missing, T)
    elif kind == SCALAR:
        return tl.zeros(offsets.shape, T) + tl.load(pointer).to(T)
    elif kind == ROWS:
        inner, stride = view[2], view[3]
        row = start // inner
        in_first_row = tl.minimum(inner - (start - row * inner), offsets.shape[0]).to(tl.int32)
        first = tl.load(pointer + row * stride).to(T)
        second = tl.load(pointer + (row + 1) * stride, mask=in_first_row < size).to(T)
        return tl.where(offsets < in_first_row, first, second)
    elif kind == DENSE:
        return tl.load(pointer + start + offsets, mask=mask, other=0).to(T)
    else:
        return tl.load(pointer + grid_offset(view, start, offsets), mask=mask, other=0).to(T)


@triton.jit
def store(view, block, value):
    """Writes the elements of a block. Does nothing if the argument was not passed."""
    pointer, kind = view[0], view[1]
    start, offsets, mask, _ = block
    if pointer is not None:
        value = value.to(pointer.dtype.element_ty)
        if kind == GRID:
            tl.store(pointer + grid_offset(view, start, offsets), value, mask=mask)
        else:
            tl.store(pointer + start + offsets, value, mask=mask)
