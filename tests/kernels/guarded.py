"""Memory between guard pages: a kernel that reads or writes beyond its tensors dies at once."""

import contextlib
import ctypes
import functools
from collections.abc import Iterator
from pathlib import Path

from tests import compiled

BEHIND, BEFORE = 1, 2  # the tensors begin behind a guard page, or end before one
SOURCE = Path(__file__).with_suffix(".cpp")
FLAGS = ["-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]


@functools.cache
def library() -> ctypes.CDLL:
    from torch.utils.cpp_extension import include_paths, library_paths

    command = ["g++", *FLAGS, *(f"-isystem{folder}" for folder in include_paths())]
    link = ["-shared", *(f"-L{folder}" for folder in library_paths()), "-lc10"]
    return ctypes.CDLL(str(compiled.linked("libguarded", compiled.objects("guarded", {SOURCE: command}), link)))


@contextlib.contextmanager
def guarded(end: int) -> Iterator[None]:
    """Guards the tensors that are made meanwhile."""
    library().guard_torch(end)
    try:
        yield
    finally:
        library().guard_torch(0)


def fill_stack(byte: int) -> None:
    """Leaves this byte wherever the kernels that are called next keep their variables."""
    library().fill_stack(byte)
