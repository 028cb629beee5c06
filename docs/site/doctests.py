"""An extension of mkdocstrings: examples in docstrings become code blocks, and pages list a package's functions."""

import ast
import re

import griffe


def fenced(text: str) -> str:
    """Puts each paragraph that begins with a prompt into a code block with the prompt's indentation."""
    return re.sub(r"^( *)>>> (?:.+\n)*.+", r"\1```pycon\n\g<0>\n\1```", text, flags=re.MULTILINE)


def listed(text: str) -> list[str]:
    """The names in `__all__` of a module."""
    assigned = (each for each in ast.parse(text).body if isinstance(each, ast.Assign))
    return next(ast.literal_eval(each.value) for each in assigned if each.targets[0].id == "__all__")


class Doctests(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)

    def on_module_members(self, *, node: ast.Module, mod: griffe.Module, **_) -> None:
        """Sets a package's exports: the functions that it defines, and the names that it imports by `*` or as
        themselves (`from module import name as name`)."""
        mod.exports = None
        if not mod.is_init_module:
            return
        mod.exports = [each.name for each in node.body if isinstance(each, ast.FunctionDef)]
        for each in (each for each in node.body if isinstance(each, ast.ImportFrom)):
            if each.names[0].name == "*":
                mod.exports += listed(mod.filepath.with_name(f"{each.module.rpartition('.')[2]}.py").read_text())
            mod.exports += [a.name for a in each.names if a.name == a.asname]
