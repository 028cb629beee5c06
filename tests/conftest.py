"""BFN_PTX=cuda or triton asks for tests of what is compiled for a GPU, which needs the compiler."""

import importlib
import os

import pytest


def pytest_configure(config):
    compiler = os.environ.get("BFN_PTX")
    if compiler and (missing := importlib.import_module(f"{compiler}_ptx").missing()):
        pytest.exit(f"skipped: {missing}", 0)
