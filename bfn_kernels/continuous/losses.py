"""The losses of continuous data. The functions are public in `bfn_kernels.continuous`."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from bfn_kernels import backends, checks
from bfn_kernels.arguments import keywords, rows
from bfn_kernels.arguments.keywords import PUBLISHED, Clip, Limits, prediction_scalars
from bfn_kernels.arguments.rows import PerRow
from bfn_kernels.records import LossTarget, Prediction
from bfn_kernels.schedules import ContinuousSchedule

__all__ = ["continuous_time_loss", "discrete_time_loss", "reconstruction_loss"]


def continuous_time_loss(
    x: Tensor,
    prediction: Tensor,
    mean: Tensor | None,
    t: PerRow,
    *,
    sigma_1: float | None = None,
    schedule: ContinuousSchedule | None = None,
    parametrisation: str = "noise",
    limits: Limits = PUBLISHED,
    clip: Clip = (-1, 1),
    mask: Tensor | None = None,
    reduction: str = "mean",
    backend: str | None = None,
) -> Tensor:
    """L∞ in nats: −ln σ₁·(x − x̂)²/σ₁^{2t} per variable (101).

    With another schedule than the paper's, it is schedule.rate(t)/2·(x − x̂)².

    Args:
        x: Data, `[B, ...]`, floating-point; differentiable.
        prediction: The network's output, `[B, ...]`, floating-point; differentiable.
        mean: μ, the mean that the network saw, `[B, ...]`; differentiable. None only with parametrisation="data".
        t: Times in [0, 1]: a number, or a floating-point tensor `[B]` or of any leading part of `[B, ...]`.
        sigma_1: σ₁ of the paper's schedule (80), the std at t = 1, in (0, 1). Pass either sigma_1 or schedule.
        schedule: An object with the methods of `schedules.ContinuousSchedule`, instead of sigma_1.
        parametrisation: "noise": `predict_data` makes x̂ of the network's output; "data": x̂ is the network's output.
        limits: `bfn_kernels.Limits`, of which only t_min is read: at times before t_min, a noise prediction is ignored,
            and x̂ is 0.
        clip: The range (low, high) of the data, to which x̂ is clipped. An x outside is an error on the CPU; a GPU does
            not check. None for data without bounds.
        mask: Bool, False where a variable costs nothing and its x is not read. Broadcastable to `[B, ...]`, or shaped
            as its leading dimensions.
        reduction: "mean" over the variables where mask is True, "sum", "batch" (sums, `[B]`) or "none" (`[B, ...]`).
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        The loss in nats, float32, or float64 if x, mean or a prediction is float64.

    Example:
        >>> x = torch.zeros(1, 2)
        >>> continuous_time_loss(x, x + 1, None, 0.5, sigma_1=0.1, parametrisation="data")
        tensor(23.0259)
    """
    mean, library, dtype, target = _check_loss(x, prediction, mean, parametrisation, mask, reduction, backend)
    mean_scale, noise_scale, weight = prediction_scalars(
        library, parametrisation, t, x, dtype, sigma_1, schedule, limits, ("rate",), scale=0.5
    )
    low, high = checks.interval("clip", clip)
    network = Prediction(prediction, mean, mean_scale, noise_scale, low, high)
    return library.continuous.squared_loss(x, network, weight, offset=None, target=target)


def discrete_time_loss(
    x: Tensor,
    prediction: Tensor,
    mean: Tensor | None,
    t: PerRow | None = None,
    *,
    n_steps: int,
    step: int | Tensor | None = None,
    sigma_1: float | None = None,
    schedule: ContinuousSchedule | None = None,
    parametrisation: str = "noise",
    limits: Limits = PUBLISHED,
    clip: Clip = (-1, 1),
    mask: Tensor | None = None,
    reduction: str = "mean",
    backend: str | None = None,
) -> Tensor:
    """L_n in nats: n·α_i/2·(x − x̂)² per variable, i = n·t + 1, t = (i − 1)/n (95, 96).

    It tends to `continuous_time_loss` as n grows.

    Args:
        x: Data, `[B, ...]`, floating-point; differentiable.
        prediction: The network's output, `[B, ...]`, floating-point; differentiable.
        mean: μ, the mean that the network saw, `[B, ...]`; differentiable. None only with parametrisation="data".
        t: Times (i − 1)/n: a number, or a floating-point tensor `[B]` or of any leading part of `[B, ...]`. Any other
            time is an error on the CPU, and its loss is NaN elsewhere. Pass either t or step.
        n_steps: n, the number of steps, at least 1.
        step: The step i from 1 to n, instead of t: an int, or an integer tensor in a shape that t may have.
        sigma_1: σ₁ of the paper's schedule (80), the std at t = 1, in (0, 1). Pass either sigma_1 or schedule.
        schedule: An object with the methods of `schedules.ContinuousSchedule`, instead of sigma_1.
        parametrisation: "noise": `predict_data` makes x̂ of the network's output; "data": x̂ is the network's output.
        limits: `bfn_kernels.Limits`, of which only t_min is read: at times before t_min, a noise prediction is ignored,
            and x̂ is 0.
        clip: The range (low, high) of the data, to which x̂ is clipped. An x outside is an error on the CPU; a GPU does
            not check. None for data without bounds.
        mask: Bool, False where a variable costs nothing and its x is not read. Broadcastable to `[B, ...]`, or shaped
            as its leading dimensions.
        reduction: "mean" over the variables where mask is True, "sum", "batch" (sums, `[B]`) or "none" (`[B, ...]`).
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        The loss in nats, float32, or float64 if x, mean or a prediction is float64.

    Raises:
        ValueError: If a time is not (i − 1)/n for a step i, on the CPU. Elsewhere the loss of its variables is NaN.

    Example:
        >>> x = torch.zeros(1, 2)
        >>> discrete_time_loss(x, x + 1, None, step=1, sigma_1=0.1, n_steps=1, parametrisation="data")
        tensor(49.5000)
    """
    mean, library, dtype, target = _check_loss(x, prediction, mean, parametrisation, mask, reduction, backend)
    t, n_steps = keywords.step_time(t, step, n_steps, x)
    mean_scale, noise_scale, weight = prediction_scalars(
        library, parametrisation, t, x, dtype, sigma_1, schedule, limits, ("alpha",), n_steps=n_steps, scale=n_steps / 2
    )
    low, high = checks.interval("clip", clip)
    network = Prediction(prediction, mean, mean_scale, noise_scale, low, high)
    return library.continuous.squared_loss(x, network, weight, offset=None, target=target)


def reconstruction_loss(
    x: Tensor,
    prediction: Tensor,
    mean: Tensor | None,
    *,
    sigma_1: float | None = None,
    schedule: ContinuousSchedule | None = None,
    num_bins: int | None = None,
    std: float | None = None,
    parametrisation: str = "noise",
    limits: Limits = PUBLISHED,
    clip: Clip = (-1, 1),
    mask: Tensor | None = None,
    reduction: str = "mean",
    backend: str | None = None,
) -> Tensor:
    """The cost in nats of x after the last message: −ln N(x; x̂, std²), where x̂ is the network's data prediction at t =
    1.

    With num_bins, it is −ln p of the bin that x lies in, where N(x̂, std²) gives p. This cost is comparable with the
    cost of discretised models.

    Args:
        x: Data, `[B, ...]`, floating-point; differentiable. With num_bins, x is not differentiable, and an x outside
            [−1, 1] is an error on the CPU; a GPU does not check.
        prediction: The network's output, `[B, ...]`, floating-point; differentiable.
        mean: μ, the mean that the network saw, `[B, ...]`; differentiable. None only with parametrisation="data".
        sigma_1: σ₁ of the paper's schedule (80), the std at t = 1, in (0, 1). Pass either sigma_1 or schedule.
        schedule: An object with the methods of `schedules.ContinuousSchedule`, instead of sigma_1.
        num_bins: K, the number of bins of [−1, 1], at least 2. None: the reconstruction loss is −ln of a density.
        std: Standard deviation of the normal, a number from 1e-6 to 1e6. None: σ₁, the standard deviation of the input
            distribution at t = 1. For 16 bins, the paper's published code uses 0.7σ₁.
        parametrisation: "noise": `predict_data` makes x̂ of the network's output; "data": x̂ is the network's output.
        limits: `bfn_kernels.Limits`, of which only t_min is read: at times before t_min, a noise prediction is ignored,
            and x̂ is 0.
        clip: The range (low, high) of the data, to which x̂ is clipped. Without num_bins, an x outside is an error on
            the CPU; a GPU does not check. None for data without bounds.
        mask: Bool, False where a variable costs nothing and its x is not read. Broadcastable to `[B, ...]`, or shaped
            as its leading dimensions.
        reduction: "mean" over the variables where mask is True, "sum", "batch" (sums, `[B]`) or "none" (`[B, ...]`).
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        The loss in nats, float32, or float64 if x, mean or a prediction is float64.

    Example:
        >>> x = torch.zeros(1, 2)
        >>> reconstruction_loss(x, x, None, sigma_1=0.1, parametrisation="data")
        tensor(-1.3836)
        >>> reconstruction_loss(x, x, None, sigma_1=0.1, std=0.07, num_bins=16, parametrisation="data")
        tensor(0.7702)
    """
    mean, library, dtype, target = _check_loss(x, prediction, mean, parametrisation, mask, reduction, backend)
    low, high = checks.interval("clip", clip)
    names = ("half_precision", "log_normaliser") if num_bins is None else ("std",)
    wanted = names if std is None else ()
    mean_scale, noise_scale, *normal = prediction_scalars(
        library, parametrisation, 1.0, x, dtype, sigma_1, schedule, limits, wanted
    )
    if std is not None:
        variance = checks.number("std", std, *keywords.STD_RANGE) ** 2
        normal = rows.scalars(library, names, 1.0, x, dtype, _ConstantVariance(variance))
    network = Prediction(prediction, mean, mean_scale, noise_scale, low, high)
    if num_bins is None:
        half_precision, log_normaliser = normal
        return library.continuous.squared_loss(x, network, half_precision, log_normaliser, target)
    num_bins = checks.integer("num_bins", num_bins, 2)
    checks.no_gradient("with num_bins only prediction and mean have a gradient", x=x)
    # predict_data returns x̂ in the type of the prediction, so x̂ would be rounded without this conversion
    x_hat = library.continuous.predict_data(network._replace(prediction=prediction.to(dtype)))
    return keywords.bin_loss(library, x, (x_hat, normal[0], None), num_bins, True, target)


class _ConstantVariance(NamedTuple):
    """A schedule whose variance is the same at all times. (torch.compile cannot trace a SimpleNamespace.)"""

    variance: float

    def gamma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        variance = torch.full_like(t, self.variance)
        return 1 - variance, variance


def _check_loss(
    x: Tensor, prediction: Tensor, mean: Tensor | None, parametrisation: str, mask, reduction: str, backend: str | None
) -> tuple[Tensor | None, Any, torch.dtype, LossTarget]:
    """Checks the arguments that the losses share. Returns the mean, or None if the operator does not read it; the
    library that serves the call; the type of the arithmetic; and how the loss is reduced."""
    checks.data("x", x)
    checks.like("prediction", prediction, "x", x)
    mean = keywords.read_mean(x, mean, parametrisation)
    target = keywords.loss_target(x, mask, reduction)
    return mean, backends.library(backend, x.device), checks.compute_dtype(x, prediction, mean), target
