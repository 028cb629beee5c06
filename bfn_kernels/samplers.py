"""Sampling with a model of bfn_kernels.nn: steps, each with a call of the network, then the mode of the output
distribution at t = 1."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bfn_kernels import checks
from bfn_kernels.adaptive import MAX_CALLS, Steps
from bfn_kernels.arguments.step_arguments import StepCoefficients
from bfn_kernels.graphs import StepTable, can_capture, captured
from bfn_kernels.nn import BFN, Sampling, State, Vocabulary, part
from bfn_kernels.nn.example_seeds import each_seed
from bfn_kernels.nn.parts import by_part, copied, each_part, joint_of, unwrapped
from bfn_kernels.nn.ragged import Ragged
from bfn_kernels.nn.sampling import PLAIN
from bfn_kernels.nn.seeds import seed_of, step_seeds
from bfn_kernels.solvers import RULES, Coefficients, coefficients, run_table

Shape = tuple[int, ...]
Advance = Callable[[State, Tensor, Coefficients, Tensor], None]


@torch.no_grad()
def sample(
    model: BFN,
    shape: Shape,
    n_steps: int,
    *,
    seed: int | Tensor | None = None,
    sampler: str = "ancestral",
    choose: str | None = None,
    temperature: float | None = None,
    known: Tensor | None = None,
    known_mask: Tensor | None = None,
    cond: Any = None,
    unconditional: Any = None,
    guidance: float | Tensor | None = None,
    variance_scale: float | None = None,
    start: Tensor | None = None,
    counts: Sequence[int] | Tensor | None = None,
    device: torch.device | str = "cpu",
    capture: bool | None = None,
    watch: Callable[[int, State], None] | None = None,
) -> Tensor:
    """Draws data by n steps, each with a call of the network, and one more call at t = 1.

    During the run the model is in evaluation mode. Nothing is differentiable. Continuous and circular data allow only
    choose="mean".

    Args:
        model: A module of `bfn_kernels.nn`.
        shape: The shape of the data, `[B, ...]`, a tuple of ints.
        n_steps: n, the number of steps, at least 1.
        seed: An int that determines all random numbers of the call, or a seed for each example, an int64 tensor `[B]`;
            each example then draws as if alone. None: torch's default generator draws an int.
        sampler: A name in SAMPLERS: "ancestral", or a rule of `bfn_kernels.solvers.RULES`.
        choose: What a step uses of the output distribution: a "sample", its "mode" or its "mean". None: a "sample" in
            an "ancestral" step, else the "mean".
        temperature: T, by which logits of classes and binary data are divided, from 1e-30 to 1e30. None: 1.
        known: Known data, `[B, ...]`, which the samples have where known_mask is True (inpainting). Pass both or
            neither.
        known_mask: Bool, True where data are known. Broadcastable to `[B, ...]`, or shaped as its leading dimensions.
        cond: What the network is told, as its argument `cond`. None: it is called without this argument.
        unconditional: What the network is told in the second call of a guided step, as `cond`. None: it is called
            without this argument.
        guidance: w: a step uses (1 + w)·o − w·o', where o is the network's output with cond, and o' is its output with
            unconditional. A number, or a tensor `[B]`. None: the network is called once in a step.
        variance_scale: The factor by which the variance of the noise of each step is multiplied, at least 0. None: 1,
            and the only value for circular data and for the samplers "ancestral" and "ode…".
        start: The state from which the run starts: means of this shape, logits of this shape for binary data, or logits
            with a last dimension of K for classes. None: the prior or, if the sampler cannot start at t = 0, noise at
            the model's `solver_start`.
        counts: For a joint model of examples of different sizes, the number of rows of each example, `[B]`. The first
            number of the shape of a part is then the sum of the counts, or B for a part of examples.
        device: The device of the network and of the data.
        capture: Whether to record one step as a CUDA graph and to replay it for the other steps. This does not change
            the samples. With few examples, launches take most of the time of a step, and a graph saves this time. None:
            True on a CUDA device.
        watch: A function that is called as `watch(i, state)`, i from 0 to n, with a copy of the state after i steps.

    Returns:
        Data of this shape, as `BFN.mode` returns them: floating-point numbers, or int64 classes.

    Raises:
        ValueError: If capture is True on a device that is not a CUDA device, or if the model does not allow the choice,
            the temperature or the start.

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
    device = torch.device(device)
    ragged = None if counts is None else Ragged.of_counts(counts, device)
    shape = _checked(model, shape, ragged)
    sampling = Sampling(choose, temperature, known, known_mask, cond, unconditional, guidance, ragged, variance_scale)
    _check(model, sampling, sampler, shape)
    seed = seed_of(unwrapped(model), seed, torch.empty(_count(shape, ragged), device=device), ragged)
    capture = can_capture(device) if capture is None else capture
    if capture and not can_capture(device):
        raise ValueError(f"capture must be None or False on {device}, which has no CUDA graphs")
    with evaluating(model):
        run = SAMPLERS[sampler](model, shape, n_steps, seed, device, sampling)
        if start is not None:
            model.start_from(run.state, start)
        _centre(model, run.state, ragged)
        step = run.step
        for i in range(n_steps + 1):
            if i > 0:
                step()
            if i == 1 < n_steps and capture:  # the first step may compile kernels, which a graph must not record
                step = captured(run.step, device)
            if watch is not None:
                watch(i, copied(run.state))
        return model.sample_final(run.state, sampling)


