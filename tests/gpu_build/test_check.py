"""`make gpu-check` with steps of its tests' own: what its report says, and its exit status."""

import dataclasses
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bfn_kernels import backends
from bfn_kernels.backends import BACKENDS
from gpu_build import check, sanitizer_calls
from gpu_build.check import Step

ROOT = Path(__file__).resolve().parents[2]


def python(name: str, code: str, **more) -> Step:
    return Step(name, [sys.executable, "-c", code], **more)


GOOD = python("good", "import os; print('all', 'is', os.environ['STATE'])", environment={"STATE": "well"})
BAD = python("bad", "import sys; print('half'); print('wrong', file=sys.stderr); sys.exit(3)")
ABSENT = Step("absent", ["no-such-tool"])


def test_what_fails_does_not_keep_others_from_running(tmp_path, capsys):
    report = tmp_path / "card" / "report.txt"
    report.parent.mkdir()
    assert check.run([BAD, ABSENT, GOOD], report) == 1
    said, text = capsys.readouterr().out.splitlines(), report.read_text()
    begun, ended = said[:6:2], said[1:6:2]
    assert [line.partition(", at most ")[0] for line in begun] == ["bad", "absent", "good"]
    states = [line.rsplit(", ", 1)[0] for line in ended]
    assert states == ["bad: FAILED: exit status 3", "absent: left out: there is no no-such-tool", "good: ok"]
    assert said[6] == f"report: {report}"
    head, *parts = text.split("\n== ")
    assert head.startswith("gpu-check of ") and "card" in head
    assert head.splitlines()[1:4] == ended
    assert parts[0].startswith("bad\n$ ") and "half" in parts[0] and "wrong" in parts[0]
    assert parts[1].startswith("good\n$ ") and "all is well" in parts[1]
    assert list(report.parent.iterdir()) == [report]


def test_all_well(tmp_path):
    assert check.run([GOOD, ABSENT], tmp_path / "report.txt") == 0


def test_a_step_that_takes_too_long_is_stopped_with_its_children(tmp_path):
    """The later steps keep the time that is reserved for them."""
    child = f"import subprocess; subprocess.run([{sys.executable!r}, '-c', 'import time; time.sleep(77.25)'])"
    slow = python("slow", f"print('begun', flush=True); {child}", least=0)
    began = time.monotonic()
    assert check.run([slow, python("after", "print('ran')", least=60)], tmp_path / "report.txt", seconds=63) == 1
    assert time.monotonic() - began < 60
    text = (tmp_path / "report.txt").read_text()
    assert "slow: FAILED: stopped after 3 s" in text and "begun" in text
    assert "after: ok" in text and "ran" in text
    left = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True).stdout
    assert "time.sleep(77.25)" not in left.replace(child, "")


INTERRUPTED = """
import signal, sys
import torch
from gpu_build import check
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background processes ignore Ctrl-C
torch.cuda.is_available, torch.cuda.get_device_name = lambda: True, lambda: "card"
torch.cuda.get_device_capability = lambda: (9, 0)
code = "import os, signal, time; os.kill(os.getppid(), signal.{signal}); time.sleep({seconds})"
check.steps = lambda *arguments, **options: [check.Step("one", [sys.executable, "-c", code])]
check.main([])
"""


@pytest.mark.parametrize(("signal", "seconds"), [("SIGINT", 77.375), ("SIGTERM", 77.5)])
def test_an_interrupted_check_stops_its_step(signal, seconds, tmp_path):
    code = INTERRUPTED.format(signal=signal, seconds=seconds)
    began, environment = time.monotonic(), os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode != 0 and time.monotonic() - began < 60
    left = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True).stdout
    assert f"time.sleep({seconds})" not in left


def test_output_that_ends_within_a_character(tmp_path):
    cut = python("cut", r"import sys; sys.stdout.buffer.write(b'caf\xc3')")
    assert check.run([cut], tmp_path / "report.txt") == 0
    assert "caf" in (tmp_path / "report.txt").read_text()


