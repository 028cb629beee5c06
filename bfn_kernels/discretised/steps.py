"""The steps of samplers of discretised data. The functions are public in `bfn_kernels.discretised`."""

import torch
from torch import Tensor

from bfn_kernels import backends, solvers
from bfn_kernels.autograd import needs
from bfn_kernels.call import checks, keywords, rows
from bfn_kernels.call.keywords import PUBLISHED, Limits, prediction_scalars
from bfn_kernels.call.outputs import writes
from bfn_kernels.call.rows import Rows
from bfn_kernels.discretised.distribution import check_output, component_noises, normal_of
from bfn_kernels.records import CHOICES, MEAN
from bfn_kernels.schedules import ContinuousSchedule, continuous_schedule
from bfn_kernels.solvers import Coefficients


@writes("mean")
def update_sample(
    pred_mean: Tensor,
    pred_log_std: Tensor | None,
    mean: Tensor,
    precision: Rows,
    t: Rows,
    alpha: Rows,
    *,
    num_bins: int,
    mixture_logits: Tensor | None = None,
    sigma_1: float | None = None,
    schedule: ContinuousSchedule | None = None,
    parametrisation: str = "noise",
    limits: Limits = PUBLISHED,
    choose: str = "sample",
    known: Tensor | None = None,
    known_mask: Tensor | None = None,
    out: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    draw_noise: Tensor | None = None,
    component_noise: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Rows]:
    """One step of ancestral sampling: a value of the output distribution at time t is sent with accuracy α, and the
    mean updated, ρ' = ρ + α, μ' = (ρμ + αx)/ρ' + (√α/ρ')·ε.

    pred_mean, pred_log_std, mean `[B, ...]`; the mean is differentiable, the predictions with `choose="mean"` alone.
    limits and a pred_log_std of None: as in `continuous_time_loss`. choose: what is sent, a "sample" of the output
    distribution, its "mode" or its "mean". draw_noise: normals that draw the value; component_noise: uniforms that draw
    the component of a mixture. Everything else, and the result, as in `continuous.update_sample`.

    >>> m = torch.zeros(1, 1)
    >>> update_sample(m + 0.4, m - 9, m, 1.0, 0.5, 3.0, sigma_1=0.1, num_bins=2, noise=m, choose="mode",
    ...               parametrisation="data")
    (tensor([[0.3750]]), 4.0)
    """
    checks.data("mean", mean)
    choice = checks.choice("choose", choose, CHOICES)
    bins = keywords.checked_bins(num_bins, limits)
    output = pred_mean, pred_log_std, mixture_logits
    check_output(mean, "mean", output, mean, parametrisation)
    known_mask = keywords.known_values(known, known_mask, mean, mean.shape)
    if choice != MEAN:
        names = "pred_mean", "pred_log_std", "mixture_logits"
        checks.no_gradient(f'a {choose} has none, only choose="mean" has one', **dict(zip(names, output, strict=True)))
    library, dtype = backends.library(backend, mean.device), checks.compute_dtype(*output, mean)
    scales = prediction_scalars(library, parametrisation, t, mean, dtype, sigma_1, schedule, limits)
    keep, take, std = rows.scalars(library, rows.UPDATE, alpha, mean, dtype, precision=precision)
    draws = component_noises(mixture_logits, component_noise, mean.shape)
    draws = keywords.choice_noises(choose, draw_noise, mean.shape, *draws)
    seed = keywords.drawn_seed(mean, seed, generator, ("noise", noise, mean.shape), *draws)
    if choice == MEAN and any(needs(*output, mean)):  # the operator has no gradient for the predictions
        normal = normal_of(library, dtype, pred_mean, pred_log_std, mean, scales, bins)
        value = library.discretised.expected_value(*normal, mixture_logits, bins[0], True)
        value = value if known is None else torch.where(known_mask, known.to(value.dtype), value)
        updated = library.continuous.gaussian_step(mean, keep, value, take, std, seed, noise)
    else:
        solver, sent = (keep, take, std, None, None), (choice, known, known_mask, draw_noise, component_noise)
        updated = library.discretised.step(*output, mean, *scales, *solver, *bins, *sent, seed, noise, out, None)
    return updated, keywords.updated_precision(precision, alpha, mean)


@writes("mean", differentiable=False)
def solver_step(
    pred_mean: Tensor,
    pred_log_std: Tensor | None,
    mean: Tensor,
    t: Rows,
    t_next: Rows | None = None,
    *,
    num_bins: int,
    rule: str = "ode1",
    t_previous: Rows | None = None,
    previous: Tensor | None = None,
    coefficients: Coefficients | None = None,
    mixture_logits: Tensor | None = None,
    sigma_1: float | None = None,
    schedule: ContinuousSchedule | None = None,
    parametrisation: str = "noise",
    limits: Limits = PUBLISHED,
    choose: str = "mean",
    known: Tensor | None = None,
    known_mask: Tensor | None = None,
    out: Tensor | None = None,
    predicted_out: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    draw_noise: Tensor | None = None,
    component_noise: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """A sampler's step from time t to t_next: μ' = A·μ + take·(x̂ + r·(x̂ − x̂_prev)) + E·ξ, by the coefficients of a
    rule of `bfn_kernels.solvers` [derived], where x̂ is chosen of the output distribution at time t: its "mean", as
    solvers take it, a "sample" or its "mode".

    pred_mean, pred_log_std, mixture_logits and mean: as in `update_sample`. draw_noise and component_noise: of a
    sample. Everything else, and the result, as in `continuous.solver_step`.

    >>> m = torch.zeros(1, 1)
    >>> solver_step(m + 0.4, m - 9, m, 0.5, 1.0, rule="sde1", sigma_1=0.1, num_bins=2, noise=m, parametrisation="data")
    tensor([[0.4500]])
    """
    checks.data("mean", mean)
    choice = checks.choice("choose", choose, CHOICES)
    schedule = continuous_schedule(sigma_1, schedule)
    bins = keywords.checked_bins(num_bins, limits)
    output = pred_mean, pred_log_std, mixture_logits
    check_output(mean, "mean", output, mean, parametrisation)
    if previous is not None:
        checks.like("previous", previous, "the state", mean)
    known_mask = keywords.known_values(known, known_mask, mean, mean.shape)
    library, dtype = backends.library(backend, mean.device), checks.compute_dtype(*output, mean, previous)
    scales = prediction_scalars(library, parametrisation, t, mean, dtype, None, schedule, limits)
    solver = solvers.step_scalars(coefficients, rule, schedule, (t, t_next, t_previous), previous, mean, dtype)
    draws = component_noises(mixture_logits, component_noise, mean.shape)
    draws = keywords.choice_noises(choose, draw_noise, mean.shape, *draws)
    seed = keywords.step_seed(mean, solver.std, seed, generator, noise, *draws)
    sent = choice, known, known_mask, draw_noise, component_noise
    return library.discretised.step(*output, mean, *scales, *solver, *bins, *sent, seed, noise, out, predicted_out)
