"""The examples in the docstrings of every public module and in the pages, and what the pages say of files."""

import doctest
import importlib
import importlib.util
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
import torch

import bfn_kernels
from bfn_kernels import nn
from tests.kernels.declared import FAMILIES, OPS, public, public_functions
from tests.kernels.docstrings import API, PUBLIC, arguments, entries, found_at, items, own_names, sections

MODULES = sorted(
    m.name
    for m in pkgutil.walk_packages(bfn_kernels.__path__, "bfn_kernels.")
    if not m.name.rsplit(".", 1)[-1].startswith("_") and "triton" not in m.name
)

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROCESSES = "init_process_group("  # of several processes, as test_sharded.py runs the block
TUTORIAL = ROOT / "docs" / "tutorial.md"  # whose blocks are one program, which tests/bfn/test_tutorial.py runs
OTHERS = ("lightning", "transformers")  # packages that guides are about, and that no extra of this one brings
NETWORK = re.compile(r"#.*\bnetwork\b|\bnetwork\(|\b(?:\w*update_sample|\w*solver_step)\(")  # in code that has one


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[tuple[str, str]]:
    """The language and the text of each block of code."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def excerpt_of(block: str) -> Path | None:
    """The file that a block is an excerpt of, which its first line names in a comment."""
    first = re.match(r"(?:#|//) ([\w/]+\.\w+)\n", block)
    return ROOT / first[1] if first else None


each_page = pytest.mark.parametrize("page", PAGES, ids=name_of)
EXAMPLES = [
    pytest.param(name_of(page), block, id=f"{name_of(page)}-{place}")
    for page in PAGES
    if page != TUTORIAL
    for place, (language, block) in enumerate(blocks(page))
    if language == "python" and excerpt_of(block) is None and PROCESSES not in block
]


@pytest.fixture
def networks_of_examples(monkeypatch):
    """The networks that an example gives to the modules of `nn`."""
    networks = []
    make = nn.BFN.__init__
    monkeypatch.setattr(nn.BFN, "__init__", lambda self, network: (networks.append(network), make(self, network))[1])
    return networks


def without_weights(networks):
    """The networks that a user could not train. Their outputs never require a gradient, so a loop that forgets
    `torch.no_grad()` would run with them and fail with a network of the user's. A part of a joint model has None."""
    there = [network for network in networks if network is not None]
    return [network for network in there if not any(True for _ in getattr(network, "parameters", tuple)())]


@pytest.mark.parametrize(("page", "block"), EXAMPLES)
def test_examples_of_a_page(page, block, networks_of_examples):
    """Each stands by itself. What has a network, or a step of sampling, has one with weights."""
    for other in OTHERS:
        if re.search(rf"^(?:import|from) {other}\b", block, re.MULTILINE) and not importlib.util.find_spec(other):
            pytest.skip(f"{other} is not installed")
    names = {"__name__": Path(page).stem}
    exec(compile(block, page, "exec"), names)
    networks = networks_of_examples + [names[name] for name in ("network",) if name in names]
    assert not without_weights(networks)
    assert networks or not NETWORK.search(block)


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


def emphasised(page: Path) -> list[str]:
    """The words in bold and in italics."""
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(words.split()) for words in re.findall(r"(?<![\w*])\*{1,2}([^*]+?)\*{1,2}(?![\w*])", text)]


def test_the_tutorial_alone_explains_its_words():
    """Emphasis marks the place where a page explains a word."""
    words = {"message", "state", "flow", "accuracy", "sender", "receiver", "L_n", "L∞"}
    words |= {f"{name} distribution" for name in ("input", "output", "sender", "receiver")} | {"reconstruction loss"}
    found = emphasised(TUTORIAL)
    assert sorted(found) == sorted(words | {"bold"})
    for page in PAGES:
        again = {word.lower() for word in emphasised(page)} & {word.lower() for word in words}
        assert page == TUTORIAL or not again, f"{name_of(page)} explains {sorted(again)}, as the tutorial does"


