"""Small faults that somebody might put into the code, each with the tests that should see it."""

from typing import NamedTuple


class Fault(NamedTuple):
    """`old` stands exactly once in the file `path`, and `new` takes its place; `tests` are pytest's arguments."""

    path: str
    old: str
    new: str
    tests: str


def parsed(table: str) -> list[Fault]:
    """The faults of a table: a file, then what stands there (-), what takes its place (+), and its tests (:)."""
    found: list[Fault] = []
    path, old, new, before = "", [], [], ""
    for line in table.splitlines():
        mark, rest = line[:1], line[2:]
        if mark == "-":
            old, new = ([*old, rest], new) if before == "-" else ([rest], [])
        elif mark == "+":
            new.append(rest)
        elif mark == ":":
            found.append(Fault(path, "\n".join(old), "\n".join(new), rest))
        elif line and mark != "#":
            path = line
        before = mark
    return found
