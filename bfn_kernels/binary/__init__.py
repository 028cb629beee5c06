"""Ops of binary data: one of two classes per variable, with a single logit, the logit of class 1.

These are the ops of `discrete` for K = 2, with one number for each variable instead of two. So they are elementwise,
except for the reduction of a loss. The state of a variable is one logit, too: d, the logit of class 1 minus the logit
of class 0 in a state of `discrete`. The probability of class 1 in the input distribution is θ₁ = σ(d). If a network
expects 2θ₁ − 1, pass it tanh(d/2).

All tensors are `[B, ...]`. Classes are 0 and 1, in any type that `discrete` takes, or bool. `help(bfn_kernels)`
describes what all families share: times, types, random numbers, errors. Numbers in parentheses are equations of Graves
et al. 2023, and [derived] marks formulas that are not in the paper.
"""

import torch
from torch import Tensor

from bfn_kernels import backends, checks
from bfn_kernels.arguments import keywords, rows
from bfn_kernels.arguments.class_arguments import BINARY
from bfn_kernels.arguments.rows import PerRow
from bfn_kernels.binary.losses import *
from bfn_kernels.binary.operators import OPERATORS
from bfn_kernels.formulas import hide
from bfn_kernels.records import Noise
from bfn_kernels.schedules import DiscreteSchedule, discrete_schedule
from bfn_kernels.solvers import Coefficients

backends.add_family("binary", OPERATORS)


