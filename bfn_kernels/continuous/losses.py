"""The losses of continuous data. The functions are public in `bfn_kernels.continuous`."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from bfn_kernels import backends
from bfn_kernels.call import checks, keywords, rows
from bfn_kernels.call.keywords import PUBLISHED, Clip, Limits, Target, prediction_scalars
from bfn_kernels.call.rows import Rows
from bfn_kernels.schedules import ContinuousSchedule


def continuous_time_loss(
    x: Tensor,
    prediction: Tensor,
    mean: Tensor | None,
    t: Rows,
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

    x, prediction, mean `[B, ...]`, all differentiable; t in [0, 1]. `parametrisation="noise"`: x̂ is made of the
    prediction and the mean, as by `predict_data`, whose limits these are; "data": the prediction is x̂, and mean may be
    None. clip: the range of the data, which x̂ is clipped to and an x outside of which is refused on the CPU; None for
    data without bounds.
    mask: bool, of the leading dimensions or broadcastable, False where a variable costs nothing and its x is not looked
    at. reduction: "mean" over variables, "sum", "batch" (sums `[B]`) or "none". Returns float32 (float64 for float64).

    >>> x = torch.zeros(1, 2)
    >>> continuous_time_loss(x, x + 1, None, 0.5, sigma_1=0.1, parametrisation="data")
    tensor(23.0259)
    """
    mean, library, dtype, to = _check_loss(x, prediction, mean, parametrisation, mask, reduction, backend)
    *scales, weight = prediction_scalars(
        library, parametrisation, t, x, dtype, sigma_1, schedule, limits, ("rate",), scale=0.5
    )
    network = prediction, mean, *scales, *checks.interval("clip", clip)
    return library.continuous.squared_loss(x, *network, weight, None, *to)


def discrete_time_loss(
    x: Tensor,
    prediction: Tensor,
    mean: Tensor | None,
    t: Rows | None = None,
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

    n_steps: n, at least 1. step: i from 1 to n, an int or integers shaped as t may be, in the place of t; a t that is
    no (i − 1)/n is refused on the CPU and costs NaN elsewhere. Everything else as in `continuous_time_loss`, to which
    it tends as n grows.

    >>> x = torch.zeros(1, 2)
    >>> discrete_time_loss(x, x + 1, None, step=1, sigma_1=0.1, n_steps=1, parametrisation="data")
    tensor(49.5000)
    """
    n_steps = checks.integer("n_steps", n_steps, 1)
    t = keywords.step_time(t, step, n_steps)
    mean, library, dtype, to = _check_loss(x, prediction, mean, parametrisation, mask, reduction, backend)
    *scales, weight = prediction_scalars(
        library, parametrisation, t, x, dtype, sigma_1, schedule, limits, ("alpha",), n_steps=n_steps, scale=n_steps / 2
    )
    network = prediction, mean, *scales, *checks.interval("clip", clip)
    return library.continuous.squared_loss(x, *network, weight, None, *to)


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
    """The cost in nats of x after the last message, the network having seen t = 1: −ln N(x; x̂, std²), or, with
    `num_bins`, −ln p of x's bin under that normal, which compares with discretised models.

    std: from 1e-6 to 1e6; that of the flow at t = 1, σ₁, unless given. The published code takes 0.7σ₁ for 16 bins.
    Everything else as in `continuous_time_loss`; x lies in [−1, 1] and is not differentiable where `num_bins` is given.

    >>> x = torch.zeros(1, 2)
    >>> reconstruction_loss(x, x, None, sigma_1=0.1, parametrisation="data")
    tensor(-1.3836)
    >>> reconstruction_loss(x, x, None, sigma_1=0.1, std=0.07, num_bins=16, parametrisation="data")
    tensor(0.7702)
    """
    mean, library, dtype, to = _check_loss(x, prediction, mean, parametrisation, mask, reduction, backend)
    low, high = checks.interval("clip", clip)
    of_normal = ("half_precision", "log_normaliser") if num_bins is None else ("std",)
    wanted = of_normal if std is None else ()
    mean_scale, noise_scale, *normal = prediction_scalars(
        library, parametrisation, 1.0, x, dtype, sigma_1, schedule, limits, wanted
    )
    if std is not None:
        variance = checks.number("std", std, *keywords.STD_RANGE) ** 2
        given = SimpleNamespace(gamma=lambda t: (1 - variance, torch.full_like(t, variance)))
        normal = rows.scalars(library, of_normal, 1.0, x, dtype, given)
    network = mean, mean_scale, noise_scale, low, high
    if num_bins is None:
        return library.continuous.squared_loss(x, prediction, *network, *normal, *to)
    num_bins = checks.integer("num_bins", num_bins, 2)
    checks.no_gradient("with num_bins only prediction and mean have one", x=x)
    # x̂ has the type of its prediction, and is no result that should be rounded
    x_hat = library.continuous.predict_data(prediction.to(dtype), *network)
    return keywords.bin_loss(library, x, (x_hat, normal[0], None), num_bins, True, to)


def _check_loss(
    x: Tensor, prediction: Tensor, mean: Tensor | None, parametrisation: str, mask, reduction: str, backend: str | None
) -> tuple[Tensor | None, Any, torch.dtype, Target]:
    """The checks that the losses share; returns the mean that operators read, the library that serves the call, the
    type of the arithmetic, and the target of the loss."""
    how = checks.choice("reduction", reduction, checks.REDUCTIONS)
    checks.data("x", x)
    checks.like("prediction", prediction, "x", x)
    mean = keywords.read_mean(x, mean, parametrisation)
    to = checks.mask("mask", mask, "x", x, x.shape), how
    return mean, backends.library(backend, x.device), checks.compute_dtype(x, prediction, mean), to
