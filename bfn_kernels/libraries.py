"""Registers declared operators in every library of `torch.ops` that implements them, in C++, CUDA or Triton."""

import functools
import importlib
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch._ops import OpOverload

from bfn_kernels import records
from bfn_kernels.autograd import differentiable, writing
from bfn_kernels.declarations import NATIVE, TRITON, Operator
from bfn_kernels.torch_private import below_python


class Library:
    """A library of `torch.ops`. An operator is called as `library.<family>.<operator>(...)`, with the arguments of its
    function in the family's `reference.py`, or of its schema if it has no such function."""

    def __init__(
        self,
        name: str,
        implement: Callable[[str, Operator], Callable] | None = None,
        keys: Sequence[str] = (),
        refuse: Callable[[OpOverload], str | None] = lambda overload: None,
    ):
        """implement: for a library written in Python, returns the function of an operator. When the operator is first
        called, `implement(family, operator)` is called. keys: the dispatch keys that the function serves. refuse:
        returns the reason why the compiled code of an operator must not be called, or None."""
        self.name, self.implement, self.keys, self.refuse = name, implement, keys, refuse
        self.refused: list[str] = []  # the reasons that `refuse` gave
        self.kind = TRITON if implement else name
        self._defined = torch.library.Library(name, "FRAGMENT")

    def __getattr__(self, family: str) -> Any:
        raise AttributeError(f"{self.name} has no operators of {family!r}")

    def declare(self, family: str, operators: Iterable[Operator]) -> None:
        """Defines a family's operators; torch knows them as `<family>_<operator>`."""
        namespace = SimpleNamespace()
        setattr(self, family, namespace)
        for operator in operators:
            if not operator.library or self.kind in operator.library.split():
                setattr(namespace, operator.name, self._declare(family, operator))

    def _define(self, family: str, schema: str, code: Callable | None, keys: Sequence[str]) -> OpOverload:
        name = f"{family}_{schema.split('(')[0]}"
        self._defined.define(f"{family}_{schema}")
        for key in keys if code else ():
            self._defined.impl(name, code, key)
        return getattr(getattr(torch.ops, self.name), name).default

    def _python(self, family: str, operator: Operator) -> tuple[Callable | None, Callable | None]:
        """The two functions that `python_code` returns, or None for an operator that is not written in Python."""
        if operator.composed:
            module = f"{NATIVE}.{family}.composed"
            return python_code(operator, lambda: getattr(importlib.import_module(module), operator.name), self)
        if self.implement is not None:
            return python_code(operator, functools.partial(self.implement, family, operator))
        return None, None

    def _declare(self, family: str, operator: Operator) -> Callable:
        code, code_out = self._python(family, operator)
        keys = ("CompositeExplicitAutograd",) if operator.composed else self.keys
        out = self._define(family, operator.schema_out, code_out, keys) if operator.in_place else None
        overload = self._define(family, operator.schema, code, keys)
        for compiled in () if operator.composed else filter(None, (overload, out)):
            if why := self.refuse(compiled):
                self.refused.append(why)
                return _refusing(why)
        if operator.writes or operator.plain:
            torch.library.register_fake(overload.name(), operator.fake)
            if operator.plain:  # without this line, each call would pass torch's autograd, which takes 0.5 µs
                self._defined.impl(overload.name().split("::")[1], torch.library.fallthrough_kernel, "Autograd")
            return below_python(overload)
        call = differentiable(self, overload, operator)
        if operator.function is None:
            return call
        return records.calling(operator.function, call, out and writing(out, operator))


def _refusing(why: str) -> Callable:
    def refuse(*arguments, **keywords):
        raise RuntimeError(why)

    return refuse


def python_code(operator: Operator, load: Callable[[], Callable], *first: Any) -> tuple[Callable, Callable]:
    """Returns two functions that torch calls: the operator, and its variant that writes into `out`.

    load: imports a module and returns its function that computes the operator. It is called when the operator is first
    called. first: arguments that the function takes before the operator's arguments.
    """
    other_outputs = [None] * len(operator.other_outputs.split())

    @functools.cache
    def loaded() -> tuple[Callable, Callable]:
        function = load()
        return function, records.grouping(function if first else operator.function or function)

    def call(*arguments):
        function, group = loaded()
        return function(*group((*first, *arguments)))

    def functional(*arguments):
        function, group = loaded()
        out = operator.fake(*arguments)  # called with real tensors, a fake makes real results
        outputs = out if isinstance(out, tuple) else (out,)
        function(*group((*first, *arguments, *outputs, *other_outputs[len(outputs) - 1 :])))
        return out

    return (functional if operator.in_place else call), call
