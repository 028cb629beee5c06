"""On a machine with a GPU, nvcc and a torch for CUDA: build for that GPU, run the tests that need one, and time. All
that is said is in one report; the exit status is 1 where anything failed."""

import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import torch

PYTHON = sys.executable


def steps(architecture: str) -> list[tuple[str, list[str], dict[str, str]]]:
    """What is run, with what is added to the environment."""
    return [
        ("build", [PYTHON, "setup.py", "-q", "build_ext", "--inplace"], {"BFN_CUDA_ARCHITECTURES": architecture}),
        ("backends", [PYTHON, "-m", "bfn_kernels.env"], {}),
        ("card", ["nvidia-smi"], {}),
        ("tests", [PYTHON, "-m", "pytest", "-m", "gpu", "tests/gpu"], {}),
    ]


def main() -> int:
    if not torch.cuda.is_available():
        print(f"error: torch {torch.__version__} sees no GPU", file=sys.stderr)
        return 2
    card = torch.cuda.get_device_name().replace(" ", "-")
    architecture = "{}{}".format(*torch.cuda.get_device_capability())
    report = Path("runs", "gpu-check", f"{datetime.now():%Y-%m-%d-%H%M%S}-{card}.txt")
    report.parent.mkdir(parents=True, exist_ok=True)
    failed = []
    with open(report, "w") as file:
        for name, command, environment in steps(architecture):
            began = time.monotonic()
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | environment
            )
            state = "ok" if done.returncode == 0 else f"FAILED, exit status {done.returncode}"
            failed += [name] if done.returncode else []
            line = f"{name}: {state}, {time.monotonic() - began:.0f} s"
            file.write(f"== {line}\n$ {' '.join(command)}\n{done.stdout}\n")
            file.flush()
            print(line, flush=True)
    print(f"report: {report}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
