"""For mkdocstrings: the examples of a docstring become a block of code, and a page lists all functions of a package."""

import ast
import re

import griffe


def fenced(text: str) -> str:
    """Puts the lines from a prompt to the next empty line into a block, in a section of their own or outside of one."""
    return re.sub(r"^( *)>>> .*(?:\n *\S.*)*", r"\1```pycon\n\g<0>\n\1```", text, flags=re.MULTILINE)


class Doctests(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)

    def on_module_members(self, *, node: ast.Module, mod: griffe.Module, **_) -> None:
        """A package exports the functions that it defines, and what it imports under its own name from its modules."""
        own = [each.name for each in node.body if isinstance(each, ast.FunctionDef)]
        own += [
            a.name for each in node.body if isinstance(each, ast.ImportFrom) for a in each.names if a.name == a.asname
        ]
        mod.exports = own if mod.is_init_module else None
