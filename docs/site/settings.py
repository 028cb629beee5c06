"""Writes docs/settings.md from the comments in bfn/configs: python docs/site/settings.py."""

import ast
import dataclasses
import inspect
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bfn.configs import FOLDER, Config, shipped
from bfn.data import DATASETS
from bfn.model import KINDS
from bfn.networks import NETWORKS
from bfn_kernels.samplers import SAMPLERS

PAGE = Path(__file__).resolve().parents[1] / "settings.md"
CHOICES = {"data.name": DATASETS, "model.kind": KINDS, "network.name": NETWORKS, "sample.sampler": SAMPLERS}
SETTINGS = "setting", "default", "meaning"
TOP = """# Settings of bfn

A configuration is a YAML file. `bfn train` takes the name of a configuration that ships, or the path of your own file.
`key=value` after it replaces a setting, such as `bfn train digits train.max_steps=500`. In a file, `base: digits` takes
all other settings from another configuration. [Training with bfn](training.md) shows the commands.

`python docs/site/settings.py` writes this page from the comments in `bfn/configs`, and a test compares the two.
"""


def table(titles: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (titles, ["---"] * len(titles), *lines))


def comments(section: type) -> dict[str, str]:
    """The comment of each field of a dataclass: at the end of its line or, if there is none, in the lines above it."""
    lines = inspect.getsource(section).splitlines()
    found = {}
    for node in ast.parse("\n".join(lines)).body[0].body:
        if isinstance(node, ast.AnnAssign):
            _, _, beside = lines[node.end_lineno - 1][node.end_col_offset :].partition("# ")
            above, first = [], node.lineno - 2
            while lines[first].startswith("    # "):
                above.insert(0, lines[first][6:])
                first -= 1
            found[node.target.id] = beside or " ".join(above)
    return found


def shown(default: Any) -> str:
    """A default as a YAML file has it. None is left out."""
    return "" if default is None else f"`{str(default).lower() if isinstance(default, bool) else default}`"


def settings(section: type, prefix: str = "") -> str:
    """The table of the fields of a dataclass, without those that are dataclasses themselves."""
    said, rows = comments(section), []
    for field in dataclasses.fields(section):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if not dataclasses.is_dataclass(default):
            key, meaning = prefix + field.name, said[field.name]
            names = ", ".join(f"`{name}`" for name in CHOICES.get(key, ()))
            rows.append((f"`{key}`", shown(default), re.sub(r"^a name in [\w.]+", f"one of {names}", meaning)))
    return table(SETTINGS, rows)


def text() -> str:
    about = [(f"`{name}`", (FOLDER / f"{name}.yaml").read_text().partition("\n")[0][2:]) for name in shipped()]
    read = [(f"`{name}`", ", ".join(f"`data.{key}`" for key in keys)) for name, (_, keys) in DATASETS.items()]
    parts = [TOP, "## Configurations\n", table(("name", "what it trains"), about), "## Settings\n"]
    parts += ["An empty default is `None`. A file and the command line write `null` for it.\n", settings(Config)]
    for field in dataclasses.fields(Config):
        if dataclasses.is_dataclass(field.default_factory):
            parts += [f"### {field.name}\n", settings(field.default_factory, f"{field.name}.")]
    parts += ["### What each data set reads\n", table(("data.name", "settings"), read)]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(text())
