"""Memory as a training process has it. In a process that never trained, the system clears new memory for every call.
That slows implementations that make many tensors most."""

import contextlib
import ctypes
import functools

import torch
from torch import nn

TOKENS, WIDTH, HIDDEN, BLOCKS = 8192, 128, 960, 3  # 30 MiB for each of six hidden activations
TRIM, MAP = (-1, 2**30), (-3, 2**25)  # of glibc's mallopt: the least that goes back to the system, and is mapped alone


@functools.cache
def warm() -> None:
    """Trains a network for a step, once in a process.

    Tensors of up to 32 MiB lie in glibc's heap from then on, which keeps what is freed. In training glibc's limits end
    there by themselves, and gradients and moments that lie above freed activations keep them in the heap. Where these
    lie varies from process to process, so the limits are set here.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        for limit in (TRIM, MAP):
            ctypes.CDLL(None).mallopt(*limit)
    blocks = [(nn.Linear(WIDTH, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, WIDTH)) for _ in range(BLOCKS)]
    network = nn.Sequential(*(layer for block in blocks for layer in block))
    optimizer = torch.optim.AdamW(network.parameters())
    x = torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))
    network(x).square().mean().backward()
    optimizer.step()
