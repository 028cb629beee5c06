"""Code for all folders of tests: it finds the compiled backends that only tests use."""

import getpass
import importlib
import os
import tempfile
from pathlib import Path

import pytest
import torch

from bfn_kernels.backends import BACKENDS
from tests.cuda_on_host import cuda_on_host

# Inductor's cache of compiled code does not distinguish the vector instructions that ATEN_CPU_CAPABILITY allows. With
# one cache for all, a process could run code that was compiled for other instructions.
_CACHE = f"torchinductor_{getpass.getuser()}_{torch.backends.cpu.get_cpu_capability()}".replace(" ", "_")
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir(), _CACHE)))


def pytest_configure(config):
    """BFN_PTX=cuda or triton asks for tests of what is compiled for a GPU, which needs the compiler."""
    compiler = os.environ.get("BFN_PTX")
    if compiler and (missing := importlib.import_module(f"tests.ptx.{compiler}_ptx").missing()):
        pytest.exit(f"skipped: {missing}", 0)


def pytest_runtest_setup(item):
    """Loads the build of CUDA's kernels for the host before the first test that may call it. Compiling it takes minutes
    after a change, and most faults of tests/mutants are found by the test of an earlier backend."""
    backend = getattr(item, "callspec", None) and item.callspec.params.get("backend")
    if "cuda_on_host" in BACKENDS and backend in (None, "cuda_on_host"):
        cuda_on_host.load()
