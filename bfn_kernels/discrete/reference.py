"""Discrete data in plain PyTorch: the executable specification. Equation numbers are those of arXiv 2308.07037.

Classes x have shape `[B, ...]`, numbers per class `[B, ..., K]`. Row scalars (`alpha`, `weight`, …) come from the
module `rows`, in the type of the arithmetic, and broadcast to x. The state is logits, since a θ of 0 would stay 0 for
ever.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from bfn_kernels import noise as random
from bfn_kernels.arguments import Expectation
from bfn_kernels.checks import compute_dtype, valid_classes
from bfn_kernels.continuous.reference import extrapolated, guided
from bfn_kernels.discrete.operators import FACTORISED, JOINT, MEAN, MODE
from bfn_kernels.reduction import hide, reduce


def one_hot(x: Tensor, num_classes: int) -> Tensor:
    return x.unsqueeze(-1) == torch.arange(num_classes, device=x.device)


def normals(shape, dtype: torch.dtype, seed: Tensor, noise: Tensor | None) -> Tensor:
    return random.class_normal(shape, seed, dtype=dtype) if noise is None else noise.to(dtype)


def theta(logits: Tensor) -> Tensor:
    """The probabilities of a state of logits."""
    return logits.to(compute_dtype(logits)).softmax(-1).to(logits.dtype)


def message(centre: Tensor, alpha: Tensor, spread: Tensor, eps: Tensor) -> Tensor:
    """y = α(Kp − 1) + √(Kα)·ε, where p is e_x in (185)."""
    return alpha.unsqueeze(-1) * (centre.shape[-1] * centre - 1) + spread.unsqueeze(-1) * eps


def sender_sample(
    x: Tensor, alpha: Tensor, spread: Tensor, num_classes: int, probs: bool, seed: Tensor | None,
    noise: Tensor | None, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """y ~ N(α(Ke_x − 1), αK·I), or its softmax if `probs`; with α = β(t) that is the Bayesian flow (185)."""
    index, valid = valid_classes("x", x, num_classes)
    eps = normals((*x.shape, num_classes), alpha.dtype, seed, noise)
    y = message(one_hot(index, num_classes).to(alpha.dtype), alpha, spread, eps)
    y = torch.where(valid.unsqueeze(-1), y, torch.nan)
    return (y.softmax(-1) if probs else y).to(dtype)


def update_sample(
    output_logits: Tensor, state: Tensor, alpha: Tensor, spread: Tensor, choice: int, known: Tensor | None,
    known_mask: Tensor | None, seed: Tensor | None, noise: Tensor | None, draw_noise: Tensor | None,
    out: Tensor | None = None, theta_out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """z' = z + y: draws a class from the output distribution, sends it with accuracy α, and updates the state (171).

    output_logits, state and noise: `[B, ..., K]`. alpha, and spread = √(Kα): row scalars that broadcast to the classes.
    known and draw_noise: `[B, ...]`. known_mask: bool, broadcasts to known. seed: an int64 tensor of one element.
    theta_out: `[B, ..., K]`, receives the probabilities of the new state.
    """
    dtype = compute_dtype(output_logits, state)
    sent = chosen(output_logits.to(dtype), choice, known, known_mask, seed, draw_noise)
    updated = (state.to(dtype) + message(sent, alpha, spread, normals(state.shape, dtype, seed, noise))).to(state.dtype)
    if theta_out is not None:
        theta_out.copy_(updated.to(dtype).softmax(-1))
    return updated if out is None else out.copy_(updated)


def solver_step(
    output_logits: Tensor, state: Tensor, alpha: Tensor, spread: Tensor | None, state_scale: Tensor | None,
    previous: Tensor | None, extrapolation: Tensor | None, logit_scale: Tensor | None, unconditional: Tensor | None,
    unconditional_scale: Tensor | None, choice: int, known: Tensor | None, known_mask: Tensor | None,
    seed: Tensor | None, noise: Tensor | None, draw_noise: Tensor | None, out: Tensor | None = None,
    theta_out: Tensor | None = None, predicted_out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """z' = state_scale·z + α(K(p + extrapolation·(p − p_prev)) − 1) + spread·ξ [derived], where p is what is chosen of
    softmax(logit_scale·logits + unconditional_scale·unconditional). What is None leaves its term or factor out.

    previous, unconditional and predicted_out: `[B, ..., K]`; the last receives p and may be `previous`. state_scale,
    extrapolation, logit_scale and unconditional_scale: row scalars. The other arguments are those of `update_sample`.
    """
    dtype = compute_dtype(output_logits, state, previous, unconditional)
    scale, other = (row if row is None else row.unsqueeze(-1) for row in (logit_scale, unconditional_scale))
    logits = guided(output_logits.to(dtype), scale, unconditional, other)
    sent = chosen(logits, choice, known, known_mask, seed, draw_noise)
    taken = extrapolated(sent, previous, None if extrapolation is None else extrapolation.unsqueeze(-1))
    eps = torch.zeros_like(sent) if spread is None else normals(state.shape, dtype, seed, noise)
    kept = state.to(dtype) if state_scale is None else state_scale.unsqueeze(-1) * state.to(dtype)
    spread = torch.zeros_like(alpha) if spread is None else spread
    updated = (kept + message(taken, alpha, spread, eps)).to(state.dtype)
    if predicted_out is not None:
        predicted_out.copy_(sent)
    if theta_out is not None:
        theta_out.copy_(updated.to(dtype).softmax(-1))
    return updated if out is None else out.copy_(updated)


def chosen(
    logits: Tensor, choice: int, known: Tensor | None, known_mask: Tensor | None, seed: Tensor | None,
    draw_noise: Tensor | None,
) -> Tensor:  # fmt: skip
    """What a row sends, as probabilities `[B, ..., K]`: a draw from its output distribution, its mode, or itself; the
    known class where the mask says so."""
    dtype, num_classes = logits.dtype, logits.shape[-1]
    p = logits.softmax(-1)
    if choice == MEAN:
        sent = p
    elif choice == MODE:
        sent = one_hot(p.argmax(-1), num_classes).to(dtype)
    else:
        uniforms = random.class_uniform(p.shape[:-1], seed) if draw_noise is None else draw_noise
        sent = one_hot(random.draw_class(p, uniforms.to(dtype)), num_classes).to(dtype)
    sent = torch.where(p.isnan().any(-1, keepdim=True), torch.nan, sent)
    if known is not None:
        known_mask = known_mask.expand(known.shape)
        index, valid = valid_classes("known", known, num_classes, known_mask)
        given = torch.where(valid.unsqueeze(-1), one_hot(index, num_classes).to(dtype), torch.nan)
        sent = torch.where(known_mask.unsqueeze(-1), given, sent)
    return sent


def some(logits: Tensor) -> Tensor:
    """The logits, or zeros in a row where all are −∞, of which torch's functions would make NaN, or their gradients."""
    return torch.where((logits == -torch.inf).all(-1, keepdim=True), 0, logits)


