"""The seeds and the times of a batch, which training and samplers share."""

from typing import Any

import torch
from torch import Tensor

from bfn_kernels.noise import fold_in


def part(seed: int, index: int) -> int:
    """Makes a seed for one part of a call, such as its times, from the seed of the whole call.

    Args:
        seed: An int that determines all random numbers of the call.
        index: The number of the part, an int.

    Returns:
        A signed integer of 64 bits: `noise.fold_in(seed, index)`.

    Example:
        >>> part(7, 3)
        2891134794951100292
    """
    return int(fold_in(seed, index))


def random_seed() -> int:
    """A seed from torch's default generator.

    Returns:
        An int from 0 to 2^63 - 2.

    Example:
        >>> 0 <= random_seed() < 2**63 - 1
        True
    """
    return int(torch.randint(2**63 - 1, (), device="cpu"))


def spread_times(count: int, generator: torch.Generator, n_steps: int | None = None) -> Tensor:
    """Low-discrepancy times in random order: t = (u + i/count) mod 1 for i from 0 to count - 1.

    Args:
        count: The number of times.
        generator: A generator of the CPU, which draws u, a uniform number in [0, 1), and the order.
        n_steps: If it is an int, each time is rounded down to a multiple of 1/n_steps, as L_n needs.

    Returns:
        Times in [0, 1], `[count]`, float32, on the CPU. Without n_steps, a time just below 1 may be rounded to 1.

    Example:
        >>> spread_times(4, torch.Generator().manual_seed(0)).sort().values.mul(4).floor()
        tensor([0., 1., 2., 3.])
    """
    wide: Any = {"dtype": torch.float64, "device": "cpu"}
    t = (torch.rand((), generator=generator, **wide) + torch.arange(count, **wide) / count) % 1
    if n_steps is not None:
        t = down_to_step(t, n_steps)
    return t[torch.randperm(count, generator=generator, device="cpu")].float()


def down_to_step(t: Tensor, n_steps: int) -> Tensor:
    """Rounds times down: the time (i - 1)/n_steps at which the step i that contains a time starts.

    Args:
        t: Times in [0, 1], floating-point, of any shape. The time 1 belongs to the last step, i = n_steps, because
            rounding may have made it from a time just below 1.
        n_steps: n, the number of steps, at least 1.

    Returns:
        Times in t's shape and type.

    Example:
        >>> down_to_step(torch.tensor([0.1, 0.6]), 4)
        tensor([0.0000, 0.5000])
    """
    return (t * n_steps).floor().clamp(max=n_steps - 1) / n_steps
