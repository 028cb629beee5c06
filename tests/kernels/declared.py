"""Lists that are read from the package: its families, their public functions, and the arguments of each function."""

import ast
import functools
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path

import bfn_kernels

FAMILIES = sorted(path.parent.name for path in Path(bfn_kernels.__file__).parent.glob("*/operators.py"))


def public(op: str) -> Callable:
    family, name = op.split(".")
    return getattr(getattr(bfn_kernels, family), name)


@functools.cache
def annotations(op: str) -> dict:
    """The type of each parameter."""
    return {name: each.annotation for name, each in inspect.signature(public(op)).parameters.items()}


def parameters(op: str) -> list[str]:
    return list(annotations(op))


def public_functions(family: str) -> list[str]:
    """The functions that the family's package defines, and those that it imports from its modules by `*` or under
    their own name, as `family.function`."""
    module = importlib.import_module(f"bfn_kernels.{family}")
    body = ast.parse(inspect.getsource(module)).body
    own = [node.name for node in body if isinstance(node, ast.FunctionDef)]
    for node in (node for node in body if isinstance(node, ast.ImportFrom)):
        if node.names[0].name == "*":
            own += importlib.import_module(node.module).__all__
        own += [each.name for each in node.names if each.name == each.asname]
    return [f"{family}.{name}" for name in own if callable(getattr(module, name)) and name[0] != "_"]


OPS = [op for family in FAMILIES for op in public_functions(family)]
# The arguments that replace random numbers of `seed`; `flow_seed` makes a flow's noise.
NOISES = tuple(
    dict.fromkeys(name for op in OPS for name in parameters(op) if name.endswith("noise") and name != "flow_noise")
)
# The arguments that functions write their results into.
OUTPUTS = tuple(dict.fromkeys(name for op in OPS for name in parameters(op) if name == "out" or name.endswith("_out")))
