"""The steps of samplers of continuous data. The functions are public in `bfn_kernels.continuous`."""

import math
from typing import Any

import torch
from torch import Tensor

from bfn_kernels import backends, solvers
from bfn_kernels.call import checks, keywords, rows
from bfn_kernels.call.keywords import PARAMETRISATIONS, PUBLISHED, Clip, Limits, prediction_scalars
from bfn_kernels.call.outputs import writes
from bfn_kernels.call.rows import Rows
from bfn_kernels.schedules import ContinuousSchedule, continuous_schedule
from bfn_kernels.solvers import Coefficients


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
