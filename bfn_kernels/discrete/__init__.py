"""Ops of discrete data: one of K classes per variable. The state of a variable's input distribution is logits.

Classes are `[B, ...]`, of int64, int32 or uint8 (int16 and int8 are copied to int32), and numbers per class are
`[B, ..., K]`. Types of numbers, random numbers and errors: `help(bfn_kernels)`. Numbers in parentheses: equations of
Graves et al. 2023.
"""

from typing import Any

import torch
from torch import Tensor

from bfn_kernels import backends
from bfn_kernels.call import checks, keywords, rows
from bfn_kernels.call.keywords import Target
from bfn_kernels.call.outputs import writes
from bfn_kernels.call.reduction import hide
from bfn_kernels.call.rows import Rows
from bfn_kernels.classes import Family
from bfn_kernels.discrete.operators import OPERATORS, SHORT_ROW
from bfn_kernels.operators import NATIVE
from bfn_kernels.records import RECEIVERS
from bfn_kernels.schedules import DiscreteSchedule, discrete_schedule
from bfn_kernels.solvers import Coefficients

backends.add_family("discrete", OPERATORS)
FAMILY = Family("discrete", binary=False)


def flow_sample(
    x: Tensor,
    t: Rows,
    *,
    num_classes: int,
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
    """The input distribution after messages up to time t: softmax(y), y = β(Ke_x − 1) + √(Kβ)·ε, β = β₁t² (182, 185).

    x `[B, ...]` classes; t in [0, 1]. output: "probs", or "logits" for y itself, the state. mask: bool, False where x
    is not read (as for padding) and the result is the prior. Returns `[B, ..., K]` in `dtype` (torch's default
    type if None); noise has that shape. Nothing is differentiable.

    >>> flow_sample(torch.tensor([1]), 0.0, num_classes=2, beta_1=3.0)
    tensor([[0.5000, 0.5000]])
    """
    x, library, dtype, work = FAMILY.check_message(x, dtype, backend)
    checks.choice("output", output, ("probs", "logits"))
    schedule = discrete_schedule(beta_1, schedule)
    num_classes = checks.integer("num_classes", num_classes, 2)
    scalars = rows.scalars(library, ("beta", "beta_spread"), t, x, work, schedule, scale=num_classes)
    x, beta, spread = hide(checks.mask("mask", mask, "x", x, x.shape), x, *scalars)
    seed = keywords.drawn_seed(x, seed, generator, ("noise", noise, (*x.shape, num_classes)))
    return library.discrete.sender_sample(x, beta, spread, num_classes, output == "probs", seed, noise, dtype)


def sender_sample(
    x: Tensor,
    alpha: Rows,
    *,
    num_classes: int,
    dtype: torch.dtype | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """A message of accuracy α about x: y ~ N(α(Ke_x − 1), αK·I).

    x `[B, ...]` classes; alpha at least 0. Returns `[B, ..., K]` in `dtype` (torch's default type if None); noise has
    that shape. Nothing is differentiable.

    >>> sender_sample(torch.tensor([1]), 0.5, num_classes=2, noise=torch.zeros(1, 2))
    tensor([[-0.5000,  0.5000]])
    """
    x, library, dtype, work = FAMILY.check_message(x, dtype, backend)
    num_classes = checks.integer("num_classes", num_classes, 2)
    message = rows.scalars(library, rows.MESSAGE, alpha, x, work, scale=num_classes)
    seed = keywords.drawn_seed(x, seed, generator, ("noise", noise, (*x.shape, num_classes)))
    return library.discrete.sender_sample(x, *message, num_classes, False, seed, noise, dtype)


def bayesian_update(logits: Tensor, y: Tensor, *, backend: str | None = None) -> Tensor:
    """The input distribution after a message y: θ' ∝ e^y·θ (171), in logits a sum, for which torch's own serves every
    backend.

    logits, y `[B, ..., K]`, differentiable. Returns logits in their own type.

    >>> bayesian_update(torch.zeros(1, 2), torch.tensor([[0.5, -0.5]]))
    tensor([[ 0.5000, -0.5000]])
    """
    checks.logits("logits", logits)
    checks.like("y", y, "logits", logits)
    backends.choose(backend, logits.device)
    return (logits + y).to(logits.dtype)


def theta(logits: Tensor, *, backend: str | None = None) -> Tensor:
    """The probabilities of a state of logits, `[B, ..., K]`; differentiable. Returns the logits' type.

    >>> theta(torch.zeros(1, 2))
    tensor([[0.5000, 0.5000]])
    """
    checks.logits("logits", logits)
    return backends.library(backend, logits.device).discrete.theta(logits)


def theta_logits(theta: Tensor) -> Tensor:
    """A state of logits for probabilities θ, `[B, ..., K]`; differentiable. A θ of 0 gives −∞, which is absorbing.

    >>> theta_logits(torch.tensor([[0.5, 0.5]]))
    tensor([[-0.6931, -0.6931]])
    """
    checks.logits("theta", theta)
    return theta.log()


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
    """One step of ancestral sampling: a class of the output distribution is sent with accuracy α, z' = z + y,
    y ~ N(α(Ke_k − 1), αK·I) (171).

    output_logits, state `[B, ..., K]`; the state is differentiable, the logits with `choose="mean"` alone; alpha at
    least 0. choose: what is sent, a "sample" of the output distribution, its "mode", or its "mean" (p in the place of
    e_k). Where `known_mask` is True, the class `known` `[B, ...]` is sent instead. `out`, which may be the state
    itself, receives the new state, and `theta_out`, of the state's shape and any of the types, its probabilities, which
    the network sees next, as `theta` gives them; no gradient then. noise: normals `[B, ..., K]` of the sender;
    draw_noise: uniforms `[B, ...]` that draw the class. Returns logits in the state's type.

    >>> z = torch.zeros(1, 2)
    >>> update_sample(torch.tensor([[0.0, 1.0]]), z, 0.5, choose="mode", noise=z)
    tensor([[-0.5000,  0.5000]])
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
    """A sampler's step from time t to t_next: z' = A·z + take·(K(p + r·(p − p_prev)) − 1) + E·ξ, by the coefficients
    of a rule of `bfn_kernels.solvers` [derived], p = softmax(output_logits).

    output_logits, state `[B, ..., K]`: what the network put out at time t, and the state that it saw. choose: what is
    taken for p, the "mean", p itself, as solvers do, a "sample" or the "mode", as one-hot vectors; "sde1" with samples
    from t = 0 on is ancestral sampling. temperature: what the logits are divided by. unconditional: logits of the
    network without its condition, and guidance: w, for p = softmax(((1 + w)·output_logits − w·unconditional) /
    temperature); both numbers as times are. `coefficients` may stand in the place of t and schedule too. Where
    `known_mask` is True, p is the class `known` `[B, ...]`. `theta_out` receives the probabilities of the new state,
    in the state's shape and any of the types, and `predicted_out` p. draw_noise: uniforms `[B, ...]` of a sample.
    Everything else, and the result, as in `continuous.solver_step`.

    >>> z = torch.tensor([[1.0, 1.0]])
    >>> solver_step(z, z, 0.5, 1.0, beta_1=3.0)
    tensor([[2., 2.]])
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
    """L∞ in nats: Kβ₁t·‖e_x − p‖² per variable, p = softmax(logits) (205); ½Kβ'(t) for another schedule.

    x `[B, ...]` classes; logits `[B, ..., K]`, differentiable; t in [0, 1]. mask: bool, of x's leading dimensions or
    broadcastable to it, False where a variable costs nothing and its x is not looked at. reduction: "mean" over
    variables, "sum", "batch" (sums `[B]`) or "none". Returns float32 (float64 for float64).

    >>> continuous_time_loss(torch.tensor([1]), torch.zeros(1, 2), 0.5, beta_1=3.0)
    tensor(1.5000)
    """
    x, library, to = FAMILY.check_loss(x, logits, mask, reduction, backend)
    schedule = discrete_schedule(beta_1, schedule)
    dtype = checks.compute_dtype(logits)
    (weight,) = rows.scalars(library, ("rate",), t, x, dtype, schedule, scale=logits.shape[-1] / 2)
    return _loss(library, x, logits, weight, to)


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

    n_steps: n. step: i from 1 to n, an int or integers shaped as t may be, in the place of t; a t that is no (i − 1)/n
    is refused on the CPU and costs NaN elsewhere. receiver: "joint", the paper's, or "factorised", a mixture for each
    coordinate of y, which the published code evaluates. The expectation is the mean of `n_samples` draws (10 unless
    quadrature is given; noise `[n_samples, B, ..., K]`), or a Gauss–Hermite sum over `quadrature` nodes, which the
    joint receiver has for K = 2 alone. Everything else as in `continuous_time_loss`, to which it tends as n grows.

    >>> discrete_time_loss(torch.tensor([1]), torch.zeros(1, 2), 0.0, n_steps=9, beta_1=3.0, quadrature=8)
    tensor(0.1637)
    """
    n_steps = checks.integer("n_steps", n_steps, 1)
    t = keywords.step_time(t, step, n_steps)
    which = checks.choice("receiver", receiver, RECEIVERS)
    x, library, to = FAMILY.check_loss(x, logits, mask, reduction, backend)
    if n_samples is None and quadrature is None:
        n_samples = 10
    if quadrature is not None and receiver == "joint" and logits.shape[-1] != 2:
        raise ValueError(
            "quadrature must be None for the joint receiver with more than two classes, where the expectation is not "
            f"one-dimensional; got {quadrature} for K = {logits.shape[-1]}"
        )
    schedule = discrete_schedule(beta_1, schedule)
    dtype = checks.compute_dtype(logits)
    (alpha,) = rows.scalars(library, ("alpha",), t, x, dtype, schedule, n_steps=n_steps)
    draws = keywords.expectation(logits, quadrature, n_samples, seed, generator, noise)
    return library.discrete.discrete_time_loss(x, logits, alpha, n_steps, which, *draws, *to)


def reconstruction_loss(
    x: Tensor, logits: Tensor, *, mask: Tensor | None = None, reduction: str = "mean", backend: str | None = None
) -> Tensor:
    """The cost in nats of x after the last message, the network having seen t = 1: −ln p_x.

    Arguments and result as in `continuous_time_loss`.

    >>> reconstruction_loss(torch.tensor([1]), torch.zeros(1, 2))
    tensor(0.6931)
    """
    x, library, to = FAMILY.check_loss(x, logits, mask, reduction, backend)
    return _loss(library, x, logits, None, to)


def _loss(library: Any, x: Tensor, logits: Tensor, weight: Tensor | None, to: Target) -> Tensor:
    """L∞ or, without a weight, the reconstruction loss. The CPU kernels make the gradient of short rows, which they
    have in cache, in the forward pass."""
    in_forward = logits.shape[-1] <= SHORT_ROW and logits.is_cpu and library is backends.LIBRARIES.get(NATIVE)
    return library.discrete.loss(x, logits, weight, *to, in_forward)
