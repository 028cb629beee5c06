"""Checks the kernels on a machine with a GPU and a CUDA build of torch.

Builds the kernels for this GPU, runs the tests that need a GPU, times the benchmarks, and runs compute-sanitizer.
Without nvcc, the CUDA kernels are left out unless they are installed. --quick runs only tests of the Triton kernels and
short benchmarks. All output goes to one report. The exit status is 1 if a step failed, and 2 if there is no GPU.
"""

import argparse
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import torch

from bfn_kernels.backends import BACKENDS

SECONDS, QUICK_SECONDS = 540, 120  # for all steps; a GPU is often lent for only ten minutes
SANITIZERS = ("memcheck", "racecheck", "synccheck")
# Allocates each tensor by itself, so that the sanitizer notices accesses beyond its end.
UNCACHED = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}


@dataclass(frozen=True)
class Step:
    name: str
    command: Sequence[str]
    environment: dict[str, str] = field(default_factory=dict)  # variables to add to the environment
    least: int = 5  # seconds that earlier steps must leave for this one


def steps(architecture: str, results: Path, *, nvcc: bool, quick: bool = False) -> list[Step]:
    python, parallel = sys.executable, ["-n", "8"] if importlib.util.find_spec("xdist") else []
    build = [python, "setup.py", "-q", "build_ext", "--inplace"]
    benchmarks = [python, "-m", "benchmarks", "--device", "cuda", "--without", "compiled", "--out", str(results)]
    sanitizer = ["compute-sanitizer", "--error-exitcode", "9", "--tool"]
    tests = [python, "-m", "pytest", "-m", "gpu", *parallel]
    machine = [Step("backends", [python, "-m", "bfn_kernels.env"]), Step("card", ["nvidia-smi"])]
    if quick:
        of_triton = [*tests, "tests/gpu", "-k", "triton and float32"]
        short = [*benchmarks, "--quick", "--without", "cuda"]
        return [*machine, Step("tests of triton", of_triton, least=45), Step("benchmarks", short, least=55)]
    cuda = nvcc or BACKENDS["cuda"].missing is None
    return [
        *([Step("build", build, {"BFN_CUDA_ARCHITECTURES": architecture})] if nvcc else []),
        *machine,
        *(
            Step(f"tests of {backend}", [*tests, "tests/gpu", "-k", backend], least=90)
            for backend in (("cuda", "triton") if cuda else ("triton",))
        ),
        Step("benchmarks", benchmarks, least=150),
        Step("tests of models", [*tests, "tests/gpu/test_models.py"], least=15),
        *(
            Step(tool, [*sanitizer, tool, python, "-m", "gpu_build.sanitizer_calls"], UNCACHED, least=20)
            for tool in SANITIZERS
        ),
    ]


def carry_out(step: Step, log: Path, seconds: float) -> tuple[str, bool]:
    """Runs the step for at most so many seconds, and appends its output to the log. Returns how it ended, and whether
    it succeeded."""
    if shutil.which(step.command[0]) is None:
        return f"left out: there is no {step.command[0]}", True
    began = time.monotonic()
    with open(log, "a") as file:
        file.write(f"\n== {step.name}\n$ {' '.join(step.command)}\n")
        file.flush()
        process = subprocess.Popen(
            step.command,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | step.environment,
            start_new_session=True,
        )
        try:
            status = process.wait(seconds)
        except BaseException as error:  # also if the check itself is interrupted
            os.killpg(process.pid, signal.SIGKILL)  # the step and its children
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return f"FAILED: stopped after {seconds:.0f} s", False
    took = f"{time.monotonic() - began:.0f} s"
    return (f"ok, {took}", True) if status == 0 else (f"FAILED: exit status {status}, {took}", False)


def run(planned: Sequence[Step], report: Path, seconds: float = SECONDS) -> int:
    """Carries out the steps, and returns the exit status."""
    ends, well = time.monotonic() + seconds, []
    summary = [f"gpu-check of {datetime.now():%Y-%m-%d %H:%M:%S}, torch {torch.__version__}, {report.parent.name}"]
    log = report.with_suffix(".log")
    log.write_text("")
    for i, step in enumerate(planned):
        reserved = sum(later.least for later in planned[i + 1 :])
        most = max(step.least, ends - time.monotonic() - reserved)
        print(f"{step.name}, at most {most:.0f} s ...", flush=True)
        state, good = carry_out(step, log, most)
        well.append(good)
        summary.append(f"{step.name}: {state}")
        print(summary[-1], flush=True)
        report.write_text("\n".join(summary) + "\n" + log.read_text(errors="replace"))
    log.unlink()
    print(f"report: {report}")
    return 0 if all(well) else 1


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m gpu_build.check", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two minutes: the Triton kernels, a part of the tests")
    quick, nvcc = parser.parse_args(arguments).quick, shutil.which("nvcc") is not None
    if not torch.cuda.is_available():
        print(f"error: torch {torch.__version__} sees no GPU", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # an exception, so that `carry_out` sees it
    card = torch.cuda.get_device_name().replace(" ", "-")
    architecture = "{}{}".format(*torch.cuda.get_device_capability())
    folder = Path("benchmarks", "results", f"{datetime.now():%Y-%m-%d-%H%M%S}-{card}")
    folder.mkdir(parents=True)
    planned = steps(architecture, folder, nvcc=nvcc, quick=quick)
    return run(planned, folder / "report.txt", QUICK_SECONDS if quick else SECONDS)


if __name__ == "__main__":
    sys.exit(main())
