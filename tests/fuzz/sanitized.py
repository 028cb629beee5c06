"""`make sanitize`: the CPU kernels under ASan and UBSan, built into a folder of their own, in the fuzz and in the tests
of the kernels. The first report ends the process that it is about, and with it its test."""

import os
import subprocess
import sys
from pathlib import Path

from bfn_kernels.backends import builds

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "sanitized"
BUILD = builds()[0]
KERNELS = (
    "accuracy", "binary", "bins", "calls", "distributions", "errors", "gradients", "known_values", "layouts",
    "limits", "masked_classes", "mixtures", "modes", "noise", "nonfinite", "out", "pages", "properties",
    "receivers", "rows", "ties", "tiles", "times", "unclipped", "vocabulary", "vocabulary_steps",
)  # fmt: skip
CHOSEN = "not cuda_on_host and not reference and not triton and not memory_does_not_grow"  # ASan keeps what was freed
REPORTS = ("AddressSanitizer", "runtime error:")
OPTIONS = {
    # New memory is full of 0xFF, which is NaN. Python itself leaks. The stack that finds uses after a return is less
    # aligned than AVX-512 code of g++ 12 takes it to be (GCC bug 110027).
    "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:malloc_fill_byte=255:max_malloc_fill_size=1073741824"
    ":detect_stack_use_after_return=0",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    "PYTHONMALLOC": "malloc",
    "OMP_NUM_THREADS": "1",
    "FUZZ_BACKENDS": "cpu",
    "FUZZ_SCALE": "0.2",
}  # fmt: skip


def build() -> None:
    environment = os.environ | {"BFN_SANITIZE": "1", "BFN_BUILDS": BUILD, "BFN_NVCC": "", "PYTHONWARNINGS": "ignore"}
    folders = ["--build-lib", FOLDER, "--build-temp", f"{FOLDER}.objects"]
    command = [sys.executable, "setup.py", "--quiet", "build", *folders]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{done.stdout}{done.stderr}")


def library(name: str) -> str:
    """The path of a library of g++."""
    return subprocess.run(
        ["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()


def main() -> int:
    build()
    preloaded = " ".join(library(name) for name in ("libasan.so", "libubsan.so", "libstdc++.so"))
    tests = [str(ROOT / "tests" / "fuzz"), *(str(ROOT / "tests" / "kernels" / f"test_{name}.py") for name in KERNELS)]
    # from that folder, the package in it is the one that is imported
    command = [sys.executable, "-m", "pytest", "-n", "auto", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]
    # pytest would put the root, and the package there, first
    command += ["-c", str(ROOT / "pyproject.toml"), "-o", "pythonpath=", "-k", CHOSEN, *tests]
    # what is not in the folder, like gpu_build, comes from the root
    environment = os.environ | OPTIONS | {"LD_PRELOAD": preloaded, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=FOLDER, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    print(done.stdout)
    reports = sum(done.stdout.count(words) for words in REPORTS)
    print(
        f"{BUILD} under ASan and UBSan: {reports} reports" + ("" if done.returncode == 0 else "; not all tests passed")
    )
    return 1 if reports else done.returncode


if __name__ == "__main__":
    sys.exit(main())
