"""Results in CSV files. A line holds a row, which is a dataclass of texts and numbers, and a description of the
machine."""

import csv
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

Kind = TypeVar("Kind")
READ: dict[Any, Callable] = {str: str, int: int, float: float, bool: lambda text: text == "True"}


def write(kind: type, rows: Iterable[Any], machine: dict[str, str], path: Path) -> None:
    """Writes the file, and makes its folder if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(kind)] + list(machine))
        writer.writeheader()
        writer.writerows(asdict(row) | machine for row in rows)


def read(kind: type[Kind], path: Path) -> list[Kind]:
    """The rows. Fields for which an older file has no column get their defaults."""
    wanted = {f.name: READ[f.type] for f in fields(kind)}  # type: ignore[arg-type]
    with open(path, newline="") as file:
        lines = list(csv.DictReader(file))
    return [kind(**{name: of(line[name]) for name, of in wanted.items() if name in line}) for line in lines]


def read_machine(kind: type, path: Path) -> dict[str, str]:
    """The description of the machine, which is the same in every line."""
    own = {f.name for f in fields(kind)}
    with open(path, newline="") as file:
        return {key: text for key, text in next(csv.DictReader(file)).items() if key not in own}


def new_folder(name: str) -> Path:
    """The folder of a run that begins now, if the user has named no folder."""
    return Path("runs", name, datetime.now().strftime("%Y-%m-%d-%H%M%S"))
