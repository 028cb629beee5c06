"""What `import bfn_kernels` costs a process that has torch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bfn_kernels.torch_private import constant

IMPORT = """
import sys, torch
before = set(sys.modules)
import bfn_kernels
print(*sorted(set(sys.modules) - before))
"""
# The compiler takes ten times as long to import as this package does, and 170 MiB.
HEAVY = {"mpmath", "numpy", "sympy", "torch._dynamo", "torch._functorch", "torch._inductor", "triton"}


def test_importing_the_package_imports_no_compiler():
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True)
    imported = done.stdout.split()
    assert "bfn_kernels.backends" in imported and not HEAVY & set(imported)


WITHOUT_NUMPY = """
import importlib.abc, sys, warnings

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "numpy":
            raise ModuleNotFoundError("No module named 'numpy'", name="numpy")

sys.meta_path.insert(0, Blocked())
from bfn_kernels import continuous, discrete
import torch
x = torch.zeros(2, 3)
continuous.flow_sample(x, 0.5, sigma_1=0.1, seed=1)
discrete.theta(x)
try:
    x.numpy()
except RuntimeError as error:
    print(error)
warnings.warn("Failed to initialize NumPy: _ARRAY_API not found")
"""


def test_without_numpy_nothing_is_said_of_it():
    """torch needs NumPy for a few functions only, and none of them is called. A NumPy that does not load is told of."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONWARNINGS"}  # it may hide warnings
    done = subprocess.run([sys.executable, "-c", WITHOUT_NUMPY], capture_output=True, text=True, env=environment)
    assert done.stdout == "Numpy is not available\n"
    assert "No module named" not in done.stderr and "_ARRAY_API not found" in done.stderr, done.stderr


def test_what_is_constant_in_compiled_code_is_marked_as_by_torch():
    ours, torchs = constant(lambda: 1), torch.compiler.assume_constant_result(lambda: 1)
    assert vars(ours) == vars(torchs) and vars(ours)


COLLECT = """
import sys, pytest
from bfn_kernels import backends

def refuse(*arguments):
    raise RuntimeError("an op was called")

backends.library = refuse
status = pytest.main(["--collect-only", "-qq", "tests/kernels"])
print(int(status), {"torch._dynamo", "torch._inductor"} & set(sys.modules))
"""


@pytest.mark.slow
def test_collecting_tests_calls_no_op():
    """A new op has a name in every table before it has kernels, and the tests of another start at once."""
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    command = [sys.executable, "-c", COLLECT]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment)
    assert done.stdout.splitlines()[-1:] == ["0 set()"], done.stdout[-3000:] + done.stderr
