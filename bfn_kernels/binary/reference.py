"""Binary data in plain PyTorch: the executable specification. Equation numbers refer to arXiv 2308.07037.

These are the formulas of `discrete` for K = 2, with one number for each variable instead of two: z is the network's
logit of class 1 minus its logit of class 0, and the state d is the same difference in a state of `discrete`. [derived]
marks formulas that are not in the paper. A class x has the sign s = 2x − 1: 1 for class 1, −1 for class 0. All tensors
have the shape `[B, ...]` of the classes x. Row scalars (`alpha`, `weight`, …) come from the module `arguments.rows`, in
the type of the arithmetic, and broadcast to x.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from bfn_kernels import noise as random
from bfn_kernels.checks import compute_dtype, valid_classes
from bfn_kernels.formulas import extrapolated, guided, hide, reduce
from bfn_kernels.records import (
    FACTORISED,
    MEAN,
    MODE,
    Draws,
    Guidance,
    LossTarget,
    Noise,
    NoScore,
    OneLogit,
    Sent,
    Solver,
)


def signs(name: str, x: Tensor, dtype: torch.dtype, mask: Tensor | None = None) -> Tensor:
    """The sign of each class. If a class is neither 0 nor 1 and the mask is True, it is an error on the CPU; elsewhere
    its sign is NaN (see `valid_classes`)."""
    index, valid = valid_classes(name, x, 2, mask)
    return torch.where(valid, 2 * index.to(dtype) - 1, torch.nan)


def message(sign: Tensor, alpha: Tensor, spread: Tensor, eps: Tensor) -> Tensor:
    """y₁ − y₀ ~ N(2αs, 4α), spread = 2√α (185). A step that sends probabilities has 2p − 1 instead of s."""
    return 2 * alpha * sign + spread * eps


def sender_sample(x: Tensor, alpha: Tensor, spread: Tensor, probs: bool, noise: Noise, dtype: torch.dtype) -> Tensor:
    """d ~ N(2αs, 4α), or σ(d) if `probs`. With α = β(t), this is the Bayesian flow (185)."""
    d = message(signs("x", x, alpha.dtype), alpha, spread, random.normals(x, alpha.dtype, *noise))
    return (d.sigmoid() if probs else d).to(dtype)


def step(
    output: OneLogit,
    state: Tensor,
    solver: Solver,
    guidance: Guidance,
    score: NoScore,
    sent: Sent,
    noise: Noise,
    out: Tensor | None = None,
    theta_out: Tensor | None = None,
    predicted_out: Tensor | None = None,
) -> Tensor:
    """d' = keep·d + 2·take·(2(p + extrapolation·(p − p_prev)) − 1) + std·ξ [derived], where `chosen` computes p, the
    probability of class 1, from the guided logits. An update sends a class with accuracy α: take = α and std = 2√α
    (171).

    All tensors but row scalars: `[B, ...]`. known_mask: bool, broadcasts to known. theta_out: receives the probability
    of class 1 in the new state. predicted_out: receives p, and may be `previous`.
    """
    keep, take, std, previous, extrapolation = solver
    (logits,) = output
    dtype = compute_dtype(logits, state, previous, guidance.unconditional)
    p = (1 + chosen(guided(logits.to(dtype), guidance), sent, noise.seed)) / 2
    prediction = extrapolated(p, previous, extrapolation)
    spread_and_eps = (torch.zeros_like(take), 0) if std is None else (std, random.normals(state, dtype, *noise))
    scaled_state = state.to(dtype) if keep is None else keep * state.to(dtype)
    updated = (scaled_state + message(2 * prediction - 1, take, *spread_and_eps)).to(state.dtype)
    if predicted_out is not None:
        predicted_out.copy_(p)
    if theta_out is not None:
        theta_out.copy_(updated.to(dtype).sigmoid())
    return updated if out is None else out.copy_(updated)


def chosen(z: Tensor, sent: Sent, seed: Tensor | None) -> Tensor:
    """What each variable sends: the sign of a sample of the output distribution, the sign of its mode, or its mean 2p −
    1. Where known_mask is True, it is the sign of the known class instead."""
    dtype, p = z.dtype, z.sigmoid()
    if sent.choice == MEAN:
        sign = 2 * p - 1
    elif sent.choice == MODE:
        sign = torch.where(z > 0, 1.0, -1.0).to(dtype)
    else:
        uniforms = random.class_uniform(p.shape, seed) if sent.draw_noise is None else sent.draw_noise
        both = torch.stack([(-z).sigmoid(), p], -1)
        sign = 2 * random.draw_class(both, uniforms.to(dtype)).to(dtype) - 1
    sign = torch.where(p.isnan(), torch.nan, sign)
    if sent.known is not None:
        mask = sent.known_mask.expand(sent.known.shape)
        sign = torch.where(mask, signs("known", sent.known, dtype, mask), sign)
    return sign


def signed_logits(x: Tensor, logits: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The signs s, and sz = ln(p_x/(1 − p_x)), of which every loss is a function."""
    dtype = compute_dtype(logits)
    sign = signs("x", x, dtype, mask)
    (z,) = hide(mask, logits.to(dtype))
    return sign, sign * z


def loss(x: Tensor, logits: Tensor, weight: Tensor | None, target: LossTarget) -> Tensor:
    """L∞ = w(1 − p_x)² with the weight w = 2β'(t), since ‖e_x − p‖² = 2(1 − p_x)² in (205). Without a weight, −ln
    p_x."""
    _, z_x = signed_logits(x, logits, target.mask)
    if weight is None:
        return reduce(-logsigmoid(z_x), *target)
    q = logsigmoid(-z_x).exp()  # the gradient of sigmoid would lose digits as p_x goes to 0
    return reduce(weight * q * q, *target)


def discrete_time_loss(
    x: Tensor, logits: Tensor, alpha: Tensor, n_steps: int, receiver: int, draws: Draws, target: LossTarget
) -> Tensor:
    """L_n = n·E[−ln(p_x + (1 − p_x)·e^−r)], where r = 2α + 2√α·sε is the logarithm of the ratio of the sender's
    densities for x and for the other class (189, 190). The factorised receiver has two coordinates of half the
    accuracy, each with an expectation of this form.

    x and logits: `[B, ...]`. alpha: row scalars α_i that broadcast to x. Explicit noise: `[n_samples, B, ...]`.
    """
    sign, z_x = signed_logits(x, logits, target.mask)
    coordinates = 2 if receiver == FACTORISED else 1
    alpha = alpha / coordinates
    loss = torch.zeros_like(z_x)
    for eps, weight in draws.each(z_x, random.normal):
        log_ratio = 2 * alpha + 2 * alpha.sqrt() * sign * eps
        loss = loss - coordinates * weight * torch.logaddexp(logsigmoid(z_x), logsigmoid(-z_x) - log_ratio)
    return reduce(n_steps * loss, *target)


def entropy(logits: Tensor, target: LossTarget) -> Tensor:
    """H = −p·ln p − q·ln q, with p = σ(z) and q = σ(−z) [derived]. Beyond |z| = 1000, H is 0."""
    (z,) = hide(target.mask, logits.to(compute_dtype(logits)))
    z = torch.where(z.abs() > 1000, z.sign() * 1000, z)  # else an infinite z would give 0·∞
    return reduce(-(z.sigmoid() * logsigmoid(z) + (-z).sigmoid() * logsigmoid(-z)), *target)
