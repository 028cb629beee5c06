"""Ops of discretised data. K bins of width 2/K divide [−1, 1], and a value is the centre of its bin.

The network predicts a normal per variable (`pred_mean`, `pred_log_std`). The output distribution gives each bin the
normal's mass in it: `clip=True` adds the mass beyond [−1, 1] to the end bins (107–109), `clip=False` renormalises.
Flow, sender and update are those of `continuous`.

`mixture_logits=` `[B, ..., M]`, M at most 1024, makes the output distribution a mixture of M normals. The two
predictions, or mean and std, then have that shape too, and the logits are differentiable where these are.
With `pred_log_std=None`, `pred_mean` is both predictions as networks put them out, stacked in a last dimension of two,
`[B, ..., 2]` or `[B, ..., M, 2]`, and so is its gradient, at the cost of two tensors; `unbind` costs a pass more.

Shapes: data `[B, ...]`; t, alpha and precision are scalars, `[B]` or any leading part of the data's shape.
Types: float32, bfloat16, float16 or float64; arithmetic in float32 (float64 for float64), one rounding at the end.
Random numbers: `seed=` an int or int64 tensor, or a `generator=` that one is drawn from; else torch's default one.
Numbers in parentheses: equations of Graves et al. 2023.
Errors: a wrong shape, device, range or keyword is a ValueError, a wrong type a TypeError, before anything is computed.
"""

import torch
from torch import Tensor

