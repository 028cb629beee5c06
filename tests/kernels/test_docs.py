"""The examples in the docstrings of every public module and in the pages, and what the pages say of files."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import torch

import bfn_kernels

MODULES = sorted(
    m.name
    for m in pkgutil.walk_packages(bfn_kernels.__path__, "bfn_kernels.")
    if not m.name.rsplit(".", 1)[-1].startswith("_") and "triton" not in m.name
)

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path) -> list[tuple[str, str]]:
    """The language and the text of each block of code."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def excerpt_of(block: str) -> Path | None:
    """The file that a block is an excerpt of, which its first line names in a comment."""
    first = re.match(r"(?:#|//) ([\w/]+\.\w+)\n", block)
    return ROOT / first[1] if first else None


@each_page
def test_examples_of_a_page(page):
    """Each stands by itself."""
    for language, block in blocks(page):
        if language == "python" and excerpt_of(block) is None:
            exec(compile(block, str(page), "exec"), {"__name__": page.stem})


@each_page
def test_excerpts_stand_in_their_files(page):
    """Line by line in that order; a line of three dots leaves some out."""
    for _, block in blocks(page):
        path = excerpt_of(block)
        if path is None:
            continue
        code, place = path.read_text(), 0
        for part in re.split(r"^ *\.\.\.\n", block.partition("\n")[2], flags=re.MULTILINE):
            place = code.find(part.strip("\n") + "\n", place)
            assert place >= 0, f"{page.name}: this does not stand in {path.relative_to(ROOT)}:\n{part}"


@each_page
def test_links_and_commands_of_a_page(page):
    text = page.read_text()
    for link in re.findall(r"\]\((?!http)([\w./-]+)\)", text):
        assert (page.parent / link).exists(), link
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"(?:^|`)make ([\w-]+)", text, re.MULTILINE):
        assert target in targets, f"make {target}"


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    failed, _ = doctest.testmod(importlib.import_module(name), extraglobs={"torch": torch})
    assert failed == 0


@pytest.mark.parametrize("family", ["continuous", "discretised", "discrete", "binary"])
def test_every_public_function_has_an_example(family):
    module = importlib.import_module(f"bfn_kernels.{family}")
    for name, value in vars(module).items():
        if getattr(value, "__module__", None) == module.__name__ and not name.startswith("_"):
            if name in ("read_mean", "data_numbers", "bin_loss"):  # shared between families
                continue
            assert ">>>" in (value.__doc__ or ""), f"{family}.{name}"
