"""Gives a process the heap of a training process. In a process that never trained, the system clears new memory for
every call, which slows implementations with many temporary tensors most."""

import contextlib
import ctypes
import functools

import torch
from torch import nn

TOKENS, WIDTH, HIDDEN, BLOCKS = 8192, 128, 960, 3  # 30 MiB for each of six hidden activations
# Options of glibc's mallopt: how much free memory may stay at the end of the heap, and from which size on a tensor gets
# a mapping of its own instead of memory of the heap.
TRIM, MAP = (-1, 2**30), (-3, 2**25)


@functools.cache
def warm() -> None:
    """Trains a network for a step, once in a process.

    From then on, tensors of up to 32 MiB use glibc's heap, which keeps freed memory. In a training process, glibc
    raises the limit to 32 MiB by itself, and gradients and moments at the end of the heap keep it from shrinking. The
    order of tensors in the heap varies from process to process, so the limits are set here.
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
