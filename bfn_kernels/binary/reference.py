"""Binary data in plain PyTorch: the executable specification. Equation numbers are those of arXiv 2308.07037.

These are the formulas of `discrete` for K = 2 in two differences, of which there is one for each variable [derived]: z
is the logit of class 1 minus that of class 0, and the state is d = y₁ − y₀. A class x of 1 or 0 is the sign s = 2x − 1.
All tensors have the shape `[B, ...]` of the classes x. Row scalars (`alpha`, `weight`, …) come from the module `rows`,
in the type of the arithmetic, and broadcast to x.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from bfn_kernels import noise as random
from bfn_kernels.arguments import Expectation
from bfn_kernels.checks import compute_dtype, valid_classes
from bfn_kernels.continuous.reference import extrapolated, guided
from bfn_kernels.discrete.operators import FACTORISED, MEAN, MODE
from bfn_kernels.reduction import hide, reduce


def signs(name: str, x: Tensor, dtype: torch.dtype, mask: Tensor | None = None) -> Tensor:
    """The sign of each class, and NaN for what is neither 0 nor 1 and not masked, where that is no error."""
    index, valid = valid_classes(name, x, 2, mask)
    return torch.where(valid, 2 * index.to(dtype) - 1, torch.nan)


def message(sign: Tensor, alpha: Tensor, spread: Tensor, eps: Tensor) -> Tensor:
    """y₁ − y₀ ~ N(2αs, 4α), spread = 2√α; in the place of s stands 2p − 1 where a distribution is sent (185)."""
    return 2 * alpha * sign + spread * eps


def sender_sample(
    x: Tensor, alpha: Tensor, spread: Tensor, probs: bool, seed: Tensor | None, noise: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """d ~ N(2αs, 4α), or σ(d) if `probs`; with α = β(t) that is the Bayesian flow (185)."""
    d = message(signs("x", x, alpha.dtype), alpha, spread, random.normals(x, alpha.dtype, seed, noise))
    return (d.sigmoid() if probs else d).to(dtype)


def update_sample(
    output_logits: Tensor, state: Tensor, alpha: Tensor, spread: Tensor, choice: int, known: Tensor | None,
    known_mask: Tensor | None, seed: Tensor | None, noise: Tensor | None, draw_noise: Tensor | None,
    out: Tensor | None = None, theta_out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """d' = d + y: draws a class from the output distribution, sends it with accuracy α, and updates the state (171).

    output_logits, state, noise, known and draw_noise: `[B, ...]`. alpha, and spread = 2√α: row scalars. known_mask:
    bool, broadcasts to known. seed: an int64 tensor of one element. theta_out: `[B, ...]`, receives the probability of
    class 1 in the new state.
    """
    dtype = compute_dtype(output_logits, state)
    sent = chosen(output_logits.to(dtype), choice, known, known_mask, seed, draw_noise)
    updated = (state.to(dtype) + message(sent, alpha, spread, random.normals(state, dtype, seed, noise))).to(
        state.dtype
    )
    if theta_out is not None:
        theta_out.copy_(updated.to(dtype).sigmoid())
    return updated if out is None else out.copy_(updated)


def solver_step(
    output_logits: Tensor, state: Tensor, alpha: Tensor, spread: Tensor | None, state_scale: Tensor | None,
    previous: Tensor | None, extrapolation: Tensor | None, logit_scale: Tensor | None, unconditional: Tensor | None,
    unconditional_scale: Tensor | None, choice: int, known: Tensor | None, known_mask: Tensor | None,
    seed: Tensor | None, noise: Tensor | None, draw_noise: Tensor | None, out: Tensor | None = None,
    theta_out: Tensor | None = None, predicted_out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """d' = state_scale·d + 2α(2(p + extrapolation·(p − p_prev)) − 1) + spread·ξ [derived], where p, of class 1, is what
    is chosen of σ(logit_scale·logits + unconditional_scale·unconditional). What is None leaves its term or factor out.

    previous, unconditional and predicted_out: `[B, ...]`; the last receives p and may be `previous`. state_scale,
    extrapolation, logit_scale and unconditional_scale: row scalars. The other arguments are those of `update_sample`.
    """
    dtype = compute_dtype(output_logits, state, previous, unconditional)
    z = guided(output_logits.to(dtype), logit_scale, unconditional, unconditional_scale)
    p = (1 + chosen(z, choice, known, known_mask, seed, draw_noise)) / 2
    taken = extrapolated(p, previous, extrapolation)
    noisy = (torch.zeros_like(alpha), 0) if spread is None else (spread, random.normals(state, dtype, seed, noise))
    kept = state.to(dtype) if state_scale is None else state_scale * state.to(dtype)
    updated = (kept + message(2 * taken - 1, alpha, *noisy)).to(state.dtype)
    if predicted_out is not None:
        predicted_out.copy_(p)
    if theta_out is not None:
        theta_out.copy_(updated.to(dtype).sigmoid())
    return updated if out is None else out.copy_(updated)


def chosen(
    z: Tensor, choice: int, known: Tensor | None, known_mask: Tensor | None, seed: Tensor | None,
    draw_noise: Tensor | None,
) -> Tensor:  # fmt: skip
    """What a variable sends: the sign of a draw from its output distribution, that of its mode, or 2p − 1; the sign of
    the known class where the mask says so."""
    dtype, p = z.dtype, z.sigmoid()
    if choice == MEAN:
        sent = 2 * p - 1
    elif choice == MODE:
        sent = torch.where(z > 0, 1.0, -1.0).to(dtype)
    else:
        uniforms = random.class_uniform(p.shape, seed) if draw_noise is None else draw_noise
        both = torch.stack([(-z).sigmoid(), p], -1)
        sent = 2 * random.draw_class(both, uniforms.to(dtype)).to(dtype) - 1
    sent = torch.where(p.isnan(), torch.nan, sent)
    if known is not None:
        known_mask = known_mask.expand(known.shape)
        sent = torch.where(known_mask, signs("known", known, dtype, known_mask), sent)
    return sent


def towards_x(x: Tensor, logits: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The signs, and sz = ln(p_x/(1 − p_x)), by which every loss is a function of one number."""
    dtype = compute_dtype(logits)
    sign = signs("x", x, dtype, mask)
    (z,) = hide(mask, logits.to(dtype))
    return sign, sign * z


