"""The losses of discretised data. The functions are public in `bfn_kernels.discretised`."""

from typing import Any

import torch
from torch import Tensor

from bfn_kernels import backends, checks
from bfn_kernels.arguments import keywords
from bfn_kernels.arguments.keywords import PUBLISHED, Limits, prediction_scalars
from bfn_kernels.arguments.rows import PerRow
from bfn_kernels.discretised.distribution import check_output
from bfn_kernels.records import NO_DRAWS, BinCost, LossTarget, Network
from bfn_kernels.schedules import ContinuousSchedule

__all__ = ["continuous_time_loss", "discrete_time_loss", "reconstruction_loss"]

# L_n is n times the logarithm of a sum that tends to 1, so its rounding errors grow with n. In units of 1 + the loss of
# the variable, they are about 2e-7·n in float32 and 1e-15·n in float64. Beyond FLOAT32_STEPS, float64 is used.
FLOAT32_STEPS, MOST_STEPS = 10_000, 10**12


def continuous_time_loss(
    x: Tensor,
    pred_mean: Tensor,
    pred_log_std: Tensor | None,
    mean: Tensor | None,
    t: PerRow,
    *,
    num_bins: int,
    mixture_logits: Tensor | None = None,
    sigma_1: float | None = None,
    schedule: ContinuousSchedule | None = None,
    parametrisation: str = "noise",
    limits: Limits = PUBLISHED,
    clip: bool = True,
    mask: Tensor | None = None,
    reduction: str = "mean",
    backend: str | None = None,
) -> Tensor:
    """L∞ in nats: −ln σ₁·(x − k̂)²/σ₁^{2t} per variable (101), where k̂ is the expected value of the output distribution.

    With another schedule than the paper's, it is schedule.rate(t)/2·(x − k̂)².

    Args:
        x: Data in [−1, 1], `[B, ...]`, floating-point; not differentiable. An x outside is an error on the CPU; a GPU
            does not check.
        pred_mean: Predicted mean, `[B, ...]`, or `[B, ..., M]` of a mixture, floating-point; differentiable. If
            pred_log_std is None, pred_mean has both predictions, stacked in a last dimension of two.
        pred_log_std: ln of the predicted std, in the shape of pred_mean, floating-point; differentiable. None if
            pred_mean has both predictions.
        mean: μ, the mean that the network saw, `[B, ...]`; not differentiable. None only with parametrisation="data".
        t: Times in [0, 1]: a number, or a floating-point tensor `[B]` or of any leading part of `[B, ...]`.
        num_bins: K, the number of bins of [−1, 1], at least 2.
        mixture_logits: Logits of the components of a mixture, `[B, ..., M]`, M at most 1024, floating-point;
            differentiable. None for one normal.
        sigma_1: σ₁ of the paper's schedule (80), the std at t = 1, in (0, 1). Pass either sigma_1 or schedule.
        schedule: An object with the methods of `schedules.ContinuousSchedule`, instead of sigma_1.
        parametrisation: "noise": the network predicts the noise (105, 106); "data": it predicts the data.
        limits: `bfn_kernels.Limits`, to which the predicted ln std and the std are clamped. At times before t_min, a
            noise prediction is ignored, and the normal is N(0, 1).
        clip: True adds the mass beyond [−1, 1] to the first and the last bin (107–109). False renormalises the
            distribution in [−1, 1]; a normal with less than 1e-5 of its mass in [−1, 1] then counts as uniform.
        mask: Bool, False where a variable costs nothing and its x is not read. Broadcastable to `[B, ...]`, or shaped
            as its leading dimensions.
        reduction: "mean" over the variables where mask is True, "sum", "batch" (sums, `[B]`) or "none" (`[B, ...]`).
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        The loss in nats, float32, or float64 if x, mean or a prediction is float64.

    Example:
        >>> x, s = torch.full((1, 2), 0.5), torch.full((1, 2), -3.0)
        >>> continuous_time_loss(x, x, s, None, 0.5, sigma_1=0.1, num_bins=2, parametrisation="data")
        tensor(0.)
    """
    bins = keywords.checked_bins(num_bins, limits, clip)
    output = pred_mean, pred_log_std, mixture_logits
    mean, library, dtype, target = _check_loss(x, output, mean, parametrisation, mask, reduction, backend)
    mean_scale, noise_scale, weight = prediction_scalars(
        library, parametrisation, t, x, dtype, sigma_1, schedule, limits, ("rate",), scale=0.5
    )
    network = Network(*output, mean, mean_scale, noise_scale)
    return library.discretised.loss(x, network, BinCost(weight), NO_DRAWS, bins, target)


