"""The losses of discrete data. Users import them from `bfn_kernels.discrete`."""

from typing import Any

import torch
from torch import Tensor

from bfn_kernels import backends, checks
from bfn_kernels.arguments import keywords, rows
from bfn_kernels.arguments.class_arguments import DISCRETE
from bfn_kernels.arguments.rows import PerRow
from bfn_kernels.declarations import NATIVE
from bfn_kernels.discrete.operators import SHORT_ROW
from bfn_kernels.records import RECEIVERS, ClassLogits, LossTarget
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
    class_mask: Tensor | None = None,
) -> Tensor:
    """Computes the continuous-time loss L∞, Kβ₁t·‖e_x − p‖² per variable, p = softmax(logits) (205).

    For a schedule other than the paper's, the factor is ½Kβ'(t).

    Args:
        x: Classes from 0 to K − 1, `[B, ...]`, int64, int32, int16, int8 or uint8; or soft data in place of the one-hot
            vectors e_x: distributions over the classes, `[B, ..., K]`, floating-point, not differentiable.
        logits: What the network put out, `[B, ..., K]`, floating-point; differentiable.
        t: Times in [0, 1]: a number, or a floating-point tensor `[B]` or of any leading part of `[B, ...]`.
        beta_1: β₁ of the paper's schedule (182), the accuracy at t = 1, positive. Pass either beta_1 or schedule.
        schedule: An object with the methods of `schedules.DiscreteSchedule`, instead of beta_1.
        mask: Bool, False where a variable costs nothing and its x is not read. Broadcastable to `[B, ...]`, or shaped
            as its leading dimensions.
        reduction: "mean" over the variables where mask is True, "sum", "batch" (sums, `[B]`) or "none" (`[B, ...]`).
        backend: A name of `backends.BACKENDS`; None chooses one for the device.
        class_mask: Bool, `[K]` or broadcastable to the logits. Where it is False, the logit counts as −∞.

    Returns:
        The loss in nats, float32, or float64 if logits is float64.

    Example:
        >>> continuous_time_loss(torch.tensor([1]), torch.zeros(1, 2), 0.5, beta_1=3.0)
        tensor(1.5000)
    """
    x, library, target = DISCRETE.check_loss(x, logits, mask, reduction, backend)
    schedule = discrete_schedule(beta_1, schedule)
    dtype = checks.compute_dtype(logits)
    dims = logits.dim() - 1
    (weight,) = rows.scalars(library, ("rate",), t, x, dtype, schedule, dims=dims, scale=logits.shape[-1] / 2)
    return _loss(library, x, logits, class_mask, weight, target)


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
    class_mask: Tensor | None = None,
) -> Tensor:
    """Computes the n-step loss L_n, n·E[ln p_S(y) − ln p_R(y)] per variable, with α_i, i = n·t + 1 (189, 190, 193).

    The expectation is the mean of draws, or a Gauss–Hermite sum. L_n tends to `continuous_time_loss` as n grows. Soft
    data are not implemented.

    Args:
        x: Classes from 0 to K − 1, `[B, ...]`, int64, int32, int16, int8 or uint8.
        logits: What the network put out, `[B, ..., K]`, floating-point; differentiable.
        t: Times (i − 1)/n: a number, or a floating-point tensor `[B]` or of any leading part of `[B, ...]`. Any other
            time is an error on the CPU, and its loss is NaN elsewhere. Pass either t or step.
        n_steps: n, the number of steps, at least 1.
        step: The step i from 1 to n, instead of t: an int, or an integer tensor in a shape that t may have.
        beta_1: β₁ of the paper's schedule (182), the accuracy at t = 1, positive. Pass either beta_1 or schedule.
        schedule: An object with the methods of `schedules.DiscreteSchedule`, instead of beta_1.
        receiver: The receiver distribution p_R of L_n: "joint", the paper's, or "factorised", the published code's,
            which has a mixture for each coordinate of y.
        n_samples: The number of draws, at least 1, whose mean estimates the expectation. 10 if neither n_samples nor
            quadrature is passed.
        quadrature: The number of nodes of a Gauss–Hermite sum, from 1 to 128, instead of draws. For the joint receiver
            only if K = 2.
        mask: Bool, False where a variable costs nothing and its x is not read. Broadcastable to `[B, ...]`, or shaped
            as its leading dimensions.
        reduction: "mean" over the variables where mask is True, "sum", "batch" (sums, `[B]`) or "none" (`[B, ...]`).
        seed: An int, or an int64 tensor of one element, that determines all random numbers of the call. Only for a mean
            of draws, not for a quadrature.
        generator: A `torch.Generator` on the tensors' device, to draw the seed. None: torch's default generator. Only
            for a mean of draws, not for a quadrature.
        noise: Standard normals, `[n_samples, B, ..., K]`, floating-point, instead of a seed; not differentiable.
        backend: A name of `backends.BACKENDS`; None chooses one for the device.
        class_mask: Bool, `[K]` or broadcastable to the logits. Where it is False, the logit counts as −∞.

    Returns:
        The loss in nats, float32, or float64 if logits is float64.

    Raises:
        ValueError: If quadrature is passed with the joint receiver and K > 2.

    Example:
        >>> discrete_time_loss(torch.tensor([1]), torch.zeros(1, 2), 0.0, n_steps=9, beta_1=3.0, quadrature=8)
        tensor(0.1637)
    """
    receiver_index = checks.choice("receiver", receiver, RECEIVERS)
    x, library, target = DISCRETE.check_loss(x, logits, mask, reduction, backend)
    t, n_steps = keywords.step_time(t, step, n_steps, x)
    if x.is_floating_point():
        raise TypeError("x must be classes in the n-step loss, which is not implemented for soft data, got a float")
    if n_samples is None and quadrature is None:
        n_samples = 10
    if quadrature is not None and receiver == "joint" and logits.shape[-1] != 2:
        raise ValueError(
            "quadrature must be None for the joint receiver with more than two classes, where the expectation is not "
            f"one-dimensional; got {quadrature} for K = {logits.shape[-1]}"
        )
    schedule = discrete_schedule(beta_1, schedule)
    dtype = checks.compute_dtype(logits)
    (alpha,) = rows.scalars(library, ("alpha",), t, x, dtype, schedule, n_steps=n_steps)
    draws = keywords.expectation(logits, quadrature, n_samples, seed, generator, noise)
    output = ClassLogits(logits, checks.class_mask(class_mask, logits))
    return library.discrete.discrete_time_loss(x, output, alpha, n_steps, receiver_index, draws, target)


