"""A small change of one place of a file, made by a rule and not by a person."""

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

# What takes the place of an operator, in Python and in C++.
OPERATORS = {"+": ("-",), "-": ("+",), "*": ("/",), "/": ("*",), "%": ("*",), "&": ("|",), "|": ("&",)}
OPERATORS |= {"<<": (">>",), ">>": ("<<",)}
COMPARISONS = {"<": ("<=", ">"), "<=": ("<", ">="), ">": (">=", "<"), ">=": (">", "<="), "==": ("!=",), "!=": ("==",)}


class Mutant(NamedTuple):
    """In the file `path` the bytes from `begin` to `end` become `new`."""

    path: str
    kind: str
    begin: int
    end: int
    new: str

    def put_into(self, text: str) -> str:
        """The text of the file with the change."""
        content = text.encode()
        return (content[: self.begin] + self.new.encode() + content[self.end :]).decode()

    def row(self, text: str) -> int:
        """The number of the line where the change begins."""
        return text.encode()[: self.begin].count(b"\n") + 1

    def diff(self, text: str) -> tuple[str, str]:
        """The lines that it changes, without indentation, before and after."""
        content = text.encode()
        begin = content.rfind(b"\n", 0, self.begin) + 1
        end = content.find(b"\n", self.end)
        end = len(content) if end < 0 else end
        after = content[begin : self.begin] + self.new.encode() + content[self.end : end]
        return content[begin:end].decode().strip(), after.decode().strip()


def drawn(found: Sequence[Mutant], seed: int) -> Iterator[Mutant]:
    """The mutants in a random order that the seed alone decides: the kinds take turns, and a place comes once."""
    by_kind: dict[str, dict[tuple, list[Mutant]]] = {}
    for mutant in sorted(found):
        by_kind.setdefault(mutant.kind, {}).setdefault((mutant.path, mutant.begin), []).append(mutant)
    left = {kind: list(places.values()) for kind, places in by_kind.items()}
    choose = random.Random(seed)
    for places in left.values():
        choose.shuffle(places)
    while left:
        for kind in choose.sample(sorted(left), len(left)):
            yield choose.choice(left[kind].pop())
            if not left[kind]:
                del left[kind]


def others(number: float) -> list[str]:
    """What takes the place of a number: one more, one less, nothing, the other sign, half of it."""
    candidates = [number + 1, number - 1, type(number)(0), -number]
    if isinstance(number, float):
        candidates = [type(number)(0), -number, number / 2, number + 1]
    return [repr(n) if n >= 0 else f"({n!r})" for n in dict.fromkeys(candidates) if n != number]
