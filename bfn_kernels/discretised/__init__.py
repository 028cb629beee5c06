"""Ops of discretised data. K bins of width 2/K divide [−1, 1], and a value is the centre of its bin.

The network predicts a normal per variable (`pred_mean`, `pred_log_std`). The output distribution gives each bin the
normal's mass in it: `clip=True` adds the mass beyond [−1, 1] to the end bins (107–109), `clip=False` renormalises.
Flow, sender and update are those of `continuous`.

`mixture_logits=` `[B, ..., M]`, M at most 1024, makes the output distribution a mixture of M normals. The two
predictions, or mean and std, then have that shape too, and the logits are differentiable where these are.
With `pred_log_std=None`, `pred_mean` is both predictions as networks put them out, stacked in a last dimension of two,
`[B, ..., 2]` or `[B, ..., M, 2]`, and so is its gradient, at the cost of two tensors; `unbind` costs a pass more.

Data are `[B, ...]`. Types, random numbers and errors: `help(bfn_kernels)`. Numbers in parentheses: equations of Graves
et al. 2023.
"""

from typing import Any

import torch
from torch import Tensor

from bfn_kernels import backends, solvers
from bfn_kernels.autograd import needs
from bfn_kernels.call import checks, keywords, rows
from bfn_kernels.call.keywords import PUBLISHED, Limits, Target, prediction_scalars
from bfn_kernels.call.outputs import writes
from bfn_kernels.call.rows import Rows
from bfn_kernels.discretised.bins import bin_index, centre
from bfn_kernels.discretised.distribution import check_output, component_noises, normal_of
from bfn_kernels.discretised.distribution import expected_value as expected_value
from bfn_kernels.discretised.distribution import log_prob as log_prob
from bfn_kernels.discretised.distribution import mode as mode
from bfn_kernels.discretised.distribution import output_distribution as output_distribution
from bfn_kernels.discretised.distribution import sample as sample
from bfn_kernels.discretised.operators import OPERATORS
from bfn_kernels.records import CHOICES, MEAN, NO_DRAWS
from bfn_kernels.schedules import ContinuousSchedule, continuous_schedule
from bfn_kernels.solvers import Coefficients

backends.add_family("discretised", OPERATORS)


