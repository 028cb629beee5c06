"""Ancestral sampling: n messages from the model to itself, then the mode of its output distribution."""

from collections.abc import Callable

import torch
from torch import Tensor

from bfn.model import BFN, State
from bfn.seeds import derive


@torch.no_grad()
def sample(
    model: BFN,
    count: int,
    n_steps: int,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    watch: Callable[[int, State], None] | None = None,
) -> Tensor:
    """Draws data [count, ...]. `watch(i, state)` is shown the state after i messages, i = 0..n."""
    model.eval()
    state = model.prior(count, torch.device(device))
    for i in range(n_steps + 1):
        if i > 0:
            state = model.sample_step(state, i, n_steps, seed=derive(seed, i))
        if watch is not None:
            watch(i, state)
    return model.sample_final(state)
