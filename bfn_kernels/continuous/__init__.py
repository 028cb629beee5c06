"""Ops of continuous data. The input distribution of a variable is a normal with a mean and a precision. Means are
`[B, ...]`, as data are. The precision is one number for all variables, or a tensor `[B]` or of any leading part of
`[B, ...]`.

`help(bfn_kernels)` describes types, random numbers and errors. Numbers in parentheses are equations of Graves et al.
2023, and [derived] marks formulas that are not in the paper.
"""

import torch
from torch import Tensor

from bfn_kernels import backends, checks
from bfn_kernels.arguments import keywords, rows
from bfn_kernels.arguments.keywords import PARAMETRISATIONS as PARAMETRISATIONS
from bfn_kernels.arguments.keywords import PUBLISHED, Limits, prediction_scalars
from bfn_kernels.arguments.keywords import Clip as Clip
from bfn_kernels.arguments.rows import PerRow
from bfn_kernels.continuous.losses import *
from bfn_kernels.continuous.operators import OPERATORS
from bfn_kernels.continuous.steps import solver_step as solver_step
from bfn_kernels.continuous.steps import update_sample as update_sample
from bfn_kernels.formulas import hide
from bfn_kernels.records import Noise, Prediction
from bfn_kernels.schedules import ContinuousSchedule, continuous_schedule

backends.add_family("continuous", OPERATORS)


