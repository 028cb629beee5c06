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
from bfn_kernels.nn import BFN, State, part, random_seed
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
    """Draws data by n steps, each with a call of the network, and one more call at t = 1.

    The model is in evaluation mode meanwhile. Nothing is differentiable.

    Args:
        model: A module of `bfn_kernels.nn`.
        shape: The shape of the data, `[count, ...]`.
        n_steps: n, at least 1.
        seed: An int that all noise follows from. None: drawn from torch's default generator.
        sampler: A name in SAMPLERS: "ancestral", or a rule of `bfn_kernels.solvers.RULES`.
        device: The device of the data, which is the network's.
        capture: Whether to record one step as a CUDA graph and to replay it for the others, which draws the same data.
            None means yes on a CUDA device. With few examples most of a step's time is spent on launches, which this
            saves.
        watch: `watch(i, state)` is called with a copy of the state after i steps, i from 0 to n. None: nothing is.

    Returns:
        Data of this shape, as `BFN.mode` says: floating-point numbers, or int64 classes.

    Raises:
        ValueError: If capture is True on a device that is not a CUDA device.

    Example:
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
    device, seed = torch.device(device), random_seed() if seed is None else seed
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
    """In a `with`, all of the model is in evaluation mode.

    Args:
        model: A module of `bfn_kernels.nn`.

    Returns:
        A context. At its end each part of the model is in the mode of before again.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


class Run:
    """A sampling run: the state, and the numbers of all steps.

    They are tensors that keep their addresses, so that every step runs the same operations on the same memory.

    Args:
        advance: Takes a step and writes over the state: `advance(state, t, numbers, seed)`, where `numbers` are the
            coefficients of this step.
        state: The tensors that the run starts from.
        times: The time in [0, 1] at which each step starts, `[n]`.
        table: The coefficients of all steps, each None or a tensor `[n]`.
        seed: An int that the seed of each step follows from.
    """

    def __init__(self, advance: Advance, state: State, times: Tensor, table: Coefficients, seed: int):
        self.advance, self.state, device = advance, state, state[0].device
        seeds = torch.as_tensor(fold_in(seed, torch.arange(1, len(times) + 1)))
        self.times, self.seeds = times.float().to(device), seeds.to(device)
        self.table = table.each(lambda numbers: numbers.to(device))
        self.done = torch.zeros(1, dtype=torch.int64, device=device)

    def step(self) -> None:
        """Takes the next step."""

        def now(numbers: Tensor) -> Tensor:
            return numbers.index_select(0, self.done).squeeze(0)

        self.advance(self.state, now(self.times), self.table.each(now), now(self.seeds))
        self.done += 1


def ancestral(model: BFN, shape: Shape, n_steps: int, seed: int, device: torch.device) -> Run:
    """Ancestral sampling: n messages from the model to itself, each taken with its accuracy.

    Args:
        model: A module of `bfn_kernels.nn`.
        shape: The shape of the data, `[count, ...]`.
        n_steps: n, at least 1.
        seed: An int that all noise follows from.
        device: The device of the state.

    Returns:
        The run, which starts from the prior.
    """

    def advance(state: State, t: Tensor, now: Any, seed: Tensor) -> None:
        model.sample_step(state, t, now.take, seed)

    steps = torch.arange(1, n_steps + 1).double()
    accuracies = Coefficients(None, model.schedule.alpha(steps, n_steps))
    return Run(advance, model.prior(shape, device), (steps - 1) / n_steps, accuracies, seed)


def by_rule(rule: str, model: BFN, shape: Shape, n_steps: int, seed: int, device: torch.device) -> Run:
    """A run of a solver.

    The first step of a rule of second order has no prediction before it. Its extrapolation is 0 therefore.

    Args:
        rule: A name in `bfn_kernels.solvers.RULES`.
        model: A module of `bfn_kernels.nn`.
        shape: The shape of the data, `[count, ...]`.
        n_steps: n, at least 1.
        seed: An int that all noise follows from.
        device: The device of the state.

    Returns:
        The run. It starts at t = 0, or at the model's `solver_start` if the rule cannot start at 0.
    """
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
    """Draws data by steps of "ode2" whose length fits their error.

    The model is in evaluation mode meanwhile. Nothing is differentiable.

    Args:
        model: A module of `bfn_kernels.nn`.
        shape: The shape of the data, `[count, ...]`.
        tolerance: Of the root of the mean square of a step's error, in units of the state, in the example where it is
            largest; positive.
        seed: An int, of the noise that the run starts from. None: drawn from torch's default generator.
        max_calls: The most calls of the network, at least 1.
        device: The device of the data, which is the network's.

    Returns:
        Data of this shape, as `BFN.mode` says, and the number of calls of the network.

    Raises:
        TooManyCalls: If max_calls do not reach t = 1.
        FloatingPointError: If no step is short enough for the tolerance.

    Example:
        >>> from bfn_kernels.nn import Binary
        >>> class Network(torch.nn.Linear):
        ...     def forward(self, theta, t):
        ...         return super().forward(theta)
        >>> network = Network(3, 3)
        >>> _ = torch.nn.init.constant_(network.bias, -9.0)
        >>> sample_within(Binary(network, beta_1=9.0), (1, 3), 0.1, seed=1)
        (tensor([[0, 0, 0]]), 8)
    """
    device, seed = torch.device(device), random_seed() if seed is None else seed
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
    """Whether a device has CUDA graphs.

    Args:
        device: Any device.

    Returns:
        True for a CUDA device.
    """
    return device.type == "cuda"


def captured(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """A step as a CUDA graph, which takes one launch instead of many.

    Args:
        step: The step. It must have run once before.
        device: A CUDA device.

    Returns:
        A function that replays the step.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.Stream(device)):
        step()
    return graph.replay
