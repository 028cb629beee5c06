"""The bound on held-out data in bits per dimension: the cost of the messages plus that of reconstructing the data."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bfn.configs import EvaluateConfig
from bfn.model import BFN
from bfn.seeds import derive


@dataclass(frozen=True)
class Bound:
    """Bits per dimension; `error` is the standard error of `bits` over the examples."""

    messages: float
    reconstruction: float
    error: float
    examples: int

    @property
    def bits(self) -> float:
        return self.messages + self.reconstruction


def spread_times(count: int, generator: torch.Generator, n_steps: int | None = None) -> Tensor:
    """`count` low-discrepancy times in random order: t = (u + i/count) mod 1, or down to a multiple of 1/n_steps."""
    t = (torch.rand((), generator=generator, dtype=torch.float64) + torch.arange(count) / count) % 1
    if n_steps is not None:
        t = down_to_step(t, n_steps)
    return t[torch.randperm(count, generator=generator)].float()


def down_to_step(t: Tensor, n_steps: int) -> Tensor:
    """The time (i - 1)/n_steps at which the step of each time starts; a time just below 1 that rounds to 1 has i =
    n_steps."""
    return (t * n_steps).floor().clamp(max=n_steps - 1) / n_steps


@torch.no_grad()
def evaluate(model: BFN, data: Tensor, config: EvaluateConfig, device: torch.device | str = "cpu") -> Bound:
    """Upper bound on -log2 p(x) per dimension of data [N, ...], each example at `repeats` times spread evenly."""
    model.eval()
    dimensions = math.prod(data.shape[1:])
    # A row holds the times of one example: one in each of `repeats` strata, with an offset that differs between
    # examples.
    generator = torch.Generator().manual_seed(config.seed)
    strata = spread_times(len(data), generator)[:, None] + torch.arange(config.repeats)
    times = strata / config.repeats
    if config.n_steps is not None:
        times = down_to_step(times, config.n_steps)
    messages, reconstruction = [], []
    for start in range(0, len(data), config.batch_size):
        x = data[start : start + config.batch_size].to(device)
        draws = [
            model(x, t.to(device), seed=derive(config.seed, start, r), n_steps=config.n_steps, reduction="batch")
            for r, t in enumerate(times[start : start + config.batch_size].T)
        ]
        messages.append(torch.stack(draws).mean(0))
        reconstruction.append(
            model.reconstruction(x, seed=derive(config.seed, start, config.repeats), reduction="batch")
        )
    to_bits = 1 / (dimensions * math.log(2))
    m, r = torch.cat(messages).double() * to_bits, torch.cat(reconstruction).double() * to_bits
    error = (m + r).std().item() / math.sqrt(len(data))
    return Bound(m.mean().item(), r.mean().item(), error, len(data))
