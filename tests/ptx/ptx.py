"""The interpreter of PTX, built when it is first asked for, and its functions."""

import contextlib
import ctypes
import functools
import platform
import shutil
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from tests import compiled

HERE = Path(__file__).resolve().parent
FLAGS = ["-std=c++20", "-O2", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]
FLAGS += ["-Wno-missing-field-initializers", "-ffp-contract=off", "-frounding-math"]
INTERPRETER = sorted(path for path in HERE.glob("*.cpp") if path.stem != "cudart")


def missing() -> str | None:
    """The reason why the interpreter cannot be built here, or None."""
    return None if shutil.which("g++") else "there is no g++"


def flags() -> list[str]:
    """Those of g++, with the instructions that the processor has for fused operations."""
    fast = platform.machine() == "x86_64" and torch.backends.cpu.get_cpu_capability() != "DEFAULT"
    return [*FLAGS, *(["-march=x86-64-v3"] if fast else [])]


@functools.cache
def path() -> Path:
    from torch.utils.cpp_extension import include_paths, library_paths

    command = ["g++", *flags(), *(f"-isystem{folder}" for folder in include_paths())]
    parts = compiled.objects("interpreter", dict.fromkeys(INTERPRETER, command))
    return compiled.linked("libptx", parts, ["-shared", *(f"-L{folder}" for folder in library_paths()), "-lc10"])


@functools.cache
def library() -> ctypes.CDLL:
    found = ctypes.CDLL(str(path()), ctypes.RTLD_GLOBAL)
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    for answer in (found.ptx_error, found.ptx_executed, found.ptx_counts):
        answer.restype = text
    found.ptx_load.restype, found.ptx_load.argtypes = pointer, [text]
    found.ptx_parameters.argtypes = [pointer, text]
    found.ptx_launch.argtypes = [pointer, text, pointer, pointer, pointer, ctypes.c_ulong]
    found.ptx_allow.argtypes, found.ptx_forget.argtypes = [pointer, ctypes.c_ulong], [pointer]
    return found


class PtxError(RuntimeError):
    """What a GPU would punish, or what the interpreter does not know."""


def _failed() -> PtxError:
    return PtxError(library().ptx_error().decode())


class Module:
    """The kernels of a text of PTX."""

    def __init__(self, text: str):
        self._handle = library().ptx_load(text.encode())
        if not self._handle:
            raise _failed()

    def parameters(self, kernel: str) -> int:
        """How many there are; the kernel is parsed."""
        count = library().ptx_parameters(self._handle, kernel.encode())
        if count < 0:
            raise _failed()
        return count

    def launch(self, kernel: str, grid: Sequence[int], block: Sequence[int], arguments: Sequence[bytes], shared=0):
        """Runs a grid; an argument is the bytes of its type."""
        held = [ctypes.create_string_buffer(argument, max(1, len(argument))) for argument in arguments]
        pointers = (ctypes.c_void_p * len(held))(*map(ctypes.addressof, held))
        sizes = [(ctypes.c_uint * 3)(*(*size, 1, 1)[:3]) for size in (grid, block)]
        if len(held) != self.parameters(kernel):
            raise PtxError(f"{kernel} has {self.parameters(kernel)} parameters, not {len(held)}")
        if not library().ptx_launch(self._handle, kernel.encode(), *sizes, pointers, shared):
            raise _failed()


def executed() -> set[str]:
    """The names of the kernels that were run since this was last asked."""
    return set(library().ptx_executed().decode().split())


class Executed(NamedTuple):
    """What warps executed of the instructions of one name; tests/ptx/program.h explains the numbers."""

    issues: int
    lanes: int
    sectors: int
    least_sectors: int
    passes: int
    least_passes: int
    worst: int = 0


def counts() -> dict[str, dict[str, Executed]]:
    """By kernel and instruction, what was executed with the option `count` since this was last asked."""
    found: dict[str, dict[str, Executed]] = {}
    for line in library().ptx_counts().decode().splitlines():
        kernel, instruction, *numbers = line.split(" ")
        found.setdefault(kernel, {})[instruction] = Executed(*map(int, numbers))
    return found


ORDERS = ("forward", "backward", "shuffled")


def _set(order: str = "forward", races=True, count=False, contract=True, shift=0, architecture=90) -> None:
    """Sets all options.

    order: of the blocks of a grid. races: whether to look for them, and for reads of shared memory that nobody wrote.
    count: for `counts`. contract: whether products are fused with sums as ptxas does, of kernels that are launched for
    the first time afterwards. shift: how far the results of approximate instructions are moved, in units of their
    documented error. architecture: its limits hold.
    """
    library().ptx_set(ORDERS.index(order), races, count, contract, shift, architecture)


@contextlib.contextmanager
def options(**chosen) -> Iterator[None]:
    """Inside the `with`, the interpreter has these options, which are arguments of `_set`. Afterwards it has the
    defaults."""
    _set(**chosen)
    try:
        yield
    finally:
        _set()


def pointer(tensor: torch.Tensor) -> bytes:
    return struct.pack("Q", tensor.data_ptr())


@functools.cache
def watch_torch() -> None:
    """Lets kernels reach torch's memory: that of each tensor on the CPU that is made from now on, to its last byte."""
    library().ptx_watch_torch()
