"""The Triton kernels: records what the operators launch, compiles it for each architecture as the launch itself would,
and disassembles it."""

import os
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from bfn_kernels.arguments import PUBLISHED
from bfn_kernels.binary import triton as binary
from bfn_kernels.continuous import triton as continuous
from bfn_kernels.discrete import triton as discrete
from bfn_kernels.discrete.operators import RECEIVERS, ROW_STATS
from bfn_kernels.discretised import triton as discretised
from bfn_kernels.triton_ops.views import write_table
from gpu_build import sass
from gpu_build.table import Kernel


class Launch(NamedTuple):
    kernel: Any
    programs: int
    arguments: tuple
    options: dict


class NoGPU:
    """A driver for Triton that compiles for a GPU without having one, and runs nothing."""

    def __init__(self, architecture: int):
        self.target = GPUTarget("cuda", architecture, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def launches(call: Callable[[], object]) -> list[Launch]:
    """Records what the call launches, without running it."""
    found = []

    def record(kernel, *arguments, grid, warmup, **options):
        found.append(Launch(kernel, grid[0], arguments, options))

    run = JITFunction.run
    JITFunction.run = record
    try:
        call()
    finally:
        JITFunction.run = run
    return found


def compiled(launch: Launch, architecture: int) -> Any:
    driver.set_active(NoGPU(architecture))
    return launch.kernel.warmup(*launch.arguments, grid=(launch.programs,), **launch.options)


def measured(name: str, launch: Launch, architecture: int, variables: int, size: float, folder: Path) -> Kernel:
    """The compiled kernel of a launch that works on so many variables. Each instruction counts once: branches count in
    full and loops as if they ran once. That is right for loops over the tiles of long rows, for which `variables` is
    reduced to one tile, and too little for loops over edges and draws."""
    options = launch.options
    if "TILE" in options and options["K"] > options["TILE"]:
        variables = launch.programs * options["TILE"]
    cubin = folder / f"triton {name}.sm_{architecture}.cubin".replace(" ", "_").replace(",", "")
    cubin.write_bytes(compiled(launch, architecture).asm["cubin"])
    command = [sass.find_tool("cuobjdump"), "-res-usage", str(cubin)]
    usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack, shared = (int(re.search(rf"{what}:(\d+)", usage)[1]) for what in ("REG", "STACK", "SHARED"))
    counts = Counter(opcode for f in sass.functions(cubin).values() for opcode, _ in f.instructions)
    spilled = any(opcode.split(".")[0] in ("LDL", "STL") for opcode in counts)
    threads = launch.programs * options["num_warps"] * 32
    instructions = sass.by_class(counts, variables / threads)
    return Kernel("triton", name, architecture, registers, shared, stack if spilled else 0, instructions, size)


Row = tuple[str, int, float, Callable[[], object]]  # the name, the variables, the bytes of each, and the call


def of_data(x: torch.Tensor) -> list[Row]:
    """Calls of the operators of continuous and discretised data, with noise predictions and all gradients. The n-step
    losses of mixtures are left out, which take long to compile and spill up to 150 bytes a thread."""
    row, seed, width = torch.ones(x.shape[0], 1), torch.tensor(1), x.element_size()
    many = torch.zeros(*x.shape, 10, dtype=x.dtype)
    prediction, one, mixture = (x, x, row, row), (x, x, None, x, row, row), (many, many, many, x, row, row)
    gradients, with_mixture = (True, True, False), (True, True, True)
    clip, losses = (-1.0, 1.0), (None, 3)  # no mask, and the reduction
    bins = 256, *PUBLISHED.std, PUBLISHED.log_std

    def nstep(nodes=(), n_samples=0):
        draws = nodes, nodes, n_samples, seed, None
        return lambda: discretised.discrete_time_loss(x, *one, row, 7, *draws, *bins, True, *losses, *gradients)

    def draw(output):
        drawn = None, None, seed, None, None, None
        return lambda: discretised.update_sample(*output, row, row, row, *bins, 0, *drawn)

    calls = [
        ("gaussian_step, with noise", 3, lambda: continuous.gaussian_step(x, row, x, row, row, seed, None)),
        ("gaussian_step", 3, lambda: continuous.gaussian_step(x, row, x, row, None, None, None)),
        (
            "continuous update on a prediction", 3,
            lambda: continuous.update_sample(*prediction, row, row, row, *clip, None, None, seed, None),
        ),
        (
            "squared_loss", 3,
            lambda: continuous.squared_loss(x, *prediction, row, None, *clip, *losses, False, False, False),
        ),
        (
            "squared_loss, with gradients", 3 + 8 / width,
            lambda: continuous.squared_loss(x, *prediction, row, None, *clip, *losses, False, True, True),
        ),
        ("output_std", 2 + 4 / width, lambda: discretised.output_std(x, row, row, *bins[1:], True)),
        (
            "expected_value, unclipped", 4 + 8 / width,
            lambda: discretised.expected_value(x, x, None, 256, False, *gradients),
        ),
        ("discretised update, a draw", 4, draw(one)),
        (
            "discretised L_inf", 4 + 8 / width,
            lambda: discretised.continuous_time_loss(x, *one, row, *bins, True, *losses, *gradients),
        ),
        (
            "discretised reconstruction", 4 + 8 / width,
            lambda: discretised.reconstruction_loss(x, *one, *bins, *losses, *gradients),
        ),
        ("discretised L_n, 8 nodes", 4 + 8 / width, nstep((0.0,) * 8)),
        (
            "discretised L_inf, 10 components", 32 + 120 / width,
            lambda: discretised.continuous_time_loss(x, *mixture, row, *bins, True, *losses, *with_mixture),
        ),
        (
            "discretised reconstruction, 10 components", 32 + 120 / width,
            lambda: discretised.reconstruction_loss(x, *mixture, *bins, *losses, *with_mixture),
        ),
        ("discretised update, a draw, 10 components", 32, draw(mixture)),
        ("discretised L_n, 10 draws", 4 + 8 / width, nstep(n_samples=10)),
    ]  # fmt: skip
    return [(name, x.numel(), size * width, call) for name, size, call in calls]


def of_bits(z: torch.Tensor) -> list[Row]:
    """Calls of the operators of binary data, with all gradients."""
    x, row, seed = torch.zeros(z.shape, dtype=torch.long), torch.ones(z.shape[0], 1), torch.tensor(1)
    width, losses = z.element_size(), (None, 3, True)  # no mask, the reduction, and the gradient

    def nstep(nodes=(), n_samples=0):
        draws = nodes, nodes, n_samples, seed, None
        return lambda: binary.discrete_time_loss(x, z, row, 7, 0, *draws, *losses)

    calls = [
        ("sender", 1 + 8 / width, lambda: binary.sender_sample(x, row, row, True, seed, None, z.dtype)),
        ("update, a draw", 3, lambda: binary.update_sample(z, z, row, row, 0, None, None, seed, None, None)),
        ("L_inf", 1 + 12 / width, lambda: binary.continuous_time_loss(x, z, row, *losses)),
        ("reconstruction", 1 + 12 / width, lambda: binary.reconstruction_loss(x, z, *losses)),
        ("L_n, 8 nodes", 1 + 12 / width, nstep((0.0,) * 8)),
        ("L_n, 10 draws", 1 + 12 / width, nstep(n_samples=10)),
    ]
    return [(f"binary {name}", z.numel(), size * width, call) for name, size, call in calls]


def of_classes(z: torch.Tensor) -> list[Row]:
    """Calls of the operators of discrete data, for which a class counts as a variable."""
    x, row, seed = torch.zeros(z.shape[:-1], dtype=torch.long), torch.ones(z.shape[0], 1), torch.tensor(1)
    scale, stats = torch.tensor(1.0), torch.ones(*x.shape, ROW_STATS)
    classes, width = z.shape[-1], z.element_size()
    calls = [
        ("sender", 1, lambda: discrete.sender_sample(x, row, row, classes, True, seed, None, z.dtype)),
        ("update, a draw", 3, lambda: discrete.update_sample(z, z, row, row, 0, None, None, seed, None, None)),
        (
            "update with theta, a draw", 4,
            lambda: discrete.update_sample_out(z, z, row, row, 0, None, None, seed, None, None, z, z),
        ),
        ("loss", 1, lambda: discrete.continuous_time_loss(x, z, row, None, 3, True)),
        ("loss_backward", 2, lambda: discrete.loss_backward(row, scale, x, z, row, None, stats)),
        *(
            (
                f"L_n, {receiver}, 10 draws", 1 + 4 / width,
                lambda place=place: discrete.discrete_time_loss(
                    x, z, row, 7, place, (), (), 10, seed, None, None, 3, True
                ),
            )
            for place, receiver in enumerate(RECEIVERS)
        ),
    ]  # fmt: skip
    return [(f"discrete {name}, {classes} classes", z.numel(), size * width, call) for name, size, call in calls]


def _of_architecture(architecture: int, folder: Path) -> list[Kernel]:
    """The kernels of each operator. Of its launches the first one that writes no table of nodes is measured; a second
    one only adds a few sums."""
    found = []
    for dtype, sizes in ((torch.float32, (27, 2048, 32768)), (torch.bfloat16, (27,))):
        data = torch.zeros(32, 3072, dtype=dtype)
        calls = of_data(data) + of_bits(data)
        for classes in sizes:
            calls += of_classes(torch.zeros(64, 16, classes, dtype=dtype))
        for name, variables, size, call in calls:
            first = next(each for each in launches(call) if each.kernel is not write_table)
            name = f"{name}, {str(dtype).removeprefix('torch.')}"
            found.append(measured(name, first, architecture, variables, size, folder))
    return found


def kernels(architectures: Iterable[int], folder: Path) -> list[Kernel]:
    """Compiles for every architecture, two at a time: each has a process, since Triton knows one target at a time."""
    os.environ.setdefault("TRITON_CACHE_DIR", str(folder / "triton"))
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        return [k for found in pool.map(_of_architecture, architectures, repeat(folder)) for k in found]
