"""The losses of binary data. Users import them from `bfn_kernels.binary`."""

import torch
from torch import Tensor

from bfn_kernels import backends, checks
from bfn_kernels.arguments import keywords, rows
from bfn_kernels.arguments.class_arguments import BINARY
from bfn_kernels.arguments.rows import PerRow
from bfn_kernels.records import RECEIVERS
from bfn_kernels.schedules import DiscreteSchedule, discrete_schedule

__all__ = ["continuous_time_loss", "discrete_time_loss", "entropy", "reconstruction_loss"]


def continuous_time_loss(
    x: Tensor,
    logits: Tensor,
    t: PerRow,
    *,
    beta_1: float | None = None,
    schedule: DiscreteSchedule | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    backend: str | None = None,
) -> Tensor:
    """Computes the continuous-time loss L∞, 4β₁t·(1 − p_x)² per variable, p₁ = σ(logits) (205).

    For a schedule other than the paper's, the factor is 2β'(t).

    Args:
        x: Classes 0 and 1, `[B, ...]`, bool, int64, int32, int16, int8 or uint8.
        logits: What the network put out, `[B, ...]`, floating-point; differentiable.
        t: Times in [0, 1]: a number, or a floating-point tensor `[B]` or of any leading part of `[B, ...]`.
        beta_1: β₁ of the paper's schedule (182), the accuracy at t = 1, positive. Pass either beta_1 or schedule.
        schedule: An object with the methods of `schedules.DiscreteSchedule`, instead of beta_1.
        mask: Bool, False where a variable costs nothing and its x is not read. Broadcastable to `[B, ...]`, or shaped
            as its leading dimensions.
        reduction: "mean" over the variables where mask is True, "sum", "batch" (sums, `[B]`) or "none" (`[B, ...]`).
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        The loss in nats, float32, or float64 if logits is float64.

    Example:
        >>> continuous_time_loss(torch.tensor([1]), torch.zeros(1), 0.5, beta_1=3.0)
        tensor(1.5000)
    """
    x, library, target = BINARY.check_loss(x, logits, mask, reduction, backend)
    schedule = discrete_schedule(beta_1, schedule)
    dtype = checks.compute_dtype(logits)
    (weight,) = rows.scalars(library, ("rate",), t, x, dtype, schedule, scale=2)
    return library.binary.loss(x, logits, weight, target)


