"""Binary data in plain PyTorch: the executable specification. Equation numbers are those of arXiv 2308.07037.

These are the formulas of `discrete` for K = 2 in two differences, of which there is one for each variable [derived]: z
is the logit of class 1 minus that of class 0, and the state is d = y₁ − y₀. A class x of 1 or 0 is the sign s = 2x − 1.
All tensors have the shape `[B, ...]` of the classes x. Row scalars (`alpha`, `weight`, …) come from the module `rows`,
in the type of the arithmetic, and broadcast to x.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from bfn_kernels import noise as random
from bfn_kernels.call.checks import compute_dtype, valid_classes
from bfn_kernels.call.reduction import hide, reduce
from bfn_kernels.records import FACTORISED, MEAN, MODE, Draws, Guidance, LossTarget, Noise, Sent, Solver
from bfn_kernels.steps import extrapolated, guided


def signs(name: str, x: Tensor, dtype: torch.dtype, mask: Tensor | None = None) -> Tensor:
    """The sign of each class, and NaN for what is neither 0 nor 1 and not masked, where that is no error."""
    index, valid = valid_classes(name, x, 2, mask)
    return torch.where(valid, 2 * index.to(dtype) - 1, torch.nan)


def message(sign: Tensor, alpha: Tensor, spread: Tensor, eps: Tensor) -> Tensor:
    """y₁ − y₀ ~ N(2αs, 4α), spread = 2√α; in the place of s stands 2p − 1 where a distribution is sent (185)."""
    return 2 * alpha * sign + spread * eps


def sender_sample(x: Tensor, alpha: Tensor, spread: Tensor, probs: bool, noise: Noise, dtype: torch.dtype) -> Tensor:
    """d ~ N(2αs, 4α), or σ(d) if `probs`; with α = β(t) that is the Bayesian flow (185)."""
    d = message(signs("x", x, alpha.dtype), alpha, spread, random.normals(x, alpha.dtype, *noise))
    return (d.sigmoid() if probs else d).to(dtype)


def step(
    output_logits: Tensor,
    state: Tensor,
    solver: Solver,
    guidance: Guidance,
    sent: Sent,
    noise: Noise,
    out: Tensor | None = None,
    theta_out: Tensor | None = None,
    predicted_out: Tensor | None = None,
) -> Tensor:
    """d' = keep·d + 2·take·(2(p + extrapolation·(p − p_prev)) − 1) + std·ξ [derived], where p, the probability of class
    1, is chosen of σ(logits), guided. An update sends a class with accuracy α: take = α and std = 2√α (171).

    All tensors but row scalars: `[B, ...]`. known_mask: bool, broadcasts to known. theta_out: receives the probability
    of class 1 in the new state. predicted_out: receives p, and may be `previous`.
    """
    keep, take, std, previous, extrapolation = solver
    dtype = compute_dtype(output_logits, state, previous, guidance.unconditional)
    p = (1 + chosen(guided(output_logits.to(dtype), guidance), sent, noise.seed)) / 2
    taken = extrapolated(p, previous, extrapolation)
    noisy = (torch.zeros_like(take), 0) if std is None else (std, random.normals(state, dtype, *noise))
    kept = state.to(dtype) if keep is None else keep * state.to(dtype)
    updated = (kept + message(2 * taken - 1, take, *noisy)).to(state.dtype)
    if predicted_out is not None:
        predicted_out.copy_(p)
    if theta_out is not None:
        theta_out.copy_(updated.to(dtype).sigmoid())
    return updated if out is None else out.copy_(updated)


def chosen(z: Tensor, what: Sent, seed: Tensor | None) -> Tensor:
    """What a variable sends: the sign of a draw from its output distribution, that of its mode, or 2p − 1; the sign of
    the known class where the mask says so."""
    dtype, p = z.dtype, z.sigmoid()
    if what.choice == MEAN:
        sent = 2 * p - 1
    elif what.choice == MODE:
        sent = torch.where(z > 0, 1.0, -1.0).to(dtype)
    else:
        uniforms = random.class_uniform(p.shape, seed) if what.draw_noise is None else what.draw_noise
        both = torch.stack([(-z).sigmoid(), p], -1)
        sent = 2 * random.draw_class(both, uniforms.to(dtype)).to(dtype) - 1
    sent = torch.where(p.isnan(), torch.nan, sent)
    if what.known is not None:
        mask = what.known_mask.expand(what.known.shape)
        sent = torch.where(mask, signs("known", what.known, dtype, mask), sent)
    return sent


def towards_x(x: Tensor, logits: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The signs, and sz = ln(p_x/(1 − p_x)), by which every loss is a function of one number."""
    dtype = compute_dtype(logits)
    sign = signs("x", x, dtype, mask)
    (z,) = hide(mask, logits.to(dtype))
    return sign, sign * z


def loss(x: Tensor, logits: Tensor, weight: Tensor | None, to: LossTarget) -> Tensor:
    """L∞ = w(1 − p_x)², w = 2β'(t), since ‖e_x − p‖² = 2(1 − p_x)² in (205); without a weight −ln p_x."""
    _, z_x = towards_x(x, logits, to.mask)
    if weight is None:
        return reduce(-logsigmoid(z_x), *to)
    q = logsigmoid(-z_x).exp()  # the gradient of sigmoid would cancel as p_x goes to 0
    return reduce(weight * q * q, *to)


def discrete_time_loss(
    x: Tensor, logits: Tensor, alpha: Tensor, n_steps: int, receiver: int, draws: Draws, to: LossTarget
) -> Tensor:
    """L_n = n·E[−ln(p_x + (1 − p_x)·e^−r)], where r = 2α + 2√α·sε is the logarithm of the ratio of the sender's
    densities for x and for the other class (189, 190). The factorised receiver has two coordinates of half the
    accuracy, each with an expectation of this form.

    x and logits: `[B, ...]`. alpha: row scalars α_i that broadcast to x. Explicit noise: `[n_samples, B, ...]`.
    """
    sign, z_x = towards_x(x, logits, to.mask)
    coordinates = 2 if receiver == FACTORISED else 1
    alpha = alpha / coordinates
    loss = torch.zeros_like(z_x)
    for eps, weight in draws.each(z_x, random.normal):
        log_ratio = 2 * alpha + 2 * alpha.sqrt() * sign * eps
        loss = loss - coordinates * weight * torch.logaddexp(logsigmoid(z_x), logsigmoid(-z_x) - log_ratio)
    return reduce(n_steps * loss, *to)