def _checked(model: BFN, shape: Any, ragged: Ragged | None = None) -> Any:
    """Checks the model and the shape of the data, and returns the shape as a tuple, or as a dict of tuples."""
    if not isinstance(unwrapped(model), BFN):
        raise TypeError(f"model must be a module of bfn_kernels.nn, got {type(model).__name__}")
    if (joint := joint_of(model)) is None:
        if ragged is not None:
            raise ValueError(f"counts must be None for a model that is not joint, got {ragged.sizes.tolist()}")
        return checks.sizes("shape", shape)

    def check(_: BFN, shape: Shape, rows: Ragged | None) -> Shape:
        shape = checks.sizes("shape", shape)
        if ragged is not None and shape[0] != (want := ragged.num_examples if rows is None else len(rows.batch)):
            raise ValueError(f"shape must begin with {want}, as counts require, got {shape}")
        return shape

    shapes = joint.by_part(check, joint.of_data("shape", shape), joint.rows(ragged))
    if ragged is None and len({each[0] for each in shapes.values()}) > 1:
        raise ValueError(f"shape must have one number of examples for all parts, got {shapes}; or pass counts")
    return shapes


def _centre(model: BFN, state: Any, ragged: Ragged | None) -> None:
    """Centres the state of a joint model, before its first step."""
    if (joint := joint_of(model)) is not None:
        joint.centre_state(state, ragged)


def _check(model: BFN, sampling: Sampling, sampler: str, shape: Any) -> None:
    """Raises an error for options that a model, or a part of a joint model, does not support."""

    def check(each: BFN, sampling: Sampling, shape: Shape) -> None:
        sampling.check(choices_of(each, sampler), each.has_logits, shape)
        if sampling.variance_scale is not None and sampler == "ancestral":
            raise ValueError(f'variance_scale must be None with sampler="ancestral", got {sampling.variance_scale}')

    by_part(model, check, _by_part(model, sampling), shape)


def _by_part(model: BFN, sampling: Sampling) -> Any:
    """The options of a run or, for a joint model, of each part."""
    joint = joint_of(model)
    return sampling if joint is None else joint.sampling_by_part(sampling)


def choices_of(model: BFN, sampler: str) -> tuple[str, ...]:
    """The values of `choose` that a sampler allows. A second-order step of a large vocabulary allows only the mean,
    since the model stores what the network put out in the previous step, and not what that step sent."""
    return ("mean",) if isinstance(model, Vocabulary) and RULES[sampler].order == 2 else model.choices