def discrete_time_loss(
    x: Tensor,
    logits: Tensor,
    t: PerRow | None = None,
    *,
    n_steps: int,
    step: int | Tensor | None = None,
    beta_1: float | None = None,
    schedule: DiscreteSchedule | None = None,
    receiver: str = "joint",
    n_samples: int | None = None,
    quadrature: int | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Computes the n-step loss L_n, n·E[ln p_S(y) − ln p_R(y)] per variable, with α_i, i = n·t + 1 (189, 190, 193).

    The expectation is a Gauss–Hermite sum, or a mean of draws, each with one normal per variable. L_n tends to
    `continuous_time_loss` as n grows.

    Args:
        x: Classes 0 and 1, `[B, ...]`, bool, int64, int32, int16, int8 or uint8.
        logits: What the network put out, `[B, ...]`, floating-point; differentiable.
        t: Times (i − 1)/n: a number, or a floating-point tensor `[B]` or of any leading part of `[B, ...]`. Any other
            time is an error on the CPU, and its loss is NaN elsewhere. Pass either t or step.
        n_steps: n, the number of steps, at least 1.
        step: The step i from 1 to n, instead of t: an int, or an integer tensor in a shape that t may have.
        beta_1: β₁ of the paper's schedule (182), the accuracy at t = 1, positive. Pass either beta_1 or schedule.
        schedule: An object with the methods of `schedules.DiscreteSchedule`, instead of beta_1.
        receiver: The receiver distribution p_R of L_n: "joint", the paper's, or "factorised", the published code's,
            which has a mixture for each coordinate of y.
        n_samples: The number of draws, at least 1, whose mean estimates the expectation.
        quadrature: The number of nodes of a Gauss–Hermite sum, from 1 to 128, instead of draws. 8 if neither n_samples
            nor quadrature is passed.
        mask: Bool, False where a variable costs nothing and its x is not read. Broadcastable to `[B, ...]`, or shaped
            as its leading dimensions.
        reduction: "mean" over the variables where mask is True, "sum", "batch" (sums, `[B]`) or "none" (`[B, ...]`).
        seed: An int, or an int64 tensor of one element, that determines all random numbers of the call. Only for a mean
            of draws, not for a quadrature.
        generator: A `torch.Generator` on the tensors' device, to draw the seed. None: torch's default generator. Only
            for a mean of draws, not for a quadrature.
        noise: Standard normals, `[n_samples, B, ...]`, floating-point, instead of a seed; not differentiable.
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        The loss in nats, float32, or float64 if logits is float64.

    Example:
        >>> discrete_time_loss(torch.tensor([1]), torch.zeros(1), 0.0, n_steps=9, beta_1=3.0)
        tensor(0.1637)
    """
    receiver_index = checks.choice("receiver", receiver, RECEIVERS)
    x, library, target = BINARY.check_loss(x, logits, mask, reduction, backend)
    t, n_steps = keywords.step_time(t, step, n_steps, x)
    if n_samples is None and quadrature is None:
        quadrature = 8
    schedule = discrete_schedule(beta_1, schedule)
    dtype = checks.compute_dtype(logits)
    (alpha,) = rows.scalars(library, ("alpha",), t, x, dtype, schedule, n_steps=n_steps)
    draws = keywords.expectation(logits, quadrature, n_samples, seed, generator, noise)
    return library.binary.discrete_time_loss(x, logits, alpha, n_steps, receiver_index, draws, target)


def reconstruction_loss(
    x: Tensor, logits: Tensor, *, mask: Tensor | None = None, reduction: str = "mean", backend: str | None = None
) -> Tensor:
    """Computes the cost of x after the last message, −ln p_x per variable, p₁ = σ(logits).

    Args:
        x: Classes 0 and 1, `[B, ...]`, bool, int64, int32, int16, int8 or uint8.
        logits: What the network put out, `[B, ...]`, floating-point; differentiable.
        mask: Bool, False where a variable costs nothing and its x is not read. Broadcastable to `[B, ...]`, or shaped
            as its leading dimensions.
        reduction: "mean" over the variables where mask is True, "sum", "batch" (sums, `[B]`) or "none" (`[B, ...]`).
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        The loss in nats, float32, or float64 if logits is float64.

    Example:
        >>> reconstruction_loss(torch.tensor([1]), torch.zeros(1))
        tensor(0.6931)
    """
    x, library, target = BINARY.check_loss(x, logits, mask, reduction, backend)
    return library.binary.loss(x, logits, weight=None, target=target)


def entropy(
    logits: Tensor, *, mask: Tensor | None = None, reduction: str = "mean", backend: str | None = None
) -> Tensor:
    """Computes the entropy of the output distribution, −p₁·ln p₁ − p₀·ln p₀ per variable, p₁ = σ(logits) [derived].

    Args:
        logits: What the network put out, `[B, ...]`, floating-point; differentiable.
        mask: Bool, False where a variable does not count. Broadcastable to `[B, ...]`, or shaped as its leading
            dimensions.
        reduction: "mean" over the variables where mask is True, "sum", "batch" (sums, `[B]`) or "none" (`[B, ...]`).
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        The entropy in nats, float32, or float64 if logits is float64.

    Example:
        >>> entropy(torch.zeros(1))
        tensor(0.6931)
    """
    checks.data("logits", logits)
    target = keywords.loss_target(logits, mask, reduction, name="logits")
    return backends.library(backend, logits.device).binary.entropy(logits, target)
