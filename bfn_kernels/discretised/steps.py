"""The steps of samplers of discretised data. The functions are public in `bfn_kernels.discretised`.

Numbers in parentheses are equations of Graves et al. 2023, and [derived] marks formulas that are not in the paper.
"""

import torch
from torch import Tensor

from bfn_kernels import backends, checks
from bfn_kernels.arguments import keywords, rows, step_arguments
from bfn_kernels.arguments.keywords import PUBLISHED, Limits, prediction_scalars
from bfn_kernels.arguments.outputs import check_outputs, check_solver_step
from bfn_kernels.arguments.rows import PerRow
from bfn_kernels.autograd import needs
from bfn_kernels.discretised.distribution import check_output, component_noises, normal_of
from bfn_kernels.records import CHOICES, MEAN, Network, Noise, Sent, Solver
from bfn_kernels.schedules import ContinuousSchedule, continuous_schedule
from bfn_kernels.solvers import Coefficients


def update_sample(
    pred_mean: Tensor,
    pred_log_std: Tensor | None,
    mean: Tensor,
    precision: PerRow,
    t: PerRow,
    alpha: PerRow,
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
) -> tuple[Tensor, PerRow]:
    """Takes one step of ancestral sampling: updates the state by a message about a value x.

    The receiver draws x from the output distribution at time t, unless `choose` or `known` says otherwise. Then it
    draws the message itself, as the sender would if the data were x: ρ' = ρ + α and μ' = (ρμ + αx)/ρ' + (√α/ρ')·ε.

    Args:
        pred_mean: Predicted mean, `[B, ...]`, or `[B, ..., M]` of a mixture, floating-point; differentiable only with
            choose="mean". If pred_log_std is None, pred_mean has both predictions, stacked in a last dimension of two.
        pred_log_std: ln of the predicted std, in the shape of pred_mean, floating-point; differentiable only with
            choose="mean". None if pred_mean has both predictions.
        mean: μ, the mean before the message, `[B, ...]`, floating-point; differentiable.
        precision: ρ, the precision before the message, at least 0: a number, or a floating-point tensor `[B]` or of any
            leading part of `[B, ...]`; not 0 where alpha is 0.
        t: Times in [0, 1]: a number, or a floating-point tensor `[B]` or of any leading part of `[B, ...]`.
        alpha: Accuracy α, at least 0: a number, or a floating-point tensor `[B]` or of any leading part of `[B, ...]`.
        num_bins: K, the number of bins of [−1, 1], at least 2.
        mixture_logits: Logits of the components of a mixture, `[B, ..., M]`, M at most 1024, floating-point;
            differentiable only with choose="mean". None for one normal.
        sigma_1: σ₁ of the paper's schedule (80), the std at t = 1, in (0, 1). Pass either sigma_1 or schedule.
        schedule: An object with the methods of `schedules.ContinuousSchedule`, instead of sigma_1.
        parametrisation: "noise": the network predicts the noise (105, 106); "data": it predicts the data.
        limits: `bfn_kernels.Limits`, to which the predicted ln std and the std are clamped. At times before t_min, a
            noise prediction is ignored, and the normal is N(0, 1).
        choose: What is sent: a "sample" of the output distribution, its "mode" or its "mean".
        known: Known data, `[B, ...]`, which the step uses where known_mask is True. Pass both or neither.
        known_mask: Bool, True where data are known. Broadcastable to `[B, ...]`, or shaped as its leading dimensions.
        out: Receives the new mean, in mean's shape and type. It may be mean itself. No argument may then require a
            gradient.
        seed: An int, or an int64 tensor of one element, that determines all random numbers of the call.
        generator: A `torch.Generator` on the tensors' device, to draw the seed. None: torch's default generator.
        noise: Standard normals, `[B, ...]`, floating-point, instead of a seed; not differentiable.
        draw_noise: Standard normals, `[B, ...]`, floating-point, instead of a seed, to draw the value of a "sample".
        component_noise: Uniforms in (0, 1], `[B, ...]`, floating-point, instead of a seed, to draw the component of a
            mixture.
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        The mean μ' in the type of mean, and the precision ρ'. ρ' is a float if precision and alpha are numbers.
            Otherwise it is a tensor, float64 if precision is float64, else float32.

    Raises:
        ValueError: If a prediction requires a gradient and choose is not "mean", or if component_noise is given without
            mixture_logits.

    Example:
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
    sent = Sent(choice, known, known_mask, draw_noise)
    if out is not None:
        inputs = {"precision": precision, "t": t, "alpha": alpha, "seed": seed, "noise": noise}
        inputs |= {"component_noise": component_noise}
        inputs |= Network(*output, mean)._asdict() | sent._asdict()
        check_outputs({"out": out}, "mean", **inputs)
    if choice != MEAN:
        reason = f'only choose="mean" has a gradient, not a {choose}'
        checks.no_gradient(reason, pred_mean=pred_mean, pred_log_std=pred_log_std, mixture_logits=mixture_logits)
    library, dtype = backends.library(backend, mean.device), checks.compute_dtype(*output, mean)
    scales = prediction_scalars(library, parametrisation, t, mean, dtype, sigma_1, schedule, limits)
    keep, take, std = rows.scalars(library, rows.UPDATE, alpha, mean, dtype, precision=precision)
    draws = component_noises(mixture_logits, component_noise, mean.shape)
    draws = keywords.choice_noises(choose, draw_noise, mean.shape, *draws)
    seed = keywords.noise_seed(mean, seed, generator, ("noise", noise, mean.shape), *draws)
    # `step` has no gradient for the predictions, and results in `out` have none
    if choice == MEAN and out is None and any(needs(*output, mean)):
        normal = normal_of(library, dtype, pred_mean, pred_log_std, mean, scales, bins)
        value = library.discretised.expected_value(*normal, mixture_logits, bins.num_bins, clip=True)
        value = value if known is None else torch.where(known_mask, known.to(value.dtype), value)
        updated = library.continuous.gaussian_step(mean, keep, value, take, std, Noise(seed, noise))
    else:
        network, solver = Network(*output, mean, *scales), Solver(keep, take, std)
        updated = library.discretised.step(network, solver, bins, sent, component_noise, Noise(seed, noise), out=out)
    return updated, keywords.updated_precision(precision, alpha, mean)


def solver_step(
    pred_mean: Tensor,
    pred_log_std: Tensor | None,
    mean: Tensor,
    t: PerRow,
    t_next: PerRow | None = None,
    *,
    num_bins: int,
    rule: str = "ode1",
    t_previous: PerRow | None = None,
    previous: Tensor | None = None,
    coefficients: Coefficients | None = None,
    mixture_logits: Tensor | None = None,
    sigma_1: float | None = None,
    schedule: ContinuousSchedule | None = None,
    parametrisation: str = "noise",
    limits: Limits = PUBLISHED,
    unconditional: Tensor | None = None,
    guidance: PerRow | None = None,
    choose: str | None = None,
    variance_scale: PerRow | None = None,
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
    """A sampler's step from time t to t_next by a rule of `bfn_kernels.solvers` [derived].

    μ' = A·μ + take·(x̂ + r·(x̂ − x̂_prev)) + E·ξ. The rule determines the coefficients A, take, r and E. x̂ is a value of
    the output distribution at time t, which `choose` names. Nothing is differentiable; run it under `torch.no_grad()`.
    Plain PyTorch computes guided means on every backend.

    Args:
        pred_mean: Predicted mean, `[B, ...]`, or `[B, ..., M]` of a mixture, floating-point. If pred_log_std is None,
            pred_mean has both predictions, stacked in a last dimension of two.
        pred_log_std: ln of the predicted std, in the shape of pred_mean, floating-point. None if pred_mean has both
            predictions.
        mean: μ, the mean that the network saw, `[B, ...]`, floating-point.
        t: Times in [0, 1] at which the step starts, above 0 for "ode1", "ode2" and "ode_euler": a number, or a
            floating-point tensor `[B]` or of any leading part of `[B, ...]`.
        t_next: Times at which the step ends, in a shape that t may have, from t to 1. None only with coefficients.
        num_bins: K, the number of bins of [−1, 1], at least 2.
        rule: A name of `solvers.RULES`.
        t_previous: Times at which the step before started, in a shape that t may have, before t, for a rule of second
            order. None: the step is of first order.
        previous: What predicted_out received in the step before, in the shape of predicted_out, floating-point. Pass it
            exactly if t_previous is passed, or if the coefficients have an extrapolation r.
        coefficients: `solvers.Coefficients`, instead of t_next, t_previous and rule. Each is a number, or a
            floating-point tensor in a shape that t may have.
        mixture_logits: Logits of the components of a mixture, `[B, ..., M]`, M at most 1024, floating-point; not
            differentiable. None for one normal.
        sigma_1: σ₁ of the paper's schedule (80), the std at t = 1, in (0, 1). Pass either sigma_1 or schedule.
        schedule: An object with the methods of `schedules.ContinuousSchedule`, instead of sigma_1.
        parametrisation: "noise": the network predicts the noise (105, 106); "data": it predicts the data.
        limits: `bfn_kernels.Limits`, to which the predicted ln std and the std are clamped. At times before t_min, a
            noise prediction is ignored, and the normal is N(0, 1).
        unconditional: pred_mean of the network without its condition, in the shape of pred_mean, floating-point. If
            pred_mean has both predictions, only the mean is guided, and the log std of unconditional is not read. Pass
            unconditional and guidance, or neither. They cannot be combined with mixture_logits.
        guidance: w: the step uses (1 + w)·o − w·unconditional, where o is what the network put out with its condition.
            A number, or a floating-point tensor in a shape that t may have.
        choose: What a step uses of the output distribution: a "sample", its "mode" or its "mean". None: a "sample" in
            an "ancestral" step, else the "mean".
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
        draw_noise: Standard normals, `[B, ...]`, floating-point, instead of a seed, to draw the value of a "sample".
        component_noise: Uniforms in (0, 1], `[B, ...]`, floating-point, instead of a seed, to draw the component of a
            mixture.
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        The new mean μ' in the shape and type of mean.

    Raises:
        ValueError: If the times are not in order (on the CPU). If only one of previous and t_previous is given or, with
            coefficients, only one of previous and an extrapolation. If noise is given to a step that has none. If
            component_noise is given without mixture_logits.

    Example:
        >>> m = torch.zeros(1, 1)
        >>> solver_step(m + 0.4, m - 9, m, 0.5, 1.0, rule="sde1", sigma_1=0.1, num_bins=2, noise=m,
        ...             parametrisation="data")
        tensor([[0.4500]])
    """
    checks.data("mean", mean)
    choose = step_arguments.taken(choose, rule, coefficients)
    choice = checks.choice("choose", choose, CHOICES)
    schedule = continuous_schedule(sigma_1, schedule)
    bins = keywords.checked_bins(num_bins, limits)
    check_output(mean, "mean", (pred_mean, pred_log_std, mixture_logits), mean, parametrisation)
    check_solver_step(
        {"out": out, "predicted_out": predicted_out},
        "mean",
        mean=mean,
        pred_mean=pred_mean,
        pred_log_std=pred_log_std,
        t=t,
        t_next=t_next,
        t_previous=t_previous,
        previous=previous,
        coefficients=coefficients,
        mixture_logits=mixture_logits,
        unconditional=unconditional,
        guidance=guidance,
        variance_scale=variance_scale,
        known=known,
        known_mask=known_mask,
        seed=seed,
        noise=noise,
        draw_noise=draw_noise,
        component_noise=component_noise,
    )
    if unconditional is not None or guidance is not None:
        pred_mean = _guided(pred_mean, pred_log_std, mixture_logits, unconditional, guidance, mean, previous)
    output = pred_mean, pred_log_std, mixture_logits
    known_mask = keywords.known_values(known, known_mask, mean, mean.shape)
    library, dtype = backends.library(backend, mean.device), checks.compute_dtype(*output, mean, previous)
    scales = prediction_scalars(library, parametrisation, t, mean, dtype, None, schedule, limits)
    solver = step_arguments.step_scalars(coefficients, rule, schedule, (t, t_next, t_previous), previous, mean, dtype)
    solver = step_arguments.scaled_variance(solver, variance_scale, mean)
    draws = component_noises(mixture_logits, component_noise, mean.shape)
    draws = keywords.choice_noises(choose, draw_noise, mean.shape, *draws)
    seed = keywords.step_seed(mean, solver.std, seed, generator, noise, *draws)
    network, outputs = Network(*output, mean, *scales), {"out": out, "predicted_out": predicted_out}
    sent, noises = Sent(choice, known, known_mask, draw_noise), Noise(seed, noise)
    return library.discretised.step(network, solver, bins, sent, component_noise, noises, **outputs)


def _guided(
    pred_mean: Tensor,
    pred_log_std: Tensor | None,
    mixture_logits: Tensor | None,
    unconditional: Tensor | None,
    guidance: PerRow | None,
    mean: Tensor,
    previous: Tensor | None,
) -> Tensor:
    """pred_mean with guided means. If pred_log_std is None, pred_mean also has the log stds, which guidance does not
    change."""
    if mixture_logits is not None:
        raise ValueError("mixture_logits must be None with guidance, since components of two outputs do not correspond")
    guided = keywords.guided_prediction(pred_mean, unconditional, guidance, "pred_mean", mean, pred_log_std, previous)
    return guided if pred_log_std is not None else torch.cat([guided[..., :1], pred_mean[..., 1:].to(guided.dtype)], -1)
