"""Ops of circular data: angles, fractional coordinates, and whatever else repeats after a period.

The input distribution of a variable is a von Mises distribution with a mean and a concentration c, which is 0 before
the first message. A message y of accuracy α about x is drawn from vM(x, α). Accuracies do not add up, so a schedule is
`schedules.VonMisesAccuracy`, the accuracies of n messages, and there is no continuous-time loss. Only the losses are
differentiable. docs/mathematics/circular.md derives all formulas that are marked [derived].

Angles are `[B, ...]` in radians, or have any other period (`period=`). Any number below 2²² periods stands for an
angle. A larger one, or a larger difference of two angles, counts as 0, also in float64. Results lie in [−period/2,
period/2], ends included, since rounding may reach both. `help(bfn_kernels)` describes what all families share: times,
types, random numbers, errors.
"""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bfn_kernels import backends, checks, ranges
from bfn_kernels.arguments import keywords, rows
from bfn_kernels.arguments.outputs import check_outputs
from bfn_kernels.arguments.rows import PerRow
from bfn_kernels.circular.losses import *
from bfn_kernels.circular.losses import PERIODS, check_schedule, numbers_of, rows_of
from bfn_kernels.circular.operators import OPERATORS
from bfn_kernels.formulas import hide
from bfn_kernels.noise import as_seed
from bfn_kernels.records import Circle, MeanAngle, Message
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
    known: Tensor | None = None,
    known_mask: Tensor | None = None,
    out: Tensor | None = None,
    concentration_out: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    concentration_noise: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Draws the state at the start of a step: c from its law after step − 1 messages, then μ ~ vM(x, c) [derived].

    Args:
        x: Angles, `[B, ...]`, floating-point; not differentiable.
        step: The step i from 1 to n + 1, where n + 1 is after all messages: an int, or an integer tensor `[B]` or of
            any leading part of `[B, ...]`.
        schedule: The accuracies of the n messages, a `schedules.VonMisesAccuracy`.
        period: The period of the angles, 2π for radians.
        output: "concentration", or "log" for its logarithm, scaled to [−1, 1] by `schedule.log_scale`.
        mask: Bool, False where x is not read, such as padding: the result there is as before the first message.
            Broadcastable to `[B, ...]`, or shaped as its leading dimensions.
        known: Known angles, `[B, ...]`, in place of x where known_mask is True. The mean there is the known angle, and
            c is the sum of all accuracies, the largest concentration. Pass both or neither.
        known_mask: Bool, True where data are known. Broadcastable to `[B, ...]`, or shaped as its leading dimensions.
        out: Receives the mean, in x's shape and type. It may be x itself.
        concentration_out: Receives c or, with output="log", its logarithm, in x's shape and any floating-point type.
        seed: An int, or an int64 tensor of one element, that determines all random numbers of the call.
        generator: A `torch.Generator` on the tensors' device, to draw the seed. None: torch's default generator.
        noise: Uniforms, `[n, 2, B, ...]`, floating-point, instead of a seed, to draw the angle by n proposals, n at
            least 1. noise[j, 0] in [−1, 1] makes proposal j, and noise[j, 1] in (0, 1] decides whether it is accepted.
            The last proposal is accepted in any case. `bfn_kernels.noise.angle_uniforms` makes the uniforms of a seed.
        concentration_noise: Standard normals, `[B, ...]`, floating-point, instead of a seed, to draw the concentration.
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        The mean in the type of x, and c or its logarithm in float32 (float64 for float64 x). If out or
            concentration_out is given, it is that tensor.

    Example:
        >>> flow_sample(torch.zeros(1), 2, schedule=VonMisesAccuracy([1e4, 1e4]), seed=1)[1]
        tensor([10000.])
    """
    checks.data("x", x)
    checks.no_gradient(_NO_GRADIENT, x=x)
    if out is not None or concentration_out is not None:
        inputs = {"step": step, "mask": mask, "known": known, "known_mask": known_mask, "seed": seed, "noise": noise}
        outputs = {"out": out, "concentration_out": concentration_out}
        check_outputs(outputs, "x", x=x, concentration_noise=concentration_noise, **inputs)
    turn, row, dtype = checks.number("period", period, *PERIODS), rows_of(step, schedule, x, 1), checks.compute_dtype(x)
    log = checks.choice("output", output, ("concentration", "log")) == 1
    mask, known_mask = checks.mask("mask", mask, "x", x, x.shape), keywords.known_values(known, known_mask, x, x.shape)
    if mask is not None and known_mask is not None:
        known_mask = known_mask & mask
    x, row = hide(mask, x, row)
    library = backends.library(backend, x.device, first="cuda")
    seed = _angle_seed(x, seed, generator, noise, ("concentration_noise", concentration_noise, x.shape))
    drawn = {"seed": seed, "noise": noise, "concentration_noise": concentration_noise}
    message = Message(row.to(dtype), numbers_of(schedule, "table", x, torch.float32), known, known_mask, **drawn)
    circle = Circle(turn, *schedule.log_scale, 0.0 if known is None else schedule.total)
    call = partial(library.circular.step, x, MeanAngle(), message, circle)
    return _written(call, (out, concentration_out), x, dtype, log=log)


def sender_sample(
    x: Tensor,
    alpha: PerRow,
    *,
    period: float = 2 * math.pi,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Draws a message of accuracy α about x: y ~ vM(x, α).

    Args:
        x: Angles, `[B, ...]`, floating-point; not differentiable.
        alpha: Accuracy α, at least 0: a number, or a floating-point tensor `[B]` or of any leading part of `[B, ...]`.
        period: The period of the angles, 2π for radians.
        seed: An int, or an int64 tensor of one element, that determines all random numbers of the call.
        generator: A `torch.Generator` on the tensors' device, to draw the seed. None: torch's default generator.
        noise: Uniforms, `[n, 2, B, ...]`, floating-point, instead of a seed, to draw the angle by n proposals, n at
            least 1. noise[j, 0] in [−1, 1] makes proposal j, and noise[j, 1] in (0, 1] decides whether it is accepted.
            The last proposal is accepted in any case. `bfn_kernels.noise.angle_uniforms` makes the uniforms of a seed.
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        The message in the shape and type of x.

    Example:
        >>> sender_sample(torch.tensor([0.25, 1.25]), 1e12, period=1.0, seed=1)
        tensor([0.2500, 0.2500])
    """
    checks.data("x", x)
    checks.no_gradient(_NO_GRADIENT, x=x)
    turn, library = checks.number("period", period, *PERIODS), backends.library(backend, x.device, first="cuda")
    (accuracy,) = rows.scalars(library, ("accuracy",), alpha, x, checks.compute_dtype(x))
    seed = _angle_seed(x, seed, generator, noise)
    message, circle = Message(accuracy, seed=seed, noise=noise), Circle(turn)
    out = torch.empty_like(x)  # with this tensor, the operator makes no concentration
    library.circular.step(x, MeanAngle(), message, circle, out=out)
    return out


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

    Args:
        mean: μ, the mean before the message, `[B, ...]`, floating-point.
        concentration: c, the concentration before the message, at least 0, `[B, ...]`, floating-point.
        y: The message, `[B, ...]`, floating-point.
        alpha: Accuracy α, at least 0: a number, or a floating-point tensor `[B]` or of any leading part of `[B, ...]`.
        period: The period of the angles, 2π for radians.
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        The mean μ' and the concentration c', in the types of mean and concentration.

    Example:
        >>> bayesian_update(torch.zeros(1), torch.ones(1), torch.tensor([0.25]), 1.0, period=1.0)
        (tensor([0.1250]), tensor([1.4142]))
    """
    _check_state("y", y, mean, concentration)
    turn, library = checks.number("period", period, *PERIODS), backends.library(backend, mean.device, first="cuda")
    dtype = checks.compute_dtype(y, mean, concentration)
    (accuracy,) = rows.scalars(library, ("accuracy",), alpha, mean, dtype)
    before = MeanAngle(mean, ranges.compiled_nonnegative(concentration))
    return library.circular.step(y, before, Message(accuracy), Circle(turn))


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
    noise: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Takes one step of ancestral sampling: updates the state by a message of accuracy α about x̂.

    The receiver draws the message from vM(x̂, α) itself, as the sender would if the data were x̂.

    Args:
        pred: x̂, the angles that the network predicts, `[B, ...]`, floating-point.
        mean: μ, the mean before the message, `[B, ...]`, floating-point.
        concentration: c, the concentration before the message, at least 0, `[B, ...]`, floating-point.
        alpha: Accuracy α, at least 0: a number, or a floating-point tensor `[B]` or of any leading part of `[B, ...]`.
        schedule: The accuracies of the n messages, a `schedules.VonMisesAccuracy`.
        period: The period of the angles, 2π for radians.
        known: Known data, `[B, ...]`, which the step uses where known_mask is True. Pass both or neither.
        known_mask: Bool, True where data are known. Broadcastable to `[B, ...]`, or shaped as its leading dimensions.
        out: Receives the new mean, in mean's shape and type. It may be mean itself. No argument may then require a
            gradient.
        concentration_out: Receives c', in mean's shape and any floating-point type. It may be the concentration itself.
        log_out: Receives the logarithm of c', scaled by `schedule.log_scale`, in mean's shape. It needs a schedule.
        seed: An int, or an int64 tensor of one element, that determines all random numbers of the call.
        generator: A `torch.Generator` on the tensors' device, to draw the seed. None: torch's default generator.
        noise: Uniforms, `[n, 2, B, ...]`, floating-point, instead of a seed, to draw the angle by n proposals, n at
            least 1. noise[j, 0] in [−1, 1] makes proposal j, and noise[j, 1] in (0, 1] decides whether it is accepted.
            The last proposal is accepted in any case. `bfn_kernels.noise.angle_uniforms` makes the uniforms of a seed.
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        The mean μ' and the concentration c', in the types of mean and concentration, or out and concentration_out.

    Example:
        >>> update_sample(torch.ones(1), torch.zeros(1), torch.zeros(1), 1e9, seed=1)[1]
        tensor([1.0000e+09])
    """
    _check_state("pred", pred, mean, concentration)
    outputs = {"out": out, "concentration_out": concentration_out, "log_out": log_out}
    inputs = {"pred": pred, "concentration": concentration, "alpha": alpha, "known": known, "known_mask": known_mask}
    check_outputs(outputs, "mean", mean=mean, seed=seed, noise=noise, **inputs)
    if log_out is not None and schedule is None:
        raise ValueError("schedule must be given with log_out, got None")
    known_mask = keywords.known_values(known, known_mask, mean, mean.shape)
    turn, library = checks.number("period", period, *PERIODS), backends.library(backend, mean.device, first="cuda")
    circle = Circle(turn)
    if schedule is not None:
        check_schedule(schedule)
        circle = Circle(turn, *schedule.log_scale)
    dtype = checks.compute_dtype(pred, mean, concentration)
    (accuracy,) = rows.scalars(library, ("accuracy",), alpha, mean, dtype)
    seed = _angle_seed(mean, seed, generator, noise)
    message = Message(accuracy, known=known, known_mask=known_mask, seed=seed, noise=noise)
    before = MeanAngle(mean, ranges.compiled_nonnegative(concentration))
    call = partial(library.circular.step, pred, before, message, circle)
    return _written(call, (out, concentration_out), mean, concentration.dtype, log_out)


