"""Compiles the Triton kernels for each architecture, and reports their registers, shared memory and spills. The module
records what each operator launches, and compiles it with the options of the launch."""

import functools
import os
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from bfn_kernels.backends import FAMILIES
from bfn_kernels.declarations import TRITON
from bfn_kernels.libraries import python_code
from bfn_kernels.triton_ops import implement
from bfn_kernels.triton_ops.reduction import _finish
from bfn_kernels.triton_ops.views import write_table
from gpu_build import ptxas, sass
from gpu_build.calls import of_angles, of_bits, of_classes, of_data, of_intervals, of_products, of_tiles
from gpu_build.table import Kernel


def _operators(family: str) -> SimpleNamespace:
    """The Triton functions of a family's operators. They are called directly, since torch.ops has them only for CUDA
    tensors. Operators without a Triton kernel are left out."""
    found = {}
    for operator in FAMILIES[family]:
        if operator.composed or (operator.library and TRITON not in operator.library.split()):
            continue
        codes = python_code(operator, functools.partial(implement, family, operator))
        found[operator.name], found[f"{operator.name}_out"] = codes
    return SimpleNamespace(**found)


OPS = SimpleNamespace(**{family: _operators(family) for family in FAMILIES})


class Launch(NamedTuple):
    kernel: Any
    programs: int
    arguments: tuple
    options: dict


class NoGPU:
    """A driver that tells Triton its target, so that Triton compiles without a GPU. It cannot run kernels. The
    architecture is a compute capability of NVIDIA, times ten, or a name of AMD, such as "gfx942"."""

    def __init__(self, architecture: int | str):
        is_amd = isinstance(architecture, str)
        self.target = GPUTarget("hip", architecture, 64) if is_amd else GPUTarget("cuda", architecture, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int | str:
        return self.target.arch  # Triton caches kernels by device, so each architecture is a device of its own

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def launches(call: Callable[[], object]) -> list[Launch]:
    """Runs the call, and records the kernels that it launches instead of running them."""
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


def compiled(launch: Launch, architecture: int | str) -> Any:
    driver.set_active(NoGPU(architecture))
    return launch.kernel.warmup(*launch.arguments, grid=(launch.programs,), **launch.options)


def resources(name: str, launch: Launch, architecture: int, folder: Path) -> Kernel:
    """Compiles the kernel of a launch for NVIDIA. Returns its registers, shared memory and spilled bytes."""
    cubin = folder / f"triton {name}.sm_{architecture}.cubin".replace(" ", "_").replace(",", "")
    kernel = compiled(launch, architecture)
    cubin.write_bytes(kernel.asm["cubin"])
    command = [sass.find_tool("cuobjdump"), "-res-usage", str(cubin)]
    usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = (int(re.search(rf"{what}:(\d+)", usage)[1]) for what in ("REG", "STACK"))
    code = sass.machine_code(cubin)
    spilled = any(i.name.split(".")[0] in ("LDL", "STL") for i in code)
    # The launch allocates the shared memory, so the machine code does not say how much it takes.
    shared, straight = kernel.metadata.shared, None
    if architecture == 90:
        # A multiprocessor has 65536 registers and 228 KiB of shared memory, and four schedulers of 16 warps at most.
        warps, of_warp = kernel.metadata.num_warps, (32 * registers + 255) // 256 * 256
        programs = min(65536 // of_warp // warps, 64 // warps, 32, 233472 // (shared + 1024))
        straight = ptxas.compared(kernel.asm["ptx"], code, programs * warps / 4)
    return Kernel("triton", name, f"sm_{architecture}", registers, shared, stack if spilled else 0, straight)


def resources_of_amd(name: str, launch: Launch, architecture: str) -> Kernel:
    """Compiles the kernel of a launch for AMD. Returns the same numbers."""
    kernel = compiled(launch, architecture)
    text, asked = kernel.asm["amdgcn"], ("vgpr_count", "private_segment_fixed_size", "vgpr_spill_count")
    registers, scratch, spilled = (int(re.search(rf"\.{what}:\s*(\d+)", text)[1]) for what in asked)
    return Kernel("triton", name, architecture, registers, kernel.metadata.shared, scratch if spilled else 0)


def _of_architecture(architecture: int | str, folder: Path, only: str) -> list[Kernel]:
    """The resources of the kernels that are launched by calls with `only` in their names."""
    if isinstance(architecture, str):
        torch.version.hip = "compiled for"  # as in a build of torch for AMD: `views.launch` looks at it
        return [resources_of_amd(name, launch, architecture) for name, launch in _launches(only)]
    return [resources(name, launch, architecture, folder) for name, launch in _launches(only)]


def _launches(only: str) -> Iterator[tuple[str, Launch]]:
    """The names of the calls, and what they launch. Two kernels are left out: `write_table` writes the nodes of a
    quadrature, and `_finish` adds the sums of a loss."""
    for dtype, sizes in ((torch.float32, (27, 2048, 32768)), (torch.bfloat16, (27,))):
        data = torch.zeros(32, 3072, dtype=dtype)
        rows = of_data(OPS, data) + of_bits(OPS, data) + of_angles(OPS, data)
        for classes in sizes:
            rows += of_classes(OPS, torch.zeros(64, 16, classes, dtype=dtype))
        if dtype == torch.float32:
            rows += of_intervals(OPS, 4096) + of_tiles(OPS, torch.zeros(512, 32000))
        else:
            rows += of_products(OPS, *(torch.zeros(size, 768, dtype=dtype) for size in (4096, 32000)))
        for row in rows:
            name = f"{row.name}, {str(dtype).removeprefix('torch.')}"
            if only in name:
                yield from ((name, each) for each in launches(row.call) if each.kernel not in (write_table, _finish))


def kernels(architectures: Iterable[int | str], folder: Path, only: str = "") -> list[Kernel]:
    """Compiles the kernels of all calls for every architecture, two at a time. Each architecture gets its own process,
    since the target of Triton is set for a whole process."""
    os.environ.setdefault("TRITON_CACHE_DIR", str(folder / "triton"))

    def in_a_process(architecture: int | str) -> list[Kernel]:
        # If a process cannot start, multiprocessing.Pool starts others without end. This class raises an error.
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            try:
                return process.submit(_of_architecture, architecture, folder, only).result()
            except BrokenProcessPool as error:
                raise RuntimeError(
                    f"the process that compiles for {architecture} has ended, see its error above; it can start only "
                    "if the main module is a file that can be imported"
                ) from error

    with ThreadPoolExecutor(2) as pool:
        each = list(pool.map(in_a_process, architectures))
    return [kernel for found in each for kernel in found]
