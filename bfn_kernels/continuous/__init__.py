"""Ops of continuous data. The input distribution of a variable is a normal with a mean and a precision per row.

Data are `[B, ...]`. Types, random numbers and errors: `help(bfn_kernels)`. Numbers in parentheses: equations of Graves
et al. 2023.
"""

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from bfn_kernels import backends, solvers
from bfn_kernels.call import checks, keywords, rows
from bfn_kernels.call.keywords import PARAMETRISATIONS as PARAMETRISATIONS
from bfn_kernels.call.keywords import PUBLISHED, Limits, Target, prediction_scalars
from bfn_kernels.call.outputs import writes
from bfn_kernels.call.reduction import hide
from bfn_kernels.call.rows import Rows
from bfn_kernels.continuous.operators import OPERATORS
from bfn_kernels.schedules import ContinuousSchedule, continuous_schedule
from bfn_kernels.solvers import Coefficients

backends.add_family("continuous", OPERATORS)

Clip = tuple[float, float] | None


def flow_sample(
    x: Tensor,
    t: Rows,
    *,
    sigma_1: float | None = None,
    schedule: ContinuousSchedule | None = None,
    mask: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """The input distribution's mean after messages up to time t: γx + √(γ(1−γ))·ε, γ = 1 − σ₁^{2t} (77, 80).

    x `[B, ...]`, differentiable; t in [0, 1]. mask: bool, False where x is not read and the mean is the prior's,
    0. Returns the mean in x's shape and type.

    >>> x = torch.tensor([[0.5, -0.5]])
    >>> flow_sample(x, 1.0, sigma_1=0.1, noise=torch.zeros(1, 2))
    tensor([[ 0.4950, -0.4950]])
    """
    checks.data("x", x)
    schedule = continuous_schedule(sigma_1, schedule)
    library = backends.library(backend, x.device)
    gamma, std = rows.scalars(library, ("gamma", "flow_std"), t, x, checks.compute_dtype(x), schedule)
    x, gamma, std = hide(checks.mask("mask", mask, "x", x, x.shape), x, gamma, std)
    seed = keywords.drawn_seed(x, seed, generator, ("noise", noise, x.shape))
    return library.continuous.gaussian_step(x, gamma, None, None, std, seed, noise)


def sender_sample(
    x: Tensor,
    alpha: Rows,
    *,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """A message of accuracy α about x: y = x + ε/√α.

    x `[B, ...]`, differentiable; alpha at least 0. Returns y in x's shape and type.

    >>> sender_sample(torch.zeros(1, 2), 4.0, noise=torch.ones(1, 2))
    tensor([[0.5000, 0.5000]])
    """
    checks.data("x", x)
    library = backends.library(backend, x.device)
    (std,) = rows.scalars(library, ("sender_std",), alpha, x, checks.compute_dtype(x))
    seed = keywords.drawn_seed(x, seed, generator, ("noise", noise, x.shape))
    return library.continuous.gaussian_step(x, None, None, None, std, seed, noise)


def bayesian_update(
    mean: Tensor, precision: Rows, y: Tensor, alpha: Rows, *, backend: str | None = None
) -> tuple[Tensor, Rows]:
    """The input distribution after a message y of accuracy α: ρ' = ρ + α, μ' = (ρμ + αy)/ρ' (49, 50).

    mean, y `[B, ...]`, differentiable; precision and alpha at least 0, not both 0. Returns the mean in the mean's type
    and the precision (a float if both were).

    >>> bayesian_update(torch.zeros(1, 2), 1.0, torch.ones(1, 2), 3.0)
    (tensor([[0.7500, 0.7500]]), 4.0)
    """
    checks.data("mean", mean)
    checks.like("y", y, "mean", mean)
    library, dtype = backends.library(backend, mean.device), checks.compute_dtype(mean, y)
    keep, take = rows.scalars(library, ("keep", "take"), alpha, mean, dtype, precision=precision)
    updated = library.continuous.gaussian_step(mean, keep, y, take, None, None, None)
    return updated, keywords.updated_precision(precision, alpha, mean)


@writes("mean")
def update_sample(
    x: Tensor,
    mean: Tensor,
    precision: Rows,
    alpha: Rows,
    *,
    t: Rows | None = None,
    sigma_1: float | None = None,
    schedule: ContinuousSchedule | None = None,
    parametrisation: str = "noise",
    limits: Limits = PUBLISHED,
    clip: Clip = (-1, 1),
    known: Tensor | None = None,
    known_mask: Tensor | None = None,
    out: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Rows]:
    """Sender and update in one pass: ρ' = ρ + α, μ' = (ρμ + αx)/ρ' + (√α/ρ')·ε; y is never stored [derived].

    x, mean `[B, ...]`, differentiable; precision and alpha at least 0, not both 0. With t, one step of sampling: x is
    what the network put out at time t, and the data x̂ that it stands for is sent, as `predict_data` or, with
    `parametrisation="data"`, the clip alone makes it. sigma_1, schedule, parametrisation, limits and clip are of t.
    Where `known_mask` is True, `known` is sent instead (inpainting). `out`, which may be mean itself, receives the
    mean; no gradient then. Returns the mean in the mean's type and the precision (a float if both were).

    >>> update_sample(torch.ones(1, 2), torch.zeros(1, 2), 1.0, 3.0, noise=torch.zeros(1, 2))
    (tensor([[0.7500, 0.7500]]), 4.0)
    >>> noise_pred, mean = torch.zeros(1, 2), torch.full((1, 2), 0.45)
    >>> update_sample(noise_pred, mean, 1.0, 3.0, t=0.5, sigma_1=0.1, noise=torch.zeros(1, 2))
    (tensor([[0.4875, 0.4875]]), 4.0)
    """
    checks.data("mean", mean)
    checks.like("x", x, "mean", mean)
    known_mask = keywords.known_values(known, known_mask, mean, mean.shape)
    library, dtype = backends.library(backend, mean.device), checks.compute_dtype(x, mean)
    scales: Any = (None, None)
    low, high = -math.inf, math.inf
    if t is not None:
        checks.choice("parametrisation", parametrisation, PARAMETRISATIONS)
        low, high = checks.interval("clip", clip)
        scales = prediction_scalars(library, parametrisation, t, mean, dtype, sigma_1, schedule, limits)
    elif not (sigma_1 is schedule is None and (parametrisation, limits, clip) == ("noise", PUBLISHED, (-1, 1))):
        raise ValueError("t must be given with sigma_1, schedule, parametrisation, limits or clip, got None")
    keep, take, std = rows.scalars(library, rows.UPDATE, alpha, mean, dtype, precision=precision)
    seed = keywords.drawn_seed(mean, seed, generator, ("noise", noise, mean.shape))
    if t is None and known is None:
        updated = library.continuous.gaussian_step(mean, keep, x, take, std, seed, noise, out)
    else:
        solver = keep, take, std, None, None
        sent = known, known_mask, seed, noise, out, None
        updated = library.continuous.step(x, mean, *scales, low, high, *solver, *sent)
    return updated, keywords.updated_precision(precision, alpha, mean)


@writes("mean", differentiable=False)
def solver_step(
    prediction: Tensor,
    mean: Tensor,
    t: Rows,
    t_next: Rows | None = None,
    *,
    rule: str = "ode1",
    t_previous: Rows | None = None,
    previous: Tensor | None = None,
    coefficients: Coefficients | None = None,
    sigma_1: float | None = None,
    schedule: ContinuousSchedule | None = None,
    parametrisation: str = "noise",
    limits: Limits = PUBLISHED,
    clip: Clip = (-1, 1),
    known: Tensor | None = None,
    known_mask: Tensor | None = None,
    out: Tensor | None = None,
    predicted_out: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """A sampler's step from time t to t_next: μ' = A·μ + take·(x̂ + r·(x̂ − x̂_prev)) + E·ξ, by the coefficients of a
    rule of `bfn_kernels.solvers` [derived].

    prediction, mean `[B, ...]`: what the network put out at time t, and what it saw; x̂ is made of them as in
    `update_sample`. rule: a name of `solvers.RULES`. A step of second order takes `previous`, which `predicted_out`
    received in the step before, and t_previous, the time of that step. `coefficients` may stand in the place of t_next,
    t_previous and rule. Where `known_mask` is True, `known` is x̂ (inpainting). `out`, which may be mean itself,
    receives the new mean, and `predicted_out`, of the mean's shape and any of the types, x̂; it may be `previous`
    itself. noise: the normals of a stochastic rule; the others read neither noise nor seed. Times and coefficients: as
    times elsewhere; t_previous < t ≤ t_next, on the CPU. Nothing is differentiable. Returns the new mean in its type.

    >>> noise_pred, mean = torch.zeros(1, 2), torch.full((1, 2), 0.45)
    >>> solver_step(noise_pred, mean, 0.5, 1.0, rule="sde1", sigma_1=0.1, noise=torch.zeros(1, 2))
    tensor([[0.4950, 0.4950]])
    """
    checks.data("mean", mean)
    checks.like("prediction", prediction, "mean", mean)
    if previous is not None:
        checks.like("previous", previous, "the state", mean)
    checks.choice("parametrisation", parametrisation, PARAMETRISATIONS)
    schedule = continuous_schedule(sigma_1, schedule)
    low, high = checks.interval("clip", clip)
    known_mask = keywords.known_values(known, known_mask, mean, mean.shape)
    library, dtype = backends.library(backend, mean.device), checks.compute_dtype(prediction, mean, previous)
    scales = prediction_scalars(library, parametrisation, t, mean, dtype, None, schedule, limits)
    solver = solvers.step_scalars(coefficients, rule, schedule, (t, t_next, t_previous), previous, mean, dtype)
    seed = keywords.step_seed(mean, solver.std, seed, generator, noise)
    sent = known, known_mask, seed, noise, out, predicted_out
    return library.continuous.step(prediction, mean, *scales, low, high, *solver, *sent)


def predict_data(
    noise_pred: Tensor,
    mean: Tensor,
    t: Rows,
    *,
    sigma_1: float | None = None,
    schedule: ContinuousSchedule | None = None,
    limits: Limits = PUBLISHED,
    clip: Clip = (-1, 1),
    backend: str | None = None,
) -> Tensor:
    """The data that a noise prediction stands for: x̂ = μ/γ − √((1−γ)/γ)·ε̂ (84), clipped; 0 where t < t_min.

    noise_pred, mean `[B, ...]`, differentiable where the clip does not bind; t in [0, 1]; clip None for none; limits:
    `bfn_kernels.Limits`, whose t_min is 1e-6. Returns x̂ in noise_pred's shape and type.

    >>> predict_data(torch.zeros(1, 2), torch.full((1, 2), 0.45), 0.5, sigma_1=0.1)
    tensor([[0.5000, 0.5000]])
    """
    checks.data("noise_pred", noise_pred)
    checks.like("mean", mean, "noise_pred", noise_pred)
    ends = checks.interval("clip", clip)
    library, dtype = backends.library(backend, noise_pred.device), checks.compute_dtype(noise_pred, mean)
    scales = prediction_scalars(library, "noise", t, mean, dtype, sigma_1, schedule, limits)
    return library.continuous.predict_data(noise_pred, mean, *scales, *ends)


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
