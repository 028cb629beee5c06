"""Calls the functions of a client's code, from a checkout."""

import __future__

import ast
import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.clients.client import Client, own_disagreement
from bfn_kernels.noise import draw_class

UNEVALUATED = __future__.annotations.compiler_flag  # annotations may name packages that are not installed
# The few functions of the package einops that the called code needs, for patterns such as "sample batch ...".
EINOPS = SimpleNamespace(
    rearrange=lambda x, pattern, n: x.unflatten(0, (n, -1)),
    reduce=lambda x, pattern, operation: getattr(x.flatten(2), operation)(-1),
    repeat=lambda x, pattern, n: x.expand(n),
)


def definitions(path: Path, *names: str, **given: Any) -> SimpleNamespace:
    """Classes and functions of a Python file. Only they and the file's imports are executed.

    An import that fails is left out, since code that is not called may need it. given: values for names that the file
    imports, where the import fails.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    found: dict[str, Any] = {"__name__": path.stem, **given}
    for node in ast.parse(path.read_text(), str(path)).body:
        imports = isinstance(node, (ast.Import, ast.ImportFrom))
        if imports or getattr(node, "name", None) in names:
            code = compile(ast.Module([node], []), str(path), "exec", UNEVALUATED, dont_inherit=True)
            with contextlib.suppress(ImportError) if imports else contextlib.nullcontext():
                exec(code, found)
    if missing := [name for name in names if name not in found]:
        raise FileNotFoundError(f"{path} does not define {', '.join(missing)}")
    return SimpleNamespace(**{name: found[name] for name in names})


def unmade(kind: Any, **attributes: Any) -> Any:
    """An object of a class whose __init__ was not called, with these attributes. They may replace methods. A module has
    no parameters."""
    made = kind.__new__(kind)
    if isinstance(made, torch.nn.Module):
        torch.nn.Module.__init__(made)
    made.__dict__.update(attributes)
    return made


@contextlib.contextmanager
def given(
    *noise: Tensor, uniforms: Tensor | None = None, classes: Sequence[Tensor] = (), integers: Tensor | None = None
) -> Iterator[None]:
    """Where code draws standard normals, it gets these tensors in turn. Where it draws uniforms or integers, it gets
    `uniforms` or `integers`. Where it draws classes, it gets the classes of the uniforms `classes`, in turn. New
    tensors have float64 by default, and code that asks for float32 gets float64."""
    left, drawn = iter(noise), iter(classes)
    patches: dict[str, Any] = {
        "randn": lambda *_, **__: next(left),
        "randn_like": lambda *_, **__: next(left),
        "normal": lambda mean, std: mean + std * next(left),
        "rand": lambda *_, **__: uniforms,
        "randint": lambda *_, **__: integers,
        "multinomial": lambda p, *_: draw_class(p / p.sum(-1, keepdim=True), next(drawn)).unsqueeze(-1),
    }
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with mock.patch.multiple(torch, **patches), mock.patch.object(Tensor, "float", Tensor.double):
            yield
    finally:
        torch.set_default_dtype(before)
    if [*left, *drawn]:
        raise AssertionError("the code drew less noise than the transcription")


@dataclass(frozen=True)
class Compared:
    """The largest relative difference between a client's own functions and our transcription, in float64."""

    code: str
    checkout: str  # its revision
    file: str
    function: str
    client: str
    difference: float


COLUMNS = ("code base", "revision", "function", "largest relative difference")


def cells(row: Compared) -> list[str]:
    """The cells of a row under COLUMNS."""
    return [row.code, row.checkout, f"`{row.function}`", f"{row.difference:.0e}" if row.difference else "0"]


def revision(folder: Path) -> str:
    """The revision of a checkout; "unknown" if the folder is none of git's."""
    command = ["git", "-C", str(folder), "rev-parse", "--short=7", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def compared(client: Client, folder: Path) -> Compared:
    place = client.place
    difference = own_disagreement(client, folder)
    return Compared(place.code.title, revision(folder), place.file, place.function, client.name, difference)
