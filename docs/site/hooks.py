"""Hooks of mkdocs: they add pages whose text is elsewhere in the repository, and turn formulas into MathML."""

import html
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
SOURCE = re.compile(r"\[([\w/.]+)\]\(\.\./\.\./bfn_kernels[\w/.]*\)")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files, config):
    """Adds pages for the files of ELSEWHERE, and changes their links to be relative to this folder."""
    for page, source in ELSEWHERE.items():
        text = (ROOT / source).read_text().replace("](docs/", "](")
        for other, name in ELSEWHERE.items():
            text = text.replace(f"]({name})", f"]({other})")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Changes links to the files of ELSEWHERE into links to their pages, and links to source files into their names."""
    for other, name in ELSEWHERE.items():
        markdown = markdown.replace(f"](../{name})", f"]({other})").replace(f"](../../{name})", f"](../{other})")
    return SOURCE.sub(r"`\1`", markdown)


def on_page_content(content, page, config, files):
    """Turns every formula into MathML."""
    return FORMULA.sub(
        lambda found: convert(html.unescape(found[2]), display="block" if found[1] == "div" else "inline"), content
    )
