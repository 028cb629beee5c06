"""An extension that was compiled from other sources than the Python files next to it. An error says what differs, and
no operator is called with arguments that it would misread."""

import subprocess
import sys
import types

import pytest
import torch

from bfn_kernels import backends

pytestmark = pytest.mark.skipif(backends.CPU_BUILD is None, reason="no extension was built")

# argv: the extension and its file, what is replaced by what in the declarations, and in what the extension says.
CHANGED = """
import importlib.util, sys, torch, types
from dataclasses import replace
name, path, old, new, compiled_old, compiled_new = sys.argv[1:]
spec = importlib.util.spec_from_file_location("bfn_kernels." + name, path)
real = importlib.util.module_from_spec(spec)
told_by_the_build = real.signatures().replace(compiled_old, compiled_new)
assert not compiled_old or told_by_the_build != real.signatures()
extension = types.SimpleNamespace(refusal=real.refusal, signatures=lambda: told_by_the_build)
sys.modules["bfn_kernels." + name] = extension

define = torch.library.Library.define
torch.library.Library.define = lambda library, schema, *arguments, **keywords: define(
    library, schema.replace(old, new) if old else schema, *arguments, **keywords
)
from bfn_kernels import backends, continuous, discrete, env
"""
CALLS = """
print(env.state(backends.BACKENDS["cpu"]))
state = torch.zeros(1, 2)
assert discrete.theta(state, backend="reference").tolist() == [[0.5, 0.5]]
assert continuous.bayesian_update(state, 1.0, state + 1, 1.0, backend="cpu")[0].tolist() == [[0.5, 0.5]]
try:
    discrete.theta(state)
except RuntimeError as error:
    print(error)
"""
LOADS_CUDA = """
sys.modules["bfn_kernels._cuda"] = extension
torch.cuda.is_available = lambda: True
print(env.state(replace(backends.BACKENDS["cuda"], missing=None)))
try:
    backends._load_cuda()
except RuntimeError as error:
    print(error)
"""
LACKS = ("", "", "discrete_theta(Tensor) -> (Tensor)\n", ""), "it has no operator discrete_theta"
OTHER = (
    ("discrete_theta(Tensor logits)", "discrete_theta(Tensor logits, float power=1.0)", "", ""),
    "its discrete_theta is (Tensor) -> (Tensor), where (Tensor, float) -> (Tensor) is declared",
)


def said_by(code: str, changes: tuple[str, ...]) -> list[str]:
    path = sys.modules[f"bfn_kernels.{backends.CPU_BUILD}"].__file__
    command = [sys.executable, "-c", CHANGED + code, backends.CPU_BUILD, path, *changes]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(("changes", "differs"), [LACKS, OTHER], ids=["lacks", "other"])
def test_a_call_env_and_the_load_of_cuda_say_what_differs(changes, differs):
    """The other operators of a CPU can be called, as while one is being written. CUDA's kernels are refused as a whole,
    where they are loaded."""
    whys = [
        f"the compiled extension {name} was built from other sources: {differs}; rebuild: make install"
        for name in (backends.CPU_BUILD, "_cuda")
    ]
    said = said_by(CALLS + LOADS_CUDA, changes)
    assert said == [f"incomplete: {whys[0]}", whys[0], f"not available: {whys[1]}", whys[1]]


def test_an_extension_that_says_nothing_is_of_other_sources(monkeypatch):
    monkeypatch.setitem(sys.modules, f"bfn_kernels.{backends.builds()[-1]}", torch)
    monkeypatch.setattr(backends, "builds", lambda: ("_cpu_generic",))
    name, why, _ = backends._load_cpu()
    assert name is None and why.startswith("the compiled extension _cpu_generic was built from other sources: ")
    assert why.endswith("; rebuild: make install")


def test_errors_of_a_refused_extension_are_not_read(monkeypatch):
    """Each call tries to load the CUDA kernels again. Each call once added the refused extension to REFUSALS."""
    stale = types.SimpleNamespace(refusal=lambda: (0, ""), signatures=lambda: "")
    monkeypatch.setitem(sys.modules, "bfn_kernels._cuda", stale)
    before = list(backends.REFUSALS)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="_cuda was built from other sources: it has no operator"):
            backends._load_cuda()
    assert before == backends.REFUSALS


def test_every_operator_is_compiled_as_it_is_declared():
    assert backends.LIBRARIES[backends.BACKENDS["cpu"].library].refused == []
