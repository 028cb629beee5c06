"""Ops of circular data: angles, fractional coordinates, and whatever else repeats after a period.

The input distribution of a variable is a von Mises distribution with a mean and a concentration c, which is 0 before
the first message. A message y of accuracy α about x is drawn from vM(x, α). Accuracies do not add up, so a schedule is
`schedules.VonMisesAccuracy`, the accuracies of n messages, and there is no continuous-time loss. The state after any
number of messages is one draw: see docs/mathematics/circular.md, where all formulas are derived.

Angles are `[B, ...]` in radians, or have any other period (`period=`). Any number stands for an angle; results lie in
[−period/2, period/2). What all families share (rows, types, random numbers, errors) stands in `help(bfn_kernels)`.
"""

import math

import torch
from torch import Tensor

from bfn_kernels import backends
from bfn_kernels.call import checks, keywords, rows
from bfn_kernels.call.outputs import check_outputs
from bfn_kernels.call.reduction import hide
from bfn_kernels.call.rows import PerRow
from bfn_kernels.circular.losses import checked_period, numbers_of, rows_of
from bfn_kernels.circular.losses import discrete_time_loss as discrete_time_loss
from bfn_kernels.circular.losses import reconstruction_loss as reconstruction_loss
from bfn_kernels.circular.operators import OPERATORS
from bfn_kernels.schedules import VonMisesAccuracy

backends.add_family("circular", OPERATORS)

_NO_GRADIENT = "no argument of it has one"


