"""The bound on held-out data in bits per dimension: the cost of messages plus the cost of reconstructing the data."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bfn.configs import EvaluateConfig
from bfn.model import BFN
from bfn.training import processes
from bfn.training.derived_seeds import derive
from bfn_kernels.checks import wide_device
from bfn_kernels.nn import down_to_step, spread_times


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


@torch.no_grad()
def evaluate(model: BFN, data: Tensor, config: EvaluateConfig) -> Bound:
    """Upper bound on -log2 p(x) per dimension of data [N, ...]. Each example is evaluated at `repeats` times, spread
    evenly. Several processes share the work, and all of them get the result."""
    model.eval()
    # A row holds the times of one example. They are 1/repeats apart and start from the example's own offset.
    generator = torch.Generator().manual_seed(config.seed)
    times = (spread_times(len(data), generator)[:, None] + torch.arange(config.repeats)) / config.repeats
    if config.n_steps is not None:
        times = down_to_step(times, config.n_steps)
    # Each batch of examples has one call for each of its `repeats` times, and a last call for the reconstruction.
    calls = [(start, r) for start in range(0, len(data), config.batch_size) for r in range(config.repeats + 1)]
    wide = wide_device(model.device)
    nats = torch.zeros(2, len(data), dtype=torch.float64, device=wide)  # of the messages and of the reconstruction
    # With sharded weights, all processes must make the same number of calls. So some of them make a call once more and
    # drop its result.
    for turn in range(math.ceil(len(calls) / processes.count())):
        index = turn * processes.count() + processes.rank()
        start, r = calls[index % len(calls)]
        rows, last = slice(start, start + config.batch_size), r == config.repeats
        x, seed = data[rows].to(model.device), derive(config.seed, start, r)
        if last:
            loss = model.reconstruction(x, seed=seed, reduction="batch")
        else:
            t = times[rows, r].to(model.device)
            loss = model(x, t, seed=seed, n_steps=config.n_steps, reduction="batch") / config.repeats
        if index < len(calls):
            nats[int(last), rows] += loss.to(wide)
    messages, reconstruction = processes.add_up(nats) / (math.prod(data.shape[1:]) * math.log(2))
    error = (messages + reconstruction).std().item() / math.sqrt(len(data))
    return Bound(messages.mean().item(), reconstruction.mean().item(), error, len(data))
