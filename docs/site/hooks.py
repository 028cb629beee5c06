"""What mkdocs does beside its plugins: pages whose text lies elsewhere in the repository, formulas without scripts."""

import html
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files, config):
    """Adds the pages of files outside this folder, with links as they must be from here."""
    for page, source in ELSEWHERE.items():
        text = (ROOT / source).read_text().replace("](docs/", "](")
        for other, name in ELSEWHERE.items():
            text = text.replace(f"]({name})", f"]({other})")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Lets pages of this folder link to those files too."""
    for other, name in ELSEWHERE.items():
        markdown = markdown.replace(f"](../{name})", f"]({other})").replace(f"](../../{name})", f"](../{other})")
    return markdown


def on_page_content(content, page, config, files):
    """Makes MathML of every formula."""
    return FORMULA.sub(
        lambda found: convert(html.unescape(found[2]), display="block" if found[1] == "div" else "inline"), content
    )
