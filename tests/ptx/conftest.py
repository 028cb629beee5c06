"""Skips the tests if there is no compiler for the interpreter."""

import pytest

from tests.ptx import ptx


def pytest_runtest_setup(item):
    if why := ptx.missing():
        pytest.skip(why)
