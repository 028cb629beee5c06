"""The Args lines of docstrings have the texts of wordings.txt, as `make format` writes them."""

from collections import Counter
from fnmatch import fnmatchcase

import pytest

from tests.kernels.docstrings import PUBLIC, items, sections
from tests.kernels.wordings import FILES, PACKAGE, TABLE, arguments_in, in_line, row_of, table_of

ITEMS = {path: arguments_in(path, path.read_text()) for path in FILES}
ALL = [item for of_file in ITEMS.values() for item in of_file]
SHARED = 3  # a keyword of so many functions must be in the table

SOURCE = '''
class Module:
    """A module.

    Args:
        seed: Other words.
    """

    def step(self, seed, mean):
        """Takes a step.

        Args:
            seed: Other
                words.
            mean: A text of this function alone, which no row replaces. It is so long that it needs two
                lines `[B, ..., M]`, but it stands in lines that are too short.

        Returns:
            seed: No argument.
        """
'''
WRITTEN = '''
class Module:
    """A module.

    Args:
        seed: An int.
    """

    def step(self, seed, mean):
        """Takes a step.

        Args:
            seed: An int64 tensor.
            mean: A text of this function alone, which no row replaces. It is so long that it needs two lines
                `[B, ..., M]`, but it stands in lines that are too short.

        Returns:
            seed: No argument.
        """
'''


@pytest.mark.parametrize("path", [path for path in FILES if ITEMS[path]], ids=lambda path: "/".join(path.parts[-2:]))
def test_docstrings_have_the_texts_of_the_table(path):
    assert path.read_text() == in_line(path, path.read_text()), "`make format` writes the lines on the right"


def test_a_keyword_that_functions_share_is_in_the_table():
    functions = Counter(item.keyword for item in ALL)
    assert not [keyword for keyword, count in functions.items() if count >= SHARED and keyword not in TABLE]


def test_each_pattern_names_a_function():
    """Of the first row that fits, so that no row is left over."""
    for keyword, rows in TABLE.items():
        served = [(row_of(item, TABLE), item.function) for item in ALL if item.keyword == keyword]
        for row in rows:
            functions = [function for of_function, function in served if of_function is row]
            for pattern in row.patterns:
                assert any(fnmatchcase(each, pattern) for each in functions), f"{keyword}: {pattern} names no function"


def test_a_text_stands_once():
    assert [*TABLE] == sorted(TABLE)
    for keyword, rows in TABLE.items():
        assert len({row.text for row in rows}) == len(rows), f"{keyword} has a text twice"


OWN = [name for name, each in PUBLIC.items() if each.__doc__ and name.endswith(each.__qualname__)]  # not inherited


@pytest.mark.parametrize("name", OWN)
def test_what_users_see_is_read(name):
    """The table knows files, and users know names."""
    read = [item.keyword for item in ALL if item.function == name]
    assert read == items(sections(PUBLIC[name]).get("Args", []))


def test_args_lines_are_written():
    table = table_of("# Comment.\nseed\n  *.step\n    An int64\n    tensor.\n  discrete.*\n    An int.\n")
    path = PACKAGE / "discrete" / "losses.py"
    assert in_line(path, SOURCE, table) == in_line(path, WRITTEN, table) == WRITTEN
    with pytest.raises(ValueError, match=r"must have a row of seed for binary\.Module"):
        in_line(PACKAGE / "binary.py", SOURCE, table)
