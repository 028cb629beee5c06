"""The seeds and the times of a batch, which training and samplers share."""

from typing import Any

import torch
from torch import Tensor

from bfn_kernels.nn.example_seeds import ExampleSeeds
from bfn_kernels.nn.ragged import Ragged
from bfn_kernels.noise import fold_in


def part(seed: Any, index: int) -> Any:
    """Makes a seed for one part of a call, such as its times, from the seed of the whole call.

    Args:
        seed: An int that determines all random numbers of the call, or `ExampleSeeds`.
        index: The number of the part, an int.

    Returns:
        A signed integer of 64 bits: `noise.fold_in(seed, index)`. For `ExampleSeeds`, such an integer for each seed.

    Example:
        >>> part(7, 3)
        2891134794951100292
    """
    return seed.folded(index) if isinstance(seed, ExampleSeeds) else int(fold_in(seed, index))


def step_seeds(seed: Any, steps: Tensor, device: torch.device) -> Any:
    """The seeds of the steps of a run: int64 in the shape of `steps`. For `ExampleSeeds`, a seed for each step and
    example. steps: the numbers of the steps, int64 on the CPU, `[n]` for `ExampleSeeds`."""
    if isinstance(seed, ExampleSeeds):
        return seed.folded(steps)
    return torch.as_tensor(fold_in(seed, steps), device=device)


def random_seed() -> int:
    """A seed from torch's default generator.

    Returns:
        An int from 0 to 2^63 - 2.

    Example:
        >>> 0 <= random_seed() < 2**63 - 1
        True
    """
    return int(torch.randint(2**63 - 1, (), device="cpu"))


def seed_of(model: Any, seed: Any, like: Tensor, ragged: Ragged | None = None) -> Any:
    """Checks the seed of a call of a model, or makes one. Returns an int, or `ExampleSeeds` for a tensor.

    like: data `[B, ...]`, or `[N, ...]` with ragged, the examples of the rows.
    """
    if seed is None:
        return random_seed()
    if not isinstance(seed, Tensor) or seed.dim() == 0:
        return seed
    if seed.dtype != torch.int64:
        raise TypeError(f"seed must be an int or an int64 tensor, got {seed.dtype}")
    count = len(like) if ragged is None else ragged.num_examples
    if seed.shape != (count,):
        raise ValueError(f"seed must be an int or have shape [{count}], a seed for each example, got {(*seed.shape,)}")
    if not model.has_example_seeds:
        kind = type(model).__name__
        raise ValueError(f"seed must be an int for {kind}, which stores no noise of all classes, got {(*seed.shape,)}")
    return ExampleSeeds(seed.to(like.device), ragged, None if ragged is None else ragged.places)


def drawn_times(seed: Any, count: int, n_steps: int | None = None) -> Tensor:
    """The times of a batch, float32 `[count]` on the CPU: `spread_times` of an int. `ExampleSeeds` draw independent
    times instead. n_steps: as for `spread_times`."""
    if not isinstance(seed, ExampleSeeds):
        return spread_times(count, torch.Generator().manual_seed(seed), n_steps)
    t = seed.start_uniforms()
    return (t if n_steps is None else down_to_step(t, n_steps)).float()


def start_normals(seed: Any, shape: tuple[int, ...]) -> Tensor:
    """The normals that a solver's start has, which torch's generator of the CPU makes: float32 of this shape. seed: an
    int or `ExampleSeeds`."""
    if isinstance(seed, ExampleSeeds):
        return seed.start_normals(shape)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32, device="cpu")


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
