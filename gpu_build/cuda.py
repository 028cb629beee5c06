"""The CUDA kernels: compiled by setup.py with warnings as errors, and what ptxas and the disassembly say of them."""

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from gpu_build import sass
from gpu_build.table import Kernel

STRICT = [
    "-Xptxas", "-v,-warn-spills,-warn-lmem-usage,-Werror", "-Werror", "all-warnings", "-Xcompiler",
    "-Wall,-Wextra,-Werror", "--keep", "--keep-dir",
]  # fmt: skip
ALONE = Path(__file__).with_name("smooth.cu")  # compiled for its instruction count only; it is not part of `_cuda`

# The kernels whose instructions are counted: a part of the mangled name, the variables in one round of the loop, and
# the bytes moved for a variable. Row scalars are shared by many variables and count as 0 bytes.
COUNTED = {
    "gaussian_step, with noise, float32": ("gaussian_step_kernelINS_5DenseIffLi4EEELb1", 4, 12),
    "gaussian_step, with noise, bfloat16": ("gaussian_step_kernelINS_5DenseINS_8BFloat16ES3_Li8EEELb1", 8, 6),
    "gaussian_step, float32": ("gaussian_step_kernelINS_5DenseIffLi4EEELb0", 4, 12),
    "gaussian_step, bfloat16": ("gaussian_step_kernelINS_5DenseINS_8BFloat16ES3_Li8EEELb0", 8, 6),
    "continuous update on a prediction, float32": ("update_kernelINS_5DenseIffLi4EEEEEv", 4, 12),
    "output_std, float32": ("output_std_kernelINS_5DenseIffLi4EEE", 4, 12),
    "predict_data, float32": ("predict_data_kernelINS_5DenseIffLi4EEE", 4, 12),
    "predict_data_backward, float32": ("predict_data_backward_kernelINS_5DenseIffLi4EEE", 4, 20),
    "squared_loss, float32": ("squared_loss_kernelINS_5DenseIffLi4EEE", 4, 20),
    "squared_loss, float32 and bfloat16": ("squared_loss_kernelINS_5DenseIfNS_8BFloat16ELi8EEE", 8, 18),
    "expected_value, float32": ("expected_value_kernelINS_5DenseIffLi4EEE", 4, 20),
    "discretised L_inf, float32": ("loss_kernelINS_5DenseIffLi4EEELb1ELb0", 4, 24),
    "discretised L_inf, float32, std from 1.5h to 2": ("loss_kernelINS_5DenseIffLi4EEELb1ELb1", 4, 24),
    "discretised reconstruction, float32": ("loss_kernelINS_5DenseIffLi1EEELb0ELb0", 1, 24),
    "discretised update, a draw, float32": ("update_kernelINS_5DenseIffLi4EEELNS_6ChoiceE0", 4, 16),
    "discretised update, a draw, bfloat16": ("update_kernelINS_5DenseINS_8BFloat16ES3_Li8EEELNS_6ChoiceE0", 8, 8),
    "discrete sender, up to 128 classes, float32": ("sender_kernelINS_12DenseClassesIfEENS_8WarpTeamELi1", 4, 4),
    "discrete sender, up to 4096, float32": ("sender_kernelINS_12DenseClassesIfEENS_9BlockTeamELi4", 16, 4),
    "discrete update, up to 128 classes, float32": ("update_kernelINS_12DenseClassesIfEENS_8WarpTeamELi1", 4, 12),
    "discrete update, up to 4096, float32": ("update_kernelINS_12DenseClassesIfEENS_9BlockTeamELi4", 16, 12),
    "discrete loss, up to 128 classes, float32": ("loss_kernelINS_12DenseClassesIfEENS_8WarpTeamELi1", 4, 4),
    "discrete loss, up to 4096, float32": ("loss_kernelINS_12DenseClassesIfEENS_9BlockTeamELi4", 16, 4),
    "discrete backward, up to 4096, float32": ("loss_backward_kernelINS_12DenseClassesIfEENS_9BlockTeamELi4", 16, 8),
    "binary sender, float32": ("binary_sender_kernelINS_5DenseIffLi4EEE", 4, 12),
    "binary update, a draw, float32": ("binary_update_kernelINS_5DenseIffLi4EEELNS_6ChoiceE0", 4, 12),
    "binary update, a draw, bfloat16": ("binary_update_kernelINS_5DenseINS_8BFloat16ES3_Li8EEELNS_6ChoiceE0", 8, 6),
    "binary L_inf, float32": ("binary_loss_kernelINS_5DenseIffLi4EEELb1", 4, 16),
    "binary reconstruction, float32": ("binary_loss_kernelINS_5DenseIffLi4EEELb0", 4, 16),
    "binary L_n, a draw, float32": ("binary_nstep_kernelINS_5DenseIffLi4EEE", 4, 16),
}  # fmt: skip

# The kernels in which an inner loop computes the variables of a round one by one.
ONE_BY_ONE = {name for name in COUNTED if name.startswith(("expected_value", "discretised L_inf"))}


def build(architectures: Sequence[int], folder: Path) -> None:
    """Builds the extension `_cuda` in the folder, and keeps the intermediate files and the output of nvcc there."""
    nvcc = sass.find_tool("nvcc")
    if nvcc is None:
        raise RuntimeError("there is no nvcc; pip install 'bfn-kernels[gpu-build]'")
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
    object_file = folder / f"{ALONE.stem}.{'-'.join(map(str, architectures))}.o"
    code = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    command = [nvcc, "-std=c++17", "-O3", "--expt-relaxed-constexpr", *code, *STRICT, str(folder)]
    done = subprocess.run([*command, "-c", str(ALONE), "-o", str(object_file)], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    object_file.with_suffix(".log").write_text(done.stderr)


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


def _kernels(cubin: Path, log: str, architecture: int) -> Iterable[Kernel]:
    functions = sass.functions(cubin)
    known = resources(log, architecture)
    for name, (part, variables, size) in COUNTED.items():
        for mangled, (registers, shared, spills) in known.items():
            # a mangled name starts with its length; matching these digits rules out names that only end in this one
            if re.search(rf"\d{re.escape(part)}", mangled):
                within = variables if name in ONE_BY_ONE else 1
                counts = sass.by_class(functions[mangled].main_loop(within), variables)
                yield Kernel("cuda", name, architecture, registers, shared, spills, counts, size, gated=True)
    others = [known[m] for m in known if not any(re.search(rf"\d{re.escape(p)}", m) for p, _, _ in COUNTED.values())]
    if others:
        name = f"{cubin.stem.split('.')[0]}: {len(others)} others, the most"
        yield Kernel("cuda", name, architecture, *(max(numbers) for numbers in zip(*others, strict=True)))


def kernels(architectures: Sequence[int], folder: Path) -> list[Kernel]:
    found: list[Kernel] = []
    sass.disassembler()  # fails now rather than after minutes of compiling
    build(architectures, folder)
    for log in sorted(folder.rglob(f"*.{'-'.join(map(str, architectures))}.log")):
        for architecture in architectures:
            (cubin,) = folder.glob(f"{log.name.split('.')[0]}.compute_{architecture}*.cubin")
            found += _kernels(cubin, log.read_text(), architecture)
    return found
