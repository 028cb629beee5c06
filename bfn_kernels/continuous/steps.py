"""The steps of samplers of continuous data. The functions are public in `bfn_kernels.continuous`.

Numbers in parentheses are equations of Graves et al. 2023, and [derived] marks formulas that are not in the paper.
"""

import torch
from torch import Tensor

from bfn_kernels import backends, checks
from bfn_kernels.arguments import keywords, rows, step_arguments
from bfn_kernels.arguments.keywords import PARAMETRISATIONS, PUBLISHED, Clip, Limits, prediction_scalars
from bfn_kernels.arguments.outputs import check_outputs, check_solver_step
from bfn_kernels.arguments.rows import PerRow
from bfn_kernels.records import Noise, Prediction, Solver
from bfn_kernels.schedules import ContinuousSchedule, continuous_schedule
from bfn_kernels.solvers import Coefficients


def update_sample(
    x: Tensor,
    mean: Tensor,
    precision: PerRow,
    alpha: PerRow,
    *,
    t: PerRow | None = None,
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
) -> tuple[Tensor, PerRow]:
    """Updates the state by a message about x: ρ' = ρ + α, μ' = (ρμ + αx)/ρ' + (√α/ρ')·ε [derived].

    It is `sender_sample` and `bayesian_update` in one pass; the message y is never stored. With t, it is one step of
    ancestral sampling: x is the network's output at time t, and the message is about the data prediction x̂. The
    receiver draws this message itself, as the sender would if the data were x̂.

    Args:
        x: The data that are sent or, with t, the network's output, `[B, ...]`, floating-point; differentiable.
        mean: μ, the mean before the message, `[B, ...]`, floating-point; differentiable.
        precision: ρ, the precision before the message, at least 0: a number, or a floating-point tensor `[B]` or of any
            leading part of `[B, ...]`; not 0 where alpha is 0.
        alpha: Accuracy α, at least 0: a number, or a floating-point tensor `[B]` or of any leading part of `[B, ...]`.
        t: Times in [0, 1] at which the network put out x, in a shape that alpha may have. None: x is the data, and
            sigma_1, schedule, parametrisation, limits and clip are not passed.
        sigma_1: σ₁ of the paper's schedule (80), the std at t = 1, in (0, 1). Pass either sigma_1 or schedule.
        schedule: An object with the methods of `schedules.ContinuousSchedule`, instead of sigma_1.
        parametrisation: "noise": `predict_data` makes x̂ of the network's output; "data": x̂ is the network's output.
        limits: `bfn_kernels.Limits`, of which only t_min is read: at times before t_min, a noise prediction is ignored,
            and x̂ is 0.
        clip: The range (low, high) of the data, to which x̂ is clipped. None for data without bounds.
        known: Known data, `[B, ...]`, which the step uses where known_mask is True. Pass both or neither.
        known_mask: Bool, True where data are known. Broadcastable to `[B, ...]`, or shaped as its leading dimensions.
        out: Receives the new mean, in mean's shape and type. It may be mean itself. No argument may then require a
            gradient.
        seed: An int, or an int64 tensor of one element, that determines all random numbers of the call.
        generator: A `torch.Generator` on the tensors' device, to draw the seed. None: torch's default generator.
        noise: Standard normals, `[B, ...]`, floating-point, instead of a seed; not differentiable.
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        The mean μ' in the type of mean, and the precision ρ'. ρ' is a float if precision and alpha are numbers.
            Otherwise it is a tensor, float64 if precision is float64, else float32.

    Raises:
        ValueError: If sigma_1, schedule, parametrisation, limits or clip is given without t.

    Example:
        >>> update_sample(torch.ones(1, 2), torch.zeros(1, 2), 1.0, 3.0, noise=torch.zeros(1, 2))
        (tensor([[0.7500, 0.7500]]), 4.0)
        >>> noise_pred, mean = torch.zeros(1, 2), torch.full((1, 2), 0.45)
        >>> update_sample(noise_pred, mean, 1.0, 3.0, t=0.5, sigma_1=0.1, noise=torch.zeros(1, 2))
        (tensor([[0.4875, 0.4875]]), 4.0)
    """
    checks.data("mean", mean)
    checks.like("x", x, "mean", mean)
    if out is not None:
        inputs = {"x": x, "precision": precision, "alpha": alpha, "t": t, "seed": seed, "noise": noise}
        check_outputs({"out": out}, "mean", mean=mean, known=known, known_mask=known_mask, **inputs)
    known_mask = keywords.known_values(known, known_mask, mean, mean.shape)
    library, dtype = backends.library(backend, mean.device), checks.compute_dtype(x, mean)
    network = Prediction(x, mean)
    if t is not None:
        checks.choice("parametrisation", parametrisation, PARAMETRISATIONS)
        low, high = checks.interval("clip", clip)
        mean_scale, noise_scale = prediction_scalars(
            library, parametrisation, t, mean, dtype, sigma_1, schedule, limits
        )
        network = Prediction(x, mean, mean_scale, noise_scale, low, high)
    elif not (sigma_1 is schedule is None and (parametrisation, limits, clip) == ("noise", PUBLISHED, (-1, 1))):
        raise ValueError("t must be given with sigma_1, schedule, parametrisation, limits or clip, got None")
    keep, take, std = rows.scalars(library, rows.UPDATE, alpha, mean, dtype, precision=precision)
    seed = keywords.noise_seed(mean, seed, generator, ("noise", noise, mean.shape))
    if t is None and known is None:
        updated = library.continuous.gaussian_step(mean, keep, x, take, std, Noise(seed, noise), out)
    else:
        solver = Solver(keep, take, std)
        updated = library.continuous.step(network, solver, known, known_mask, Noise(seed, noise), out=out)
    return updated, keywords.updated_precision(precision, alpha, mean)


