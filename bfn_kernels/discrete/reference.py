"""Discrete data in plain PyTorch: the executable specification. Equation numbers refer to arXiv 2308.07037, and
[derived] marks formulas that are not in the paper.

Classes x have shape `[B, ...]`, numbers per class `[B, ..., K]`. Row scalars (`alpha`, `weight`, …) come from the
module `rows`, in the type of the arithmetic, and broadcast to x. The state is logits, not θ, since a θ that underflows
would stay 0.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from bfn_kernels import noise as random
from bfn_kernels.checks import compute_dtype, valid_classes, variables
from bfn_kernels.formulas import extrapolated, guided, hide, reduce
from bfn_kernels.records import (
    FACTORISED,
    MEAN,
    MODE,
    ClassLogits,
    Draws,
    Guidance,
    LossTarget,
    Noise,
    Score,
    Sent,
    Solver,
)


def one_hot(x: Tensor, num_classes: int) -> Tensor:
    return x.unsqueeze(-1) == torch.arange(num_classes, device=x.device)


def normals(shape, dtype: torch.dtype, noise: Noise) -> Tensor:
    return random.class_normal(shape, noise.seed, dtype=dtype) if noise.noise is None else noise.noise.to(dtype)


def theta(logits: Tensor) -> Tensor:
    """The probabilities of a state of logits."""
    return logits.to(compute_dtype(logits)).softmax(-1).to(logits.dtype)


def message(centre: Tensor, alpha: Tensor, spread: Tensor, eps: Tensor) -> Tensor:
    """y = α(Kp − 1) + √(Kα)·ε, where p is e_x in (185)."""
    return alpha.unsqueeze(-1) * (centre.shape[-1] * centre - 1) + spread.unsqueeze(-1) * eps


def sender_sample(
    x: Tensor, alpha: Tensor, spread: Tensor, num_classes: int, probs: bool, noise: Noise, dtype: torch.dtype
) -> Tensor:
    """y ~ N(α(Ke_x − 1), αK·I), or softmax(y) if `probs`. With α = β(t), this is the Bayesian flow (185)."""
    eps = normals((*variables(x), num_classes), alpha.dtype, noise)
    y = message(distribution("x", x, num_classes, alpha.dtype), alpha, spread, eps)
    return (y.softmax(-1) if probs else y).to(dtype)


def distribution(name: str, x: Tensor, num_classes: int, dtype: torch.dtype, mask: Tensor | None = None) -> Tensor:
    """Soft data in this type, or the one-hot vectors of classes. A vector is NaN where `valid_classes` finds no valid
    class."""
    if x.is_floating_point():
        return x.to(dtype)
    index, valid = valid_classes(name, x, num_classes, mask)
    return torch.where(valid.unsqueeze(-1), one_hot(index, num_classes).to(dtype), torch.nan)


def masked(output: ClassLogits, dtype: torch.dtype) -> Tensor:
    """The logits in this type, −∞ for a class whose mask is False. Gradients are the gradients of such logits."""
    logits = output.logits.to(dtype)
    if output.class_mask is None:
        return logits
    finite = torch.where(output.class_mask, logits, logits.nan_to_num())
    return finite + torch.zeros_like(logits).masked_fill(~output.class_mask, -torch.inf)


def step(
    output: ClassLogits,
    state: Tensor,
    solver: Solver,
    guidance: Guidance,
    score: Score,
    sent: Sent,
    noise: Noise,
    out: Tensor | None = None,
    theta_out: Tensor | None = None,
    predicted_out: Tensor | None = None,
) -> Tensor:
    """z' = keep·z + take·(K(p + extrapolation·(p − p_prev)) − 1) + std·ξ [derived], where `chosen` computes the
    probabilities p from the guided logits, and `scored` adds the score. An update sends a class with accuracy α: take =
    α and std = √(Kα) (171).

    logits, state, previous, unconditional, score, explicit noise and the results: `[B, ..., K]`. known and draw_noise:
    `[B, ...]`. known_mask: bool, broadcasts to known. Row scalars broadcast to the classes. theta_out: receives the
    probabilities of the new state. predicted_out: receives p, and may be `previous`.
    """
    keep, take, std, previous, extrapolation = solver
    dtype = compute_dtype(output.logits, state, previous, guidance.unconditional, score.score)
    p = chosen(guided(masked(output, dtype), guidance), sent, noise.seed)
    p = scored(p, score, sent)
    prediction = extrapolated(p, previous, extrapolation)
    eps = torch.zeros_like(p) if std is None else normals(state.shape, dtype, noise)
    y = message(prediction, take, torch.zeros_like(take) if std is None else std, eps)
    scaled_state = state.to(dtype) if keep is None else keep.unsqueeze(-1) * state.to(dtype)
    updated = (scaled_state + y).to(state.dtype)
    if predicted_out is not None:
        predicted_out.copy_(p)
    if theta_out is not None:
        theta_out.copy_(updated.to(dtype).softmax(-1))
    return updated if out is None else out.copy_(updated)


def chosen(logits: Tensor, sent: Sent, seed: Tensor | None) -> Tensor:
    """What each variable sends, as probabilities `[B, ..., K]`: the one-hot vector of a sample or of the mode of the
    output distribution, or this distribution itself. Where known_mask is True, it is the one-hot vector of the known
    class."""
    dtype, num_classes = logits.dtype, logits.shape[-1]
    output = logits.softmax(-1)
    if sent.choice == MEAN:
        p = output
    elif sent.choice == MODE:
        p = one_hot(output.argmax(-1), num_classes).to(dtype)
    else:
        uniforms = random.class_uniform(output.shape[:-1], seed) if sent.draw_noise is None else sent.draw_noise
        p = one_hot(random.draw_class(output, uniforms.to(dtype)), num_classes).to(dtype)
    p = torch.where(output.isnan().any(-1, keepdim=True), torch.nan, p)
    if sent.known is not None:
        mask = sent.known_mask.expand(p.shape[:-1])
        p = torch.where(mask.unsqueeze(-1), distribution("known", sent.known, num_classes, dtype, mask), p)
    return p


def scored(p: Tensor, score: Score, sent: Sent) -> Tensor:
    """p + s where no value is known. s is the clipped score."""
    if score.score is None:
        return p
    s = score.score.to(p.dtype)
    if score.score_clip is not None:
        limit = score.score_clip.unsqueeze(-1)
        s = s.clamp(-limit, limit)
    return p + (s if sent.known_mask is None else torch.where(sent.known_mask.unsqueeze(-1), 0, s))


def without_empty_rows(logits: Tensor) -> Tensor:
    """The logits, but zeros in a row where all are −∞, since torch's functions or their gradients would give NaN for
    it."""
    return torch.where((logits == -torch.inf).all(-1, keepdim=True), 0, logits)


def log_sum(logits: Tensor) -> Tensor:
    """ln Σ exp(z_k) of each row. It is −∞, without a gradient, if all logits of the row are −∞."""
    return without_empty_rows(logits).logsumexp(-1).masked_fill((logits == -torch.inf).all(-1), -torch.inf)


def log_odds_against(logits: Tensor, is_x: Tensor) -> Tensor:
    """ln((1 − p_x)/p_x), computed as ln Σ exp(z_k) over k ≠ x, minus z_x. It stays accurate as p_x → 1, since the sum
    leaves out x."""
    z_x = torch.where(is_x, logits, 0).sum(-1)
    return log_sum(logits.masked_fill(is_x, -torch.inf)) - z_x


def logits_of_loss(output: ClassLogits, mask: Tensor | None) -> Tensor:
    """The logits that a loss reads, in the type of the arithmetic. They are 0 where the mask is False. They are NaN in
    a row whose largest logit is +∞ or −∞, for which the softmax is not defined."""
    logits = masked(output, compute_dtype(output.logits))
    (logits,) = hide(None if mask is None else mask.unsqueeze(-1), logits)
    return logits + 0 * logits.detach().amax(-1, keepdim=True)


def loss(x: Tensor, output: ClassLogits, weight: Tensor | None, target: LossTarget, in_forward: bool) -> Tensor:
    """L∞ = w‖e_x − p‖² (205) with the weight w = ½Kβ'(t). Without a weight, −ln p_x. in_forward: whether a kernel
    computes the gradient in the forward pass; the reference does not read it."""
    if x.is_floating_point():
        return reduce(soft_loss(x, output, weight, target.mask), *target)
    index, valid = valid_classes("x", x, output.logits.shape[-1], target.mask)
    logits = logits_of_loss(output, target.mask)
    is_x = one_hot(index, logits.shape[-1])
    each = -logsigmoid(-log_odds_against(logits, is_x)) if weight is None else weight * squared_distance(logits, is_x)
    return reduce(torch.where(valid, each, torch.nan), *target)


def soft_loss(x: Tensor, output: ClassLogits, weight: Tensor | None, mask: Tensor | None) -> Tensor:
    """The loss of each variable for soft data: w‖x − p‖², or −Σ x_k ln p_k, where a class with x_k = 0 costs
    nothing."""
    logits = logits_of_loss(output, mask)
    (x,) = hide(None if mask is None else mask.unsqueeze(-1), x.to(logits.dtype))
    if weight is not None:
        return weight * (x - logits.softmax(-1)).square().sum(-1)
    return torch.where(x == 0, 0, -x * logits.log_softmax(-1)).sum(-1)


def squared_distance(logits: Tensor, is_x: Tensor) -> Tensor:
    """‖e_x − p‖² as q²(1 + Σ r_k² over k ≠ x), q = 1 − p_x, r_k = p_k/q [derived]."""
    q = logsigmoid(log_odds_against(logits, is_x)).exp()  # the gradient of sigmoid would lose digits as p_x goes to 0
    r = without_empty_rows(logits.masked_fill(is_x, -torch.inf)).softmax(-1)  # r does not matter if q = 0
    # If the largest r is close to 1, the difference 1 − r would cancel, so `rest`, the sum of the other r, replaces it.
    smaller = r.masked_fill(one_hot(r.argmax(-1), logits.shape[-1]), 0)
    rest = smaller.sum(-1)
    sum_by_rest = 1 - rest * (1 - rest) - (smaller * (1 - smaller)).sum(-1)
    return q * q * (1 + torch.where(rest < 0.5, sum_by_rest, r.square().sum(-1)))


def discrete_time_loss(
    x: Tensor, output: ClassLogits, alpha: Tensor, n_steps: int, receiver: int, draws: Draws, target: LossTarget
) -> Tensor:
    """L_n = n·E[ln p_S(y) − ln p_R(y)] (189, 190). A node of a quadrature is a number ε that is the noise of every
    class.

    x: `[B, ...]`. logits: `[B, ..., K]`. alpha: row scalars α_i that broadcast to x. Explicit noise:
    `[n_samples, B, ..., K]`.
    """
    num_classes = output.logits.shape[-1]
    index, valid = valid_classes("x", x, num_classes, target.mask)
    logits = logits_of_loss(output, target.mask)
    is_x = one_hot(index, num_classes)
    if receiver == FACTORISED:
        divergence = factorised_divergence
    else:
        divergence = joint_divergence if draws.n_samples else binary_divergence
    loss = torch.zeros_like(logits[..., 0])
    for eps, weight in draws.each(logits, random.class_normal):
        loss = loss + weight * divergence(is_x, logits, alpha, eps)
    return reduce(torch.where(valid, n_steps * loss, torch.nan), *target)


def joint_divergence(is_x: Tensor, logits: Tensor, alpha: Tensor, eps: Tensor) -> Tensor:
    """y_x + ln Σ exp(z_k) − ln Σ exp(z_k + y_k), computed from sums that leave out x [derived]."""
    y = message(is_x.to(eps.dtype), alpha, (logits.shape[-1] * alpha).sqrt(), eps)
    log_share = without_empty_rows(logits.masked_fill(is_x, -torch.inf)).log_softmax(-1)
    drift = (log_share + y).masked_fill(is_x, -torch.inf).logsumexp(-1) - torch.where(is_x, y, 0).sum(-1)
    return softplus_fall(log_odds_against(logits, is_x), drift)


def binary_divergence(is_x: Tensor, logits: Tensor, alpha: Tensor, eps: Tensor) -> Tensor:
    """The joint receiver for K = 2. It depends only on y_x − y_o ~ N(2α, 4α), where o is the other class."""
    return softplus_fall(log_odds_against(logits, is_x), -2 * alpha - 2 * alpha.sqrt() * eps)


def softplus_fall(gap: Tensor, drift: Tensor) -> Tensor:
    """ln(1 + e^gap) − ln(1 + e^(gap + drift)). It is accurate even if gap is so large that gap + drift is rounded to
    gap."""
    above = gap > 0
    side = torch.where(above, 1, -1)
    return logsigmoid(side * (gap + drift)) - logsigmoid(side * gap) - torch.where(above, drift, 0)


def factorised_divergence(is_x: Tensor, logits: Tensor, alpha: Tensor, eps: Tensor) -> Tensor:
    """Σ_d ln N(y_d; m_d, αK) − ln(p_d·N(y_d; α(K−1), αK) + (1 − p_d)·N(y_d; −α, αK)), where m_d is the sender's mean.
    With r = √(αK), one of the two densities is the sender's, and the other is the sender's times exp(±rε − r²/2)."""
    r = (alpha * logits.shape[-1]).sqrt().unsqueeze(-1)
    log_p = logits.log_softmax(-1)
    # 1 − p of the likeliest class is computed as the sum of the other p, since the difference would cancel
    likeliest = one_hot(logits.argmax(-1), logits.shape[-1])
    rest = log_sum(logits.masked_fill(likeliest, -torch.inf)) - logits.logsumexp(-1)
    log_rest = torch.where(likeliest, rest.unsqueeze(-1), (-log_p.masked_fill(likeliest, -1).exp()).log1p())
    shifted = torch.where(is_x, -r, r) * eps - r * r / 2
    mixture = torch.where(is_x, torch.logaddexp(log_p, log_rest + shifted), torch.logaddexp(log_p + shifted, log_rest))
    return -mixture.sum(-1)


def entropy(logits: Tensor, target: LossTarget) -> Tensor:
    """H = −Σ p_k·ln p_k, computed as −ln p_m + Σ p_k(z_m − z_k) for the likeliest class m, whose terms are not negative
    [derived]. A class with p_k = 0 contributes nothing."""
    z = logits_of_loss(ClassLogits(logits), target.mask)
    p, m = z.softmax(-1), z.argmax(-1)
    log_p_m = logsigmoid(-log_odds_against(z, one_hot(m, z.shape[-1])))
    below = torch.where(p == 0, 0, z.gather(-1, m.unsqueeze(-1)) - z)
    return reduce((p * below).sum(-1) - log_p_m, *target)