def log_sum(logits: Tensor) -> Tensor:
    """LSE of each row. It is −∞, without a gradient, where all logits are."""
    return some(logits).logsumexp(-1).masked_fill((logits == -torch.inf).all(-1), -torch.inf)


def others(logits: Tensor, is_x: Tensor) -> Tensor:
    """ln((1 − p_x)/p_x), as LSE over k ≠ x of z_k, minus z_x; it is exact as p_x → 1, since x is left out of the
    sum."""
    z_x = torch.where(is_x, logits, 0).sum(-1)
    return log_sum(logits.masked_fill(is_x, -torch.inf)) - z_x


def looked_at(logits: Tensor, mask: Tensor | None) -> Tensor:
    """The logits of a loss, in the type of the arithmetic: 0 where the mask is False, and NaN in a row that has no
    probabilities, since its largest logit is +∞ or −∞."""
    (logits,) = hide(None if mask is None else mask.unsqueeze(-1), logits.to(compute_dtype(logits)))
    return logits + 0 * logits.detach().amax(-1, keepdim=True)


def continuous_time_loss(x: Tensor, logits: Tensor, weight: Tensor, mask: Tensor | None, reduction: int) -> Tensor:
    """L∞ = w‖e_x − p‖² (205), w = ½Kβ'(t), as wq²(1 + Σ r_k² over k ≠ x), q = 1 − p_x, r_k = p_k/q [derived]."""
    index, valid = valid_classes("x", x, logits.shape[-1], mask)
    logits = looked_at(logits, mask)
    is_x = one_hot(index, logits.shape[-1])
    q = logsigmoid(others(logits, is_x)).exp()  # the gradient of sigmoid would cancel as p_x goes to 0
    r = some(logits.masked_fill(is_x, -torch.inf)).softmax(-1)  # any numbers serve if q = 0
    # If one r is close to 1, its distance from 1 is summed from the others, since subtracting would cancel.
    less = r.masked_fill(one_hot(r.argmax(-1), logits.shape[-1]), 0)
    lack = less.sum(-1)
    by_lack = 1 - lack * (1 - lack) - (less * (1 - less)).sum(-1)
    squares = torch.where(lack < 0.5, by_lack, r.square().sum(-1))
    return reduce(torch.where(valid, weight * q * q * (1 + squares), torch.nan), mask, reduction)


