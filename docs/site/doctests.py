"""For mkdocstrings: the examples of a docstring become a block of code."""

import re

import griffe


def fenced(text: str) -> str:
    """Puts each paragraph that begins with a prompt into a block."""
    parts = re.split(r"\n{2,}", text)
    return "\n\n".join(f"```pycon\n{part}\n```" if part.startswith(">>> ") else part for part in parts)


class Doctests(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)