def reconstruction_loss(
    x: Tensor,
    logits: Tensor,
    *,
    mask: Tensor | None = None,
    reduction: str = "mean",
    backend: str | None = None,
    class_mask: Tensor | None = None,
) -> Tensor:
    """Computes the cost of x after the last message, −ln p_x per variable, p = softmax(logits).

    The cost of soft data is −Σ x_k ln p_k.

    Args:
        x: Classes from 0 to K − 1, `[B, ...]`, int64, int32, int16, int8 or uint8; or soft data in place of the one-hot
            vectors e_x: distributions over the classes, `[B, ..., K]`, floating-point, not differentiable.
        logits: What the network put out, `[B, ..., K]`, floating-point; differentiable.
        mask: Bool, False where a variable costs nothing and its x is not read. Broadcastable to `[B, ...]`, or shaped
            as its leading dimensions.
        reduction: "mean" over the variables where mask is True, "sum", "batch" (sums, `[B]`) or "none" (`[B, ...]`).
        backend: A name of `backends.BACKENDS`; None chooses one for the device.
        class_mask: Bool, `[K]` or broadcastable to the logits. Where it is False, the logit counts as −∞.

    Returns:
        The loss in nats, float32, or float64 if logits is float64.

    Example:
        >>> reconstruction_loss(torch.tensor([1]), torch.zeros(1, 2))
        tensor(0.6931)
    """
    x, library, target = DISCRETE.check_loss(x, logits, mask, reduction, backend)
    return _loss(library, x, logits, class_mask, None, target)


def entropy(
    logits: Tensor, *, mask: Tensor | None = None, reduction: str = "mean", backend: str | None = None
) -> Tensor:
    """Computes the entropy of the output distribution, −Σ p_k·ln p_k per variable, p = softmax(logits) [derived].

    Args:
        logits: What the network put out, `[B, ..., K]`, floating-point; differentiable.
        mask: Bool, False where a variable does not count. Broadcastable to `[B, ...]`, or shaped as its leading
            dimensions.
        reduction: "mean" over the variables where mask is True, "sum", "batch" (sums, `[B]`) or "none" (`[B, ...]`).
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        The entropy in nats, float32, or float64 if logits is float64.

    Example:
        >>> entropy(torch.zeros(1, 2))
        tensor(0.6931)
    """
    checks.logits("logits", logits)
    target = keywords.loss_target(logits, mask, reduction, logits.shape[:-1], name="logits")
    return backends.library(backend, logits.device).discrete.entropy(logits, target)


def _loss(
    library: Any, x: Tensor, logits: Tensor, class_mask: Tensor | None, weight: Tensor | None, target: LossTarget
) -> Tensor:
    """L∞ or, without a weight, the reconstruction loss. For short rows, the CPU kernels compute the gradient in the
    forward pass, while the row is in the cache."""
    in_forward = logits.shape[-1] <= SHORT_ROW and logits.is_cpu and library is backends.LIBRARIES.get(NATIVE)
    output = ClassLogits(logits, class_mask if class_mask is None else checks.class_mask(class_mask, logits))
    return library.discrete.loss(x, output, weight, target, in_forward)
