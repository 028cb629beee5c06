"""Converts the keywords of a sampler's step to arguments of operators."""

import functools
import math
import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bfn_kernels import checks, solvers
from bfn_kernels.arguments import rows
from bfn_kernels.records import NO_SCORE, Guidance, Score, Solver
from bfn_kernels.schedules import DiscreteSchedule, discrete_schedule
from bfn_kernels.torch_private import outside_modes


class StepCoefficients(NamedTuple):
    """`solvers.Coefficients` of a sampling run in the types that operators take, so that a step converts nothing.

    Attributes:
        take, variance, extrapolation: As in `solvers.Coefficients`.
        numbers: For each type of arithmetic, the numbers of a `Solver`: keep, take, std and extrapolation.
    """

    take: Any
    variance: Any
    extrapolation: Any
    numbers: dict[torch.dtype, list[Any]]

    @classmethod
    def of(cls, chosen: solvers.Coefficients, scale: float, device: torch.device) -> "StepCoefficients":
        """The same coefficients, tensors `[n]` of n steps, for a device. scale: the factor of the variance, K for
        classes."""
        # a GPU's square root is the nearest number, and on the CPU, torch's may be the next one
        chosen = chosen.each(lambda number: number.to(checks.wide_device(device)))
        numbers = {
            dtype: [None if number is None else number.to(dtype) for number in _scaled(chosen, scale)]
            for dtype in (torch.float32, torch.float64)
        }
        return cls(chosen.take, chosen.variance, chosen.extrapolation, numbers)

    def each(self, of: Callable[[Any], Any]) -> "StepCoefficients":
        """Applies a function to each number that is not None."""

        def each(numbers: Iterable[Any]) -> list[Any]:
            return [None if number is None else of(number) for number in numbers]

        take, variance, extrapolation = each(self[:3])
        numbers = {dtype: each(numbers) for dtype, numbers in self.numbers.items()}
        return StepCoefficients(take, variance, extrapolation, numbers)


def taken(choose: str | None, rule: str, coefficients: solvers.Coefficients | None) -> str:
    """Returns `choose`, the value of the output distribution that a step takes. If `choose` is None, the value is a
    "sample" with the rule "ancestral", else the "mean". With coefficients, the rule is not read."""
    if choose is not None:
        return choose
    return "sample" if coefficients is None and rule == "ancestral" else "mean"


def step_schedule(
    explicit: solvers.Coefficients | None, beta_1: float | None, schedule: DiscreteSchedule | None
) -> DiscreteSchedule | None:
    """The schedule of a step of classes; None if there are coefficients instead."""
    return None if explicit is not None and beta_1 is schedule is None else discrete_schedule(beta_1, schedule)


def step_scalars(
    explicit: solvers.Coefficients | StepCoefficients | None,
    rule: str,
    schedule: Any,
    times: tuple[Any, Any, Any],
    previous: Tensor | None,
    state: Tensor,
    dtype: torch.dtype,
    dims: int | None = None,
    scale: float = 1,
) -> Solver:
    """The numbers of a step as operators take them: in `dtype`, and broadcastable to the first `dims` dimensions of the
    state (all if None). Either `explicit` coefficients give them, or a rule, a schedule and the times t, t_next and
    t_previous.

    previous: the prediction of the step before, which only a step of second order must have. scale: the factor of the
    variance, K for classes.
    """
    shape = state.shape[:dims]
    if explicit is None:
        if _are_numbers(times) and rows.is_plain(schedule) and state.is_cpu and not torch.compiler.is_compiling():
            return _solver(_tensors(_of_numbers(rule, schedule, *times, scale), dtype, state), previous)
        chosen = solvers.coefficients(rule, schedule, *_checked_times(rule, times, shape, state))
    elif isinstance(explicit, StepCoefficients):
        return _solver(explicit.numbers[dtype], previous)
    elif not isinstance(explicit, solvers.Coefficients):
        raise TypeError(f"coefficients must be bfn_kernels.solvers.Coefficients, got {type(explicit).__name__}")
    elif not times[1] is times[2] is None:
        raise ValueError("t_next and t_previous must be None where coefficients are given")
    elif state.is_cpu and not torch.compiler.is_compiling() and _are_finite(explicit):
        return _solver(_tensors(_scaled(explicit, scale), dtype, state), previous)
    else:
        checked: list[Any] = []
        for name, value in zip(explicit._fields, explicit, strict=True):
            low = 0 if name == "variance" else -math.inf
            checked.append(value if value is None else checks.rows(f"coefficients.{name}", value, shape, state, low))
        chosen = solvers.Coefficients(*checked)
    numbers = _scaled(chosen, scale)
    if any(number is not None and number.requires_grad for number in numbers):
        raise ValueError("schedule, times and coefficients must not require a gradient, since none is defined for them")
    return _solver([_converted(number, dtype, state.device) for number in numbers], previous)


def _tensors(numbers: list[Any], dtype: torch.dtype, state: Tensor) -> list[Tensor | None]:
    return [n if n is None else torch.scalar_tensor(n, dtype=dtype, device=state.device) for n in numbers]