def flow_sample(
    x: Tensor,
    step: int | Tensor,
    *,
    schedule: VonMisesAccuracy,
    period: float = 2 * math.pi,
    output: str = "concentration",
    mask: Tensor | None = None,
    out: Tensor | None = None,
    concentration_out: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Draws the state at the start of a step: c from its law after step − 1 messages, then μ ~ vM(x, c) [derived].

    Nothing is differentiable.

    Args:
        x: Angles `[B, ...]`, floating-point.
        step: i, from 1 to n, or n + 1 for the state after all messages: an int, or integers `[B]` or of any leading
            part of x's shape.
        schedule: The accuracies of n messages.
        period: The period of the angles, 2π for radians.
        output: "concentration", or "log" for its logarithm, scaled to [-1, 1]: -1 stands for the smallest accuracy or
            less, and 1 for the sum of all accuracies.
        mask: bool, False where x is not read (as for padding) and the state is the prior's. Broadcastable to x, or of
            its leading dimensions.
        out: Receives the mean, in x's shape and type. It may be x itself.
        concentration_out: Receives the second result, in x's shape and any floating-point type.
        seed: An int, or an int64 tensor of one element, that determines all draws.
        generator: Draws the seed. Without seed and generator, torch's default generator does.
        backend: A name of `backends.BACKENDS`; None chooses the fastest one.

    Returns:
        The mean in the type of x, and the concentration or its logarithm, float32 (float64 for float64 x), each
            `[B, ...]`; `out` and `concentration_out` themselves if they are given.

    Example:
        >>> schedule = VonMisesAccuracy([1e4, 1e4])
        >>> mean, concentration = flow_sample(torch.zeros(1), 2, schedule=schedule, seed=1)
        >>> mean.abs() < 0.1, concentration
        (tensor([True]), tensor([10000.]))
    """
    if out is not None or concentration_out is not None:
        check_outputs("x", locals())
    checks.data("x", x)
    checks.no_gradient(_NO_GRADIENT, x=x)
    mask = checks.mask("mask", mask, "x", x, x.shape)
    plan = schedule, period, output, seed, generator, backend
    return _flow(x, step, plan, mask, (out, concentration_out))


def sender_sample(
    x: Tensor,
    alpha: PerRow,
    *,
    period: float = 2 * math.pi,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    backend: str | None = None,
) -> Tensor:
    """Draws a message of accuracy α about x: y ~ vM(x, α).

    Nothing is differentiable.

    Args:
        x: Angles `[B, ...]`, floating-point.
        alpha: Accuracy α, at least 0: a number, `[B]` or any leading part of x's shape.
        period: The period of the angles, 2π for radians.
        seed: An int, or an int64 tensor of one element, that determines all draws.
        generator: Draws the seed. Without seed and generator, torch's default generator does.
        backend: A name of `backends.BACKENDS`; None chooses the fastest one.

    Returns:
        The message in the shape and type of x.

    Example:
        >>> sender_sample(torch.tensor([0.25, 1.25]), 1e12, period=1.0, seed=1)
        tensor([0.2500, 0.2500])
    """
    checks.data("x", x)
    checks.no_gradient(_NO_GRADIENT, x=x)
    turn, library = checked_period(period), backends.library(backend, x.device)
    (accuracy,) = rows.scalars(library, ("accuracy",), alpha, x, checks.compute_dtype(x))
    seed = keywords.noise_seed(x, seed, generator, ("", None, ()))
    return library.circular.draw(x, accuracy, None, None, seed, turn, 0.0, 0.0, None, None)[0]


def bayesian_update(
    mean: Tensor,
    concentration: Tensor,
    y: Tensor,
    alpha: PerRow,
    *,
    period: float = 2 * math.pi,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Updates the state by a message y of accuracy α: c'·e^(iμ') = c·e^(iμ) + α·e^(iy) [derived].

    Nothing is differentiable.

    Args:
        mean: μ, the mean before the message, `[B, ...]`, floating-point.
        concentration: c, the concentration before the message, at least 0, of mean's shape.
        y: The message, of mean's shape.
        alpha: Accuracy α of the message, at least 0: a number, `[B]` or any leading part of mean's shape.
        period: The period of the angles, 2π for radians.
        backend: A name of `backends.BACKENDS`; None chooses the fastest one.

    Returns:
        The mean μ' and the concentration c', in the types of mean and concentration.

    Example:
        >>> bayesian_update(torch.zeros(1), torch.ones(1), torch.tensor([0.25]), 1.0, period=1.0)
        (tensor([0.1250]), tensor([1.4142]))
    """
    plan = alpha, period, None, None, None, backend
    return _step("y", y, mean, concentration, plan, None, (None, None, None))


def update_sample(
    pred: Tensor,
    mean: Tensor,
    concentration: Tensor,
    alpha: PerRow,
    *,
    schedule: VonMisesAccuracy | None = None,
    period: float = 2 * math.pi,
    known: Tensor | None = None,
    known_mask: Tensor | None = None,
    out: Tensor | None = None,
    concentration_out: Tensor | None = None,
    log_out: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Takes one step of ancestral sampling: a message of accuracy α about x̂ updates the state.

    It is `sender_sample` and `bayesian_update` in one pass. Nothing is differentiable.

    Args:
        pred: x̂, the angles that the network predicts, `[B, ...]`, floating-point.
        mean: μ, the mean before the message, of pred's shape.
        concentration: c, the concentration before the message, at least 0, of pred's shape.
        alpha: Accuracy α of the message, at least 0: a number, `[B]` or any leading part of mean's shape.
        schedule: The accuracies of all messages, from which log_out gets its scale.
        period: The period of the angles, 2π for radians.
        known: Angles `[B, ...]`, which are sent instead where known_mask is True. Pass both or neither.
        known_mask: bool, True where `known` is sent. Broadcastable to mean, or of its leading dimensions.
        out: Receives the new mean, in mean's shape and type. It may be the mean itself.
        concentration_out: Receives the new concentration, in mean's shape and any floating-point type. It may be the
            concentration itself.
        log_out: Receives the logarithm of the new concentration, scaled as by `flow_sample`, in mean's shape and any
            floating-point type. It goes with schedule.
        seed: An int, or an int64 tensor of one element, that determines the message.
        generator: Draws the seed. Without seed and generator, torch's default generator does.
        backend: A name of `backends.BACKENDS`; None chooses the fastest one.

    Returns:
        The mean μ' and the concentration c', in the types of mean and concentration; `out` and `concentration_out`
            themselves if they are given.

    Raises:
        ValueError: If log_out is given without schedule.

    Example:
        >>> zero = torch.zeros(1)
        >>> mean, concentration = update_sample(zero + 1, zero, zero, 1e9, seed=1)
        >>> mean.round(decimals=3), concentration
        (tensor([1.]), tensor([1.0000e+09]))
    """
    if any(each is not None for each in (out, concentration_out, log_out)):
        check_outputs("mean", locals())
    if log_out is not None and schedule is None:
        raise ValueError("schedule must be given with log_out, got None")
    plan = alpha, period, schedule, known, known_mask, backend
    return _step("pred", pred, mean, concentration, plan, (seed, generator), (out, concentration_out, log_out))


def renoise(
    pred: Tensor,
    step: int | Tensor,
    *,
    schedule: VonMisesAccuracy,
    period: float = 2 * math.pi,
    output: str = "concentration",
    known: Tensor | None = None,
    known_mask: Tensor | None = None,
    out: Tensor | None = None,
    concentration_out: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Draws the state at the start of a step as if pred were the data: `flow_sample` about a prediction [derived].

    A sampler that does so in each step forgets its earlier states. Published code calls it "end_back". Nothing is
    differentiable.

    Args:
        pred: x̂, the angles that the network predicts, `[B, ...]`, floating-point.
        step: i of the step that follows, from 1 to n + 1: an int, or integers `[B]` or of any leading part of pred's
            shape.
        schedule: The accuracies of n messages.
        period: The period of the angles, 2π for radians.
        output: "concentration", or "log" for its logarithm, scaled to [-1, 1] as by `flow_sample`.
        known: Angles `[B, ...]`, which are the data instead where known_mask is True. Pass both or neither.
        known_mask: bool, True where `known` is the data. Broadcastable to pred, or of its leading dimensions.
        out: Receives the mean, in pred's shape and type. It may be pred itself.
        concentration_out: Receives the second result, in pred's shape and any floating-point type.
        seed: An int, or an int64 tensor of one element, that determines all draws.
        generator: Draws the seed. Without seed and generator, torch's default generator does.
        backend: A name of `backends.BACKENDS`; None chooses the fastest one.

    Returns:
        The mean in the type of pred, and the concentration or its logarithm, float32 (float64 for float64 pred), each
            `[B, ...]`; `out` and `concentration_out` themselves if they are given.

    Example:
        >>> schedule = VonMisesAccuracy([1e4, 1e4])
        >>> renoise(torch.zeros(1), 2, schedule=schedule, output="log", seed=1)[1]
        tensor([-1.])
    """
    if out is not None or concentration_out is not None:
        check_outputs("pred", locals())
    checks.data("pred", pred)
    known_mask = keywords.known_values(known, known_mask, pred, pred.shape)
    checks.no_gradient(_NO_GRADIENT, pred=pred)
    if known is not None:
        pred = torch.where(known_mask, known.to(pred.dtype), pred)
    plan = schedule, period, output, seed, generator, backend
    return _flow(pred, step, plan, None, (out, concentration_out))


def _flow(x: Tensor, step: int | Tensor, plan, mask: Tensor | None, outputs) -> tuple[Tensor, Tensor]:
    """The state at the start of a step. plan: schedule, period, output, seed, generator, backend."""
    schedule, period, output, seed, generator, backend = plan
    turn, row, dtype = checked_period(period), rows_of(step, schedule, x, 1), checks.compute_dtype(x)
    scale = schedule.log_scale if checks.choice("output", output, ("concentration", "log")) else (0.0, 0.0)
    x, row = hide(mask, x, row)
    library, seed = backends.library(backend, x.device), keywords.noise_seed(x, seed, generator, ("", None, ()))
    table = numbers_of(schedule, "table", x, torch.float32)
    outputs = _complete(outputs, x, dtype)
    drawn = library.circular.draw(x, None, row.to(dtype), table, seed, turn, *scale, *outputs)
    return drawn if outputs[0] is None else outputs


def _step(name: str, sent: Tensor, mean: Tensor, concentration: Tensor, plan, draw, outputs) -> tuple[Tensor, Tensor]:
    """The update by a message about `sent`, an argument called `name`. draw: the seed and the generator of the message;
    None if `sent` is the message itself. plan: alpha, period, schedule, known, known_mask, backend."""
    alpha, period, schedule, known, known_mask, backend = plan
    checks.data("mean", mean)
    checks.like("concentration", concentration, "mean", mean)
    checks.like(name, sent, "mean", mean)
    known_mask = keywords.known_values(known, known_mask, mean, mean.shape)
    checks.no_gradient(_NO_GRADIENT, mean=mean, concentration=concentration, **{name: sent})
    turn, library = checked_period(period), backends.library(backend, mean.device)
    dtype = checks.compute_dtype(sent, mean, concentration)
    (accuracy,) = rows.scalars(library, ("accuracy",), alpha, mean, dtype)
    seed = None if draw is None else keywords.noise_seed(mean, *draw, ("", None, ()))
    outputs = _complete(outputs, mean, concentration.dtype)
    scale = (0.0, 0.0) if schedule is None else schedule.log_scale
    arguments = sent, mean, concentration, accuracy, known, known_mask, seed, turn, *scale
    updated = library.circular.step(*arguments, *outputs)
    return updated if outputs[0] is None else outputs[:2]


def _complete(outputs, mean: Tensor, dtype: torch.dtype):
    """The tensors for the mean, the concentration and perhaps its logarithm. If any is given, both results need one."""
    if all(each is None for each in outputs):
        return outputs
    mean_out, concentration_out, *log_out = outputs
    mean_out = torch.empty_like(mean) if mean_out is None else mean_out
    concentration_out = torch.empty_like(mean, dtype=dtype) if concentration_out is None else concentration_out
    return mean_out, concentration_out, *log_out