def continuous_time_loss(x: Tensor, logits: Tensor, weight: Tensor, mask: Tensor | None, reduction: int) -> Tensor:
    """L∞ = w(1 − p_x)², w = 2β'(t), since ‖e_x − p‖² = 2(1 − p_x)² in (205)."""
    _, z_x = towards_x(x, logits, mask)
    q = logsigmoid(-z_x).exp()  # the gradient of sigmoid would cancel as p_x goes to 0
    return reduce(weight * q * q, mask, reduction)


def reconstruction_loss(x: Tensor, logits: Tensor, mask: Tensor | None, reduction: int) -> Tensor:
    """−ln p_x."""
    _, z_x = towards_x(x, logits, mask)
    return reduce(-logsigmoid(z_x), mask, reduction)


def discrete_time_loss(
    x: Tensor, logits: Tensor, alpha: Tensor, n_steps: int, receiver: int, nodes: Sequence[float],
    node_weights: Sequence[float], n_samples: int, seed: Tensor | None, noise: Tensor | None, mask: Tensor | None,
    reduction: int,
) -> Tensor:  # fmt: skip
    """L_n = n·E[−ln(p_x + (1 − p_x)·e^−r)], where r = 2α + 2√α·sε is the logarithm of the ratio of the sender's
    densities for x and for the other class (189, 190). The factorised receiver has two coordinates of half the
    accuracy, each with an expectation of this form.

    x and logits: `[B, ...]`. alpha: row scalars α_i that broadcast to x. nodes and node_weights: of the quadrature, or
    empty. seed: an int64 tensor of one element. noise: `[n_samples, B, ...]`. mask: broadcasts to x.
    """
    sign, z_x = towards_x(x, logits, mask)
    coordinates = 2 if receiver == FACTORISED else 1
    alpha = alpha / coordinates
    loss = torch.zeros_like(z_x)
    for eps, weight in Expectation(nodes, node_weights, n_samples, seed, noise).draws(z_x, random.normal):
        log_ratio = 2 * alpha + 2 * alpha.sqrt() * sign * eps
        loss = loss - coordinates * weight * torch.logaddexp(logsigmoid(z_x), logsigmoid(-z_x) - log_ratio)
    return reduce(n_steps * loss, mask, reduction)