def _scaled(chosen: solvers.Coefficients, scale: float) -> list[Any]:
    """The coefficients in the order of `Solver`, with the std of the noise in place of its variance."""
    variance = None if chosen.variance is None else scale * chosen.variance
    std = variance.sqrt() if isinstance(variance, Tensor) else None if variance is None else math.sqrt(variance)
    return [chosen.keep, chosen.take, std, chosen.extrapolation]


def _solver(numbers: list[Any], previous: Tensor | None) -> Solver:
    keep, take, std, extrapolation = numbers
    if (extrapolation is None) != (previous is None):
        raise ValueError("previous must be given together with t_previous or the extrapolation of coefficients")
    return Solver(keep, take, std, previous, extrapolation)


def _are_finite(chosen: solvers.Coefficients) -> bool:
    """Whether all coefficients are finite floats, and the variance is not negative."""
    numbers = [number for number in chosen if number is not None]
    finite = all(type(n) is float and math.isfinite(n) for n in numbers)
    return finite and (chosen.variance is None or bool(chosen.variance >= 0))


def _are_numbers(times: tuple[Any, Any, Any]) -> bool:
    t, t_next, t_previous = (type(time) for time in times)
    return t in (float, int) and t_next in (float, int) and t_previous in (float, int, type(None))


@functools.lru_cache(maxsize=4096)
def _of_numbers(
    rule: str, schedule: Any, t: float, t_next: float, t_previous: float | None, scale: float
) -> list[float | None]:
    """The numbers of a step at times that are Python numbers. The result is cached, since a sampler takes the same
    steps in each run."""
    with outside_modes():
        times = _checked_times(rule, (t, t_next, t_previous), torch.Size(), torch.empty(0, device="cpu"))
        numbers = _scaled(solvers.coefficients(rule, schedule, *times), scale)
        return [None if number is None else number.item() for number in numbers]


def scaled_variance(solver: Solver, variance_scale: Any, state: Tensor, dims: int | None = None) -> Solver:
    """The step with a variance of its noise that is `variance_scale` times as large: a number, or a number for each row
    of the first `dims` dimensions of the state (all if None)."""
    if variance_scale is None:
        return solver
    if solver.std is None:
        raise ValueError(f"variance_scale must be None for a step without noise, got {variance_scale}")
    factor = checks.rows("variance_scale", variance_scale, state.shape[:dims], state, 0).sqrt()
    return solver._replace(std=solver.std * _converted(factor, solver.std.dtype, solver.std.device))


def _converted(number: Tensor | None, dtype: torch.dtype, device: torch.device) -> Any:
    """The number in a type and then on a device, which may have no float64."""
    return None if number is None else number.to(dtype).to(device)


def _checked_times(rule: str, times: tuple[Any, Any, Any], shape: torch.Size, state: Tensor) -> list[Tensor | None]:
    """The times in float64, which must be in order, t_previous < t ≤ t_next. t must not be 0 if the rule cannot start
    there."""
    t, t_next, t_previous = times
    if t is None or t_next is None:
        raise ValueError(f"t and t_next must be given where coefficients are not, got {t=} and {t_next=}")
    least = 0.0 if solvers.rule_of(rule).from_prior else sys.float_info.min
    start, end = checks.rows("t", t, shape, state, least, 1), checks.rows("t_next", t_next, shape, state, 0, 1)
    before = None if t_previous is None else checks.rows("t_previous", t_previous, shape, state, 0, 1)
    if checks.shows(start) and checks.shows(end) and (start > end).any():
        raise ValueError(f"t_next must not lie before t, got {t_next} and {t}")
    if before is not None and checks.shows(start) and checks.shows(before) and (before >= start).any():
        raise ValueError(f"t_previous must lie before t, got {t_previous} and {t}")
    return [start, end, before]


def guidance_scalars(
    temperature: Any, unconditional: Tensor | None, guidance: Any, logits: Tensor, dtype: torch.dtype, dims: int | None
) -> Guidance:
    """The factors of the logits and of the unconditional logits, (1 + w)/T and −w/T, for the temperature T and the
    guidance w. They have the type `dtype`, and broadcast to the first `dims` dimensions of the logits (all if None)."""
    if (unconditional is None) != (guidance is None):
        raise ValueError("unconditional and guidance must be given together")
    shape, scale = logits.shape[:dims], None
    if temperature is not None:
        scale = 1 / checks.rows("temperature", temperature, shape, logits, 1e-30, 1e30)
    if unconditional is None:
        return Guidance(_converted(scale, dtype, logits.device))
    weight = checks.rows("guidance", guidance, shape, logits)
    factors = (1 + weight, -weight) if scale is None else ((1 + weight) * scale, -weight * scale)
    with_condition, without = (_converted(factor, dtype, logits.device) for factor in factors)
    return Guidance(with_condition, unconditional, without)


def checked_score(score: Tensor | None, score_clip: Any, logits: Tensor, dtype: torch.dtype) -> Score:
    """Checks `score_clip=` of a step, and returns it and the score as operators take them."""
    if score is None:
        if score_clip is not None:
            raise ValueError(f"score must be given with score_clip, got {score_clip=}")
        return NO_SCORE
    if score_clip is None:
        return Score(score)
    limit = checks.rows("score_clip", score_clip, logits.shape[:-1], logits, 0)
    return Score(score, _converted(limit, dtype, logits.device))