def renoise(pred: Tensor, step: int | Tensor, *, schedule: VonMisesAccuracy, **options: Any) -> tuple[Tensor, Tensor]:
    """Draws the state at the start of a step as if pred were the data: `flow_sample` about a prediction [derived].

    A sampler that does so in each step forgets its earlier states. Published code calls it "end_back". If some angles
    are known, pass torch.where(known_mask, known, pred), or known and known_mask, with which the state is certain.

    Args:
        pred: x̂, the angles that the network predicts, `[B, ...]`, floating-point.
        step: The step i from 1 to n + 1, where n + 1 is after all messages: an int, or an integer tensor `[B]` or of
            any leading part of `[B, ...]`.
        schedule: The accuracies of the n messages, a `schedules.VonMisesAccuracy`.
        **options: Further keyword arguments of `flow_sample`.

    Returns:
        What `flow_sample` returns.

    Example:
        >>> renoise(torch.zeros(1), 2, schedule=VonMisesAccuracy([1e4, 1e4]), output="log", seed=1)[1]
        tensor([-1.])
    """
    checks.data("pred", pred)
    checks.no_gradient(_NO_GRADIENT, pred=pred)
    return flow_sample(pred, step, schedule=schedule, **options)


def _angle_seed(
    like: Tensor,
    seed: int | Tensor | None,
    generator: torch.Generator | None,
    noise: Tensor | None,
    *others: keywords.ExplicitNoise,
) -> Tensor | None:
    """The seed of a call that draws angles, as `keywords.noise_seed` returns it. `noise` may have any number of
    proposals, at least one. others: what else the call draws."""
    if noise is None and all(other is None for _, other, _ in others):
        return as_seed(seed, like, generator)
    counted = isinstance(noise, Tensor) and checks.is_dense(noise) and noise.dim()
    proposals = len(noise) if counted else 1
    of_angle = "noise", noise, (max(proposals, 1), 2, *like.shape)
    return keywords.noise_seed(like, seed, generator, of_angle, *others)


def _check_state(name: str, sent: Tensor, mean: Tensor, concentration: Tensor) -> None:
    """Checks a state, and what is sent about it: the argument of this name."""
    checks.data("mean", mean)
    checks.like("concentration", concentration, "mean", mean)
    checks.like(name, sent, "mean", mean)
    checks.no_gradient(_NO_GRADIENT, mean=mean, concentration=concentration, **{name: sent})


def _written(
    call: partial,
    outputs: tuple[Tensor | None, Tensor | None],
    mean: Tensor,
    dtype: torch.dtype,
    log_out: Tensor | None = None,
    log: bool = False,
) -> tuple[Tensor, Tensor]:
    """Calls an operator with its outputs. Returns the new mean, and the new concentration or, with `log`, its
    logarithm. Each is written into its tensor of `outputs`, if it has one. dtype: the type of a second result that has
    none."""
    out, second = outputs
    if out is second is log_out is None and not log:
        return call()
    out = torch.empty_like(mean) if out is None else out
    second = torch.empty_like(mean, dtype=dtype) if second is None else second
    if log:
        call(out=out, log_out=second)
    else:
        call(out=out, concentration_out=second, log_out=log_out)
    return out, second
