"""The builds of the CPU kernels for other processors, and a package without any."""

import dataclasses
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bfn_kernels import backends, discrete, discretised, env

CAPABILITY = {"_cpu_avx512": "avx512", "_cpu_avx2": "avx2", "_cpu_generic": "default"}


def compute(backend: str) -> list:
    """The build that is loaded, and results of calls."""
    x = torch.linspace(-1, 1, 3 * 37).reshape(3, 37)
    s, of = x.flip(1).clone().requires_grad_(), {"backend": backend}
    loss = discretised.discrete_time_loss(x, x, s - 2, x, step=4, sigma_1=0.03, num_bins=17, n_steps=9, **of)
    loss.backward()
    flow = discrete.flow_sample((x > 0).long(), 0.5, num_classes=5, beta_1=1.0, seed=4, **of)
    return [backends.CPU_BUILD, loss.detach(), s.grad, flow]


COMPUTE = f"""
import sys, torch
from bfn_kernels import backends, discrete, discretised

{inspect.getsource(compute)}
torch.save(compute(sys.argv[1]), sys.argv[2])
"""


def computed(path: Path, backend: str, before: str = "", after: str = "", **environment) -> tuple[list, str]:
    """Results of another process, and what it printed."""
    command = [sys.executable, "-c", before + COMPUTE + after, backend, str(path)]
    done = subprocess.run(command, check=True, env=os.environ | environment, stdout=subprocess.PIPE, text=True)
    return torch.load(path), done.stdout


@pytest.mark.skipif(backends.CPU_BUILD is None, reason="no extension was built")
@pytest.mark.parametrize("build", CAPABILITY)
def test_builds_agree(build, tmp_path):
    best = ["_cpu_generic", "_cpu_avx2", "_cpu_avx512"]
    if best.index(build) > best.index(backends.CPU_BUILD):
        pytest.skip("this processor lacks the instructions")
    if build == backends.CPU_BUILD:
        loaded, *values = compute("cpu")
    else:
        (loaded, *values), _ = computed(tmp_path / "build", "cpu", ATEN_CPU_CAPABILITY=CAPABILITY[build])
    assert loaded == build
    for value, want in zip(values, compute("reference")[1:], strict=True):
        torch.testing.assert_close(value, want, rtol=2e-5, atol=1e-5)


ASK = """
try:
    compute("cpu")
except RuntimeError as error:
    print(error)
"""


def test_without_an_extension_the_reference_serves(tmp_path):
    hide = "import sys; sys.modules.update({'bfn_kernels.' + n: None for n in " + repr(list(CAPABILITY)) + "})\n"
    (loaded, *_), printed = computed(tmp_path / "hidden", "reference", hide, ASK)
    assert loaded is None
    assert printed.startswith("backend 'cpu' is not available") and "pip install --no-build-isolation" in printed


LOAD_CUDA = """
import sys, torch
torch.version.cuda = None
from bfn_kernels import backends, env
print(backends.__file__, backends.BACKENDS["cuda"].missing, sep="\\n")
torch.version.cuda = "13.0"
print(backends._missing_cuda())
try:
    backends._load_cuda()
except RuntimeError as error:
    print(error)
"""


@pytest.mark.skipif(backends.CPU_BUILD is None, reason="no extension was built")
def test_cuda_kernels_that_cannot_be_loaded(tmp_path):
    """A wheel carries them to everybody: it is said why they are not there, without CUDA in torch, or do not load."""
    package = tmp_path / "bfn_kernels"
    package.mkdir()
    for path in Path(backends.__file__).parent.iterdir():
        if not path.name.startswith("_cuda"):
            (package / path.name).symlink_to(path)
    (package / "_cuda.abi3.so").write_text("no library")
    done = subprocess.run([sys.executable, "-c", LOAD_CUDA], capture_output=True, text=True, cwd=tmp_path)
    used, missing, missing_with_cuda, error = done.stdout.splitlines()
    assert used.startswith(str(tmp_path)), done.stderr
    assert missing == f"torch {torch.__version__} was built without CUDA" and missing_with_cuda == "None"
    assert error.startswith(f"the compiled extension _cuda does not load with torch {torch.__version__}: ")


def test_env_says_what_serves_and_what_is_missing(monkeypatch, capsys):
    for cpu, serves in ((None, "cpu"), ("gone", "reference, which is slow: no compiled backend is available")):
        monkeypatch.setitem(backends.BACKENDS, "cpu", dataclasses.replace(backends.BACKENDS["cpu"], missing=cpu))
        env.main()
        lines = capsys.readouterr().out.splitlines()
        assert f"calls       on cpu tensors are served by {serves}" in lines
        assert ("cpu         not available: gone" in lines) == (cpu == "gone")
        assert lines[-1].startswith("to build    C++ ")
        calls = ["calls"] * (1 + torch.cuda.is_available())
        names = ["bfn_kernels", "folder", "processor", *backends.BACKENDS, *calls, "to build"]
        assert all(line.startswith(f"{name} ") for line, name in zip(lines, names, strict=True)), lines
