"""Files import files of their own layer or of a lower layer, and never in a circle. The tests read the import
statements of all files, and run none of them."""

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("bfn_kernels", "bfn", "benchmarks", "gpu_build", "release")
# From the lowest layer to the highest. A file that no layer names is in the layer of its folder.
LAYERS = [
    "bfn_kernels",  # what the families share
    "bfn_kernels/binary bfn_kernels/circular bfn_kernels/continuous bfn_kernels/discrete bfn_kernels/discretised "
    "bfn_kernels/vocabulary",
    "bfn_kernels/nn bfn_kernels/samplers.py",
    "bfn_kernels/__init__.py bfn_kernels/env.py bfn_kernels/patch",
    "bfn/__init__.py bfn/configs bfn/figures.py bfn/training/checkpoint.py bfn/training/processes.py "
    "bfn/training/run_lock.py bfn/training/derived_seeds.py bfn/training/speed.py",
    "bfn/atom_rows.py bfn/data bfn/molecules.py bfn/molecules_3d.py bfn/networks bfn/sequences.py",
    "bfn/model.py",
    "bfn/official.py bfn/results bfn/sample.py bfn/training",
    "bfn/codec",
    "bfn/__main__.py bfn/cli.py",
    "benchmarks gpu_build release tests",
]
PLACES = {place: level for level, places in enumerate(LAYERS) for place in places.split()}


def file_of(root: Path, module: str) -> str | None:
    """The file of a module, or None if the module is not below the root."""
    path = module.replace(".", "/")
    return next((file for file in (f"{path}/__init__.py", f"{path}.py") if (root / file).is_file()), None)


def imports(root: Path, file: str) -> Iterator[str]:
    """The files that a file imports anywhere, also inside a function. `from package import name` imports the module
    `name` of the package or, if there is none, the package's __init__.py, which must define the name."""
    for node in ast.walk(ast.parse((root / file).read_text())):
        found: list[str | None] = []
        if isinstance(node, ast.Import):
            found = [file_of(root, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            folders = Path(file).parts[: -node.level] if node.level else ()
            base = ".".join([*folders, *filter(None, [node.module])])
            found = [file_of(root, f"{base}.{alias.name}") or file_of(root, base) for alias in node.names]
        yield from filter(None, found)


@cache
def graph() -> dict[str, list[str]]:
    """The imports of each file of the packages."""
    files = [str(path.relative_to(ROOT)) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {file: sorted(set(imports(ROOT, file))) for file in files}


def circle(edges: dict[str, list[str]], start: str) -> list[str]:
    """The shortest way from a file back to this file, or [] if there is none."""
    ways, seen = [[start]], set()
    for way in ways:
        for file in edges.get(way[-1], []):
            if file == start:
                return [*way, file]
            if file not in seen:
                seen.add(file)
                ways.append([*way, file])
    return []


def layer(file: str) -> int:
    return next(PLACES[str(place)] for place in (Path(file), *Path(file).parents) if str(place) in PLACES)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_imports_itself_by_other_files(package):
    found = [circle(graph(), file) for file in graph() if file.startswith(f"{package}/")]
    shortest = min(filter(None, found), key=len, default=None)
    assert shortest is None, "a circle of imports: " + " imports ".join(shortest)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_imports_a_file_of_a_higher_layer(package):
    own = [(file, other) for file, others in graph().items() for other in others if file.startswith(f"{package}/")]
    found = [f"{file} imports {other}" for file, other in own if layer(other) > layer(file)]
    assert not found, "imports upwards: " + ", ".join(found)


def test_nobody_takes_two_files_for_each_other():
    """In bfn_kernels, the files of a family have the names of the files of other families."""
    folders = ("bfn", "benchmarks", "gpu_build", "release", "tests")
    names = Counter(path.name for folder in folders for path in (ROOT / folder).rglob("*.py"))
    asked_for = {"__init__.py", "__main__.py", "conftest.py"}  # by Python and pytest
    assert [name for name, count in names.items() if count > 1 and name not in asked_for] == []


def test_each_place_of_a_layer_exists():
    assert [place for place in PLACES if not (ROOT / place).exists()] == []


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("import os, a.b.c as d", ["a/b/c.py"]),
        ("import a.b", ["a/b/__init__.py"]),
        ("from a import b", ["a/b/__init__.py"]),
        ("from a.b import c, name", ["a/b/c.py", "a/b/__init__.py"]),
        ("from a.b.c import name", ["a/b/c.py"]),
        ("from . import c, name", ["a/b/c.py", "a/b/__init__.py"]),
        ("from .c import name", ["a/b/c.py"]),
        ("from .. import name", ["a/__init__.py"]),
        ("def function(): from a.b.c import name", ["a/b/c.py"]),
        ("if TYPE_CHECKING: from a.b import c", ["a/b/c.py"]),
        ("from torch import nn", []),
    ],
)
def test_the_file_of_every_import_is_found(line, wanted, tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    for file in ("a/__init__.py", "a/b/__init__.py", "a/b/c.py"):
        (tmp_path / file).touch()
    (tmp_path / "a/b/here.py").write_text(line)
    assert list(imports(tmp_path, "a/b/here.py")) == wanted


def test_the_shortest_circle_is_found():
    edges = {"a": ["b", "c"], "b": ["c", "d"], "c": ["d"], "d": ["a"], "e": ["a"]}
    assert circle(edges, "a") == ["a", "b", "d", "a"] and circle(edges, "e") == []
