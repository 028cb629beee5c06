"""The CUDA kernels: setup.py compiles them, and a warning is an error. ptxas reports what each kernel uses."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from gpu_build import sass
from gpu_build.table import Kernel

STRICT = [
    "-Xptxas", "-v,-warn-spills,-warn-lmem-usage,-Werror", "-Werror", "all-warnings", "-Xcompiler",
    "-Wall,-Wextra,-Werror", "--keep", "--keep-dir",
]  # fmt: skip


def build(architectures: Sequence[int], folder: Path) -> None:
    """Builds the extension `_cuda` in the folder, and keeps the intermediate files and the output of nvcc there."""
    nvcc = sass.find_tool("nvcc")
    if nvcc is None:
        raise RuntimeError("there is no nvcc; `make install` installs it")
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(folder), "--build-temp", str(folder)]
    asked = {
        "BFN_NVCC": nvcc,
        "BFN_BUILDS": "_cuda",
        "BFN_CUDA_ARCHITECTURES": ",".join(map(str, architectures)),
        "NVCC_APPEND_FLAGS": " ".join([*STRICT, str(folder)]),
    }
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | asked)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")


def resources(log: str, architecture: int) -> dict[str, tuple[int, int, int]]:
    """The registers, the bytes of shared memory and the spilled bytes of each kernel."""
    found = {}
    for part in log.split("Compiling entry function '")[1:]:
        name, compiled_for = part.split("'", 3)[:3:2]
        if compiled_for != f"sm_{architecture}":
            continue
        registers = int(re.search(r"Used (\d+) registers", part)[1])
        shared = re.search(r"(\d+) bytes smem", part)
        spills = sum(int(n) for n in re.findall(r"(\d+) bytes spill", part))
        found[name] = registers, int(shared[1]) if shared else 0, spills
    return found


def kernels(architectures: Sequence[int], folder: Path) -> list[Kernel]:
    """For each source file and architecture: the largest numbers of registers, of bytes of shared memory and of spilled
    bytes of any of its kernels."""
    build(architectures, folder)
    found = []
    for source in sorted(Path("csrc/cuda").glob("*.cu")):
        log = (folder / source).with_suffix(f".{'-'.join(map(str, architectures))}.log").read_text()
        for architecture in architectures:
            known = resources(log, architecture).values()
            if known:
                most = (max(numbers) for numbers in zip(*known, strict=True))
                name = f"{source.stem}, the most of {len(known)} kernels"
                found.append(Kernel("cuda", name, f"sm_{architecture}", *most))
    return found