def flow_sample(
    x: Tensor,
    t: PerRow,
    *,
    sigma_1: float | None = None,
    schedule: ContinuousSchedule | None = None,
    mask: Tensor | None = None,
    known: Tensor | None = None,
    known_mask: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Draws the input distribution's mean after messages up to time t: γx + √(γ(1−γ))·ε, γ = 1 − σ₁^{2t} (77, 80).

    With another schedule than the paper's, its method `gamma` gives γ.

    Args:
        x: Data, `[B, ...]`, floating-point; differentiable.
        t: Times in [0, 1]: a number, or a floating-point tensor `[B]` or of any leading part of `[B, ...]`.
        sigma_1: σ₁ of the paper's schedule (80), the std at t = 1, in (0, 1). Pass either sigma_1 or schedule.
        schedule: An object with the methods of `schedules.ContinuousSchedule`, instead of sigma_1.
        mask: Bool, False where x is not read, such as padding: the result there is as before the first message.
            Broadcastable to `[B, ...]`, or shaped as its leading dimensions.
        known: Known data, `[B, ...]`, in place of x where known_mask is True: the mean there is the known number. Pass
            both or neither.
        known_mask: Bool, True where data are known. Broadcastable to `[B, ...]`, or shaped as its leading dimensions.
        seed: An int, or an int64 tensor of one element, that determines all random numbers of the call.
        generator: A `torch.Generator` on the tensors' device, to draw the seed. None: torch's default generator.
        noise: Standard normals, `[B, ...]`, floating-point, instead of a seed; not differentiable.
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        The mean in the shape and type of x.

    Example:
        >>> x = torch.tensor([[0.5, -0.5]])
        >>> flow_sample(x, 1.0, sigma_1=0.1, noise=torch.zeros(1, 2))
        tensor([[ 0.4950, -0.4950]])
    """
    checks.data("x", x)
    schedule = continuous_schedule(sigma_1, schedule)
    library = backends.library(backend, x.device)
    gamma, std = rows.scalars(library, ("gamma", "flow_std"), t, x, checks.compute_dtype(x), schedule)
    mask = checks.mask("mask", mask, "x", x, x.shape)
    x, gamma, std = hide(mask, x, gamma, std)
    if known is not None or known_mask is not None:
        x, (gamma, std), _ = keywords.known_of_flow(x, (gamma, std), (1.0, 0.0), known, known_mask, mask, x.shape)
    seed = keywords.noise_seed(x, seed, generator, ("noise", noise, x.shape))
    return library.continuous.gaussian_step(x, gamma, noise_scale=std, noise=Noise(seed, noise))


def sender_sample(
    x: Tensor,
    alpha: PerRow,
    *,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Draws a message of accuracy α about x: y = x + ε/√α.

    Args:
        x: Data, `[B, ...]`, floating-point; differentiable.
        alpha: Accuracy α, at least 0: a number, or a floating-point tensor `[B]` or of any leading part of `[B, ...]`.
        seed: An int, or an int64 tensor of one element, that determines all random numbers of the call.
        generator: A `torch.Generator` on the tensors' device, to draw the seed. None: torch's default generator.
        noise: Standard normals, `[B, ...]`, floating-point, instead of a seed; not differentiable.
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        The message y in the shape and type of x.

    Example:
        >>> sender_sample(torch.zeros(1, 2), 4.0, noise=torch.ones(1, 2))
        tensor([[0.5000, 0.5000]])
    """
    checks.data("x", x)
    library = backends.library(backend, x.device)
    (std,) = rows.scalars(library, ("sender_std",), alpha, x, checks.compute_dtype(x))
    seed = keywords.noise_seed(x, seed, generator, ("noise", noise, x.shape))
    return library.continuous.gaussian_step(x, noise_scale=std, noise=Noise(seed, noise))


def bayesian_update(
    mean: Tensor, precision: PerRow, y: Tensor, alpha: PerRow, *, backend: str | None = None
) -> tuple[Tensor, PerRow]:
    """The input distribution after a message y of accuracy α: ρ' = ρ + α, μ' = (ρμ + αy)/ρ' (49, 50).

    Args:
        mean: μ, the mean before the message, `[B, ...]`, floating-point; differentiable.
        precision: ρ, the precision before the message, at least 0: a number, or a floating-point tensor `[B]` or of any
            leading part of `[B, ...]`; not 0 where alpha is 0.
        y: The message, `[B, ...]`, floating-point; differentiable.
        alpha: Accuracy α, at least 0: a number, or a floating-point tensor `[B]` or of any leading part of `[B, ...]`.
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        The mean μ' in the type of mean, and the precision ρ'. ρ' is a float if precision and alpha are numbers.
            Otherwise it is a tensor, float64 if precision is float64, else float32.

    Example:
        >>> bayesian_update(torch.zeros(1, 2), 1.0, torch.ones(1, 2), 3.0)
        (tensor([[0.7500, 0.7500]]), 4.0)
    """
    checks.data("mean", mean)
    checks.like("y", y, "mean", mean)
    library, dtype = backends.library(backend, mean.device), checks.compute_dtype(mean, y)
    keep, take = rows.scalars(library, ("keep", "take"), alpha, mean, dtype, precision=precision)
    updated = library.continuous.gaussian_step(mean, keep, data=y, data_scale=take)
    return updated, keywords.updated_precision(precision, alpha, mean)


def predict_data(
    noise_pred: Tensor,
    mean: Tensor,
    t: PerRow,
    *,
    sigma_1: float | None = None,
    schedule: ContinuousSchedule | None = None,
    limits: Limits = PUBLISHED,
    clip: Clip = (-1, 1),
    backend: str | None = None,
) -> Tensor:
    """Computes the data prediction from a noise prediction: x̂ = μ/γ − √((1−γ)/γ)·ε̂ (84), clipped; 0 where t < t_min.

    γ is defined as in `flow_sample`. x̂ is differentiable in mean, too, where it is not clipped.

    Args:
        noise_pred: ε̂, the predicted noise, `[B, ...]`; differentiable where x̂ is not clipped.
        mean: μ, the mean that the network saw, `[B, ...]`, floating-point.
        t: Times in [0, 1]: a number, or a floating-point tensor `[B]` or of any leading part of `[B, ...]`.
        sigma_1: σ₁ of the paper's schedule (80), the std at t = 1, in (0, 1). Pass either sigma_1 or schedule.
        schedule: An object with the methods of `schedules.ContinuousSchedule`, instead of sigma_1.
        limits: `bfn_kernels.Limits`, of which only t_min is read: at times before t_min, a noise prediction is ignored,
            and x̂ is 0.
        clip: The range (low, high) of the data, to which x̂ is clipped. None for data without bounds.
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        x̂ in the shape and type of noise_pred.

    Example:
        >>> predict_data(torch.zeros(1, 2), torch.full((1, 2), 0.45), 0.5, sigma_1=0.1)
        tensor([[0.5000, 0.5000]])
    """
    checks.data("noise_pred", noise_pred)
    checks.like("mean", mean, "noise_pred", noise_pred)
    low, high = checks.interval("clip", clip)
    library, dtype = backends.library(backend, noise_pred.device), checks.compute_dtype(noise_pred, mean)
    mean_scale, noise_scale = prediction_scalars(library, "noise", t, mean, dtype, sigma_1, schedule, limits)
    return library.continuous.predict_data(Prediction(noise_pred, mean, mean_scale, noise_scale, low, high))