@contextmanager
def evaluating(model: BFN) -> Iterator[None]:
    """Within a `with`, the model and its submodules are in evaluation mode. At the end, each submodule returns to its
    earlier mode."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


class Run:
    """A sampling run: the state, and the numbers of all steps.

    On CUDA, a step reads its numbers from a tensor, and every step runs the same operations at the same addresses, as a
    CUDA graph requires. On other devices, coefficients are Python numbers, with which a step is faster.

    Args:
        advance: Takes a step and overwrites the state: `advance(state, t, coefficients, seed)`.
        state: The tensors that the run starts from.
        times: The time in [0, 1] at which each step starts, `[n]`.
        table: The coefficients of all steps: `Coefficients` or `StepCoefficients`, each None or a tensor `[n]`.
        seed: An int that determines the seed of each step, or `ExampleSeeds`.
        device: The device of the network and of the data.
    """

    def __init__(self, advance: Advance, state: Any, times: Tensor, table: Any, seed: Any, device: torch.device):
        self.advance, self.state = advance, state
        self.rows: StepTable | None = None
        self.done: Any = 0
        if reads_tensors(device):
            self.rows, self.done = StepTable(device), torch.zeros(1, dtype=torch.int64, device=device)

        def column(numbers: Tensor) -> Any:
            return numbers if self.rows is None else self.rows.add(numbers)

        def coefficient(numbers: Tensor) -> Any:
            return numbers.tolist() if self.rows is None else self.rows.add(numbers)

        steps = torch.arange(1, len(times) + 1, device="cpu")
        seeds = each_part(partial(step_seeds, steps=steps, device=device), seed)
        self.times = column(times.float().to(device))
        self.seeds = each_part(partial(each_seed, column), seeds)
        self.table = each_part(lambda table: table.each(coefficient), table)

    def step(self) -> None:
        """Takes the next step."""
        row = None if self.rows is None else self.rows.row(self.done)

        def next_of(column: Any) -> Any:
            return column[self.done] if row is None else row[column]

        table = each_part(lambda table: table.each(next_of), self.table)
        seeds = each_part(partial(each_seed, next_of), self.seeds)
        self.advance(self.state, next_of(self.times), table, seeds)
        self.done += 1


def reads_tensors(device: torch.device) -> bool:
    """Whether a run's steps read their numbers from tensors. Compiled code cannot make a list of a tensor's numbers."""
    return can_capture(device) or torch.compiler.is_compiling()


def ancestral(
    model: BFN, shape: Shape, n_steps: int, seed: Any, device: torch.device, sampling: Sampling = PLAIN
) -> Run:
    """Makes a run of ancestral sampling. From the prior on, the state receives n messages about values of the output
    distribution."""

    def advance(state: State, t: Tensor, message: Any, seed: Any) -> None:
        model.sample_step(state, t, each_part(lambda message: message.take, message), seed, sampling)

    steps = torch.arange(1, n_steps + 1, dtype=torch.float64, device="cpu")
    accuracies = by_part(model, lambda each: Coefficients(None, each.schedule.alpha(steps, n_steps)))
    seed = _seeds(model, seed)
    state = by_part(model, lambda each, shape, seed: each.prior(shape, device, part(seed, 0)), shape, seed)
    return Run(advance, state, (steps - 1) / n_steps, accuracies, seed, device)


def by_rule(
    rule: str, model: BFN, shape: Shape, n_steps: int, seed: Any, device: torch.device, sampling: Sampling = PLAIN
) -> Run:
    """Makes a run of a solver. It starts at t = 0, or at the model's `solver_start` if the rule cannot start at 0. With
    a rule of second order, the first step has no previous prediction, so its extrapolation is 0."""
    start = 0.0 if RULES[rule].from_prior else model.solver_start
    seed = _seeds(model, seed)
    state = by_part(model, partial(_start, start, device), shape, seed)
    times = torch.linspace(start, 1, n_steps + 1, dtype=torch.float64, device="cpu")

    def steps(each: BFN, sampling: Sampling) -> Coefficients | StepCoefficients:
        table = run_table(rule, each.schedule, times, sampling.variance_scale)
        return StepCoefficients.of(table, each.state_scale, device) if reads_tensors(device) else table

    table = by_part(model, steps, _by_part(model, sampling))
    return Run(partial(model.solver_step, sampling=sampling), state, times[:-1], table, seed, device)


def _start(t: float, device: torch.device, model: BFN, shape: Shape, seed: Any) -> State:
    """The state that a run with this seed starts from."""
    return model.solver_state(shape, device, t, part(seed, 0))


def _seeds(model: BFN, seed: Any) -> Any:
    """The seed of a run or, for a joint model, a seed for each part."""
    joint = joint_of(model)
    return seed if joint is None else joint.seeds(seed)


@torch.no_grad()
def sample_within(
    model: BFN,
    shape: Shape,
    tolerance: float,
    *,
    seed: int | Tensor | None = None,
    choose: str | None = None,
    temperature: float | None = None,
    known: Tensor | None = None,
    known_mask: Tensor | None = None,
    cond: Any = None,
    unconditional: Any = None,
    guidance: float | Tensor | None = None,
    start: Tensor | None = None,
    max_calls: int = MAX_CALLS,
    counts: Sequence[int] | Tensor | None = None,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, int]:
    """Draws data by steps of "ode2". The length of each step is chosen so that its error is about the tolerance.

    During the run the model is in evaluation mode. Nothing is differentiable.

    Args:
        model: A module of `bfn_kernels.nn`.
        shape: The shape of the data, `[B, ...]`, a tuple of ints.
        tolerance: The allowed error of a step, in units of the state, positive. Each example has an error, the root
            mean square over its variables; the largest one counts.
        seed: An int that determines all random numbers of the call, or a seed for each example, an int64 tensor `[B]`;
            each example then draws as if alone. None: torch's default generator draws an int.
        choose: What a step uses of the output distribution: a "sample", its "mode" or its "mean". None: the "mean",
            which is the only choice for continuous data and for a large vocabulary.
        temperature: T, by which logits of classes and binary data are divided, from 1e-30 to 1e30. None: 1.
        known: Known data, `[B, ...]`, which the samples have where known_mask is True (inpainting). Pass both or
            neither.
        known_mask: Bool, True where data are known. Broadcastable to `[B, ...]`, or shaped as its leading dimensions.
        cond: What the network is told, as its argument `cond`. None: it is called without this argument.
        unconditional: What the network is told in the second call of a guided step, as `cond`. None: it is called
            without this argument.
        guidance: w: a step uses (1 + w)·o − w·o', where o is the network's output with cond, and o' is its output with
            unconditional. A number, or a tensor `[B]`. None: the network is called once in a step.
        start: The state from which the run starts: means of this shape, logits of this shape for binary data, or logits
            with a last dimension of K for classes. None: the prior or, if the sampler cannot start at t = 0, noise at
            the model's `solver_start`.
        max_calls: The largest number of calls of the network, at least 1. The two calls of a guided step count as one.
        counts: For a joint model of examples of different sizes, the number of rows of each example, `[B]`. The first
            number of the shape of a part is then the sum of the counts, or B for a part of examples.
        device: The device of the network and of the data.

    Returns:
        Data of this shape, as `BFN.mode` returns them, and the number of calls of the network, counted as in max_calls.

    Raises:
        TooManyCalls: If the run does not reach t = 1 with max_calls.
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
    device = torch.device(device)
    ragged = None if counts is None else Ragged.of_counts(counts, device)
    shape = _checked(model, shape, ragged)
    sampling = Sampling(choose, temperature, known, known_mask, cond, unconditional, guidance, ragged)
    _check(model, sampling, "ode2", shape)
    seed = seed_of(unwrapped(model), seed, torch.empty(_count(shape, ragged), device=device), ragged)
    with evaluating(model):
        seeds = _seeds(model, seed)
        state = by_part(model, partial(_start, model.solver_start, device), shape, seeds)
        if start is not None:
            model.start_from(state, start)
        _centre(model, state, ragged)
        steps = Steps(model.solver_start, tolerance, max_calls=max_calls)
        while steps.t < steps.end:
            # only a step that draws samples reads the seed
            taken = torch.tensor(steps.accepted + 1, device="cpu")
            step_seed = each_part(partial(step_seeds, steps=taken, device=device), seeds)
            before, accepted = copied(state), False
            t = torch.full((_count(shape, ragged),), steps.t, dtype=torch.float32, device=device)
            output = model.guided_output(model.theta(state), t, sampling)
            while not accepted:
                at = steps.t, steps.t_next, steps.t_previous
                step = by_part(model, lambda each: coefficients("ode2", each.schedule, *at).each(float))  # noqa: B023
                model.solve(output, state, t, step, step_seed, sampling)
                accepted = steps.judge(model.step_error(step, state, before, sampling))
                if not accepted:
                    each_part(_restore, state, before)
        return model.sample_final(state, sampling), steps.accepted + 1


def _count(shape: Any, ragged: Ragged | None) -> int:
    """The number of examples."""
    if ragged is not None:
        return ragged.num_examples
    return next(iter(shape.values()))[0] if isinstance(shape, dict) else shape[0]


def _restore(state: State, before: State) -> None:
    for value, old in zip(state, before, strict=True):
        value.copy_(old)


SAMPLERS: dict[str, Callable[..., Run]] = {rule: partial(by_rule, rule) for rule in RULES} | {"ancestral": ancestral}
