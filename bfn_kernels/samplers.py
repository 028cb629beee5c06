"""Sampling with a model of bfn_kernels.nn: n steps, each with a call of the network, then the mode of its output
distribution at t = 1."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bfn_kernels.adaptive import MAX_CALLS, Steps
from bfn_kernels.call import checks
from bfn_kernels.nn import BFN, State, drawn_seed, part
from bfn_kernels.noise import fold_in
from bfn_kernels.solvers import RULES, Coefficients, coefficients

Shape = tuple[int, ...]
Advance = Callable[[State, Tensor, Coefficients, Tensor], None]


@torch.no_grad()
def sample(
    model: BFN,
    shape: Shape,
    n_steps: int,
    *,
    seed: int | None = None,
    sampler: str = "ancestral",
    device: torch.device | str = "cpu",
    capture: bool | None = None,
    watch: Callable[[int, State], None] | None = None,
) -> Tensor:
    """Draws data of this shape `[count, ...]`. `watch(i, state)` is called with a copy of the state after i steps, i =
    0..n.

    sampler: a name in SAMPLERS.
    capture: whether to record one step as a CUDA graph and to replay it for the others, which draws the same data; None
    means yes on a CUDA device. With few examples most of a step's time is spent on launches, which this saves.

    >>> from bfn_kernels.nn import Binary
    >>> class Network(torch.nn.Linear):
    ...     def forward(self, theta, t):
    ...         return super().forward(theta)
    >>> network = Network(3, 3)
    >>> _ = torch.nn.init.constant_(network.bias, -9.0)
    >>> sample(Binary(network, beta_1=9.0), (2, 3), 5, seed=1)
    tensor([[0, 0, 0],
            [0, 0, 0]])
    """
    checks.choice("sampler", sampler, tuple(SAMPLERS))
    checks.integer("n_steps", n_steps, 1)
    device, seed = torch.device(device), drawn_seed() if seed is None else seed
    capture = can_capture(device) if capture is None else capture
    if capture and not can_capture(device):
        raise ValueError(f"capture must be None or False on {device}, which has no CUDA graphs")
    with evaluating(model):
        run = SAMPLERS[sampler](model, shape, n_steps, seed, device)
        step = run.step
        for i in range(n_steps + 1):
            if i > 0:
                step()
            if i == 1 < n_steps and capture:  # not the first step: what that one compiles must not be recorded
                step = captured(run.step, device)
            if watch is not None:
                watch(i, tuple(value.clone() for value in run.state))
        return model.sample_final(run.state)


@contextmanager
def evaluating(model: BFN) -> Iterator[None]:
    """Within it all of the model is in evaluation mode; afterwards each part is in the mode that it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


class Run:
    """A sampling run, whose steps are a method of the model: `advance(state, t, numbers, seed)`.

    It has the state and the numbers of all steps in tensors that keep their addresses, so that every step runs the same
    operations on the same memory."""

    def __init__(self, advance: Advance, state: State, times: Tensor, table: Coefficients, seed: int):
        self.advance, self.state, device = advance, state, state[0].device
        seeds = torch.as_tensor(fold_in(seed, torch.arange(1, len(times) + 1)))
        self.times, self.seeds = times.float().to(device), seeds.to(device)
        self.table = table.each(lambda numbers: numbers.to(device))
        self.done = torch.zeros(1, dtype=torch.int64, device=device)

    def step(self) -> None:
        def now(numbers: Tensor) -> Tensor:
            return numbers.index_select(0, self.done).squeeze(0)

        self.advance(self.state, now(self.times), self.table.each(now), now(self.seeds))
        self.done += 1


def ancestral(model: BFN, shape: Shape, n_steps: int, seed: int, device: torch.device) -> Run:
    """Ancestral sampling: n messages from the model to itself, each taken with its accuracy."""

    def advance(state: State, t: Tensor, now: Any, seed: Tensor) -> None:
        model.sample_step(state, t, now.take, seed)

    steps = torch.arange(1, n_steps + 1).double()
    accuracies = Coefficients(None, model.schedule.alpha(steps, n_steps))
    return Run(advance, model.prior(shape, device), (steps - 1) / n_steps, accuracies, seed)


def by_rule(rule: str, model: BFN, shape: Shape, n_steps: int, seed: int, device: torch.device) -> Run:
    """A run of a solver of bfn_kernels.solvers. The first step of a rule of second order has no prediction before it,
    which an extrapolation of 0 stands for."""
    start = 0.0 if RULES[rule].from_prior else model.solver_start
    state = model.solver_state(shape, device, start, part(seed, 0))
    times = torch.linspace(start, 1, n_steps + 1, dtype=torch.float64)
    table = coefficients(rule, model.schedule, times[:-1], times[1:])
    if RULES[rule].order == 2:
        later = coefficients(rule, model.schedule, times[1:-1], times[2:], times[:-2]).extrapolation
        table = table._replace(extrapolation=torch.cat([torch.zeros(1), torch.as_tensor(later)]))
    return Run(model.solver_step, state, times[:-1], table, seed)


@torch.no_grad()
def sample_within(
    model: BFN,
    shape: Shape,
    tolerance: float,
    *,
    seed: int | None = None,
    max_calls: int = MAX_CALLS,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, int]:
    """Draws data of this shape by steps of "ode2" whose length fits their error, and says how often it called the
    network. tolerance, max_calls: as in bfn_kernels.adaptive.Steps, which raises TooManyCalls.

    >>> from bfn_kernels.nn import Binary
    >>> class Network(torch.nn.Linear):
    ...     def forward(self, theta, t):
    ...         return super().forward(theta)
    >>> network = Network(3, 3)
    >>> _ = torch.nn.init.constant_(network.bias, -9.0)
    >>> sample_within(Binary(network, beta_1=9.0), (1, 3), 0.1, seed=1)
    (tensor([[0, 0, 0]]), 8)
    """
    device, seed = torch.device(device), drawn_seed() if seed is None else seed
    with evaluating(model):
        state = model.solver_state(shape, device, model.solver_start, part(seed, 0))
        steps = Steps(model.solver_start, tolerance, max_calls=max_calls)
        unread = torch.zeros((), dtype=torch.int64, device=device)
        while steps.t < steps.end:
            t, accepted = torch.full((shape[0],), steps.t, device=device), False
            kept = [value.clone() for value in state]
            output = model.output(model.theta(state), t)
            while not accepted:
                now = coefficients("ode2", model.schedule, steps.t, steps.t_next, steps.t_previous).each(float)
                model.solve(output, state, t, now, unread)
                accepted = steps.judge(model.step_error(now, state, tuple(kept)))
                for value, before in zip(state, kept, strict=True) if not accepted else ():
                    value.copy_(before)
        return model.sample_final(state), steps.accepted + 1


SAMPLERS: dict[str, Callable[..., Run]] = {"ancestral": ancestral, **{rule: partial(by_rule, rule) for rule in RULES}}


def can_capture(device: torch.device) -> bool:
    return device.type == "cuda"


def captured(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """The step as a CUDA graph, which takes one launch instead of many. The step must have run once before."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.Stream(device)):
        step()
    return graph.replay