def flow_sample(
    x: Tensor,
    t: PerRow,
    *,
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
    """Draws the input distribution at time t: θ₁ = σ(d), d ~ N(2βs, 4β), β = β₁t², s = 2x − 1 (182, 185).

    It is the distribution after the messages up to time t. Nothing is differentiable.

    Args:
        x: Classes 0 and 1, `[B, ...]`, bool, int64, int32, int16, int8 or uint8.
        t: Times in [0, 1]: a number, or a floating-point tensor `[B]` or of any leading part of `[B, ...]`.
        beta_1: β₁ of the paper's schedule (182), the accuracy at t = 1, positive. Pass either beta_1 or schedule.
        schedule: An object with the methods of `schedules.DiscreteSchedule`, instead of beta_1.
        output: "probs" for the probabilities, or "logits" for the state.
        mask: Bool, False where x is not read, such as padding: the result there is as before the first message.
            Broadcastable to `[B, ...]`, or shaped as its leading dimensions.
        known: Known classes, `[B, ...]`, in place of x where known_mask is True. The probability there is 0 or 1, and
            the logit is −1000 or 1000. Pass both or neither.
        known_mask: Bool, True where data are known. Broadcastable to `[B, ...]`, or shaped as its leading dimensions.
        dtype: Floating-point type of the result. None: torch's default type.
        seed: An int, or an int64 tensor of one element, that determines all random numbers of the call.
        generator: A `torch.Generator` on the tensors' device, to draw the seed. None: torch's default generator.
        noise: Standard normals, `[B, ...]`, floating-point, instead of a seed; not differentiable.
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        Probabilities of class 1 or logits, `[B, ...]`, in `dtype`.

    Example:
        >>> flow_sample(torch.tensor([1]), 0.0, beta_1=3.0)
        tensor([0.5000])
    """
    x, library, dtype, work = BINARY.check_message(x, dtype, backend)
    checks.choice("output", output, ("probs", "logits"))
    schedule = discrete_schedule(beta_1, schedule)
    scalars = rows.scalars(library, ("beta", "beta_spread"), t, x, work, schedule, scale=4)
    mask = checks.mask("mask", mask, "x", x, x.shape)
    x, beta, spread = hide(mask, x, *scalars)
    on = None
    if known is not None or known_mask is not None:
        x, (beta, spread), on = BINARY.known_of_flow(x, (beta, spread), known, known_mask, mask, x.shape, 2)
    seed = keywords.noise_seed(x, seed, generator, ("noise", noise, x.shape))
    try:
        return library.binary.sender_sample(x, beta, spread, output == "probs", Noise(seed, noise), dtype)
    except IndexError:
        BINARY.blame_known(known, on, 2)
        raise


def sender_sample(
    x: Tensor,
    alpha: PerRow,
    *,
    dtype: torch.dtype | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Draws a message of accuracy α about x, as the difference y₁ − y₀ ~ N(2αs, 4α), s = 2x − 1 [derived].

    Nothing is differentiable.

    Args:
        x: Classes 0 and 1, `[B, ...]`, bool, int64, int32, int16, int8 or uint8.
        alpha: Accuracy α, at least 0: a number, or a floating-point tensor `[B]` or of any leading part of `[B, ...]`.
        dtype: Floating-point type of the result. None: torch's default type.
        seed: An int, or an int64 tensor of one element, that determines all random numbers of the call.
        generator: A `torch.Generator` on the tensors' device, to draw the seed. None: torch's default generator.
        noise: Standard normals, `[B, ...]`, floating-point, instead of a seed; not differentiable.
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        The message y₁ − y₀, `[B, ...]`, in `dtype`.

    Example:
        >>> sender_sample(torch.tensor([1, 0]), 0.5, noise=torch.zeros(2))
        tensor([ 1., -1.])
    """
    x, library, dtype, work = BINARY.check_message(x, dtype, backend)
    message = rows.scalars(library, rows.MESSAGE, alpha, x, work, scale=4)
    seed = keywords.noise_seed(x, seed, generator, ("noise", noise, x.shape))
    return library.binary.sender_sample(x, *message, probs=False, noise=Noise(seed, noise), dtype=dtype)


def bayesian_update(logits: Tensor, y: Tensor, *, backend: str | None = None) -> Tensor:
    """Updates the input distribution by a message y = (y₀, y₁): θ' ∝ e^y·θ (171), so that d' = d + (y₁ − y₀).

    Args:
        logits: The state, `[B, ...]`, floating-point; differentiable.
        y: The message, the difference y₁ − y₀, `[B, ...]`, floating-point; differentiable.
        backend: A name of `backends.BACKENDS` or None. It is only checked: torch's own function serves every backend.

    Returns:
        The new state, `[B, ...]`, in the type of logits.

    Example:
        >>> bayesian_update(torch.zeros(1), torch.tensor([0.5]))
        tensor([0.5000])
    """
    checks.data("logits", logits)
    checks.like("y", y, "logits", logits)
    backends.choose(backend, logits.device)
    return (logits + y).to(logits.dtype)


def theta(logits: Tensor, *, backend: str | None = None) -> Tensor:
    """Computes the probability θ₁ = σ(d) of class 1 for a state.

    Args:
        logits: The state, `[B, ...]`, floating-point; differentiable.
        backend: A name of `backends.BACKENDS` or None. It is only checked: torch's own function serves every backend.

    Returns:
        Probabilities of class 1, `[B, ...]`, in the type of logits.

    Example:
        >>> theta(torch.zeros(1))
        tensor([0.5000])
    """
    checks.data("logits", logits)
    backends.choose(backend, logits.device)
    return logits.sigmoid()


def theta_logits(theta: Tensor) -> Tensor:
    """Computes a state of logits for probabilities θ₁ of class 1, by torch's own function for every backend.

    Args:
        theta: Probabilities of class 1, `[B, ...]`, floating-point; differentiable. 0 or 1 gives −∞ or ∞, which no
            message changes.

    Returns:
        Logits, `[B, ...]`, in the type of theta.

    Example:
        >>> theta_logits(torch.tensor([0.5]))
        tensor([0.])
    """
    checks.data("theta", theta)
    return theta.logit()


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
) -> Tensor:
    """Takes one step of ancestral sampling: adds a message about a class k to the state, d' = d + y (171).

    The receiver draws k from the output distribution, unless `choose` or `known` says otherwise. Then it draws the
    message y ~ N(2αs, 4α), s = 2k − 1, itself, as the sender would if the data were k. With
    choose="mean", 2p₁ − 1 takes the place of s.

    Args:
        output_logits: The network's output, in the state's shape, floating-point; differentiable if choose="mean".
        state: The state, logits `[B, ...]`, floating-point; differentiable.
        alpha: Accuracy α, at least 0: a number, or a floating-point tensor `[B]` or of any leading part of `[B, ...]`.
        choose: What is sent: a "sample" of the output distribution, its "mode" or its "mean".
        known: Known data, `[B, ...]`, which the step uses where known_mask is True. Pass both or neither.
        known_mask: Bool, True where data are known. Broadcastable to `[B, ...]`, or shaped as its leading dimensions.
        out: Receives the new state, in the state's shape and type. It may be the state itself. No argument may then
            require a gradient.
        theta_out: Receives the probabilities of the new state, as `theta` computes them, in the state's shape and any
            floating-point type. The network sees them next. No argument may then require a gradient.
        seed: An int, or an int64 tensor of one element, that determines all random numbers of the call.
        generator: A `torch.Generator` on the tensors' device, to draw the seed. None: torch's default generator.
        noise: Standard normals, `[B, ...]`, floating-point, instead of a seed; not differentiable.
        draw_noise: Uniforms in (0, 1], `[B, ...]`, floating-point, instead of a seed, to draw the class of a "sample".
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        The new state d', `[B, ...]`, in the state's type; `out` itself if it is passed.

    Raises:
        ValueError: If output_logits requires a gradient and choose is not "mean".

    Example:
        >>> d = torch.zeros(1)
        >>> update_sample(torch.tensor([2.0]), d, 0.5, choose="mode", noise=d)
        tensor([1.])
    """
    return BINARY.update_sample(
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
) -> Tensor:
    """Takes a sampler's step from time t to t_next: d' = A·d + 2·take·(2(p + r·(p − p_prev)) − 1) + E·ξ [derived].

    p is the probability of class 1: σ(output_logits) or, with a guidance w and a temperature T, σ(((1 +
    w)·output_logits − w·unconditional)/T). With choose="sample" or "mode", p is a class, 0 or 1. Where data are known,
    p is the known class. A rule of `bfn_kernels.solvers` gives the coefficients A, take, r and E. Steps with
    rule="sde1" and choose="sample" that start at t = 0 are ancestral sampling. Nothing is differentiable.

    Args:
        output_logits: The network's output, in the state's shape, floating-point.
        state: The state, logits `[B, ...]`, floating-point.
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
        known: Known data, `[B, ...]`, which the step uses where known_mask is True. Pass both or neither.
        known_mask: Bool, True where data are known. Broadcastable to `[B, ...]`, or shaped as its leading dimensions.
        out: Receives the new state, in the state's shape and type. It may be the state itself. No argument may then
            require a gradient.
        theta_out: Receives the probabilities of the new state, as `theta` computes them, in the state's shape and any
            floating-point type. The network sees them next. No argument may then require a gradient.
        predicted_out: Receives p, in the state's shape and any floating-point type. It may be previous itself.
        seed: An int, or an int64 tensor of one element, that determines all random numbers of the call. A step that
            draws nothing does not read it.
        generator: A `torch.Generator` on the tensors' device, to draw the seed. None: torch's default generator.
        noise: Standard normals, `[B, ...]`, floating-point, instead of a seed; not differentiable.
        draw_noise: Uniforms in (0, 1], `[B, ...]`, floating-point, instead of a seed, to draw the class of a "sample".
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        The new state d', `[B, ...]`, in the state's type; `out` itself if it is passed.

    Raises:
        ValueError: If an argument requires a gradient while gradients are enabled, if the times are not in order (on
            the CPU), or if noise is passed to a step that has none.

    Example:
        >>> d = torch.ones(1)
        >>> solver_step(d, d, 0.5, 1.0, beta_1=3.0, choose="mode")
        tensor([5.])
    """
    return BINARY.solver_step(
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
    )
