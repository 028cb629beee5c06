"""Repairs of Triton's interpreter: its errors are corrected or refused, and slow work is done less often. This module
must be imported before any kernel runs.

- float32 and float64 become bfloat16 by rounding to nearest even, as on a GPU, in the place of truncation and of bits
  that mean nothing; arithmetic on bfloat16, which would work on its bits, is an error, and a product of matrices is
  right.
- Every lane of a load or store whose mask is True must lie within a tensor that was passed to the kernel.
"""

import dataclasses
from types import SimpleNamespace

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

Builder = type(interpreter.interpreter_builder)
Handle = interpreter.TensorHandle


def _round_to_bfloat16(x: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FC0), rounded)


def _rounding(cast):
    def call(self, source, target, *mode):
        if source.dtype.scalar in (tl.float32, tl.float64) and target.scalar == tl.bfloat16:
            return Handle(_round_to_bfloat16(source.data), tl.bfloat16)
        return cast(self, source, target, *mode)

    return call


def _widening(dot):
    """Products of matrices in bfloat16, whose bits the interpreter would multiply, are those of the same numbers."""

    def wide(x):
        if x.dtype.scalar != tl.bfloat16:
            return x
        return Handle((x.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    return lambda self, a, b, *rest: dot(self, wide(a), wide(b), *rest)


def _refusing_bfloat16(name, function):
    narrow = tl.bfloat16.name

    def call(self, *arguments):
        for a in arguments:
            if type(a) is Handle and a.dtype.scalar.name == narrow:
                raise TypeError(f"{name} on bfloat16: convert to float32 right after the load")
        return function(self, *arguments)

    return call


_spans: list[tuple[int, int]] = []


def _tensors(arguments):
    for a in arguments:
        if isinstance(a, torch.Tensor):
            yield a
        elif isinstance(a, tuple):
            yield from _tensors(a)


def _noting_spans(initialise):
    def call(self, arguments, kwargs):
        found = initialise(self, arguments, kwargs)
        _spans.clear()
        for t in _tensors((*found[0], *found[1].values())):
            last = sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)) if t.numel() else -1
            _spans.append((t.data_ptr(), t.data_ptr() + (last + 1) * t.element_size()))
        return found

    return call


def _outside(addresses: np.ndarray, size: int) -> int:
    """How many numbers of this size lie outside of all tensors."""
    if not addresses.size:
        return 0
    first, last = int(addresses.min()), int(addresses.max()) + size
    if any(begin <= first and last <= end for begin, end in _spans):
        return 0  # all lie in one tensor, as nearly always
    inside = np.zeros(addresses.shape, bool)
    for begin, end in _spans:
        inside |= (addresses >= begin) & (addresses + size <= end)
    return np.count_nonzero(~inside)


def _checked(what, access, position):
    def call(self, pointers, *rest):
        mask = rest[position].data if rest[position] is not None else True
        addresses = pointers.data[np.broadcast_to(mask, pointers.data.shape)]
        size = max(1, pointers.dtype.scalar.element_ty.primitive_bitwidth // 8)
        if outside := _outside(addresses, size):
            raise IndexError(f"{what}: {outside} of {addresses.size} lanes out of bounds")
        return access(self, pointers, *rest)

    return call


def repair() -> None:
    for name in ("cast_impl", "create_fp_to_fp"):
        setattr(Builder, name, _rounding(getattr(Builder, name)))
    for name in ("create_fp_trunc", "create_fp_ext"):
        setattr(Builder, name, lambda self, source, target: self.cast_impl(source, target))
    arithmetic = ("fadd", "fsub", "fmul", "fdiv", "fneg", "exp", "log", "sqrt", "minnumf", "maxnumf")
    compare = [f"fcmp{kind}{test}" for kind in "OU" for test in ("LT", "GT", "LE", "GE", "EQ", "NE")]
    for name in (f"create_{n}" for n in (*arithmetic, *compare)):
        setattr(Builder, name, _refusing_bfloat16(name, getattr(Builder, name)))
    Builder.create_dot = _widening(Builder.create_dot)
    interpreter.GridExecutor._init_args_hst = _noting_spans(interpreter.GridExecutor._init_args_hst)
    Builder.create_masked_load = _checked("load", Builder.create_masked_load, 0)
    Builder.create_masked_store = _checked("store", Builder.create_masked_store, 1)
    np.seterr(all="ignore")  # NaN and infinity are ordinary here
    builder = interpreter.interpreter_builder
    # Of int32 sums and products the interpreter computes whether they overflow, but tells it only in debugging.
    assert not builder.options.debug
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)
    _patch_the_language_once()
    _remember_types()


