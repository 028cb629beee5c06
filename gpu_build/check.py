"""On a machine with a GPU, nvcc and a torch for CUDA: build for that GPU, run the tests that need one and the
benchmarks, and look for stray accesses and races. All output goes to one report; the exit status is 1 if a step
failed."""

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

SECONDS = 540  # for all steps, since such machines are lent for ten minutes
SANITIZERS = ("memcheck", "racecheck", "synccheck")
# Allocates each tensor by itself, so that the sanitizer notices accesses beyond its end.
UNCACHED = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}


@dataclass(frozen=True)
class Step:
    name: str
    command: Sequence[str]
    environment: dict[str, str] = field(default_factory=dict)  # variables to add to the environment
    least: int = 5  # seconds that earlier steps must leave for this one


def steps(architecture: str, results: Path) -> list[Step]:
    python, parallel = sys.executable, ["-n", "8"] if importlib.util.find_spec("xdist") else []
    build = [python, "setup.py", "-q", "build_ext", "--inplace"]
    benchmarks = [python, "-m", "benchmarks", "--device", "cuda", "--without", "compiled", "--out", str(results)]
    sanitizer = ["compute-sanitizer", "--error-exitcode", "9", "--tool"]
    tests = [python, "-m", "pytest", "-m", "gpu", *parallel]
    return [
        Step("build", build, {"BFN_CUDA_ARCHITECTURES": architecture}),
        Step("backends", [python, "-m", "bfn_kernels.env"]),
        Step("card", ["nvidia-smi"]),
        *(
            Step(f"tests of {backend}", [*tests, "tests/gpu", "-k", backend], least=90)
            for backend in ("cuda", "triton")
        ),
        Step("benchmarks", benchmarks, least=150),
        Step("tests of models", [*tests, "tests/gpu/test_models.py"], least=15),
        *(
            Step(tool, [*sanitizer, tool, python, "-m", "gpu_build.sanitized"], UNCACHED, least=20)
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
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # the step and its children
            process.wait()
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
        state, good = carry_out(step, log, max(step.least, ends - time.monotonic() - reserved))
        well.append(good)
        summary.append(f"{step.name}: {state}")
        print(summary[-1], flush=True)
        report.write_text("\n".join(summary) + "\n" + log.read_text())
    log.unlink()
    print(f"report: {report}")
    return 0 if all(well) else 1


def main() -> int:
    if not torch.cuda.is_available():
        print(f"error: torch {torch.__version__} sees no GPU", file=sys.stderr)
        return 2
    card = torch.cuda.get_device_name().replace(" ", "-")
    architecture = "{}{}".format(*torch.cuda.get_device_capability())
    folder = Path("benchmarks", "results", f"{datetime.now():%Y-%m-%d-%H%M%S}-{card}")
    folder.mkdir(parents=True)
    return run(steps(architecture, folder), folder / "report.txt")


if __name__ == "__main__":
    sys.exit(main())
