"""Ops of binary data: one of two classes per variable, by one logit, that of class 1. These are the ops of `discrete`
for K = 2 with one number for each variable in the place of two, and all of them are elementwise.

The state of a variable's input distribution is one logit too: d = y₁ − y₀, so that θ₁ = σ(d). A network that reads
2θ₁ − 1 is given tanh(d/2).
All tensors are `[B, ...]`. Classes are 0 and 1, bool or of a type that `discrete` takes. Types of numbers, random
numbers and errors: `help(bfn_kernels)`. Numbers in parentheses: equations of Graves et al. 2023.
"""

import torch
from torch import Tensor

from bfn_kernels import backends
from bfn_kernels.binary.operators import OPERATORS
from bfn_kernels.call import checks, keywords, rows
from bfn_kernels.call.outputs import writes
from bfn_kernels.call.reduction import hide
from bfn_kernels.call.rows import Rows
from bfn_kernels.classes import Family
from bfn_kernels.records import RECEIVERS
from bfn_kernels.schedules import DiscreteSchedule, discrete_schedule
from bfn_kernels.solvers import Coefficients

backends.add_family("binary", OPERATORS)
FAMILY = Family("binary", binary=True)


def flow_sample(
    x: Tensor,
    t: Rows,
    *,
    beta_1: float | None = None,
    schedule: DiscreteSchedule | None = None,
    output: str = "probs",
    mask: Tensor | None = None,
    dtype: torch.dtype | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """The input distribution after messages up to time t: θ₁ = σ(d), d ~ N(2βs, 4β), β = β₁t², s = 2x − 1 (182, 185).

    output: "probs", or "logits" for d itself, the state. Returns a tensor like x in `dtype` (torch's default type if
    None); noise has that shape. All other arguments are as in `discrete.flow_sample`. Nothing is differentiable.

    >>> flow_sample(torch.tensor([1]), 0.0, beta_1=3.0)
    tensor([0.5000])
    """
    x, library, dtype, work = FAMILY.check_message(x, dtype, backend)
    checks.choice("output", output, ("probs", "logits"))
    schedule = discrete_schedule(beta_1, schedule)
    scalars = rows.scalars(library, ("beta", "beta_spread"), t, x, work, schedule, scale=4)
    x, beta, spread = hide(checks.mask("mask", mask, "x", x, x.shape), x, *scalars)
    seed = keywords.drawn_seed(x, seed, generator, ("noise", noise, x.shape))
    return library.binary.sender_sample(x, beta, spread, output == "probs", seed, noise, dtype)


def sender_sample(
    x: Tensor,
    alpha: Rows,
    *,
    dtype: torch.dtype | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """A message of accuracy α about x, as the difference y₁ − y₀ ~ N(2αs, 4α), s = 2x − 1 [derived].

    x `[B, ...]` classes; alpha at least 0. Returns a tensor like x in `dtype` (torch's default type if None); noise has
    that shape. Nothing is differentiable.

    >>> sender_sample(torch.tensor([1, 0]), 0.5, noise=torch.zeros(2))
    tensor([ 1., -1.])
    """
    x, library, dtype, work = FAMILY.check_message(x, dtype, backend)
    message = rows.scalars(library, rows.MESSAGE, alpha, x, work, scale=4)
    seed = keywords.drawn_seed(x, seed, generator, ("noise", noise, x.shape))
    return library.binary.sender_sample(x, *message, False, seed, noise, dtype)


def bayesian_update(logits: Tensor, y: Tensor, *, backend: str | None = None) -> Tensor:
    """The input distribution after a message y: θ' ∝ e^y·θ (171), in logits a sum, for which torch's own serves every
    backend.

    logits, y `[B, ...]`, differentiable. Returns logits in their own type.

    >>> bayesian_update(torch.zeros(1), torch.tensor([0.5]))
    tensor([0.5000])
    """
    checks.data("logits", logits)
    checks.like("y", y, "logits", logits)
    backends.choose(backend, logits.device)
    return (logits + y).to(logits.dtype)


def theta(logits: Tensor, *, backend: str | None = None) -> Tensor:
    """The probability θ₁ = σ(d) of class 1, of a state of logits `[B, ...]`, for which torch's own serves every
    backend; differentiable. Returns the logits' type.

    >>> theta(torch.zeros(1))
    tensor([0.5000])
    """
    checks.data("logits", logits)
    backends.choose(backend, logits.device)
    return logits.sigmoid()


def theta_logits(theta: Tensor) -> Tensor:
    """A state of logits for probabilities θ₁ of class 1, `[B, ...]`; differentiable. A θ₁ of 0 or 1 gives −∞ or ∞,
    which is absorbing.

    >>> theta_logits(torch.tensor([0.5]))
    tensor([0.])
    """
    checks.data("theta", theta)
    return theta.logit()


@writes("state")
def update_sample(
    output_logits: Tensor,
    state: Tensor,
    alpha: Rows,
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
    """One step of ancestral sampling: a class of the output distribution is sent with accuracy α, d' = d + y,
    y ~ N(2αs, 4α), s = 2k − 1 for class k (171).

    All tensors have the state's shape, and choose="mean" sends 2p₁ − 1 in the place of s; `theta_out` receives the new
    state's θ₁. Everything else as in `discrete.update_sample`. Returns logits in the state's type.

    >>> d = torch.zeros(1)
    >>> update_sample(torch.tensor([2.0]), d, 0.5, choose="mode", noise=d)
    tensor([1.])
    """
    sending = choose, known, known_mask, seed, generator, noise, draw_noise
    return FAMILY.update_sample(output_logits, state, alpha, sending, (out, theta_out), backend)


@writes("state", differentiable=False)
def solver_step(
    output_logits: Tensor,
    state: Tensor,
    t: Rows | None = None,
    t_next: Rows | None = None,
    *,
    rule: str = "ode1",
    t_previous: Rows | None = None,
    previous: Tensor | None = None,
    coefficients: Coefficients | None = None,
    beta_1: float | None = None,
    schedule: DiscreteSchedule | None = None,
    choose: str = "mean",
    temperature: Rows | None = None,
    unconditional: Tensor | None = None,
    guidance: Rows | None = None,
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
    """A sampler's step from time t to t_next: d' = A·d + 2·take·(2(p + r·(p − p_prev)) − 1) + E·ξ, by the
    coefficients of a rule of `bfn_kernels.solvers` [derived], p = σ(output_logits), the probability of class 1.

    output_logits, state `[B, ...]`, and so are `previous`, `unconditional`, noise, draw_noise and what `theta_out` and
    `predicted_out` receive. Everything else as in `discrete.solver_step`.

    >>> d = torch.ones(1)
    >>> solver_step(d, d, 0.5, 1.0, beta_1=3.0, choose="mode")
    tensor([5.])
    """
    times, guided = (t, t_next, t_previous), (temperature, unconditional, guidance)
    plan = times, previous, rule, coefficients, beta_1, schedule, *guided
    sending = choose, known, known_mask, seed, generator, noise, draw_noise
    return FAMILY.solver_step(output_logits, state, plan, sending, (out, theta_out, predicted_out), backend)


def continuous_time_loss(
    x: Tensor,
    logits: Tensor,
    t: Rows,
    *,
    beta_1: float | None = None,
    schedule: DiscreteSchedule | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    backend: str | None = None,
) -> Tensor:
    """L∞ in nats: 4β₁t·(1 − p_x)² per variable, p₁ = σ(logits) (205); 2β'(t) for another schedule.

    x and logits `[B, ...]`. Everything else as in `discrete.continuous_time_loss`.

    >>> continuous_time_loss(torch.tensor([1]), torch.zeros(1), 0.5, beta_1=3.0)
    tensor(1.5000)
    """
    x, library, to = FAMILY.check_loss(x, logits, mask, reduction, backend)
    schedule = discrete_schedule(beta_1, schedule)
    dtype = checks.compute_dtype(logits)
    (weight,) = rows.scalars(library, ("rate",), t, x, dtype, schedule, scale=2)
    return library.binary.loss(x, logits, weight, *to)


def discrete_time_loss(
    x: Tensor,
    logits: Tensor,
    t: Rows | None = None,
    *,
    n_steps: int,
    step: int | Tensor | None = None,
    beta_1: float | None = None,
    schedule: DiscreteSchedule | None = None,
    receiver: str = "joint",
    n_samples: int | None = None,
    quadrature: int | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """L_n in nats: n·E[ln p_S(y) − ln p_R(y)] per variable, with α_i, i = n·t + 1 (189, 190, 193).

    receiver: "joint", the paper's, or "factorised", a mixture for each of two coordinates of y, which the published
    code evaluates. The expectation is a Gauss–Hermite sum over `quadrature` nodes (8 unless n_samples is given), or the
    mean of `n_samples` draws, each of one normal per variable (noise `[n_samples, B, ...]`). Everything else as in
    `discrete.discrete_time_loss`.

    >>> discrete_time_loss(torch.tensor([1]), torch.zeros(1), 0.0, n_steps=9, beta_1=3.0)
    tensor(0.1637)
    """
    n_steps = checks.integer("n_steps", n_steps, 1)
    t = keywords.step_time(t, step, n_steps)
    which = checks.choice("receiver", receiver, RECEIVERS)
    x, library, to = FAMILY.check_loss(x, logits, mask, reduction, backend)
    if n_samples is None and quadrature is None:
        quadrature = 8
    schedule = discrete_schedule(beta_1, schedule)
    dtype = checks.compute_dtype(logits)
    (alpha,) = rows.scalars(library, ("alpha",), t, x, dtype, schedule, n_steps=n_steps)
    draws = keywords.expectation(logits, quadrature, n_samples, seed, generator, noise)
    return library.binary.discrete_time_loss(x, logits, alpha, n_steps, which, *draws, *to)


def reconstruction_loss(
    x: Tensor, logits: Tensor, *, mask: Tensor | None = None, reduction: str = "mean", backend: str | None = None
) -> Tensor:
    """The cost in nats of x after the last message, the network having seen t = 1: −ln p_x.

    Arguments and result as in `continuous_time_loss`.

    >>> reconstruction_loss(torch.tensor([1]), torch.zeros(1))
    tensor(0.6931)
    """
    x, library, to = FAMILY.check_loss(x, logits, mask, reduction, backend)
    return library.binary.loss(x, logits, None, *to)
