"""Reads the errors of a compiled extension's operators, and compares their types with the declarations."""

from collections.abc import Callable, Mapping

from torch._ops import OpOverload

# An operator of a compiled extension raises ValueError or IndexError for wrong arguments. From version 2.15 on, torch
# turns both into RuntimeError. So each extension has a function that returns its last error: an index into REFUSED, 0
# for none, and the message.
REFUSED = (RuntimeError, ValueError, IndexError)
Refusal = Callable[[], tuple[int, str]]
REFUSALS: list[Refusal] = []


def difference(overload: OpOverload, compiled: Mapping[str, str]) -> str | None:
    """Says how an operator differs from the extension's operator of the same name; None if it does not. torch does not
    compare the two, and would call compiled code with arguments that this code misreads.

    compiled: maps the name of each operator of the extension to the types of its arguments and results.
    """
    schema = overload._schema
    name = schema.name.split("::")[1]
    types = [f"({', '.join(str(value.type) for value in values)})" for values in (schema.arguments, schema.returns)]
    declared, found = " -> ".join(types), compiled.get(name)
    if found is None:
        return f"it has no operator {name}"
    return None if found == declared else f"its {name} is {found}, where {declared} is declared"


def as_refused(error: RuntimeError) -> Exception:
    """The error with the type that the extension raised, or the error itself if no extension raised it."""
    for refusal in REFUSALS:
        kind, message = refusal()
        if kind and str(error) == message:
            return REFUSED[kind](message)
    return error