def test_steps_for_a_card(tmp_path, monkeypatch):
    planned = {step.name: step for step in check.steps("90", tmp_path, nvcc=True)}
    assert sum(step.least for step in planned.values()) < check.SECONDS - 60 < 540
    assert planned["build"].environment == {"BFN_CUDA_ARCHITECTURES": "90"}
    names = list(planned)
    assert names.index("tests of triton") < names.index("benchmarks") < names.index("memcheck")
    assert planned["benchmarks"].command[1:5] == ["-m", "benchmarks", "--device", "cuda"]
    monkeypatch.setitem(BACKENDS, "cuda", dataclasses.replace(BACKENDS["cuda"], missing="no nvcc"))
    without = {step.name for step in check.steps("90", tmp_path, nvcc=False)}
    assert {*planned} - without == {"build", "tests of cuda"}
    quick = check.steps("90", tmp_path, nvcc=True, quick=True)
    assert [step.name for step in quick] == ["backends", "card", "tests of triton", "benchmarks"]
    assert sum(step.least for step in quick) < check.QUICK_SECONDS
    assert "cuda" in quick[-1].command[-1]  # is left out


# The packages of the machines that are lent with a GPU for some minutes, which have no registry.
LENT = {
    "accelerate", "hypothesis", "matplotlib", "ninja", "numpy", "pillow", "pytest", "pytest-benchmark", "pytest-xdist",
    "rich", "safetensors", "scikit-learn", "setuptools", "torch", "triton", "typer", "wheel",
}  # fmt: skip
WITHOUT = """
import runpy, sys, traceback
for name in {absent}:
    sys.modules[name] = None  # importing it is an ImportError
status = 0
for sys.argv in {commands}:
    try:
        runpy.run_module(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        status = status or ended.code
    except Exception:
        traceback.print_exc()
        status = status or 1
sys.exit(status)
"""


def absent_there() -> list[str]:
    """The modules of the packages that we name and such a machine lacks."""
    named = re.findall('^    "([a-z0-9-]+)', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    return sorted(name.replace("-", "_") for name in {*named} - LENT)


def on_lent_machine(*commands: list[str]) -> subprocess.CompletedProcess:
    """Runs the modules one after the other in one process, each with its arguments."""
    code = WITHOUT.format(absent=absent_there(), commands=[*commands])
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_a_lent_machine_has_all_that_the_check_needs():
    assert "omegaconf" in absent_there()
    collected = on_lent_machine(["pytest", "--collect-only", "-rs", "tests/gpu"])
    assert collected.returncode == 0, collected.stdout + collected.stderr
    assert {"tests/gpu/test_gpu.py", "tests/gpu/test_table.py"} == {
        line.split(":")[0] for line in collected.stdout.splitlines() if line.startswith("tests/gpu/")
    }
    assert "omegaconf is not installed" in collected.stdout
    made = on_lent_machine(
        ["benchmarks", "--help"], ["gpu_build.sanitizer_calls"], ["bfn_kernels.env"], ["gpu_build.check"]
    )
    assert "ModuleNotFoundError" not in made.stderr, made.stderr
    assert "usage: " in made.stdout and "sees no GPU" in made.stderr


def test_without_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert check.main([]) == 2
    assert "sees no GPU" in capsys.readouterr().err


@pytest.mark.skipif(BACKENDS["cpu"].missing is not None, reason="the reference takes long")
def test_what_is_sanitized_runs(monkeypatch):
    """Every call must name its backend, since otherwise the best one would serve all calls."""
    asked, choose = set(), backends.choose
    monkeypatch.setattr(backends, "choose", lambda name, *where: asked.add(name) or choose(name, *where))
    sanitizer_calls.main("cpu")
    assert asked == {
        backend.name for backend in BACKENDS.values() if backend.missing is None and backend.device == "cpu"
    }


def test_every_backend_of_a_gpu_is_sanitized(monkeypatch):
    for name in ("triton", "cuda"):
        monkeypatch.setitem(BACKENDS, name, dataclasses.replace(BACKENDS[name], missing=None))
    called = []
    monkeypatch.setattr(sanitizer_calls, "_call", lambda device, backend: called.append((device, backend)))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: called.append("waited for"))
    sanitizer_calls.main()
    assert called == [("cuda", "triton"), ("cuda", "cuda"), "waited for"]