def reconstruction_loss(x: Tensor, logits: Tensor, mask: Tensor | None, reduction: int) -> Tensor:
    """−ln p_x."""
    index, valid = valid_classes("x", x, logits.shape[-1], mask)
    logits = looked_at(logits, mask)
    loss = -logsigmoid(-others(logits, one_hot(index, logits.shape[-1])))
    return reduce(torch.where(valid, loss, torch.nan), mask, reduction)


def discrete_time_loss(
    x: Tensor, logits: Tensor, alpha: Tensor, n_steps: int, receiver: int, nodes: Sequence[float],
    node_weights: Sequence[float], n_samples: int, seed: Tensor | None, noise: Tensor | None, mask: Tensor | None,
    reduction: int,
) -> Tensor:  # fmt: skip
    """L_n = n·E[ln p_S(y) − ln p_R(y)] (189, 190). A node of a quadrature stands for the noise of every class.

    x: `[B, ...]`. logits: `[B, ..., K]`. alpha: row scalars α_i that broadcast to x. nodes and node_weights: of the
    quadrature, or empty. seed: an int64 tensor of one element. noise: `[n_samples, B, ..., K]`. mask: broadcasts to x.
    """
    num_classes = logits.shape[-1]
    index, valid = valid_classes("x", x, num_classes, mask)
    logits = looked_at(logits, mask)
    is_x = one_hot(index, num_classes)
    if receiver == FACTORISED:
        divergence = factorised_divergence
    else:
        divergence = joint_divergence if n_samples else binary_divergence
    loss = torch.zeros_like(logits[..., 0])
    expectation = Expectation(nodes, node_weights, n_samples, seed, noise)
    for eps, weight in expectation.draws(logits, random.class_normal):
        loss = loss + weight * divergence(is_x, logits, alpha, eps)
    return reduce(torch.where(valid, n_steps * loss, torch.nan), mask, reduction)


def joint_divergence(is_x: Tensor, logits: Tensor, alpha: Tensor, eps: Tensor) -> Tensor:
    """y_x + LSE(z) − LSE(z + y), computed from sums that leave x out [derived]."""
    y = message(is_x.to(eps.dtype), alpha, (logits.shape[-1] * alpha).sqrt(), eps)
    log_share = some(logits.masked_fill(is_x, -torch.inf)).log_softmax(-1)
    drift = (log_share + y).masked_fill(is_x, -torch.inf).logsumexp(-1) - torch.where(is_x, y, 0).sum(-1)
    return drifted(others(logits, is_x), drift)


def binary_divergence(is_x: Tensor, logits: Tensor, alpha: Tensor, eps: Tensor) -> Tensor:
    """The joint receiver for K = 2, which depends on y_x − y_o ~ N(2α, 4α) alone; o is the other class."""
    return drifted(others(logits, is_x), -2 * alpha - 2 * alpha.sqrt() * eps)


def drifted(gap: Tensor, drift: Tensor) -> Tensor:
    """ln(1 + e^gap) − ln(1 + e^(gap + drift)), where the drift counts beside a gap that has no digits for it."""
    above = gap > 0
    side = torch.where(above, 1, -1)
    return logsigmoid(side * (gap + drift)) - logsigmoid(side * gap) - torch.where(above, drift, 0)