def _patch_the_language_once() -> None:
    """Patches the language once. The interpreter does so at every launch and at every call of a function in a kernel,
    which takes a third of its time."""
    interpreter._patch_lang(SimpleNamespace(__globals__={"language": tl, "core": tl.core}))
    interpreter._patch_lang = lambda fn: SimpleNamespace(restore=lambda: None)


def _remember_types() -> None:
    """Makes each of NumPy's types, of the types of blocks, of the shapes of tensors and of the operands that are
    numbers once, and leaves alone operands whose types are already equal. The interpreter does all of it for every
    operation, which takes half of its time."""
    numpy_type, make_block, make_tensor = interpreter._get_np_dtype, tl.block_type.__init__, tl.tensor.__init__
    semantic = type(interpreter.interpreter_semantic)
    check, numpy_types, blocks, constants = semantic.binary_op_type_checking_impl, {}, {}, {}

    def known_numpy_type(of):
        name = of.scalar.name
        if name not in numpy_types:
            numpy_types[name] = numpy_type(of)
        return numpy_types[name]

    def known_block(cls, element, shape):
        if type(element) is not tl.dtype:
            return object.__new__(cls)
        key = (element.name, *map(tl.core._unwrap_if_constexpr, shape))
        if key not in blocks:
            blocks[key] = object.__new__(cls)
        return blocks[key]

    def block(self, element, shape):
        if not vars(self):
            make_block(self, element, shape)

    def tensor(self, handle, of):
        if "of_a_tensor" in vars(of):
            self.handle, self.type, self.dtype, (self.shape, self.numel) = handle, of, of.scalar, of.of_a_tensor
        else:
            make_tensor(self, handle, of)
            of.of_a_tensor = self.shape, self.numel

    def checked(self, left, right, left_pointer=False, right_pointer=False, arithmetic_check=True, div_or_mod=False):
        alike = type(left) is type(right) is tl.tensor and left.type is right.type
        if alike and not div_or_mod and not left.dtype.is_ptr():
            return left, right
        options = left_pointer, right_pointer, arithmetic_check, div_or_mod
        at = 1 if type(right) in (int, float) else 0
        number, other = (left, right)[at], (left, right)[1 - at]
        if type(number) not in (int, float) or type(other) is not tl.tensor:
            return check(self, left, right, *options)
        key = other.type.name, repr(number), at, *options  # -0.0 is another number than 0.0, and so is 0
        if key in constants:
            return (other, constants[key]) if at else (constants[key], other)
        made = check(self, left, right, *options)
        if made[1 - at] is other and len(constants) < 4096:
            constants[key] = made[at]
        return made

    interpreter._get_np_dtype, tl.tensor.__init__ = known_numpy_type, tensor
    tl.block_type.__new__, tl.block_type.__init__ = staticmethod(known_block), block
    semantic.binary_op_type_checking_impl = checked


def enlarge_blocks() -> None:
    """Makes tiles larger, since a program takes milliseconds whatever its size."""
    from bfn_kernels.discretised import triton_nstep
    from bfn_kernels.triton_ops import class_tiles

    class_tiles._TILES = class_tiles._SMALL_TILES = ((1 << 12, 1 << 12, 4),)
    triton_nstep._VARIABLES = 1024
