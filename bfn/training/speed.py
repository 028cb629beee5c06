"""How the network is run: its precision and its compiler, as the settings say or as this machine runs it fastest."""

import importlib.util
import math
import os
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import nn

from bfn.configs import TrainConfig, first_line

AUTO = "auto"
COMPILING = 60.0  # seconds that compiling a small network takes; a large one takes longer
PASSES = 3  # that a choice is judged by
WORTH = 5  # compiling is tried if what is left of a run takes this many times as long


class Choice(NamedTuple):
    """A precision of autocast, "no", "bf16" or "fp16", and a backend of torch.compile, or None."""

    precision: str
    compiler: str | None

    def __str__(self) -> str:
        numbers = "float32" if self.precision == "no" else self.precision
        return f"{numbers}, {f'compiled by {self.compiler}' if self.compiler else 'not compiled'}"

    def autocast(self, device: torch.device) -> AbstractContextManager:
        """The context of the network's calls. The autocast of fp16 is accelerate's, which scales its losses."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def compile(self, network: nn.Module) -> None:
        """Compiles the network in its place, so that its parameters keep their names, or undoes that."""
        network.__dict__.pop("forward", None)
        if self.compiler is not None:
            # The instance's attribute takes the place of the method of its class.
            network.__dict__["forward"] = torch.compile(network.forward, backend=self.compiler)


PLAIN = Choice("no", None)


def fast_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 matrices faster than float32 matrices. BFN_BF16=0 makes the answer no.

    On a CPU this holds with inductor only: without it, conversions take more time than products save.
    """
    if os.environ.get("BFN_BF16") == "0":
        return False
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    can = torch.cpu.get_capabilities() if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities") else {}
    return any(can.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def can_compile(device: torch.device) -> bool:
    """Whether inductor finds the compiler that it needs: Triton for a GPU, a C++ compiler for a CPU."""
    if device.type == "cpu":
        return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++"))
    return importlib.util.find_spec("triton") is not None


def choices(train: TrainConfig, device: torch.device) -> list[Choice]:
    """The choices that the settings allow. There is one, or there are two and the second is compiled."""
    compilers: list[str | None] = [train.compiler]
    if train.compiler == AUTO:
        # FSDP2 changes the weights' tensors around each layer's call, and compiling through that is left to the user.
        compilers = [None, "inductor"] if can_compile(device) and not train.fully_shard else [None]
    found = []
    for compiler in compilers:
        pays = fast_bf16(device) and (device.type != "cpu" or compiler == "inductor")
        automatic = "bf16" if pays else "no"
        found.append(Choice(automatic if train.mixed_precision == AUTO else train.mixed_precision, compiler))
    return found


def timed(work: Callable[[], Any], device: torch.device, passes: int) -> list[float]:
    """The seconds that some work takes, each time that it is done."""
    seconds = []
    for _ in range(passes):
        started = time.monotonic()
        work()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        seconds.append(time.monotonic() - started)
    return seconds


def choose(
    allowed: list[Choice],
    left: Callable[[float], float],
    try_out: Callable[[Choice, int], list[float]],
    say: Callable[[str], None],
    compiling: float = COMPILING,
) -> Choice:
    """The choice that makes a run shortest.

    Args:
        allowed: What `choices` returned.
        left: The seconds that the run will last if a step takes so many seconds.
        try_out: Makes so many passes with a choice, and returns the seconds of each.
        say: Takes a line for the user.
        compiling: The seconds that compiling takes, about.
    """
    if len(allowed) == 1:
        return allowed[0]
    plain, compiled = allowed

    def short(seconds: float) -> bool:
        return left(seconds) < WORTH * compiling

    # The first pass takes longest. If even its time makes a short run, no other pass is needed.
    if short(math.inf) or short(try_out(plain, 1)[0]) or short(before := min(try_out(plain, PASSES))):
        return plain
    try:
        first, *later = try_out(compiled, 1 + PASSES)
    except Exception as error:  # whatever a compiler raises, the run goes on without it
        say(f"{plain}: the network cannot be compiled ({type(error).__name__}: {first_line(error)})")
        return plain
    after = min(later)
    chosen = compiled if after < before else plain
    say(
        f"{chosen}: a step takes {after:.3g} s with {compiled}, {before:.3g} s with {plain}; "
        f"compiling took {first:.0f} s"
    )
    return chosen
