"""The losses of circular data. Users import them from `bfn_kernels.circular`. docs/mathematics/circular.md derives the
formulas that are marked [derived]."""

import math

import torch
from torch import Tensor

from bfn_kernels import backends, checks, ranges
from bfn_kernels.arguments import keywords
from bfn_kernels.circular.reference import COSINE, DENSITY, SQUARE
from bfn_kernels.schedules import VonMisesAccuracy

__all__ = ["discrete_time_loss", "reconstruction_loss"]

PERIODS = 1e-6, 1e6  # the least and the largest period


def check_schedule(schedule: VonMisesAccuracy) -> None:
    if not isinstance(schedule, VonMisesAccuracy):
        raise TypeError(f"schedule must be a schedules.VonMisesAccuracy, got {type(schedule).__name__}")


def rows_of(step: int | Tensor, schedule: VonMisesAccuracy, x: Tensor, more: int = 0, first: int = 1) -> Tensor:
    """The row of each step in a table whose first row belongs to the step `first`: int64, which broadcasts to x. A step
    may lie in [1, n + more]."""
    check_schedule(schedule)
    step = keywords.checked_step(step, schedule.n_steps + more, x)
    if not isinstance(step, Tensor):
        return torch.full((1,) * x.dim(), step - first, device=x.device)
    row = step.reshape(checks.leading("step", step, x.shape)).long()
    return row - first if first else row


def numbers_of(schedule: VonMisesAccuracy, name: str, x: Tensor, dtype: torch.dtype) -> Tensor:
    """The schedule's `table` or `step_weights` on the device of x. For a fake x they are made anew, since torch does
    not mix real tensors with fake ones."""
    if type(x) in (Tensor, torch.nn.Parameter):
        return schedule.on(x.device, name, dtype)
    return torch.tensor(getattr(schedule, name).tolist(), dtype=dtype).to(x.device)


def discrete_time_loss(
    x: Tensor,
    pred: Tensor,
    step: int | Tensor,
    *,
    schedule: VonMisesAccuracy,
    squared: bool = False,
    period: float = 2 * math.pi,
    mask: Tensor | None = None,
    reduction: str = "mean",
    backend: str | None = None,
) -> Tensor:
    """Computes L_n, n times the divergence of vM(x̂, α) from vM(x, α): n·α·A(α)·(1 − cos(x − x̂)), A = I₁/I₀ [derived].

    Args:
        x: Angles, `[B, ...]`, floating-point; not differentiable.
        pred: x̂, the angles that the network predicts, `[B, ...]`, floating-point; differentiable.
        step: The step i from 1 to n: an int, or an integer tensor `[B]` or of any leading part of `[B, ...]`. Any other
            step costs NaN on a GPU.
        schedule: The accuracies of the n messages, a `schedules.VonMisesAccuracy`.
        squared: True for (x − x̂)² in radians, the shorter way around the circle, as in published code, instead of 1 −
            cos(x − x̂).
        period: The period of the angles, 2π for radians.
        mask: Bool, False where a variable costs nothing and its x is not read. Broadcastable to `[B, ...]`, or shaped
            as its leading dimensions.
        reduction: "mean" over the variables where mask is True, "sum", "batch" (sums, `[B]`) or "none" (`[B, ...]`).
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        The loss in nats, float32 (float64 for float64 x or pred).

    Example:
        >>> schedule = VonMisesAccuracy([1.0, 2.0])
        >>> discrete_time_loss(torch.zeros(1), torch.full((1,), 0.5), 2, schedule=schedule, period=1.0)
        tensor(5.5822)
    """
    library, target = _checked(x, pred, mask, reduction, backend)
    row = rows_of(step, schedule, x, first=0)
    weights = numbers_of(schedule, "step_weights", x, checks.compute_dtype(x, pred))
    weight = weights.take(row.clamp(0, len(weights) - 1))
    cost = SQUARE if checks.boolean("squared", squared) else COSINE
    turn = checks.number("period", period, *PERIODS)
    return library.circular.loss(x, pred, weight.expand(x.shape), cost, turn, target)


def reconstruction_loss(
    x: Tensor,
    pred: Tensor,
    concentration: Tensor,
    *,
    period: float = 2 * math.pi,
    mask: Tensor | None = None,
    reduction: str = "mean",
    backend: str | None = None,
) -> Tensor:
    """Computes −ln of the density of x after the last message, by vM(x̂, κ): ln(period·I₀(κ)) − κ·cos(x − x̂).

    The density is per unit of x.

    Args:
        x: Angles, `[B, ...]`, floating-point; not differentiable.
        pred: x̂, the angles that the network predicts, `[B, ...]`, floating-point; differentiable.
        concentration: κ of the output distribution, at least 0, `[B, ...]`, floating-point; differentiable.
        period: The period of the angles, 2π for radians.
        mask: Bool, False where a variable costs nothing and its x is not read. Broadcastable to `[B, ...]`, or shaped
            as its leading dimensions.
        reduction: "mean" over the variables where mask is True, "sum", "batch" (sums, `[B]`) or "none" (`[B, ...]`).
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        The loss in nats, float32 (float64 for float64 arguments).

    Example:
        >>> reconstruction_loss(torch.zeros(1), torch.zeros(1), torch.zeros(1))
        tensor(1.8379)
    """
    library, target = _checked(x, pred, mask, reduction, backend)
    checks.like("concentration", concentration, "x", x)
    concentration = ranges.compiled_nonnegative(concentration)
    return library.circular.loss(x, pred, concentration, DENSITY, checks.number("period", period, *PERIODS), target)


def _checked(x: Tensor, pred: Tensor, mask: Tensor | None, reduction: str, backend: str | None):
    """The library that serves a loss, and its target."""
    checks.data("x", x)
    checks.like("pred", pred, "x", x)
    checks.no_gradient("none is defined for it", x=x)
    return backends.library(backend, x.device), keywords.loss_target(x, mask, reduction)
