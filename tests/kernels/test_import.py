"""What `import bfn_kernels` costs a process that has torch."""

import subprocess
import sys

import torch

from bfn_kernels.operators import constant

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


def test_what_is_constant_in_compiled_code_is_marked_as_by_torch():
    ours, torchs = constant(lambda: 1), torch.compiler.assume_constant_result(lambda: 1)
    assert vars(ours) == vars(torchs) and vars(ours)
