"""The mutants of C++ and CUDA, by tokens: clang-format puts blanks around an operator of two numbers, and none around
the brackets of a template or the star of a pointer."""

import re
from collections.abc import Iterator
from pathlib import Path

from tests.mutants import mutant
from tests.mutants.mutant import Mutant, others

OPERATORS = mutant.OPERATORS | {f"{old}=": (f"{new}=",) for old, (new,) in mutant.OPERATORS.items()}
CHANGES = {"operator": OPERATORS, "comparison": mutant.COMPARISONS, "condition": {"&&": ("||",), "||": ("&&",)}}
HIDDEN = re.compile(
    r"^#if(?:def| defined)[^\n]*CUDA.*?(?=^#(?:el|endif))|"  # what only a GPU's compiler reads
    r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\])*"|^#(?:\\\n|[^\n])*|\btemplate\s*<[^;{]*?>\s*\n|\bstatic_assert\(.*?\);',
    re.DOTALL | re.MULTILINE,
)
OPERATOR = re.compile(r"(?<= )(?:<<=|>>=|<<|>>|&&|\|\||[-+*/%<>=!]=|[-+*/%<>&|])(?= |\n)")
NUMBER = re.compile(r"(?<![\w.])(?:\d+\.\d*(?:e[-+]?\d+)?|\d+e[-+]?\d+|\d+)(?=f?\b)(?![\w.]*x)")
CONDITION = re.compile(r"\b(?:if|while) \(")
# A call, or a value for something that was declared before.
STATEMENT = re.compile(r"^ +(?:[\w.:>\[\]-]+(?: [-+*/|&]?= |\(|\+\+)|\+\+)[^;{}]*;$", re.MULTILINE)
NO_STATEMENT = re.compile(r"\s*(?:return|using|typedef|throw|case|static_assert|break|continue|else|delete)\b")


def blanked(text: str) -> str:
    """The text without comments, strings and directives, in whose place blanks stand."""
    return HIDDEN.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)


def number_of(word: str) -> float:
    return float(word) if re.search(r"[.e]", word) else int(word)


def _places(code: str) -> Iterator[tuple[str, int, int, tuple[str, ...]]]:
    """Kind, begin, end, and what may stand there instead."""
    for found in OPERATOR.finditer(code):
        for kind, changes in CHANGES.items():
            if found[0] in changes:
                yield kind, *found.span(), changes[found[0]]
    for found in NUMBER.finditer(code):
        yield "constant", *found.span(), tuple(others(number_of(found[0])))
    for found in CONDITION.finditer(code):
        yield "condition", found.end(), found.end(), ("!",)  # of the first operand, if there are several
    for found in STATEMENT.finditer(code):
        if not NO_STATEMENT.match(found[0]):
            begin = found.start() + len(found[0]) - len(found[0].lstrip())
            yield "statement", begin, found.end(), (";",)


def native_mutants(root: Path, cuda: bool, only: str = "") -> list[Mutant]:
    """All mutants of the files of csrc whose paths have a certain part; of csrc/cuda only if they are asked for."""
    found = []
    for path in sorted(path for path in (root / "csrc").rglob("*") if path.suffix in (".h", ".cpp", ".cu")):
        name, text = str(path.relative_to(root)), path.read_text()
        if only not in name or (name.startswith("csrc/cuda/") and not cuda):
            continue
        for kind, begin, end, new in _places(blanked(text)):
            begin, end = (len(text[:place].encode()) for place in (begin, end))
            found += [Mutant(name, f"C++ {kind}", begin, end, other) for other in new]
    return found