def factorised_divergence(is_x: Tensor, logits: Tensor, alpha: Tensor, eps: Tensor) -> Tensor:
    """Σ_d ln N(y_d; m_d, αK) − ln(p_d·N(y_d; α(K−1), αK) + (1 − p_d)·N(y_d; −α, αK)), where m_d is the sender's mean.
    With r = √(αK), both densities are the sender's times 1 or times exp(±rε − r²/2)."""
    r = (alpha * logits.shape[-1]).sqrt().unsqueeze(-1)
    log_p = logits.log_softmax(-1)
    # 1 − p of the likeliest class is summed from the others, since subtracting would cancel
    likeliest = one_hot(logits.argmax(-1), logits.shape[-1])
    rest = log_sum(logits.masked_fill(likeliest, -torch.inf)) - logits.logsumexp(-1)
    log_rest = torch.where(likeliest, rest.unsqueeze(-1), (-log_p.masked_fill(likeliest, -1).exp()).log1p())
    shifted = torch.where(is_x, -r, r) * eps - r * r / 2
    mixture = torch.where(is_x, torch.logaddexp(log_p, log_rest + shifted), torch.logaddexp(log_p + shifted, log_rest))
    return -mixture.sum(-1)


def flow_embedding(
    x: Tensor, weight: Tensor, beta: Tensor, spread: Tensor, seed: Tensor | None, noise: Tensor | None,
    *shard: Any,
) -> Tensor:  # fmt: skip
    """softmax(y)·W, where y is the flow's (185). weight: `[K, d]`. shard: says that all classes are here. Returns
    `[B, ..., d]` in the weight's type."""
    dtype = compute_dtype(weight)
    theta = sender_sample(x, beta, spread, weight.shape[0], True, seed, noise, dtype)
    return (theta @ weight.to(dtype)).to(weight.dtype)


def linear_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None) -> Tensor:
    """hidden·Wᵀ + bias `[B, ..., K]` in the type of the arithmetic. hidden: `[B, ..., d]`. weight: `[K, d]`. bias:
    `[K]`."""
    dtype = compute_dtype(hidden, weight, bias)
    (hidden,) = hide(None if mask is None else mask.unsqueeze(-1), hidden)
    return torch.nn.functional.linear(hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))


def linear_continuous_time_loss(
    x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, rate: Tensor, mask: Tensor | None, reduction: int,
    *shard: Any,
) -> Tensor:  # fmt: skip
    return continuous_time_loss(x, linear_logits(hidden, weight, bias, mask), rate, mask, reduction)


def linear_reconstruction_loss(
    x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, reduction: int, *shard: Any
) -> Tensor:
    return reconstruction_loss(x, linear_logits(hidden, weight, bias, mask), mask, reduction)


def linear_discrete_time_loss(
    x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, alpha: Tensor, seed: Tensor | None,
    noise: Tensor | None, mask: Tensor | None, n_steps: int, n_samples: int, reduction: int, *shard: Any,
) -> Tensor:  # fmt: skip
    """L_n with the joint receiver."""
    logits, draws = linear_logits(hidden, weight, bias, mask), ((), (), n_samples, seed, noise)
    return discrete_time_loss(x, logits, alpha, n_steps, JOINT, *draws, mask, reduction)


def linear_mode(hidden: Tensor, weight: Tensor, bias: Tensor | None, *shard: Any) -> Tensor:
    """The likeliest class `[B, ...]`."""
    return linear_logits(hidden, weight, bias, None).argmax(-1)


def linear_step(
    state: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, alpha: Tensor, spread: Tensor | None,
    state_scale: Tensor | None, previous: Tensor | None, extrapolation: Tensor | None, embedding: Tensor | None,
    choice: int, known: Tensor | None, known_mask: Tensor | None, seed: Tensor | None, noise: Tensor | None,
    draw_noise: Tensor | None, first: int, num_classes: int, group: str | None, out: Tensor | None = None,
    embedded_out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """`solver_step` of the logits hidden·Wᵀ + bias, where p_prev is of the hidden states `previous`.

    embedding: `[K, d]`. embedded_out: receives softmax(z')·embedding, `[B, ..., d]`.
    """
    dtype = compute_dtype(state, hidden, weight, bias, previous, embedding)
    logits, before = (h if h is None else linear_logits(h.to(dtype), weight, bias, None) for h in (hidden, previous))
    if before is not None:
        before = chosen(before, MEAN, known, known_mask, None, None)
    updated = solver_step(
        logits, state, alpha, spread, state_scale, before, extrapolation, None, None, None, choice, known, known_mask,
        seed, noise, draw_noise, out,
    )  # fmt: skip
    if embedding is not None and embedded_out is not None:
        embedded_out.copy_(theta(updated.to(dtype)) @ embedding.to(dtype))
    return updated
