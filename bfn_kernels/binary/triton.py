"""The operators of binary data in Triton, the counterpart of csrc/cpu/binary.cpp.

A function takes the arguments of the function of the same name in `reference.py`, whose docstring has their shapes. A
loss also takes a bool: whether its gradient is needed. A kernel takes views (see `triton_ops.views`) of the inputs and
of the results, and the number of variables. Numbers in parentheses are equations of Graves et al. 2023.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from bfn_kernels import records
from bfn_kernels.checks import compute_dtype
from bfn_kernels.records import FACTORISED, Draws, Guidance, LossTarget, Noise, NoScore, OneLogit, Sent, Solver
from bfn_kernels.triton_ops.elementary import clamp, exp, expm1, log_normal, reciprocal, sigmoid, softplus_fall, square
from bfn_kernels.triton_ops.philox import CLASS, MONTE_CARLO, SENDER, noise_of, uniforms_of
from bfn_kernels.triton_ops.reduction import Losses, write_losses
from bfn_kernels.triton_ops.solver import extrapolated, guided
from bfn_kernels.triton_ops.views import (
    BLOCK,
    KERNEL_TYPES,
    Gradients,
    Results,
    block_of,
    compute_type,
    constants,
    draws_with_tables,
    launch,
    load,
    noise_views,
    programs,
    store,
    view,
    viewed,
    views,
)

SAMPLE, MODE = tl.constexpr(records.SAMPLE), tl.constexpr(records.MODE)
# In the sum p + q·exp(−r) with |r| up to this, a p or q that underflows to 0, below 1e-38, counts for at most 2e-12.
_MAX_LOG_RATIO = tl.constexpr(60.0)


@triton.jit
def _signs(view, block, T: tl.constexpr):
    """s = 1 for class 1, −1 for class 0, and NaN for other numbers."""
    x = load(view, block, tl.int64)
    return tl.where(x == 1, 1.0, tl.where(x == 0, -1.0, float("nan"))).to(T)


@triton.jit
def _message(sign, alpha, spread, eps):
    """y₁ − y₀ ~ N(2αs, 4α), spread = 2√α (185). A step that sends probabilities has 2p − 1 instead of s."""
    return tl.fma(spread, eps, 2.0 * alpha * sign)  # without fma, the rounding would depend on the kernel


@triton.jit
def _shares(u):
    """Returns p_x = σ(u) and q = 1 − p_x, where u = sz; exp(−|u|); and the larger of p_x and q."""
    small = exp(-tl.abs(u))
    larger = reciprocal(1.0 + small)
    smaller = small * larger
    return tl.where(u < 0.0, smaller, larger), tl.where(u < 0.0, larger, smaller), small, larger


@triton.jit
def _log_mixture(growth, mixture, inverse):
    """ln(1 + growth), corrected for the rounding error of mixture = 1 + growth. inverse: 1/mixture."""
    return log_normal(mixture) + (growth - (mixture - 1.0)) * inverse


def sender_sample(x: Tensor, alpha, spread, probs: bool, noise: Noise, dtype: torch.dtype) -> Tensor:
    out = torch.empty_like(x, dtype=dtype)
    results = Results(out)
    arguments = *views(x.shape, x, alpha, spread), noise_views(noise, x.shape), *results.views, x.numel()
    launch(_sender, programs(x.numel()), *arguments, PROBS=probs, T=compute_type(out), BLOCK=BLOCK)
    return results.finish()


@triton.jit
def _sender(x, alpha, spread, noise, out, count, PROBS: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr):
    block = block_of(count, BLOCK)
    eps = noise_of(noise, block, SENDER, T)
    d = _message(_signs(x, block, T), load(alpha, block, T), load(spread, block, T), eps)
    if PROBS:
        d = sigmoid(d)
    store(out, block, d)


def step(
    output: OneLogit,
    state: Tensor,
    solver: Solver,
    guidance: Guidance,
    score: NoScore,
    sent: Sent,
    noise: Noise,
    *outputs,
) -> None:
    shape, results, (logits,) = state.shape, Results(*outputs), output
    inputs = *views(shape, logits, state), viewed(solver, shape), viewed(guidance, shape)
    message = Sent(*constants(sent.choice), *views(shape, *sent[1:])), noise_views(noise, shape)
    T = compute_type(logits, state, solver.previous, guidance.unconditional)
    launch(_update, programs(state.numel()), *inputs, *message, results.views, state.numel(), T=T, BLOCK=BLOCK)
    results.finish()


@triton.jit
def _update(logits, state, solver, guidance, sent, noise, results, count, T: tl.constexpr, BLOCK: tl.constexpr):
    block = block_of(count, BLOCK)
    out, theta, predicted = results
    z = load(logits, block, T)
    if (guidance.logit_scale[0] is not None) | (guidance.unconditional[0] is not None):
        scale, other_scale = load(guidance.logit_scale, block, T, 1.0), load(guidance.unconditional_scale, block, T)
        z = guided(z, scale, load(guidance.unconditional, block, T), other_scale)
    if sent.choice == SAMPLE:
        # class 0 is drawn if its probability exceeds u, or if class 1 has the probability 0
        p, q, _, _ = _shares(z)
        u = uniforms_of(Noise(noise.seed, sent.draw_noise), block, CLASS, T)
        sign = tl.where((q > u) | (p == 0.0), -1.0, 1.0)
    elif sent.choice == MODE:
        sign = tl.where(z > 0.0, 1.0, -1.0)
    else:
        p, _, _, _ = _shares(z)
        sign = 2.0 * p - 1.0
    sign = tl.where(z == z, sign.to(T), float("nan"))
    if sent.known[0] is not None:
        sign = tl.where(load(sent.known_mask, block, tl.int1), _signs(sent.known, block, T), sign)
    if (solver.previous[0] is not None) | (predicted[0] is not None):
        sign = 2.0 * extrapolated(0.5 * sign + 0.5, solver, predicted, block, T) - 1.0
    eps = tl.zeros((BLOCK,), T)
    if solver.std[0] is not None:
        eps = noise_of(noise, block, SENDER, T)
    y = _message(sign, load(solver.take, block, T), load(solver.std, block, T), eps)
    d = load(state, block, T)
    d = d + y if solver.keep[0] is None else tl.fma(d, load(solver.keep, block, T), y)
    store(out, block, d)
    if theta[0] is not None:
        store(theta, block, sigmoid(d.to(out[0].dtype.element_ty).to(T)))


def _losses(
    kernel, inputs: tuple[Tensor | None, ...], logits: Tensor, target: LossTarget, need_logits: bool, *more, **options
) -> tuple[Tensor, ...]:
    """Runs the kernel of a loss. Returns the loss; the factor by which its gradient must be multiplied; and the
    gradient, which is empty if it is not needed."""
    dtype, shape = compute_dtype(logits), logits.shape
    losses, gradients = Losses(logits, *target, dtype), Gradients((logits, need_logits), dtype=dtype)
    outputs = view(target.mask, shape), *gradients.views, losses.memory
    options |= {"T": KERNEL_TYPES[dtype], "BLOCK": BLOCK}
    launch(kernel, programs(logits.numel()), *views(shape, *inputs), *more, outputs, logits.numel(), **options)
    return *losses.finish(), *gradients.finish()


def loss(x: Tensor, logits: Tensor, weight: Tensor | None, target: LossTarget, need_logits: bool) -> tuple[Tensor, ...]:
    return _losses(_loss, (x, logits, weight), logits, target, need_logits)


@triton.jit
def _write(loss, slope, sign, outputs, block):
    """Writes the losses of a block and their derivatives by z, which are 0 where the mask is False. slope: the
    derivatives by sz. outputs: the mask, the gradient and the memory of the losses."""
    mask, grad_logits, losses = outputs
    keep = load(mask, block, tl.int1, True)
    store(grad_logits, block, tl.where(keep, sign * slope, 0.0))
    write_losses(loss, keep, block, losses)


@triton.jit
def _loss(x, logits, weight, outputs, count, T: tl.constexpr, BLOCK: tl.constexpr):
    """Writes L∞ = weight·q² (205) or, without a weight, −ln p_x; and the gradient."""
    block = block_of(count, BLOCK)
    sign = _signs(x, block, T)
    u = sign * load(logits, block, T)
    p, q, small, larger = _shares(u)
    if weight[0] is not None:
        loss = load(weight, block, T) * square(q)
        slope = -2.0 * loss * p
    else:
        loss = tl.where(u < 0.0, -u, 0.0) + _log_mixture(small, 1.0 + small, larger)
        slope = -q
    _write(loss, slope, sign, outputs, block)


def discrete_time_loss(
    x: Tensor, logits: Tensor, alpha, n_steps: int, receiver: int, draws: Draws, target: LossTarget, need_logits: bool
) -> tuple[Tensor, ...]:
    coordinates = 2 if receiver == FACTORISED else 1
    more = draws_with_tables(draws, logits), n_steps
    inputs = x, logits, alpha
    return _losses(_nstep, inputs, logits, target, need_logits, *more, COORDINATES=coordinates, registers=255)


@triton.jit
def _draw(u, p, q, r):
    """One draw of L_n and its derivative by u. The draw is −ln M with M = p_x + q·e^(−r). If M is at least 1/2, it is
    computed as −ln(1 + S), S = q·(e^(−r) − 1). If |r| exceeds _MAX_LOG_RATIO, it is computed as softplus(−u) −
    softplus(−u − r)."""
    within = tl.abs(r) <= _MAX_LOG_RATIO
    capped = tl.where(within, -r, 0.0)
    growth = q * expm1(capped)
    low = growth < -0.5
    mixture = tl.where(low, p + q * exp(capped), 1.0 + growth)
    inverse = reciprocal(mixture)
    value = -_log_mixture(tl.where(low, mixture - 1.0, growth), mixture, inverse)
    slope = p * growth * inverse
    if tl.min(within.to(tl.int32), 0) == 0:
        value = tl.where(within, value, softplus_fall(-u, -u - r, -r))
        slope = tl.where(within, slope, sigmoid(-u - r) - q)
    return value, slope


@triton.jit
def _nstep(
    x, logits, alpha, draws, n_steps, outputs, count, COORDINATES: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr
):
    """Writes n times the expectation of a draw, with r = 2α + 2√α·sε. A node stands for sε itself, since nodes are
    symmetric about 0. The factorised receiver has two coordinates with half the accuracy each."""
    block = block_of(count, BLOCK)
    sign, alpha = _signs(x, block, T), load(alpha, block, T) * (1.0 / COORDINATES)
    u = sign * load(logits, block, T)
    p, q, _, _ = _shares(u)
    spread = 2.0 * tl.sqrt(alpha)
    loss, slope = tl.zeros(u.shape, T), tl.zeros(u.shape, T)
    for draw in range(draws.n_samples):
        if draws.nodes is not None:
            eps, weight = tl.load(draws.nodes + draw), tl.load(draws.node_weights + draw)
        else:
            eps = sign * noise_of(draws, block, MONTE_CARLO, T, draw, count)
            weight = reciprocal(tl.zeros((), T) + draws.n_samples)
        value, by_u = _draw(u, p, q, 2.0 * alpha + spread * eps)
        loss += weight * value
        slope += weight * by_u
    factor = tl.zeros((), T) + COORDINATES * n_steps
    _write(factor * loss, factor * slope, sign, outputs, block)


def entropy(logits: Tensor, target: LossTarget, need_logits: bool) -> tuple[Tensor, ...]:
    return _losses(_entropy, (logits,), logits, target, need_logits)


@triton.jit
def _entropy(logits, outputs, count, T: tl.constexpr, BLOCK: tl.constexpr):
    """Writes H = ln(1 + e^(−|z|)) + |z|·σ(−|z|), and its derivative −z·σ(z)·σ(−z)."""
    block = block_of(count, BLOCK)
    z = clamp(load(logits, block, T), -1000.0, 1000.0)  # else an infinite z would give 0·∞
    _, _, small, larger = _shares(z)
    smaller = small * larger
    loss = _log_mixture(small, 1.0 + small, larger) + tl.abs(z) * smaller
    _write(loss, -z * larger * smaller, 1.0, outputs, block)
