"""Ops of discrete data: one of K classes per variable. The state of a variable's input distribution is logits.

Classes are `[B, ...]`, of int64, int32 or uint8 (int16 and int8 are copied to int32). Numbers per class are `[B, ...,
K]`, K at least 2. `help(bfn_kernels)` describes what all families share: times, types, random numbers, errors. Numbers
in parentheses are equations of Graves et al. 2023, and [derived] marks formulas that are not in the paper.
"""

import torch
from torch import Tensor

from bfn_kernels import backends, checks
from bfn_kernels.arguments import keywords, rows
from bfn_kernels.arguments.class_arguments import DISCRETE
from bfn_kernels.arguments.rows import PerRow
from bfn_kernels.discrete.losses import *
from bfn_kernels.discrete.operators import OPERATORS
from bfn_kernels.formulas import hide
from bfn_kernels.records import Noise
from bfn_kernels.schedules import DiscreteSchedule, discrete_schedule
from bfn_kernels.solvers import Coefficients

backends.add_family("discrete", OPERATORS)
FLOW = ("beta", "beta_spread")  # the row scalars of a flow


def flow_sample(
    x: Tensor,
    t: PerRow,
    *,
    num_classes: int,
    beta_1: float | None = None,
    schedule: DiscreteSchedule | None = None,
    output: str = "probs",
    mask: Tensor | None = None,
    known: Tensor | None = None,
    known_mask: Tensor | None = None,
    dtype: torch.dtype | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Draws the input distribution at time t: softmax(y), y = β(Ke_x − 1) + √(Kβ)·ε, β = β₁t² (182, 185).

    It is the distribution after the messages up to time t. Nothing is differentiable.

    Args:
        x: Classes from 0 to K − 1, `[B, ...]`, int64, int32, int16, int8 or uint8; or soft data in place of the one-hot
            vectors e_x: distributions over the classes, `[B, ..., K]`, floating-point, not differentiable.
        t: Times in [0, 1]: a number, or a floating-point tensor `[B]` or of any leading part of `[B, ...]`.
        num_classes: K, the number of classes, at least 2.
        beta_1: β₁ of the paper's schedule (182), the accuracy at t = 1, positive. Pass either beta_1 or schedule.
        schedule: An object with the methods of `schedules.DiscreteSchedule`, instead of beta_1.
        output: "probs" for the probabilities, or "logits" for the state.
        mask: Bool, False where x is not read, such as padding: the result there is as before the first message.
            Broadcastable to `[B, ...]`, or shaped as its leading dimensions.
        known: Known data, of the kind and shape of x, in place of x where known_mask is True. The flow there has no
            noise, and Kβ = 1000: a known class has probability 1, and its logit is 1000 above the others. Pass both or
            neither.
        known_mask: Bool, True where data are known. Broadcastable to `[B, ...]`, or shaped as its leading dimensions.
        dtype: Floating-point type of the result. None: torch's default type.
        seed: An int, or an int64 tensor of one element, that determines all random numbers of the call.
        generator: A `torch.Generator` on the tensors' device, to draw the seed. None: torch's default generator.
        noise: Standard normals, `[B, ..., K]`, floating-point, instead of a seed; not differentiable.
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        Probabilities or logits, `[B, ..., K]`, in `dtype`.

    Example:
        >>> flow_sample(torch.tensor([1]), 0.0, num_classes=2, beta_1=3.0)
        tensor([[0.5000, 0.5000]])
    """
    x, library, dtype, work = DISCRETE.check_message(x, dtype, backend)
    checks.choice("output", output, ("probs", "logits"))
    schedule = discrete_schedule(beta_1, schedule)
    num_classes = checks.integer("num_classes", num_classes, 2)
    lead = DISCRETE.variables(x, num_classes)
    scalars = rows.scalars(library, FLOW, t, x, work, schedule, dims=len(lead), scale=num_classes)
    mask = checks.mask("mask", mask, "x", x, lead)
    beta, spread = hide(mask, *scalars)
    (x,) = hide(mask if mask is None or x.shape == lead else mask.unsqueeze(-1), x)
    on = None
    if known is not None or known_mask is not None:
        x, (beta, spread), on = DISCRETE.known_of_flow(x, (beta, spread), known, known_mask, mask, lead, num_classes)
    seed = keywords.noise_seed(x, seed, generator, ("noise", noise, (*lead, num_classes)))
    try:
        noises = Noise(seed, noise)
        return library.discrete.sender_sample(x, beta, spread, num_classes, output == "probs", noises, dtype)
    except IndexError:
        DISCRETE.blame_known(known, on, num_classes)
        raise


def sender_sample(
    x: Tensor,
    alpha: PerRow,
    *,
    num_classes: int,
    dtype: torch.dtype | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Draws a message of accuracy α about x: y ~ N(α(Ke_x − 1), αK·I).

    Nothing is differentiable.

    Args:
        x: Classes from 0 to K − 1, `[B, ...]`, int64, int32, int16, int8 or uint8; or soft data in place of the one-hot
            vectors e_x: distributions over the classes, `[B, ..., K]`, floating-point, not differentiable.
        alpha: Accuracy α, at least 0: a number, or a floating-point tensor `[B]` or of any leading part of `[B, ...]`.
        num_classes: K, the number of classes, at least 2.
        dtype: Floating-point type of the result. None: torch's default type.
        seed: An int, or an int64 tensor of one element, that determines all random numbers of the call.
        generator: A `torch.Generator` on the tensors' device, to draw the seed. None: torch's default generator.
        noise: Standard normals, `[B, ..., K]`, floating-point, instead of a seed; not differentiable.
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        The message y, `[B, ..., K]`, in `dtype`.

    Example:
        >>> sender_sample(torch.tensor([1]), 0.5, num_classes=2, noise=torch.zeros(1, 2))
        tensor([[-0.5000,  0.5000]])
    """
    x, library, dtype, work = DISCRETE.check_message(x, dtype, backend)
    num_classes = checks.integer("num_classes", num_classes, 2)
    lead = DISCRETE.variables(x, num_classes)
    message = rows.scalars(library, rows.MESSAGE, alpha, x, work, dims=len(lead), scale=num_classes)
    seed = keywords.noise_seed(x, seed, generator, ("noise", noise, (*lead, num_classes)))
    noises = Noise(seed, noise)
    return library.discrete.sender_sample(x, *message, num_classes, probs=False, noise=noises, dtype=dtype)


def bayesian_update(logits: Tensor, y: Tensor, *, backend: str | None = None) -> Tensor:
    """Updates the input distribution by a message y: θ' ∝ e^y·θ (171), which is a sum in logits.

    Args:
        logits: The state, `[B, ..., K]`, floating-point; differentiable.
        y: The message, `[B, ..., K]`, floating-point; differentiable.
        backend: A name of `backends.BACKENDS` or None. It is only checked: torch's own function serves every backend.

    Returns:
        The new state, `[B, ..., K]`, in the type of logits.

    Example:
        >>> bayesian_update(torch.zeros(1, 2), torch.tensor([[0.5, -0.5]]))
        tensor([[ 0.5000, -0.5000]])
    """
    checks.logits("logits", logits)
    checks.like("y", y, "logits", logits)
    backends.choose(backend, logits.device)
    return (logits + y).to(logits.dtype)


def theta(logits: Tensor, *, backend: str | None = None) -> Tensor:
    """Computes the probabilities θ for a state of logits: their softmax.

    Args:
        logits: The state, `[B, ..., K]`, floating-point; differentiable.
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        Probabilities, `[B, ..., K]`, in the type of logits.

    Example:
        >>> theta(torch.zeros(1, 2))
        tensor([[0.5000, 0.5000]])
    """
    checks.logits("logits", logits)
    return backends.library(backend, logits.device).discrete.theta(logits)


def theta_logits(theta: Tensor) -> Tensor:
    """Computes a state of logits, ln θ, for probabilities θ, by torch's own function for every backend.

    Args:
        theta: Probabilities, `[B, ..., K]`, floating-point; differentiable. 0 gives −∞, which no message changes.

    Returns:
        Logits, `[B, ..., K]`, in the type of theta.

    Example:
        >>> theta_logits(torch.tensor([[0.5, 0.5]]))
        tensor([[-0.6931, -0.6931]])
    """
    checks.logits("theta", theta)
    return theta.log()


def update_sample(
    output_logits: Tensor,
    state: Tensor,
    alpha: PerRow,
    *,
    choose: str = "sample",
    known: Tensor | None = None,
    known_mask: Tensor | None = None,
    out: Tensor | None = None,
    theta_out: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    draw_noise: Tensor | None = None,
    backend: str | None = None,
    class_mask: Tensor | None = None,
) -> Tensor:
    """Takes one step of ancestral sampling: adds a message about a class k to the state, z' = z + y (171).

    The receiver draws k from the output distribution, unless `choose` or `known` says otherwise. Then it draws the
    message y ~ N(α(Ke_k − 1), αK·I) itself, as the sender would if the data were k. With choose="mean", p
    takes the place of e_k.

    Args:
        output_logits: The network's output, in the state's shape, floating-point; differentiable if choose="mean".
        state: The state, logits `[B, ..., K]`, floating-point; differentiable.
        alpha: Accuracy α, at least 0: a number, or a floating-point tensor `[B]` or of any leading part of `[B, ...]`.
        choose: What is sent: a "sample" of the output distribution, its "mode" or its "mean".
        known: Known classes, `[B, ...]`, or soft data, `[B, ..., K]`, which the step uses where known_mask is True.
            Pass both or neither.
        known_mask: Bool, True where data are known. Broadcastable to `[B, ...]`, or shaped as its leading dimensions.
        out: Receives the new state, in the state's shape and type. It may be the state itself. No argument may then
            require a gradient.
        theta_out: Receives the probabilities of the new state, as `theta` computes them, in the state's shape and any
            floating-point type. The network sees them next. No argument may then require a gradient.
        seed: An int, or an int64 tensor of one element, that determines all random numbers of the call.
        generator: A `torch.Generator` on the tensors' device, to draw the seed. None: torch's default generator.
        noise: Standard normals, `[B, ..., K]`, floating-point, instead of a seed; not differentiable.
        draw_noise: Uniforms in (0, 1], `[B, ...]`, floating-point, instead of a seed, to draw the class of a "sample".
        backend: A name of `backends.BACKENDS`; None chooses one for the device.
        class_mask: Bool, `[K]` or broadcastable to the logits. Where it is False, the logit counts as −∞.

    Returns:
        The new state z', `[B, ..., K]`, in the state's type; `out` itself if it is passed.

    Raises:
        ValueError: If output_logits requires a gradient and choose is not "mean".

    Example:
        >>> z = torch.zeros(1, 2)
        >>> update_sample(torch.tensor([[0.0, 1.0]]), z, 0.5, choose="mode", noise=z)
        tensor([[-0.5000,  0.5000]])
    """
    return DISCRETE.update_sample(
        output_logits,
        state,
        alpha,
        choose=choose,
        known=known,
        known_mask=known_mask,
        out=out,
        theta_out=theta_out,
        seed=seed,
        generator=generator,
        noise=noise,
        draw_noise=draw_noise,
        backend=backend,
        class_mask=class_mask,
    )


def solver_step(
    output_logits: Tensor,
    state: Tensor,
    t: PerRow | None = None,
    t_next: PerRow | None = None,
    *,
    rule: str = "ode1",
    t_previous: PerRow | None = None,
    previous: Tensor | None = None,
    coefficients: Coefficients | None = None,
    beta_1: float | None = None,
    schedule: DiscreteSchedule | None = None,
    choose: str | None = None,
    temperature: PerRow | None = None,
    unconditional: Tensor | None = None,
    guidance: PerRow | None = None,
    variance_scale: PerRow | None = None,
    known: Tensor | None = None,
    known_mask: Tensor | None = None,
    out: Tensor | None = None,
    theta_out: Tensor | None = None,
    predicted_out: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    draw_noise: Tensor | None = None,
    backend: str | None = None,
    class_mask: Tensor | None = None,
    score: Tensor | None = None,
    score_clip: PerRow | None = None,
) -> Tensor:
    """Takes a sampler's step from time t to t_next: z' = A·z + take·(K(p + r·(p − p_prev)) − 1) + E·ξ [derived].

    p are the probabilities of the classes: softmax(output_logits) or, with a guidance w and a temperature T,
    softmax(((1 + w)·output_logits − w·unconditional)/T). With choose="sample" or "mode", p is the one-hot vector of a
    class. Where data are known, p is the one-hot vector of the known class, or the soft data. class_mask and score
    change p, too. A rule of `bfn_kernels.solvers` gives the coefficients A, take, r and E. A run that starts at t = 0
    with the rule "sde1" and choose="sample" is ancestral sampling. Nothing is differentiable.

    Args:
        output_logits: The network's output, in the state's shape, floating-point.
        state: The state, logits `[B, ..., K]`, floating-point.
        t: Times in [0, 1] at which the step starts, above 0 for "ode1", "ode2" and "ode_euler": a number, or a
            floating-point tensor `[B]` or of any leading part of `[B, ...]`. None only with coefficients.
        t_next: Times at which the step ends, in a shape that t may have, from t to 1. None only with coefficients.
        rule: A name of `solvers.RULES`.
        t_previous: Times at which the step before started, in a shape that t may have, before t, for a rule of second
            order. None: the step is of first order.
        previous: What predicted_out received in the step before, in the shape of predicted_out, floating-point. Pass it
            exactly if t_previous is passed, or if the coefficients have an extrapolation r.
        coefficients: `solvers.Coefficients`, instead of t, t_next, t_previous, rule, beta_1 and schedule. Each is a
            number, or a floating-point tensor in a shape that t may have.
        beta_1: β₁ of the paper's schedule (182), the accuracy at t = 1, positive. Pass either beta_1 or schedule.
        schedule: An object with the methods of `schedules.DiscreteSchedule`, instead of beta_1.
        choose: What a step uses of the output distribution: a "sample", its "mode" or its "mean". None: a "sample" in
            an "ancestral" step, else the "mean".
        temperature: T, by which the logits are divided, from 1e-30 to 1e30: a number, or a floating-point tensor in a
            shape that t may have. None: 1.
        unconditional: What the network put out without its condition, in the shape of the output with the condition,
            floating-point. Pass unconditional and guidance, or neither.
        guidance: w: the step uses (1 + w)·o − w·unconditional, where o is what the network put out with its condition.
            A number, or a floating-point tensor in a shape that t may have.
        variance_scale: The factor by which the variance E² of the step's noise is multiplied, at least 0: a number, or
            a floating-point tensor in a shape that t may have. None: 1, and the only value of a step without noise.
        known: Known classes, `[B, ...]`, or soft data, `[B, ..., K]`, which the step uses where known_mask is True.
            Pass both or neither.
        known_mask: Bool, True where data are known. Broadcastable to `[B, ...]`, or shaped as its leading dimensions.
        out: Receives the new state, in the state's shape and type. It may be the state itself. No argument may then
            require a gradient.
        theta_out: Receives the probabilities of the new state, as `theta` computes them, in the state's shape and any
            floating-point type. The network sees them next. No argument may then require a gradient.
        predicted_out: Receives p, in the state's shape and any floating-point type. It may be previous itself.
        seed: An int, or an int64 tensor of one element, that determines all random numbers of the call. A step that
            draws nothing does not read it.
        generator: A `torch.Generator` on the tensors' device, to draw the seed. None: torch's default generator.
        noise: Standard normals, `[B, ..., K]`, floating-point, instead of a seed; not differentiable.
        draw_noise: Uniforms in (0, 1], `[B, ...]`, floating-point, instead of a seed, to draw the class of a "sample".
        backend: A name of `backends.BACKENDS`; None chooses one for the device.
        class_mask: Bool, `[K]` or broadcastable to the logits. Where it is False, the logit counts as −∞.
        score: The gradient ∇_z ln p(c | z) of a condition c by the state, `[B, ..., K]`, floating-point. Where no class
            is known, it is added to p, so that z' changes by take·K·score.
        score_clip: The score is clipped to [−score_clip, score_clip]: a number of at least 0, or a tensor in a shape
            that t may have. None: it is not clipped.

    Returns:
        The new state z', `[B, ..., K]`, in the state's type; `out` itself if it is passed.

    Raises:
        ValueError: If an argument requires a gradient while gradients are enabled, if the times are not in order (on
            the CPU), or if noise is passed for a rule without noise.

    Example:
        >>> z = torch.tensor([[1.0, 1.0]])
        >>> solver_step(z, z, 0.5, 1.0, beta_1=3.0)
        tensor([[2., 2.]])
    """
    return DISCRETE.solver_step(
        output_logits,
        state,
        t,
        t_next,
        rule=rule,
        t_previous=t_previous,
        previous=previous,
        coefficients=coefficients,
        beta_1=beta_1,
        schedule=schedule,
        choose=choose,
        temperature=temperature,
        unconditional=unconditional,
        guidance=guidance,
        variance_scale=variance_scale,
        known=known,
        known_mask=known_mask,
        out=out,
        theta_out=theta_out,
        predicted_out=predicted_out,
        seed=seed,
        generator=generator,
        noise=noise,
        draw_noise=draw_noise,
        backend=backend,
        class_mask=class_mask,
        score=score,
        score_clip=score_clip,
    )
