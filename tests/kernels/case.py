"""A case of the tests: a public op, and how its inputs are made from a shape, a type and a generator."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bfn_kernels.arguments.rows import PerRow
from tests.kernels.declared import OPS, annotations, parameters, public

# The arguments that have a number for each row.
ROWS = tuple(
    dict.fromkeys(name for op in OPS for name, kind in annotations(op).items() if kind in (PerRow, PerRow | None))
)


def state_of(inputs: Iterable[str]) -> str:
    """The name of the input that an output is like, of the names of a call's inputs."""
    return next(name for name in ("state", "mean", "pred", "x", "logits") if name in inputs)


@dataclass(frozen=True)
class Case:
    name: str  # "family.op" or "family.op[a label]"; no test reads the label
    fields: dict[str, Callable]  # the makers of its inputs
    options: dict = field(default_factory=dict)
    diff: tuple[str, ...] = ()  # the inputs that are differentiable
    hard: bool = False  # whether its inputs are at kinks or huge, where finite differences fail
    into: str = ""  # the argument that the op writes the result into: it gets a new tensor like the state
    num_classes: int = 0  # of discrete data
    gap: int = 0  # the distance between the logits of different classes, if these are far apart
    in_ptx: bool = False  # of a large vocabulary: whether tests/ptx runs what Triton compiles for it
    kernels: bool = True  # False if torch's own ops compute it on every backend
    part: int = 0  # which result of several counts

    @property
    def op(self) -> str:
        return self.name.split("[")[0]

    @property
    def family(self) -> str:
        return self.op.split(".")[0]

    @property
    def loss(self) -> bool:
        return "reduction" in parameters(self.op)

    def count(self, inputs: dict) -> int:
        """The number of variables of a call. The first argument of each op has a number for each variable or, if it is
        floating-point, for each class of a variable."""
        first = inputs[parameters(self.op)[0]]
        return first.numel() // (self.num_classes if self.num_classes and first.is_floating_point() else 1)

    @property
    def size(self) -> int:
        """How many bins or classes there are."""
        return self.num_classes or self.options.get("num_bins", 0)

    @property
    def long(self) -> bool:
        """Whether a row of its bins or classes is so long that most tests make fewer calls."""
        return self.size > 256

    @property
    def huge(self) -> bool:
        """Whether this row is so long that many tests make no call."""
        return self.size > 1000

    @property
    def alike(self) -> bool:
        """Whether it differs from a case of 2 classes only in their count and type, which only kernels ask for."""
        return self.kernels and self.num_classes in (3, 27)

    def inputs(self, shape, dtype, seed: int = 0) -> dict:
        generator = torch.Generator().manual_seed(seed)
        return {name: make(tuple(shape), dtype, generator) for name, make in self.fields.items()}

    def __call__(self, inputs: dict, backend: str | None = None, **more) -> Tensor:
        if self.kernels:
            more["backend"] = backend
        if self.into:
            more[self.into] = torch.empty_like(inputs[self.state])
        result = public(self.op)(**inputs, **self.options, **more)
        if self.into:
            return more[self.into]
        if self.op == "discretised.output_distribution":
            return torch.stack(result, -1)
        return result[self.part] if isinstance(result, tuple) else result

    @property
    def state(self) -> str:
        """The name of the input that an output is like."""
        return state_of(self.fields)

    def __repr__(self) -> str:
        return self.name


def case(name: str, call: dict, diff: str = "", **more) -> Case:
    """A row of a table of cases.

    call: the arguments of the op. A function makes an input, and any other value is an option.
    diff: the names of the differentiable inputs.
    """
    fields = {argument: value for argument, value in call.items() if callable(value)}
    options = {argument: value for argument, value in call.items() if argument not in fields}
    return Case(name, fields, options, tuple(diff.split()), **more)


def giving(cases: Iterable[Case], op: str, name: str) -> Case:
    """A case of the op that gives the argument or, if there is none, one that gives a time, which some need."""
    of_op = [case for case in cases if case.op == op]
    return max(of_op, key=lambda case: (name in {**case.fields, **case.options}, "t" in case.fields))


def covering(cases: Iterable[Case]) -> list[Case]:
    """Chooses a few cases of each op. Together they pass every argument that any case passes, with and without a
    mixture, and with and without a time, since each of these calls has its own kernel."""
    chosen: list[Case] = []
    covered: set[tuple] = set()
    for case in sorted(cases, key=lambda case: -len(case.fields)):
        kind = case.op, "mixture_logits" in case.fields, "t" in case.fields
        arguments = {(*kind, name) for name in (*case.fields, case.into)}
        if not arguments <= covered:
            chosen.append(case)
            covered |= arguments
    return chosen
