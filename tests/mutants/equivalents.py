"""Mutants that no test can kill, since they change nothing that anybody could see."""

from typing import NamedTuple


class Equivalent(NamedTuple):
    """In the file `path` the line `old` may become `new`; without `new`, whatever it becomes."""

    path: str
    old: str
    new: str
    reason: str


EQUIVALENTS: list[Equivalent] = []


def reason(path: str, old: str, new: str) -> str | None:
    """Why the change is none, or None; lines are given without indentation."""
    return next((e.reason for e in EQUIVALENTS if (e.path, e.old) == (path, old) and e.new in ("", new)), None)