def discrete_time_loss(
    x: Tensor,
    pred_mean: Tensor,
    pred_log_std: Tensor | None,
    mean: Tensor | None,
    t: PerRow | None = None,
    *,
    n_steps: int,
    num_bins: int,
    step: int | Tensor | None = None,
    mixture_logits: Tensor | None = None,
    sigma_1: float | None = None,
    schedule: ContinuousSchedule | None = None,
    quadrature: int | None = None,
    n_samples: int | None = None,
    parametrisation: str = "noise",
    limits: Limits = PUBLISHED,
    clip: bool = True,
    mask: Tensor | None = None,
    reduction: str = "mean",
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """L_n in nats: n·E_ε[−ε²/2 − ln Σ_k p_k·exp(−(y − c_k)²/2τ²)], y = x + τε, τ² = 1/α_i, i = n·t + 1 (113–119).

    p_k is the probability of bin k, and c_k its centre. L_n tends to `continuous_time_loss` as n grows. The expectation
    is a Gauss–Hermite sum or, as in the paper's published code, a mean of draws. Its error was measured as a fraction
    of 1 + the loss of the variable. In each pair, 95 % of the variables have at most the first error, and none has more
    than the second: 4 nodes (2e-3, 1e-2), 8 nodes (2e-4, 2e-3), 16 nodes (2e-5, 5e-4), 32 nodes (1e-6, 5e-5), ten draws
    (0.2, 0.7).

    If n is above 10 000, the arithmetic is in float64, since float32 would leave L_n few digits.

    Args:
        x: Data in [−1, 1], `[B, ...]`, floating-point; not differentiable. An x outside is an error on the CPU; a GPU
            does not check.
        pred_mean: Predicted mean, `[B, ...]`, or `[B, ..., M]` of a mixture, floating-point; differentiable. If
            pred_log_std is None, pred_mean has both predictions, stacked in a last dimension of two.
        pred_log_std: ln of the predicted std, in the shape of pred_mean, floating-point; differentiable. None if
            pred_mean has both predictions.
        mean: μ, the mean that the network saw, `[B, ...]`; not differentiable. None only with parametrisation="data".
        t: Times (i − 1)/n: a number, or a floating-point tensor `[B]` or of any leading part of `[B, ...]`. Any other
            time is an error on the CPU, and its loss is NaN elsewhere. Pass either t or step.
        n_steps: n, the number of steps, from 1 to 10¹².
        num_bins: K, the number of bins of [−1, 1], at least 2.
        step: The step i from 1 to n, instead of t: an int, or an integer tensor in a shape that t may have.
        mixture_logits: Logits of the components of a mixture, `[B, ..., M]`, M at most 1024, floating-point;
            differentiable. None for one normal.
        sigma_1: σ₁ of the paper's schedule (80), the std at t = 1, in (0, 1). Pass either sigma_1 or schedule.
        schedule: An object with the methods of `schedules.ContinuousSchedule`, instead of sigma_1.
        quadrature: The number of nodes of a Gauss–Hermite sum, from 1 to 128, instead of draws. 8 if neither n_samples
            nor quadrature is passed.
        n_samples: The number of draws, at least 1, whose mean estimates the expectation.
        parametrisation: "noise": the network predicts the noise (105, 106); "data": it predicts the data.
        limits: `bfn_kernels.Limits`, to which the predicted ln std and the std are clamped. At times before t_min, a
            noise prediction is ignored, and the normal is N(0, 1).
        clip: True adds the mass beyond [−1, 1] to the first and the last bin (107–109). False renormalises the
            distribution in [−1, 1]; a normal with less than 1e-5 of its mass in [−1, 1] then counts as uniform.
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
        The loss in nats, float32, or float64 if x, mean or a prediction is float64.

    Raises:
        ValueError: If a time is not (i − 1)/n for a step i, on the CPU; elsewhere the loss of its variables is NaN. If
            both quadrature and n_samples are given, or seed, generator or noise without n_samples.

    Example:
        >>> x, s = torch.full((1, 2), 0.5), torch.full((1, 2), -9.0)
        >>> loss = discrete_time_loss(x, x, s, None, 0.0, sigma_1=0.1, n_steps=2, num_bins=2, parametrisation="data")
        >>> loss.abs() < 1e-5
        tensor(True)
    """
    bins = keywords.checked_bins(num_bins, limits, clip)
    output: Any = pred_mean, pred_log_std, mixture_logits
    mean, library, result, target = _check_loss(x, output, mean, parametrisation, mask, reduction, backend)
    t, n_steps = keywords.step_time(t, step, n_steps, x, MOST_STEPS)
    if n_steps > FLOAT32_STEPS:
        x, *output, mean = _in_float64(n_steps, x, *output, mean)
    dtype = checks.compute_dtype(x, *output, mean)
    mean_scale, noise_scale, alpha = prediction_scalars(
        library, parametrisation, t, x, dtype, sigma_1, schedule, limits, ("alpha",), n_steps=n_steps
    )
    if n_samples is None and quadrature is None:
        quadrature = 8
    draws = keywords.expectation(x, quadrature, n_samples, seed, generator, noise)
    pred_mean, pred_log_std, mixture_logits = output
    network = Network(pred_mean, pred_log_std, mixture_logits, mean, mean_scale, noise_scale)
    loss = library.discretised.loss(x, network, BinCost(alpha=alpha, n_steps=n_steps), draws, bins, target)
    return loss.to(result)


def reconstruction_loss(
    x: Tensor,
    pred_mean: Tensor,
    pred_log_std: Tensor | None,
    mean: Tensor | None,
    *,
    num_bins: int,
    mixture_logits: Tensor | None = None,
    sigma_1: float | None = None,
    schedule: ContinuousSchedule | None = None,
    parametrisation: str = "noise",
    limits: Limits = PUBLISHED,
    mask: Tensor | None = None,
    reduction: str = "mean",
    backend: str | None = None,
) -> Tensor:
    """The cost in nats of x after the last message: −ln p_O(x), where p_O is the clipped output distribution at t = 1.

    Args:
        x: Data in [−1, 1], `[B, ...]`, floating-point; not differentiable. An x outside is an error on the CPU; a GPU
            does not check.
        pred_mean: Predicted mean, `[B, ...]`, or `[B, ..., M]` of a mixture, floating-point; differentiable. If
            pred_log_std is None, pred_mean has both predictions, stacked in a last dimension of two.
        pred_log_std: ln of the predicted std, in the shape of pred_mean, floating-point; differentiable. None if
            pred_mean has both predictions.
        mean: μ, the mean that the network saw, `[B, ...]`; not differentiable. None only with parametrisation="data".
        num_bins: K, the number of bins of [−1, 1], at least 2.
        mixture_logits: Logits of the components of a mixture, `[B, ..., M]`, M at most 1024, floating-point;
            differentiable. None for one normal.
        sigma_1: σ₁ of the paper's schedule (80), the std at t = 1, in (0, 1). Pass either sigma_1 or schedule.
        schedule: An object with the methods of `schedules.ContinuousSchedule`, instead of sigma_1.
        parametrisation: "noise": the network predicts the noise (105, 106); "data": it predicts the data.
        limits: `bfn_kernels.Limits`, to which the predicted ln std and the std are clamped. At times before t_min, a
            noise prediction is ignored, and the normal is N(0, 1).
        mask: Bool, False where a variable costs nothing and its x is not read. Broadcastable to `[B, ...]`, or shaped
            as its leading dimensions.
        reduction: "mean" over the variables where mask is True, "sum", "batch" (sums, `[B]`) or "none" (`[B, ...]`).
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        The loss in nats, float32, or float64 if x, mean or a prediction is float64.

    Example:
        >>> x, s = torch.full((1, 2), 0.5), torch.full((1, 2), -9.0)
        >>> reconstruction_loss(x, x, s, None, sigma_1=0.1, num_bins=2, parametrisation="data")
        tensor(0.)
    """
    bins = keywords.checked_bins(num_bins, limits)
    output = pred_mean, pred_log_std, mixture_logits
    mean, library, dtype, target = _check_loss(x, output, mean, parametrisation, mask, reduction, backend)
    scales = prediction_scalars(library, parametrisation, 1.0, x, dtype, sigma_1, schedule, limits)
    network = Network(*output, mean, *scales)
    return library.discretised.loss(x, network, BinCost(), NO_DRAWS, bins, target)


def _in_float64(n_steps: int, x: Tensor, *others: Tensor | None) -> list[Any]:
    """The arguments of L_n in float64."""
    if checks.widest(x.device) != torch.float64:
        raise ValueError(f"n_steps must be at most {FLOAT32_STEPS} on {x.device}, which has no float64, got {n_steps}")
    return [None if value is None else value.double() for value in (x, *others)]


def _check_loss(
    x: Tensor, output: tuple, mean: Tensor | None, parametrisation: str, mask, reduction: str, backend: str | None
) -> tuple[Tensor | None, Any, torch.dtype, LossTarget]:
    """Checks the arguments that the losses share. Returns the mean, or None if the operator does not read it; the
    library that serves the call; the type of the arithmetic; and how the loss is reduced."""
    mean_read = check_output(x, "x", output, mean, parametrisation)
    checks.no_gradient("only the network's output has a gradient", x=x, mean=mean)
    target = keywords.loss_target(x, mask, reduction)
    return mean_read, backends.library(backend, x.device), checks.compute_dtype(x, *output, mean_read), target
