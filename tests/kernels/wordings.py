"""The Args lines of docstrings. Their texts stand once, in wordings.txt. `make format` writes them into the source."""

import ast
import re
import textwrap
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).resolve().parents[2] / "bfn_kernels"
FILES = sorted(PACKAGE.rglob("*.py"))
WIDTH = 120


class Row(NamedTuple):
    """A text, and patterns of the functions that have it."""

    patterns: list[str]
    text: str


Table = dict[str, list[Row]]  # the rows of each keyword


class Item(NamedTuple):
    """An argument in a docstring, which fills the lines [first, last) of its file."""

    function: str
    keyword: str
    text: str
    first: int
    last: int
    indent: str


def table_of(text: str) -> Table:
    """Reads a table. A keyword has no indent, patterns have an indent of two spaces, and a text has one of four."""
    table: Table = {}
    for keyword, rows in re.findall(r"^(\S.*)\n((?:  .*\n)+)", text, re.MULTILINE):
        assert keyword not in table, f"{keyword} stands twice"
        pairs = re.findall(r"((?:^  \S.*\n)+)((?:^    .*\n)+)", rows, re.MULTILINE)
        table[keyword] = [Row(patterns.split(), " ".join(lines.split())) for patterns, lines in pairs]
    return table


TABLE = table_of(Path(__file__).with_suffix(".txt").read_text())


def row_of(item: Item, table: Table) -> Row:
    """The row that an argument has the text of. If its keyword is not in the table, the text may be any."""
    if item.keyword not in table:
        return Row([item.function], item.text)
    for row in table[item.keyword]:
        if any(fnmatchcase(item.function, pattern) for pattern in row.patterns):
            return row
    raise ValueError(f"wordings.txt must have a row of {item.keyword} for {item.function}")


def docstrings(node: ast.AST, name: str) -> Iterator[tuple[str, ast.expr]]:
    """The docstrings of the functions and of the classes in a node, with their names."""
    for each in ast.iter_child_nodes(node):
        if isinstance(each, (ast.ClassDef, ast.FunctionDef)):
            full, first = f"{name}.{each.name}", each.body[0]
            if ast.get_docstring(each) is not None and isinstance(first, ast.Expr):
                yield full, first.value
            yield from docstrings(each, full)


def arguments_in(path: Path, source: str) -> list[Item]:
    """The arguments that the docstrings of a file describe, in the order of its lines."""
    found, lines = [], source.split("\n")
    package = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for function, docstring in docstrings(ast.parse(source), package):
        heading, indent = " " * docstring.col_offset + "Args:", " " * (docstring.col_offset + 4)
        if heading not in lines[docstring.lineno : docstring.end_lineno]:
            continue
        start = lines.index(heading, docstring.lineno) + 1
        end = next(number for number in range(start, len(lines)) if not lines[number].startswith(indent))
        firsts = [number for number in range(start, end) if lines[number][len(indent)] != " "]
        for first, last in zip(firsts, [*firsts[1:], end], strict=True):
            keyword, _, text = " ".join(line.strip() for line in lines[first:last]).partition(": ")
            found.append(Item(function, keyword, text, first, last, indent))
    return sorted(found, key=lambda item: item.first)


def wrapped(item: Item, text: str) -> list[str]:
    """The lines of an argument with a text. No line ends within backticks."""
    whole = re.sub("`[^`]*`", lambda code: code[0].replace(" ", "\0"), f"{item.keyword}: {text}")
    indents = {"initial_indent": item.indent, "subsequent_indent": f"{item.indent}    "}
    lines = textwrap.wrap(whole, WIDTH, break_long_words=False, break_on_hyphens=False, **indents)
    return [line.replace("\0", " ") for line in lines]


def in_line(path: Path, source: str, table: Table = TABLE) -> str:
    """The source of a file with the texts of a table."""
    lines = source.split("\n")
    for item in reversed(arguments_in(path, source)):
        lines[item.first : item.last] = wrapped(item, row_of(item, table).text)
    return "\n".join(lines)


if __name__ == "__main__":
    for path in FILES:
        before = path.read_text()
        after = in_line(path, before)
        if after != before:
            path.write_text(after)
            print(f"Wrote the Args lines of {path.relative_to(PACKAGE.parent)}")
