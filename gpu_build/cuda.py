"""The CUDA kernels: compiled by nvcc with warnings as errors, and what ptxas and the disassembly say of them."""

import re
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gpu_build import sass
from gpu_build.table import Kernel

SOURCES = sorted(Path("csrc/cuda").glob("*.cu"))
FLAGS = [
    "-std=c++17", "-O3", "--expt-relaxed-constexpr", "-Xptxas", "-v,-warn-spills,-warn-lmem-usage,-Werror",
    "-Werror", "all-warnings", "-Xcompiler", "-Wall,-Wextra,-Werror", "-cubin",
]  # fmt: skip

# Whose instructions are counted: a part of the mangled name, variables in a round of the loop, bytes of a variable.
# Numbers of rows are shared by many variables and count nothing.
COUNTED = {
    "gaussian_step, with noise, float32": ("gaussian_step_kernelINS_5DenseIffLi4EEELb1", 4, 12),
    "gaussian_step, with noise, bfloat16": ("gaussian_step_kernelINS_5DenseINS_8BFloat16ES3_Li8EEELb1", 8, 6),
    "gaussian_step, float32": ("gaussian_step_kernelINS_5DenseIffLi4EEELb0", 4, 12),
    "gaussian_step, bfloat16": ("gaussian_step_kernelINS_5DenseINS_8BFloat16ES3_Li8EEELb0", 8, 6),
    "predict_data, float32": ("predict_data_kernelINS_5DenseIffLi4EEE", 4, 12),
    "predict_data_backward, float32": ("predict_data_backward_kernelINS_5DenseIffLi4EEE", 4, 20),
    "squared_loss, float32": ("squared_loss_kernelINS_5DenseIffLi4EEE", 4, 12),
    "squared_loss, float32 and bfloat16": ("squared_loss_kernelINS_5DenseIfNS_8BFloat16ELi8EEE", 8, 10),
    "squared_loss_backward, float32": ("squared_loss_backward_kernelINS_5DenseIffLi4EEE", 4, 24),
    "expected_value, float32": ("expected_value_kernelINS_5DenseIffLi1EEE", 1, 12),
    "discretised L_inf, float32": ("loss_kernelINS_5DenseIffLi1EEELb1", 1, 16),
    "discretised reconstruction, float32": ("loss_kernelINS_5DenseIffLi1EEELb0", 1, 16),
    "discretised update, a draw, float32": ("update_kernelINS_5DenseIffLi4EEELNS_6ChoiceE0", 4, 16),
    "discretised update, a draw, bfloat16": ("update_kernelINS_5DenseINS_8BFloat16ES3_Li8EEELNS_6ChoiceE0", 8, 8),
    "discrete sender, up to 128 classes, float32": ("sender_kernelINS_12DenseClassesIfEENS_8WarpTeamELi1", 4, 4),
    "discrete sender, up to 4096, float32": ("sender_kernelINS_12DenseClassesIfEENS_9BlockTeamELi4", 16, 4),
    "discrete update, up to 128 classes, float32": ("update_kernelINS_12DenseClassesIfEENS_8WarpTeamELi1", 4, 12),
    "discrete update, up to 4096, float32": ("update_kernelINS_12DenseClassesIfEENS_9BlockTeamELi4", 16, 12),
    "discrete loss, up to 128 classes, float32": ("loss_kernelINS_12DenseClassesIfEENS_8WarpTeamELi1", 4, 4),
    "discrete loss, up to 4096, float32": ("loss_kernelINS_12DenseClassesIfEENS_9BlockTeamELi4", 16, 4),
    "discrete backward, up to 4096, float32": ("loss_backward_kernelINS_12DenseClassesIfEENS_9BlockTeamELi4", 16, 8),
}  # fmt: skip


def compiled(source: Path, architecture: int, folder: Path) -> tuple[Path, str]:
    """The cubin and what ptxas said."""
    cubin, log = folder / f"{source.stem}.sm_{architecture}.cubin", folder / f"{source.stem}.sm_{architecture}.log"
    newest = max(p.stat().st_mtime for p in [source, Path(__file__), *Path("csrc").rglob("*.h")])
    if not cubin.exists() or cubin.stat().st_mtime < newest:
        nvcc = sass.find_tool("nvcc")
        if nvcc is None:
            raise RuntimeError("there is no nvcc; pip install 'bfn-kernels[gpu-build]'")
        command = [nvcc, *FLAGS, f"-arch=sm_{architecture}", str(source), "-o", str(cubin)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
        log.write_text(done.stderr)
    return cubin, log.read_text()


def resources(log: str) -> dict[str, tuple[int, int, int]]:
    """Registers, bytes of shared memory and bytes spilled of each kernel."""
    found = {}
    for part in log.split("Compiling entry function '")[1:]:
        name = part.split("'", 1)[0]
        registers = int(re.search(r"Used (\d+) registers", part)[1])
        shared = re.search(r"(\d+) bytes smem", part)
        spills = sum(int(n) for n in re.findall(r"(\d+) bytes spill", part))
        found[name] = registers, int(shared[1]) if shared else 0, spills
    return found


def _kernels(cubin: Path, log: str, architecture: int) -> Iterable[Kernel]:
    functions = sass.functions(cubin)
    known = resources(log)
    for name, (part, variables, size) in COUNTED.items():
        for mangled, (registers, shared, spills) in known.items():
            # the digits before a name are its length: without them one name may end in another
            if re.search(rf"\d{re.escape(part)}", mangled):
                counts = sass.by_class(functions[mangled].main_loop(), variables)
                yield Kernel("cuda", name, architecture, registers, shared, spills, counts, size, gated=True)
    others = [known[m] for m in known if not any(re.search(rf"\d{re.escape(p)}", m) for p, _, _ in COUNTED.values())]
    if others:
        name = f"{cubin.stem.split('.')[0]}: {len(others)} others, the most"
        yield Kernel("cuda", name, architecture, *(max(numbers) for numbers in zip(*others, strict=True)))


def kernels(architectures: Iterable[int], folder: Path) -> list[Kernel]:
    """Compiles every source for every architecture, two at a time."""
    jobs = [(source, architecture) for source in SOURCES for architecture in architectures]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda job: compiled(*job, folder), jobs))
    return [k for (_, a), (cubin, log) in zip(jobs, results, strict=True) for k in _kernels(cubin, log, a)]
