"""The Triton kernels: what the operators launch is recorded, compiled ahead of time for each architecture as the launch
would compile it, and disassembled."""

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

from bfn_kernels import rows
from bfn_kernels.continuous import triton as continuous
from bfn_kernels.discrete import triton as discrete
from bfn_kernels.discrete.autograd import RECEIVERS, ROW_STATS
from bfn_kernels.discretised import triton as discretised
from bfn_kernels.discretised.autograd import NOISE
from bfn_kernels.triton_ops.views import write_table
from gpu_build import sass
from gpu_build.table import Kernel


class Launch(NamedTuple):
    kernel: Any
    programs: int
    arguments: tuple
    options: dict


class NoGPU:
    """Triton's driver of a GPU that is not there: it compiles for it, and runs nothing."""

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
    """What the call launches; nothing runs."""
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
    """`variables` of the whole launch. Instructions count once each: branches in full, loops as if they ran once, as
    those over the tiles of long rows do for each tile; not those over edges and draws."""
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


Row = tuple[str, int, float, Callable[[], object]]  # name, variables, bytes of each, and the call


ONE = (True, True, False)  # the gradients of a mean and a std without a mixture


def given(row: torch.Tensor, which: int) -> rows.Numbers:
    return rows.Numbers([row] * which.bit_count(), which)


def of_data(x: torch.Tensor) -> list[Row]:
    """The operators of continuous and of discretised data, by noise predictions and with all gradients; not the n-step
    losses of mixtures, which take long to compile and spill up to 150 bytes of a thread."""
    row, scale, seed, width = torch.ones(x.shape[0], 1), torch.tensor(1.0), torch.tensor(1), x.element_size()
    many = torch.zeros(*x.shape, 10, dtype=x.dtype)
    one, mixture = (x, x, None, x), (many, many, many, x)
    update, message = given(row, rows.UPDATE), given(row, rows.KEEP | rows.TAKE)
    normal = x, x, None
    prediction = x, x, *given(row, rows.FLOW | rows.RATE), -1.0, 1.0

    def loss(which, n_samples=0, nodes=(), seed=None, output=one):
        numbers = given(row, rows.FLOW | which)
        arguments = 7, n_samples, nodes, nodes, seed, None, None, 3, True, True, output is mixture
        return lambda: discretised.discretised_loss(x, *output, *numbers, NOISE, 256, True, *arguments)

    def draw(output):
        of = NOISE, 256, 0, *update, None, None, seed, None, None, None
        return lambda: discretised.discretised_update(*output, *given(row, rows.FLOW), *of)

    calls = [
        ("gaussian_step, with noise", 3, lambda: continuous.gaussian_step(x, x, *update, seed, None)),
        ("gaussian_step", 3, lambda: continuous.gaussian_step(x, x, *message, None, None)),
        ("squared_loss", 3, lambda: continuous.squared_loss(x, *prediction, None, 3)),
        (
            "squared_loss_backward", 5,
            lambda: continuous.squared_loss_backward(row, scale, x, *prediction, None, False, True, True),
        ),
        ("expected_value, unclipped", 4 + 8 / width, lambda: discretised.expected_value(*normal, 256, False, *ONE)),
        ("discretised update, a draw", 4, draw(one)),
        ("discretised L_inf", 4 + 8 / width, loss(rows.RATE)),
        ("discretised reconstruction", 4 + 8 / width, loss(0)),
        ("discretised L_n, 8 nodes", 4 + 8 / width, loss(rows.ALPHA, nodes=(0.0,) * 8)),
        ("discretised L_inf, 10 components", 32 + 120 / width, loss(rows.RATE, output=mixture)),
        ("discretised reconstruction, 10 components", 32 + 120 / width, loss(0, output=mixture)),
        ("discretised update, a draw, 10 components", 32, draw(mixture)),
        ("discretised L_n, 10 draws", 4 + 8 / width, loss(rows.ALPHA, 10, seed=seed)),
    ]  # fmt: skip
    return [(name, x.numel(), size * width, call) for name, size, call in calls]


def of_classes(z: torch.Tensor) -> list[Row]:
    """Those of discrete data; a class counts as a variable."""
    x, row, seed = torch.zeros(z.shape[:-1], dtype=torch.long), torch.ones(z.shape[0], 1), torch.tensor(1)
    scale, stats = torch.tensor(1.0), torch.ones(*x.shape, ROW_STATS)
    classes, width = z.shape[-1], z.element_size()
    message, rate, alpha = (given(row, which) for which in (rows.MESSAGE, rows.RATE, rows.ALPHA))
    calls = [
        ("sender", 1, lambda: discrete.discrete_sender(x, *message, classes, True, seed, None, z.dtype)),
        ("update, a draw", 3, lambda: discrete.discrete_update(z, z, *message, 0, None, None, seed, None, None)),
        ("loss", 1, lambda: discrete.discrete_loss(x, z, *rate, None, 3, True)),
        ("loss_backward", 2, lambda: discrete.discrete_loss_backward(row, scale, x, z, *rate, None, stats)),
        *(
            (
                f"L_n, {receiver}, 10 draws", 1 + 4 / width,
                lambda code=code: discrete.discrete_nstep(
                    x, z, *alpha, 7, code, 10, (), (), seed, None, None, 3, True
                ),
            )
            for receiver, code in RECEIVERS.items()
        ),
    ]  # fmt: skip
    return [(f"discrete {name}, {classes} classes", z.numel(), size * width, call) for name, size, call in calls]


def _of_architecture(architecture: int, folder: Path) -> list[Kernel]:
    """What each operator launches first, but for tables of nodes; the second adds a few sums."""
    found = []
    for dtype, sizes in ((torch.float32, (27, 2048, 32768)), (torch.bfloat16, (27,))):
        calls = of_data(torch.zeros(32, 3072, dtype=dtype))
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
