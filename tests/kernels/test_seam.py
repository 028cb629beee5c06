"""Between a public function and its operator, arguments have names, and few functions are called."""

import ast
import itertools
import sys
from pathlib import Path

import pytest
import torch

import bfn_kernels
from bfn_kernels import continuous, discrete
from tests.kernels.support import INTERPRETED, NATIVE, PTX

PACKAGE = Path(bfn_kernels.__file__).parent
CALLS = [
    (file.relative_to(PACKAGE), node)
    for file in sorted(PACKAGE.rglob("*.py"))
    for node in ast.walk(ast.parse(file.read_text()))
    if isinstance(node, ast.Call)
]
Z, X, CLASSES = torch.zeros(8, 2, 4), torch.zeros(8, 8), torch.zeros(8, 2, dtype=torch.int64)
# The most Python functions of the package that one call runs, its operators included.
HOPS = {
    "theta": (6, lambda: discrete.theta(Z)),
    "update_sample": (18, lambda: discrete.update_sample(Z, Z, 0.5, seed=1)),
    "loss": (20, lambda: discrete.continuous_time_loss(CLASSES, Z, 0.5, beta_1=3.0)),
    "flow": (16, lambda: continuous.flow_sample(X, 0.5, sigma_1=0.1, seed=1)),
}


def is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def test_no_call_passes_two_nones_side_by_side():
    """Nobody can see which arguments they are."""
    found = []
    for file, call in CALLS:
        given = [*call.args, *(keyword.value for keyword in call.keywords)]
        if any(is_none(a) and is_none(b) for a, b in itertools.pairwise(given)):
            found.append(f"{file}:{call.lineno}: {ast.unparse(call)}")
    assert found == []


def test_no_call_passes_all_its_locals():
    """If a check looks up a variable in `locals()` and the variable is renamed, the check finds nothing and passes."""
    assert [f"{file}:{call.lineno}" for file, call in CALLS if ast.unparse(call.func) == "locals"] == []


@pytest.mark.skipif(INTERPRETED or PTX or "cpu" not in NATIVE, reason="other backends call functions of their own")
@pytest.mark.parametrize("name", HOPS)
def test_few_functions_are_called(name):
    most, call = HOPS[name]
    called = []

    def profile(frame, event, argument):
        if event == "call" and str(PACKAGE) in frame.f_code.co_filename:
            called.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_name}")

    with torch.no_grad():
        call()
        sys.setprofile(profile)
        try:
            call()
        finally:
            sys.setprofile(None)
    assert 2 <= len(called) <= most, called
