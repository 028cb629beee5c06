"""An extension of mkdocstrings: examples in docstrings become code blocks, and pages list a package's functions."""

import ast
import re

import griffe


def fenced(text: str) -> str:
    """Puts each paragraph that begins with a prompt into a code block with the prompt's indentation."""
    return re.sub(r"^( *)>>> (?:.+\n)*.+", r"\1```pycon\n\g<0>\n\1```", text, flags=re.MULTILINE)


class Doctests(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)

    def on_module_members(self, *, node: ast.Module, mod: griffe.Module, **_) -> None:
        """Sets a package's exports: the functions that it defines, and the names that it imports as themselves
        (`from module import name as name`)."""
        own = [each.name for each in node.body if isinstance(each, ast.FunctionDef)]
        own += [
            a.name for each in node.body if isinstance(each, ast.ImportFrom) for a in each.names if a.name == a.asname
        ]
        mod.exports = own if mod.is_init_module else None