def solver_step(
    prediction: Tensor,
    mean: Tensor,
    t: PerRow,
    t_next: PerRow | None = None,
    *,
    rule: str = "ode1",
    t_previous: PerRow | None = None,
    previous: Tensor | None = None,
    coefficients: Coefficients | None = None,
    sigma_1: float | None = None,
    schedule: ContinuousSchedule | None = None,
    parametrisation: str = "noise",
    limits: Limits = PUBLISHED,
    clip: Clip = (-1, 1),
    unconditional: Tensor | None = None,
    guidance: PerRow | None = None,
    variance_scale: PerRow | None = None,
    known: Tensor | None = None,
    known_mask: Tensor | None = None,
    out: Tensor | None = None,
    predicted_out: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """A sampler's step from time t to t_next by a rule of `bfn_kernels.solvers` [derived].

    μ' = A·μ + take·(x̂ + r·(x̂ − x̂_prev)) + E·ξ. The rule determines the coefficients A, take, r and E. Nothing is
    differentiable; run it under `torch.no_grad()`. Plain PyTorch computes guided predictions on every backend.

    Args:
        prediction: The network's output, `[B, ...]`, floating-point.
        mean: μ, the mean that the network saw, `[B, ...]`, floating-point.
        t: Times in [0, 1] at which the step starts, above 0 for "ode1", "ode2" and "ode_euler": a number, or a
            floating-point tensor `[B]` or of any leading part of `[B, ...]`.
        t_next: Times at which the step ends, in a shape that t may have, from t to 1. None only with coefficients.
        rule: A name of `solvers.RULES`.
        t_previous: Times at which the step before started, in a shape that t may have, before t, for a rule of second
            order. None: the step is of first order.
        previous: What predicted_out received in the step before, in the shape of predicted_out, floating-point. Pass it
            exactly if t_previous is passed, or if the coefficients have an extrapolation r.
        coefficients: `solvers.Coefficients`, instead of t_next, t_previous and rule. Each is a number, or a
            floating-point tensor in a shape that t may have.
        sigma_1: σ₁ of the paper's schedule (80), the std at t = 1, in (0, 1). Pass either sigma_1 or schedule.
        schedule: An object with the methods of `schedules.ContinuousSchedule`, instead of sigma_1.
        parametrisation: "noise": `predict_data` makes x̂ of the network's output; "data": x̂ is the network's output.
        limits: `bfn_kernels.Limits`, of which only t_min is read: at times before t_min, a noise prediction is ignored,
            and x̂ is 0.
        clip: The range (low, high) of the data, to which x̂ is clipped. None for data without bounds.
        unconditional: What the network put out without its condition, in the shape of the output with the condition,
            floating-point. Pass unconditional and guidance, or neither.
        guidance: w: the step uses (1 + w)·o − w·unconditional, where o is what the network put out with its condition.
            A number, or a floating-point tensor in a shape that t may have.
        variance_scale: The factor by which the variance E² of the step's noise is multiplied, at least 0: a number, or
            a floating-point tensor in a shape that t may have. None: 1, and the only value of a step without noise.
        known: Known data, `[B, ...]`, which the step uses where known_mask is True. Pass both or neither.
        known_mask: Bool, True where data are known. Broadcastable to `[B, ...]`, or shaped as its leading dimensions.
        out: Receives the new mean, in mean's shape and type. It may be mean itself. No argument may then require a
            gradient.
        predicted_out: Receives x̂, in mean's shape and any floating-point type. It may be previous itself.
        seed: An int, or an int64 tensor of one element, that determines all random numbers of the call. A step that
            draws nothing does not read it.
        generator: A `torch.Generator` on the tensors' device, to draw the seed. None: torch's default generator.
        noise: Standard normals, `[B, ...]`, floating-point, instead of a seed; not differentiable.
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        The new mean μ' in the shape and type of mean.

    Raises:
        ValueError: If the times are not in order (on the CPU). If only one of previous and t_previous is given or, with
            coefficients, only one of previous and an extrapolation. If noise is given to a step that has none.

    Example:
        >>> noise_pred, mean = torch.zeros(1, 2), torch.full((1, 2), 0.45)
        >>> solver_step(noise_pred, mean, 0.5, 1.0, rule="sde1", sigma_1=0.1, noise=torch.zeros(1, 2))
        tensor([[0.4950, 0.4950]])
    """
    checks.data("mean", mean)
    checks.like("prediction", prediction, "mean", mean)
    check_solver_step(
        {"out": out, "predicted_out": predicted_out},
        "mean",
        mean=mean,
        prediction=prediction,
        t=t,
        t_next=t_next,
        t_previous=t_previous,
        previous=previous,
        coefficients=coefficients,
        unconditional=unconditional,
        guidance=guidance,
        variance_scale=variance_scale,
        known=known,
        known_mask=known_mask,
        seed=seed,
        noise=noise,
    )
    checks.choice("parametrisation", parametrisation, PARAMETRISATIONS)
    prediction = keywords.guided_prediction(prediction, unconditional, guidance, "prediction", mean, previous)
    schedule = continuous_schedule(sigma_1, schedule)
    low, high = checks.interval("clip", clip)
    known_mask = keywords.known_values(known, known_mask, mean, mean.shape)
    library, dtype = backends.library(backend, mean.device), checks.compute_dtype(prediction, mean, previous)
    mean_scale, noise_scale = prediction_scalars(library, parametrisation, t, mean, dtype, None, schedule, limits)
    solver = step_arguments.step_scalars(coefficients, rule, schedule, (t, t_next, t_previous), previous, mean, dtype)
    solver = step_arguments.scaled_variance(solver, variance_scale, mean)
    seed = keywords.step_seed(mean, solver.std, seed, generator, noise)
    network, noises = Prediction(prediction, mean, mean_scale, noise_scale, low, high), Noise(seed, noise)
    return library.continuous.step(network, solver, known, known_mask, noises, out=out, predicted_out=predicted_out)
