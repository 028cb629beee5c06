"""The precision and the compiler of the network: from the settings, or whatever is fastest on this machine."""

import functools
import importlib.util
import math
import os
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any, NamedTuple

import torch
from torch import nn

from bfn.configs import TrainConfig, first_line

AUTO = "auto"
COMPILING = 60.0  # seconds that compiling a small network takes; a large one takes longer
CACHED = 6.0  # seconds that it takes if torch has the compiled code on the disk
PASSES = 2  # the passes that are timed for a choice
WORTH = 5  # compiling is tried if the rest of the run takes at least WORTH times as long as compiling


class Choice(NamedTuple):
    """A precision of autocast, "no", "bf16" or "fp16", and a backend of torch.compile, or None."""

    precision: str
    compiler: str | None

    def __str__(self) -> str:
        numbers = "float32" if self.precision == "no" else self.precision
        return f"{numbers}, {f'compiled by {self.compiler}' if self.compiler else 'not compiled'}"

    def autocast(self, device: torch.device) -> AbstractContextManager:
        """The context of the network's calls. It turns on only bf16. accelerate turns on fp16 and scales losses."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def compile(self, network: nn.Module) -> None:
        """Compiles the network in place, so that its parameters keep their names. Without a compiler, undoes this."""
        network.__dict__.pop("forward", None)
        if self.compiler == "inductor" and all(parameter.is_cpu for parameter in network.parameters()):
            trust_compiler()
        if self.compiler is not None:
            # This attribute of the instance hides the method of the class.
            network.__dict__["forward"] = torch.compile(network.forward, backend=self.compiler)


PLAIN = Choice("no", None)


def fast_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 matrices faster than float32 matrices. BFN_BF16=0 makes the answer no.

    On a CPU, a network gains from this only with inductor: without it, conversions take more time than products save.
    """
    if os.environ.get("BFN_BF16") == "0":
        return False
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    can = torch.cpu.get_capabilities() if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities") else {}
    return any(can.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


@functools.cache
def trust_compiler() -> None:
    """Tells inductor that the C++ compiler knows all vector instructions of an x86 processor, if it knows the latest of
    them. Otherwise inductor tries each set of instructions, which takes up to a second a set."""
    with suppress(Exception):  # torch has no public names for this
        from torch._inductor import config, cpu_vec_isa  # an import of seconds, which only a compiled network needs

        flags, sets = cpu_vec_isa.x86_isa_checker(), cpu_vec_isa.supported_vec_isa_list
        latest = next(some for some in sets if all(flag in flags for flag in str(some).split()))
        if config.cpp.vec_isa_ok is None and latest:
            config.cpp.vec_isa_ok = True


def can_compile(device: torch.device) -> bool:
    """Whether inductor finds the compiler that it needs: Triton for a GPU, a C++ compiler for a CPU."""
    if device.type == "cpu":
        return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++"))
    return importlib.util.find_spec("triton") is not None


def choices(train: TrainConfig, device: torch.device) -> list[Choice]:
    """The choices that the settings allow: one, or two of which the second is compiled."""
    compilers: list[str | None] = [train.compiler]
    if train.compiler == AUTO:
        # FSDP2 replaces the weights' tensors around each layer's call. Users who compile with it must ask for it.
        compilers = [None, "inductor"] if can_compile(device) and not train.fully_shard else [None]
    found = []
    for compiler in compilers:
        pays = fast_bf16(device) and (device.type != "cpu" or compiler == "inductor")
        automatic = "bf16" if pays else "no"
        found.append(Choice(automatic if train.mixed_precision == AUTO else train.mixed_precision, compiler))
    return found


def timed(work: Callable[[], Any], device: torch.device, passes: int) -> list[float]:
    """The seconds of each pass, which calls `work` once."""
    seconds = []
    for _ in range(passes):
        started = time.monotonic()
        work()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        seconds.append(time.monotonic() - started)
    return seconds


def room(device: torch.device) -> bool:
    """Whether a GPU has room for another process that makes the passes of this process. A CPU is taken to have it."""
    if device.type != "cuda":
        return True
    return torch.cuda.mem_get_info(device)[0] > 2 * torch.cuda.max_memory_reserved(device)


def pays(left: float, compiling: float = COMPILING) -> bool:
    """Whether compiling pays for a run that would take `left` more seconds without it."""
    return left >= WORTH * compiling


def choose(
    allowed: list[Choice],
    left: Callable[[float], float],
    try_out: Callable[[Choice, int], list[float]],
    say: Callable[[str], None],
    compiling: float = COMPILING,
) -> Choice:
    """The choice that makes a run shortest.

    Args:
        allowed: The result of `choices`.
        left: Takes the seconds of one step, and returns the seconds that the rest of the run takes.
        try_out: Takes a choice and a number of passes, and returns the seconds of each pass.
        say: Prints a line for the user.
        compiling: The seconds that compiling takes, about.
    """
    if len(allowed) == 1:
        return allowed[0]
    plain, compiled = allowed

    def short(seconds: float) -> bool:
        return not pays(left(seconds), compiling)

    # short(math.inf): the time limit alone makes the run short, so nothing is timed. The first pass takes longest. If
    # even its time makes a short run, no other pass is needed. short(0.0): the time of a step matters.
    if short(math.inf) or (short(0.0) and short(try_out(plain, 1)[0])) or short(before := min(try_out(plain, PASSES))):
        return plain
    try:
        first, *later = try_out(compiled, 1 + PASSES)
    except Exception as error:  # a compiler may raise anything; the run continues without it
        say(f"{plain}: the network cannot be compiled ({type(error).__name__}: {first_line(error)})")
        return plain
    after = min(later)
    chosen = compiled if after < before else plain
    say(
        f"{chosen}: a step takes {after:.3g} s with {compiled}, {before:.3g} s with {plain}; "
        f"compiling took {first:.0f} s"
    )
    return chosen
