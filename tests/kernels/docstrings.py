"""The functions, classes and methods that the package lists as public, and the sections of their docstrings."""

import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bfn_kernels import nn
from tests.kernels.declared import FAMILIES, public_functions

API = Path(__file__).resolve().parents[2] / "docs" / "api"
SECTIONS = ("Args", "Attributes", "Returns", "Raises", "Example")


def found_at(name: str) -> Any:
    """The module, or the member of a module, of this full name."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        parent, _, last = name.rpartition(".")
        return getattr(importlib.import_module(parent), last)


def entries(page: Path) -> Iterator[tuple[str, list[str]]]:
    """What a page of the reference lists: full names, each with the members that the page names."""
    for name, options in re.findall(r"^::: ([\w.]+)\n((?: .*\n)*)", page.read_text(), re.MULTILINE):
        lines = re.findall(r"^ +members: \[(.*)\]$|^ +- (\w+)$", options, re.MULTILINE)
        yield name, [member for line in lines for member in "".join(line).split(", ")]


def own_names(module: Any) -> list[str]:
    """The public functions and classes that a module defines."""
    return [name for name, each in vars(module).items() if name[0] != "_" and defined_in(each, module.__name__)]


def defined_in(each: Any, module: str) -> bool:
    return (inspect.isclass(each) or inspect.isfunction(each)) and each.__module__ == module


def listed() -> Iterator[tuple[Any, str]]:
    """The public names, as modules and their members."""
    for family in FAMILIES:
        yield from ((found_at(f"bfn_kernels.{family}"), op.split(".")[1]) for op in public_functions(family))
    yield from ((nn, name) for name in nn.__all__)
    for page in sorted(API.glob("*.md")):
        for name, members in entries(page):
            found = found_at(name)
            if not inspect.ismodule(found):
                parent, _, last = name.rpartition(".")
                yield found_at(parent), last
            elif not hasattr(found, "__path__") or members:
                yield from ((found, member) for member in members or own_names(found))


def methods(cls: type) -> Iterator[tuple[str, Callable]]:
    """The public methods that a class defines itself."""
    for name in vars(cls):
        if name[0] != "_" and inspect.isfunction(getattr(cls, name)):
            yield name, getattr(cls, name)


def collected() -> dict[str, Any]:
    """Functions, classes and methods by their names within the package. What has two names has the first one."""
    found: dict[str, Any] = {}
    for module, name in listed():
        each, full = getattr(module, name), f"{module.__name__}.{name}".removeprefix("bfn_kernels.")
        if each in found.values():
            continue
        if inspect.isfunction(each):
            found[full] = each
        elif inspect.isclass(each) and each.__module__.startswith("bfn_kernels"):
            found[full] = each
            found.update((f"{full}.{method}", function) for method, function in methods(each))
    return found


PUBLIC = collected()


def parameters(function: Callable) -> list[str]:
    """The names of the parameters but self, as a docstring has them."""
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    named = inspect.signature(function).parameters.values()
    return [stars.get(each.kind, "") + each.name for each in named if each.name != "self"]


def arguments(each: Any) -> tuple[str, list[str]]:
    """The section that says what a function or a class takes, and the names that it must have. The docstring of a class
    whose __init__ is another package's names nothing."""
    if inspect.isfunction(each):
        return "Args", parameters(each)
    if dataclasses.is_dataclass(each):
        return "Attributes", [field.name for field in dataclasses.fields(each)]
    if hasattr(each, "_fields"):
        return "Attributes", [*each._fields]
    own = inspect.isfunction(each.__init__) and each.__init__.__module__.startswith("bfn_kernels")
    return "Args", parameters(each.__init__) if own else []


def sections(each: Any) -> dict[str, list[str]]:
    """The lines of each section, without its indent. As Google's style has it, a section's heading follows on a blank
    line, and what is indented below it belongs to it."""
    found, name, before = {}, None, ""
    for line in (inspect.getdoc(each) or "").splitlines():
        if before == "" and line.removesuffix(":") in SECTIONS and line.endswith(":"):
            name = line[:-1]
            assert name not in found, f"there are two sections {name}"
            found[name] = []
        elif line and not line.startswith("    "):
            name = None
        elif name is not None:
            found[name].append(line[4:])
        before = line
    return found


def items(lines: list[str]) -> list[str]:
    """The names of a section's items, whose further lines are indented."""
    return [line.partition(": ")[0] for line in lines if line and line[0] != " "]
