"""The mutants of Python: a method of Places for each kind of node of the syntax tree that can be changed."""

import ast
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tests.mutants import mutant
from tests.mutants.mutant import Mutant, others

OPERATORS = mutant.OPERATORS | {"//": ("*",), "**": ("*",), "^": ("|",)}
OPERATORS |= {f"{old}=": (f"{new}=",) for old, (new,) in OPERATORS.items()}
COMPARISONS = mutant.COMPARISONS | {"is": ("is not",), "is not": ("is",), "in": ("not in",), "not in": ("in",)}
CONDITIONS = {"and": ("or",), "or": ("and",)}
# Methods of tensors whose result may be left out: it has the type of the tensor itself.
METHODS = re.compile(
    "abs|(add|sub|mul|div|log|clamp|masked_fill)_?|clip|clone|contiguous|cumsum|detach|double|exp|expm1|flip|float|half"
    "|log1p|long|nan_to_num|neg|round|roll|sigmoid|softmax|sqrt|square|tanh|to|where"
)
# Keyword arguments that torch and Triton do without.
OPTIONAL = ["alpha", "beta", "correction", "dim", "dtype", "end", "generator", "keepdim", "max", "min", "other", "p"]
OPTIONAL += ["reverse", "start", "unbiased", "value", "weight_decay"]
UNSEEN = {"strict", "non_blocking", "stacklevel"}  # keywords whose values only tell when something else is wrong
NO_PLACES = (ast.Raise, ast.Assert, ast.JoinedStr, ast.Import, ast.ImportFrom)


def optional_keywords(texts: Iterable[str]) -> set[str]:
    """The names of all parameters and fields with defaults."""
    names = set(OPTIONAL)
    for node in (node for text in texts for node in ast.walk(ast.parse(text))):
        if isinstance(node, ast.arguments):
            positional = [*node.posonlyargs, *node.args]
            names |= {a.arg for a in positional[len(positional) - len(node.defaults) :]}
            names |= {a.arg for a, value in zip(node.kwonlyargs, node.kw_defaults, strict=True) if value is not None}
        elif isinstance(node, ast.ClassDef):
            fields = (field for field in node.body if isinstance(field, ast.AnnAssign) and field.value)
            names |= {field.target.id for field in fields}
    return names


