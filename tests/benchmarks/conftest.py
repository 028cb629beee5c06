"""The benchmarks fork the processes in which they measure memory from the same server as tests/bfn."""

import pytest

from benchmarks import memory


@pytest.fixture(autouse=True)
def one_server(monkeypatch):
    """`memory.start_server` starts the server with the modules that tests/bfn/workers.py names. With those of the
    benchmarks, each process of tests/bfn would import torch again. Later tests get no huge pages."""
    monkeypatch.setattr(memory._context, "set_forkserver_preload", lambda modules: None)
    monkeypatch.setenv(memory.HUGE_PAGES, "0")