def from_levels(levels: Tensor, *, num_bins: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Bin centres (2k + 1)/K − 1 of levels k = 0 … K − 1, as of an image's grey levels; `x/127.5 − 1` is off-centre.

    levels `[B, ...]`, integers below num_bins, else IndexError on the CPU. Returns `dtype`.

    >>> from_levels(torch.tensor([0, 255], dtype=torch.uint8), num_bins=256)
    tensor([-0.9961,  0.9961])
    """
    num_bins = checks.integer("num_bins", num_bins, 2)
    index, valid = checks.valid_classes("levels", checks.classes("levels", levels).long(), num_bins)
    wide = torch.promote_types(dtype, torch.float32)
    return torch.where(valid, centre(index.to(wide), num_bins), torch.nan).to(dtype)


def to_levels(x: Tensor, *, num_bins: int) -> Tensor:
    """The levels k = 0 … K − 1 of the bins that x lies in, int64: the way back from `from_levels`.

    x `[B, ...]` in [−1, 1], in a type that tells neighbouring centres apart. NaN has level 0.

    >>> to_levels(torch.tensor([-1.0, 0.1, 1.0]), num_bins=4)
    tensor([0, 2, 3])
    """
    checks.data("x", x)
    wide = x.to(checks.compute_dtype(x))
    return bin_index(wide, checks.integer("num_bins", num_bins, 2)).nan_to_num(0).long()


def continuous_time_loss(
    x: Tensor,
    pred_mean: Tensor,
    pred_log_std: Tensor | None,
    mean: Tensor | None,
    t: Rows,
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
    """L∞ in nats: −ln σ₁·(x − k̂)²/σ₁^{2t} per variable (101), k̂ the expected value of the output distribution.

    x, pred_mean, pred_log_std, mean `[B, ...]`; the predictions are differentiable; t in [0, 1]; x in [−1, 1], refused
    outside on the CPU (`from_levels` makes bin centres of levels 0 … K − 1).
    `parametrisation="noise"`: the predictions are of the noise (105, 106); "data": of the data, and mean may be None.
    limits: `bfn_kernels.Limits` of the predictions' std, and of t. mask, reduction and the result are as in
    `continuous.continuous_time_loss`.

    >>> x, s = torch.full((1, 2), 0.5), torch.full((1, 2), -3.0)
    >>> continuous_time_loss(x, x, s, None, 0.5, sigma_1=0.1, num_bins=2, parametrisation="data")
    tensor(0.)
    """
    bins = keywords.checked_bins(num_bins, limits, clip)
    output = pred_mean, pred_log_std, mixture_logits
    mean, library, dtype, to = _check_loss(x, output, mean, parametrisation, mask, reduction, backend)
    *scales, weight = prediction_scalars(
        library, parametrisation, t, x, dtype, sigma_1, schedule, limits, ("rate",), scale=0.5
    )
    return library.discretised.loss(x, *output, mean, *scales, weight, None, False, 0, *NO_DRAWS, *bins, *to)


def discrete_time_loss(
    x: Tensor,
    pred_mean: Tensor,
    pred_log_std: Tensor | None,
    mean: Tensor | None,
    t: Rows | None = None,
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

    n_steps, step and t: as in `continuous.discrete_time_loss`. The expectation is a Gauss–Hermite sum over `quadrature`
    nodes (8 unless n_samples is given), or the mean of `n_samples` draws, as published (noise: `[n_samples, B, ...]`).
    Measured, the error of a step relative to 1 plus its loss is, in 95 % of the variables and at worst, 2e-3 and 1e-2
    with 4 nodes, 2e-4 and 2e-3 with 8, 2e-5 and 5e-4 with 16, 1e-6 and 5e-5 with 32, and 0.2 and 0.7 with ten draws.
    Everything else as in `continuous_time_loss`, to which it tends as n grows.

    >>> x, s = torch.full((1, 2), 0.5), torch.full((1, 2), -9.0)
    >>> discrete_time_loss(x, x, s, None, 0.0, sigma_1=0.1, n_steps=2, num_bins=2, parametrisation="data").abs() < 1e-5
    tensor(True)
    """
    n_steps = checks.integer("n_steps", n_steps, 1)
    t = keywords.step_time(t, step, n_steps)
    bins = keywords.checked_bins(num_bins, limits, clip)
    output = pred_mean, pred_log_std, mixture_logits
    mean, library, dtype, to = _check_loss(x, output, mean, parametrisation, mask, reduction, backend)
    *scales, alpha = prediction_scalars(
        library, parametrisation, t, x, dtype, sigma_1, schedule, limits, ("alpha",), n_steps=n_steps
    )
    if n_samples is None and quadrature is None:
        quadrature = 8
    draws = keywords.expectation(x, quadrature, n_samples, seed, generator, noise)
    return library.discretised.loss(x, *output, mean, *scales, None, alpha, False, n_steps, *draws, *bins, *to)


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
    """The cost in nats of x after the last message, the network having seen t = 1: −ln p_O(x).

    Arguments and result as in `continuous_time_loss`.

    >>> x, s = torch.full((1, 2), 0.5), torch.full((1, 2), -9.0)
    >>> reconstruction_loss(x, x, s, None, sigma_1=0.1, num_bins=2, parametrisation="data")
    tensor(0.)
    """
    bins = keywords.checked_bins(num_bins, limits)
    output = pred_mean, pred_log_std, mixture_logits
    mean, library, dtype, to = _check_loss(x, output, mean, parametrisation, mask, reduction, backend)
    scales = prediction_scalars(library, parametrisation, 1.0, x, dtype, sigma_1, schedule, limits)
    return library.discretised.loss(x, *output, mean, *scales, None, None, False, 0, *NO_DRAWS, *bins, *to)


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


def _check_loss(
    x: Tensor, output: tuple, mean: Tensor | None, parametrisation: str, mask, reduction: str, backend: str | None
) -> tuple[Tensor | None, Any, torch.dtype, Target]:
    """The checks that the losses share; returns the mean, None if it is not read, the library that serves the call, the
    type of the arithmetic, and the target of the loss."""
    mean_read = check_output(x, "x", output, mean, parametrisation)
    how = checks.choice("reduction", reduction, checks.REDUCTIONS)
    checks.no_gradient("only what the network puts out has one", x=x, mean=mean)
    to = checks.mask("mask", mask, "x", x, x.shape), how
    return mean_read, backends.library(backend, x.device), checks.compute_dtype(x, *output, mean_read), to
