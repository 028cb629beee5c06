"""A small fault that somebody might put into the code, and the tests that should see it."""

from typing import NamedTuple


class Fault(NamedTuple):
    """`old` stands exactly once in the file `path`, and `new` takes its place; `tests` are pytest's arguments."""

    path: str
    old: str
    new: str
    tests: str