from bfn_kernels import backends
from bfn_kernels.autograd import needs
from bfn_kernels.call import checks, rows
from bfn_kernels.call.keywords import (
    PUBLISHED,
    Limits,
    checked_bins,
    choice_noises,
    drawn_seed,
    expectation,
    known_values,
    prediction_scalars,
    step_time,
    updated_precision,
)
from bfn_kernels.call.outputs import writes
from bfn_kernels.call.rows import Rows
from bfn_kernels.discretised.arguments import Output, check_output, component_noises
from bfn_kernels.discretised.bins import bin_index, centre
from bfn_kernels.discretised.distribution import expected_value as expected_value
from bfn_kernels.discretised.distribution import log_prob as log_prob
from bfn_kernels.discretised.distribution import mode as mode
from bfn_kernels.discretised.distribution import normal_of
from bfn_kernels.discretised.distribution import output_distribution as output_distribution
from bfn_kernels.discretised.distribution import sample as sample
from bfn_kernels.discretised.operators import OPERATORS
from bfn_kernels.discretised.solver import solver_step as solver_step
from bfn_kernels.records import CHOICES, MEAN, NO_DRAWS, LossTarget, Network, Noise, Sent, Solver
from bfn_kernels.schedules import ContinuousSchedule, continuous_schedule

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
    limits: `bfn_kernels.Limits` of the predictions' std, and of t.
    mask: bool, of the leading dimensions or broadcastable, False where a variable costs nothing and its x is not looked
    at. reduction: "mean" over variables, "sum", "batch" (sums `[B]`) or "none". Returns float32 (float64 for float64).

    >>> x, s = torch.full((1, 2), 0.5), torch.full((1, 2), -3.0)
    >>> continuous_time_loss(x, x, s, None, 0.5, sigma_1=0.1, num_bins=2, parametrisation="data")
    tensor(0.)
    """
    schedule = continuous_schedule(sigma_1, schedule)
    bins = checked_bins(num_bins, limits, clip)
    output = pred_mean, pred_log_std, mixture_logits, mean
    output, to = _check_loss(x, output, parametrisation, mask, reduction)
    library, dtype = backends.library(backend, x.device), checks.compute_dtype(x, *output)
    *scales, weight = prediction_scalars(library, parametrisation, t, x, dtype, schedule, limits, ("rate",), scale=0.5)
    return library.discretised.loss(x, *output, *scales, weight, None, False, 0, *NO_DRAWS, *bins, *to)


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

    n_steps: n. step: i from 1 to n, an int or integers shaped as t may be, in the place of t; a t that is no (i − 1)/n
    is refused on the CPU and costs NaN elsewhere. The expectation is a Gauss–Hermite sum over `quadrature` nodes (8
    unless n_samples is given), or the mean of `n_samples` draws, as published (noise: `[n_samples, B, ...]`). Measured,
    the error of a step relative to 1 plus its loss is, in 95 % of the variables and at worst, 2e-3 and 1e-2 with 4
    nodes, 2e-4 and 2e-3 with 8, 2e-5 and 5e-4 with 16, 1e-6 and 5e-5 with 32, and 0.2 and 0.7 with ten draws.
    Everything else as in `continuous_time_loss`, to which it tends as n grows.

    >>> x, s = torch.full((1, 2), 0.5), torch.full((1, 2), -9.0)
    >>> discrete_time_loss(x, x, s, None, 0.0, sigma_1=0.1, n_steps=2, num_bins=2, parametrisation="data").abs() < 1e-5
    tensor(True)
    """
    n_steps = checks.integer("n_steps", n_steps, 1)
    t = step_time(t, step, n_steps)
    schedule = continuous_schedule(sigma_1, schedule)
    bins = checked_bins(num_bins, limits, clip)
    output = pred_mean, pred_log_std, mixture_logits, mean
    output, to = _check_loss(x, output, parametrisation, mask, reduction)
    library, dtype = backends.library(backend, x.device), checks.compute_dtype(x, *output)
    *scales, alpha = prediction_scalars(
        library, parametrisation, t, x, dtype, schedule, limits, ("alpha",), n_steps=n_steps
    )
    if n_samples is None and quadrature is None:
        quadrature = 8
    draws = expectation(x, x.shape, quadrature, n_samples, seed, generator, noise)
    return library.discretised.loss(x, *output, *scales, None, alpha, False, n_steps, *draws, *bins, *to)


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
    schedule = continuous_schedule(sigma_1, schedule)
    bins = checked_bins(num_bins, limits)
    output = pred_mean, pred_log_std, mixture_logits, mean
    output, to = _check_loss(x, output, parametrisation, mask, reduction)
    library = backends.library(backend, x.device)
    scales = prediction_scalars(library, parametrisation, 1.0, x, checks.compute_dtype(x, *output), schedule, limits)
    return library.discretised.loss(x, *output, *scales, None, None, False, 0, *NO_DRAWS, *bins, *to)


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
    limits and a pred_log_std of None: as in `continuous_time_loss`.
    choose: what is sent, a "sample" of the output distribution, its "mode" or its "mean". Where `known_mask` is True
    `known` is sent instead. `out`, which may be mean itself, receives the mean; no gradient then. noise: normals of
    the sender; draw_noise: normals that draw the value; component_noise: uniforms that draw the component of a mixture.
    Returns the mean in the mean's type and the precision (a float if both were).

    >>> m = torch.zeros(1, 1)
    >>> update_sample(m + 0.4, m - 9, m, 1.0, 0.5, 3.0, sigma_1=0.1, num_bins=2, noise=m, choose="mode",
    ...               parametrisation="data")
    (tensor([[0.3750]]), 4.0)
    """
    checks.data("mean", mean)
    choice = checks.choice("choose", choose, CHOICES)
    schedule = continuous_schedule(sigma_1, schedule)
    bins = checked_bins(num_bins, limits)
    check_output(mean, "mean", (pred_mean, pred_log_std, mixture_logits, mean), parametrisation)
    known_mask = known_values(known, known_mask, mean, mean.shape)
    output = {"pred_mean": pred_mean, "pred_log_std": pred_log_std, "mixture_logits": mixture_logits}
    if choose != "mean":
        checks.no_gradient(f'a {choose} has none, only choose="mean" has one', **output)
    library, dtype = backends.library(backend, mean.device), checks.compute_dtype(*output.values(), mean)
    scales = prediction_scalars(library, parametrisation, t, mean, dtype, schedule, limits)
    keep, take, std = rows.scalars(library, rows.UPDATE, alpha, mean, dtype, precision=precision)
    draws = component_noises(mixture_logits, component_noise, mean.shape)
    draws = choice_noises(choose, draw_noise, mean.shape, *draws)
    drawn = Noise(drawn_seed(mean, seed, generator, ("noise", noise, mean.shape), *draws), noise)
    if choice == MEAN and any(needs(*output.values(), mean)):  # the operator has no gradient for the predictions
        normal = normal_of(library, dtype, pred_mean, pred_log_std, mean, scales, bins)
        value = library.discretised.expected_value(*normal, mixture_logits, bins.num_bins, True)
        value = value if known is None else torch.where(known_mask, known.to(value.dtype), value)
        updated = library.continuous.gaussian_step(mean, keep, value, take, std, *drawn)
    else:
        sent, solver = Sent(choice, known, known_mask, draw_noise), Solver(keep, take, std)
        network = Network(pred_mean, pred_log_std, mixture_logits, mean, *scales)
        updated = library.discretised.step(*network, *solver, *bins, *sent, component_noise, *drawn, out, None)
    return updated, updated_precision(precision, alpha, mean)


def _check_loss(x, output: Output, parametrisation, mask, reduction) -> tuple[Output, LossTarget]:
    """The checks that the losses share; returns the network's output as `check_output` does, and the target of the
    loss."""
    read = check_output(x, "x", output, parametrisation)
    how = checks.choice("reduction", reduction, checks.REDUCTIONS)
    checks.no_gradient("only what the network puts out has one", x=x, mean=output[3])
    to = LossTarget(checks.mask("mask", mask, "x", x, x.shape), how)
    return read, to