class Places:
    """The mutants of one file."""

    def __init__(self, path: str, text: str, optional: set[str]):
        self.path, self.content, self.optional = path, text.encode(), optional
        self.starts = [0, *(found.end() for found in re.finditer(b"\n", self.content))]
        self.found: list[Mutant] = []
        self.functions = 0  # how many are around the node
        self.known: list[set[str]] = []  # the names that the function around has given a value so far
        self.statement: ast.stmt
        for statement in ast.parse(text).body:
            self.visit(statement)

    def begin(self, node: ast.AST) -> int:
        return self.starts[node.lineno - 1] + node.col_offset

    def end(self, node: ast.AST) -> int:
        return self.starts[node.end_lineno - 1] + node.end_col_offset

    def source(self, node: ast.AST) -> str:
        return self.content[self.begin(node) : self.end(node)].decode()

    def add(self, kind: str, begin: int, end: int, new: str) -> None:
        self.found.append(Mutant(self.path, kind, begin, end, new))

    def change(self, kind: str, node: ast.AST, new: str) -> None:
        self.add(kind, self.begin(node), self.end(node), new)

    def between(self, kind: str, left: ast.AST, right: ast.AST, changes: Mapping[str, Sequence[str]]) -> None:
        """Changes the operator that stands between two operands, perhaps among brackets."""
        found = re.compile(rb"[\s()]*([^\s()].*?)[\s()]*").fullmatch(self.content, self.end(left), self.begin(right))
        for new in changes.get(found[1].decode(), ()) if found else ():
            self.add(kind, *found.span(1), new)

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.stmt):
            self.statement = node
            self.deleted(node)
        if isinstance(node, NO_PLACES) or _is_docstring(node) or _by_import(node):
            return
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            self.function(node)
            return
        method = getattr(self, f"of_{type(node).__name__}", None)
        if method:
            method(node)
        hidden = [getattr(node, "annotation", None), *getattr(node, "decorator_list", ())]
        if (isinstance(node, ast.keyword) and node.arg in UNSEEN) or _negative(node):
            return
        for child in ast.iter_child_nodes(node):
            if child not in hidden:
                self.visit(child)
        if self.known and isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            self.known[-1].add(node.id)

    def function(self, node: ast.FunctionDef | ast.Lambda) -> None:
        body = [node.body] if isinstance(node, ast.Lambda) else node.body
        parameters = node.args
        for default in filter(None, [*parameters.defaults, *parameters.kw_defaults]):
            for new in _constants(default):
                self.change("default", default, new)
        if isinstance(node, ast.Lambda):
            self.visit(node.body)
            return
        self.functions += 1
        self.known.append({a.arg for a in [*parameters.posonlyargs, *parameters.args, *parameters.kwonlyargs]})
        for statement in body:
            self.visit(statement)
        self.functions -= 1
        self.known.pop()

    def deleted(self, node: ast.stmt) -> None:
        """Leaves out what a function can do without: a call, a change of what it has, an error."""
        call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        leaves = isinstance(node, (ast.AugAssign, ast.Raise, ast.Continue, ast.Break))
        if self.functions and (call or leaves or self.known_before(node)):
            self.change("statement", node, "pass")

    def known_before(self, node: ast.stmt) -> bool:
        """Whether it gives another value to what has one: an attribute, an element, or a name."""
        targets = node.targets if isinstance(node, ast.Assign) else []
        parts = [part for target in targets for part in getattr(target, "elts", [target])]
        names = [part.id for part in parts if isinstance(part, ast.Name)]
        others = all(isinstance(part, (ast.Name, ast.Attribute, ast.Subscript)) for part in parts)
        return bool(parts) and others and self.known[-1].issuperset(names)

    def of_BinOp(self, node: ast.BinOp) -> None:
        if not any(isinstance(side, ast.Constant) and side.value is None for side in (node.left, node.right)):
            self.between("operator", node.left, node.right, OPERATORS)

    def of_AugAssign(self, node: ast.AugAssign) -> None:
        self.between("operator", node.target, node.value, OPERATORS)

    def of_Compare(self, node: ast.Compare) -> None:
        for left, right in itertools.pairwise([node.left, *node.comparators]):
            self.between("comparison", left, right, COMPARISONS)

    def of_BoolOp(self, node: ast.BoolOp) -> None:
        for left, right in itertools.pairwise(node.values):
            self.between("condition", left, right, CONDITIONS)

    def negated(self, node: ast.AST) -> None:
        self.change("condition", node, f"(not ({self.source(node)}))")

    def of_If(self, node: ast.If | ast.While | ast.IfExp) -> None:
        self.negated(node.test)

    of_While = of_IfExp = of_If

    def of_comprehension(self, node: ast.comprehension) -> None:
        for condition in node.ifs:
            self.negated(condition)

    def of_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value and not self.functions:
            for new in _constants(node.value):
                self.change("default", node.value, new)

    def of_Constant(self, node: ast.Constant) -> None:
        if not (isinstance(self.statement, ast.AnnAssign) and self.statement.value is node and not self.functions):
            for new in _constants(node):
                self.change("constant", node, new)

    def of_UnaryOp(self, node: ast.UnaryOp) -> None:
        if _negative(node):
            for new in others(-node.operand.value):
                self.change("constant", node, new)

    def of_Call(self, node: ast.Call) -> None:
        for first, second in itertools.pairwise(node.args):
            one, other = self.source(first), self.source(second)
            if one != other and not any(isinstance(x, (ast.Starred, ast.GeneratorExp)) for x in (first, second)):
                gap = self.content[self.end(first) : self.begin(second)].decode()
                if gap.strip() == ",":
                    new = f"{other}{gap}{one}"
                    self.add("argument", self.begin(first), self.end(second), new)
        for keyword in node.keywords:
            if keyword.arg in self.optional:
                self.dropped(keyword)
        if isinstance(node.func, ast.Attribute) and METHODS.fullmatch(node.func.attr):
            if isinstance(node.func.value, ast.Name) and node.func.value.id in ("tl", "torch", "math", "F"):
                return
            name = self.end(node.func) - len(node.func.attr)
            self.add("method", self.content.rfind(b".", 0, name), self.end(node), "")

    def dropped(self, keyword: ast.keyword) -> None:
        """Without the comma before it, or behind it if it is the first."""
        begin, end = self.begin(keyword), self.end(keyword)
        if before := re.search(rb",\s*$", self.content[:begin]):
            begin = before.start()
        elif behind := re.match(rb",\s*", self.content[end:]):
            end += behind.end()
        self.add("argument", begin, end, "")


def _constants(node: ast.AST) -> list[str]:
    if not isinstance(node, ast.Constant) or not isinstance(node.value, (bool, int, float)):
        return []
    return [repr(not node.value)] if isinstance(node.value, bool) else others(node.value)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _negative(node: ast.AST) -> bool:
    """Whether it is a number with a minus."""
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and bool(_constants(node.operand))


def _by_import(node: ast.AST) -> bool:
    """Whether it asks how the module came to be read."""
    return isinstance(node, ast.If) and any(name in ast.unparse(node.test) for name in ("TYPE_CHECKING", "__name__"))


def parses(text: str) -> bool:
    try:
        compile(text, "", "exec")
    except (SyntaxError, ValueError):
        return False
    return True


def python_mutants(root: Path, folders: Iterable[str], only: str = "") -> list[Mutant]:
    """All mutants of the Python files in these folders of the tree whose paths have a certain part."""
    texts = {
        str(p.relative_to(root)): p.read_text() for folder in folders for p in sorted((root / folder).rglob("*.py"))
    }
    optional = optional_keywords(texts.values())
    return [one for path, text in texts.items() if only in path for one in Places(path, text, optional).found]
