"""Without a compiler there is no interpreter."""

import pytest

from tests.ptx import ptx


def pytest_runtest_setup(item):
    if why := ptx.missing():
        pytest.skip(why)