def places(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_links_and_commands_of_a_page(page):
    text = page.read_text()
    for link, place in re.findall(r"\]\((?!http)([\w./-]*)(?:#([\w-]+))?\)", text):
        target = page.parent / link if link else page
        assert target.exists(), link
        assert not place or place in places(target), f"{link}#{place}"
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"(?:^|`)make ([\w-]+)", text, re.MULTILINE):
        assert target in targets, f"make {target}"


def test_every_page_is_in_the_site():
    """The site lists its pages, and no test builds it."""
    listed = set(re.findall(r": ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    pages = {str(page.relative_to(ROOT / "docs")) for page in PAGES if (ROOT / "docs") in page.parents}
    assert listed == pages | {"index.md", "contributing.md", "changelog.md"}


def test_what_the_reference_lists_is_there():
    """Each function that a page of the reference names, of the module that it names."""
    for page in sorted(API.glob("*.md")):
        for name, members in entries(page):
            found = found_at(name)
            for member in members:
                assert hasattr(found, member), f"{page.name}: {name} has no {member}"


@pytest.mark.parametrize("page", sorted(API.glob("*.md")), ids=lambda page: page.stem)
def test_the_reference_lists_names_where_docstrings_are_not_shown(page):
    """The hosting site shows the page as it is, so a sentence before each module names what the site describes. For a
    family, the sentence names the table of ops."""
    text = page.read_text()
    for name, members in entries(page):
        found = found_at(name)
        if name.removeprefix("bfn_kernels.") in FAMILIES:
            assert f"[The table of ops](../ops.md) lists the functions of `{name}`." in text
        elif inspect.ismodule(found):
            said = re.search(rf"^`{name}` has ((?:.+\n)+)\n::: {name}$", text, re.MULTILINE)
            listed = re.findall(r"`(\w+)`", said[1]) if said else []
            wanted = members or own_names(found)
            assert sorted(listed) == sorted(wanted), f"{name_of(page)} must list {', '.join(sorted(wanted))}"
    (source,) = re.findall(r"^The docstrings are in \[([\w/.]+)\]\(../../\1\)\.", text, re.MULTILINE)
    assert (ROOT / source).exists() and "`make docs`" in text


@pytest.mark.parametrize("family", FAMILIES)
def test_the_reference_has_every_family(family):
    page = ROOT / "docs" / "api" / f"{family}.md"
    line = f"::: bfn_kernels.{family}"
    assert page.exists() and line in page.read_text().splitlines(), f"docs/api/{family}.md needs the line `{line}`"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_reference_lists_every_function(family, monkeypatch):
    griffe = pytest.importorskip("griffe", reason="make docs installs griffe")
    monkeypatch.syspath_prepend(ROOT / "docs" / "site")
    # A module that griffe imports, such as a compiled one, would be loaded twice in this process.
    extensions = griffe.load_extensions("doctests")
    found = griffe.load(f"bfn_kernels.{family}", search_paths=[ROOT], extensions=extensions, allow_inspection=False)
    listed = {f"{family}.{name}" for name in found.exports if name[0] != "_" and name.islower()}
    assert listed == {*public_functions(family)}


def test_the_page_of_ops_has_every_op_once():
    """A cell may name several functions of a family."""
    table = re.findall(r"^\| `(\w+)\.(\w+)`((?:, `\w+`)*) \|", (ROOT / "docs" / "ops.md").read_text(), re.MULTILINE)
    listed = [f"{family}.{name}" for family, first, more in table for name in (first, *re.findall(r"\w+", more))]
    assert len(listed) == len(set(listed))
    gone, missing = {*listed} - {*OPS}, {*OPS} - {*listed}
    assert not gone, f"the table in docs/ops.md needs no rows for {sorted(gone)}"
    assert not missing, f"the table in docs/ops.md needs rows for {sorted(missing)}"


def test_the_page_of_arguments_explains_every_shared_keyword():
    """Those that two families have, or more."""
    families = {}
    for op in OPS:
        for each in inspect.signature(public(op)).parameters.values():
            if each.kind == each.KEYWORD_ONLY:
                families.setdefault(each.name, set()).add(op.split(".")[0])
    shared = {name for name, those in families.items() if len(those) > 1}
    _, _, section = (ROOT / "docs" / "arguments.md").read_text().partition("\n## Keywords\n")
    rows = re.findall(r"^\| (`.*?`) \|", section.partition("\n## ")[0], re.MULTILINE)
    explained = set(re.findall(r"(\w+)=", " ".join(rows)))
    assert not shared - explained, f"the keywords in docs/arguments.md need rows for {sorted(shared - explained)}"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_readme_names_every_family(family):
    assert f"\n| `{family}` |" in (ROOT / "README.md").read_text(), f"the table of README.md needs a row for {family}"


class Examples(doctest.DocTestFinder):
    """Finds those of decorated functions too, whose code is another module's."""

    def _from_module(self, module, found):
        return super()._from_module(module, inspect.unwrap(found))


@pytest.mark.parametrize("name", MODULES)
def test_examples(name, networks_of_examples):
    runner = doctest.DocTestRunner()
    for examples in Examples().find(importlib.import_module(name), extraglobs={"torch": torch}):
        runner.run(examples)
    assert runner.failures == 0
    assert not without_weights(networks_of_examples)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_public_function_has_an_example(family):
    for op in public_functions(family):
        function = public(op)
        found = Examples().find(importlib.import_module(function.__module__))
        name = f"{function.__module__}.{function.__name__}"
        assert any(each.examples for each in found if each.name == name), f"the docstring of {op} needs an example"


@pytest.mark.parametrize("name", PUBLIC)
def test_a_docstring_names_every_parameter(name):
    """In the order of the signature, and nothing else."""
    section, names = arguments(PUBLIC[name])
    assert items(sections(PUBLIC[name]).get(section, [])) == names, f"the {section} of {name}"


@pytest.mark.parametrize("name", [name for name, each in PUBLIC.items() if inspect.isfunction(each)])
def test_a_docstring_says_what_is_returned(name):
    """A summary that begins with "Returns" needs no section, as in Google's guide."""
    nothing = inspect.signature(PUBLIC[name]).return_annotation in (None, "None")
    summary = inspect.getdoc(PUBLIC[name]).startswith("Returns ")
    assert nothing or summary or any(sections(PUBLIC[name]).get("Returns", [])), f"{name} needs a section Returns"


@pytest.mark.parametrize("name", [name for name in PUBLIC if name.rpartition(".")[0] not in PUBLIC])
def test_a_docstring_has_an_example(name):
    """The example of a class serves its methods. A class of which no object can be made needs none."""
    unmade = inspect.isabstract(PUBLIC[name]) or getattr(PUBLIC[name], "_is_protocol", False)
    lines = sections(PUBLIC[name]).get("Example", [])
    assert unmade or any(line.startswith(">>> ") for line in lines), f"{name} needs a section Example"


@each_page
def test_what_pip_installs_is_on_an_index_or_in_the_checkout(page):
    """This package is on no index, so a page installs it from its folder or from a wheel."""
    project = (ROOT / "pyproject.toml").read_text()
    for words in re.findall(r"pip install ([^`\n#|…]*)", page.read_text()):
        for name in [word.strip("'") for word in words.split() if word[0] != "-"]:
            assert name.startswith(".") or name.endswith(".whl") or f'"{name}' in project, name


@pytest.mark.parametrize("formulas", ['math[display="block"]', 'math:not([display="block"])'])
def test_wide_formulas_scroll_on_a_phone(formulas):
    """Otherwise they would widen the page. With chromium, no page is wider than 390 pixels."""
    css = (ROOT / "docs" / "style.css").read_text()
    wanted = {"max-width: 100%"} if ":not" in formulas else set()
    (rule,) = re.findall(re.escape(f".md-typeset {formulas} {{") + "([^}]*)}", css)
    assert {"overflow-x: auto", *wanted} <= {part.strip() for part in rule.split(";")}
