"""Ancestral sampling: n messages from the model to itself, then the mode of its output distribution."""

from collections.abc import Callable

import torch
from torch import Tensor

from bfn.model import BFN, State
from bfn.seeds import derive_each


@torch.no_grad()
def sample(
    model: BFN,
    count: int,
    n_steps: int,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    capture: bool | None = None,
    watch: Callable[[int, State], None] | None = None,
) -> Tensor:
    """Draws data [count, ...]. `watch(i, state)` is called with a copy of the state after i messages, i = 0..n.

    capture: whether to record one step as a CUDA graph and to replay it for the others, which draws the same data; None
    means yes on a CUDA device. With few examples most of a step's time is spent on launches, which this saves.
    """
    device = torch.device(device)
    capture = can_capture(device) if capture is None else capture
    if capture and not can_capture(device):
        raise ValueError(f"capture must be None or False on {device}, which has no CUDA graphs")
    model.eval()
    run = Run(model, count, n_steps, seed, device)
    step = run.step
    for i in range(n_steps + 1):
        if i > 0:
            step()
        if i == 1 < n_steps and capture:
            step = captured(run.step, device)  # after the first step, since what that one compiles must not be recorded
        if watch is not None:
            watch(i, tuple(value.clone() for value in run.state))
    return model.sample_final(run.state)


class Run:
    """The state of a sampling run and the numbers of its steps, in tensors that keep their addresses, so that every
    step runs the same operations on the same memory."""

    def __init__(self, model: BFN, count: int, n_steps: int, seed: int, device: torch.device):
        self.model, self.state = model, model.prior(count, device)
        steps = torch.arange(1, n_steps + 1)
        times = ((steps.double() - 1) / n_steps).float()
        alphas = model.schedule.alpha(steps.double(), n_steps)
        self.numbers = tuple(numbers.to(device) for numbers in (times, alphas, derive_each(seed, steps)))
        self.done = torch.zeros(1, dtype=torch.int64, device=device)

    def step(self) -> None:
        t, alpha, seed = (numbers.index_select(0, self.done).squeeze(0) for numbers in self.numbers)
        self.model.sample_step(self.state, t, alpha, seed)
        self.done += 1


def can_capture(device: torch.device) -> bool:
    return device.type == "cuda"


def captured(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """The step as a CUDA graph, which takes one launch instead of many. The step must have run once before."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.Stream(device)):
        step()
    return graph.replay
