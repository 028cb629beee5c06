"""Large vocabularies in plain PyTorch: the executable specification, which stores the logits of all classes.

Each op is the op of `discrete` for the logits of a linear head. `discrete.reference` gives the shapes of the arguments.
Numbers in parentheses are equations of Graves et al. 2023.
"""

from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from bfn_kernels import noise as random
from bfn_kernels.checks import compute_dtype, widest
from bfn_kernels.discrete import reference as discrete
from bfn_kernels.formulas import hide
from bfn_kernels.records import (
    JOINT,
    MEAN,
    NO_SCORE,
    ClassLogits,
    Draws,
    FlowLogits,
    Guidance,
    HeadBefore,
    LinearHead,
    LossTarget,
    Noise,
    Sent,
    Solver,
)
from bfn_kernels.vocabulary.shards import Shard


class Cost(NamedTuple):
    """The kind of a loss: L∞ if there is a rate, L_n if there is the accuracy alpha of a message, else the
    reconstruction loss. The expectation of L_n is the mean of `n_samples` draws, which come from a seed or are explicit
    noise `[n_samples, B, ..., K]`."""

    rate: Tensor | None = None
    alpha: Tensor | None = None
    seed: Tensor | None = None
    noise: Tensor | None = None
    n_steps: int = 0
    n_samples: int = 0


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x·Wᵀ + bias in the weight's type. Under autocast, torch would compute it in a narrower type."""
    device = x.device.type
    off = torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
    with off:
        return torch.nn.functional.linear(x.to(weight.dtype), weight, bias)


def flow_embedding(x: Tensor, weight: Tensor, beta: Tensor, spread: Tensor, noise: Noise, shard: Shard) -> Tensor:
    """softmax(y)·W `[B, ..., d]` in the weight's type, where y are the logits of a flow (185). weight: `[K, d]`, with
    all classes, since the reference serves only one process."""
    dtype = compute_dtype(weight)
    theta = discrete.sender_sample(x, beta, spread, weight.shape[0], True, noise, dtype)
    return linear(theta, weight.t().to(dtype)).to(weight.dtype)


def noisy_sum(x: Tensor, weight: Tensor, scale: Tensor, spread: Tensor, noise: Noise, shard: Shard) -> Tensor:
    """y·W `[B, ..., d]` in the weight's type, for noisy one-hot vectors y = scale·e_x + spread·ε [derived]."""
    dtype = compute_dtype(weight)
    return linear(noisy(x, scale, spread, len(weight), noise, dtype), weight.t().to(dtype)).to(weight.dtype)


def noisy_mode(x: Tensor, scale: Tensor, spread: Tensor, noise: Noise, count: int, shard: Shard) -> Tensor:
    """The class `[B, ...]` with the largest y, for the y of `noisy_sum`. count: K."""
    return noisy(x, scale, spread, count, noise, scale.dtype).argmax(-1)


def noisy(x: Tensor, scale: Tensor, spread: Tensor, count: int, noise: Noise, dtype: torch.dtype) -> Tensor:
    """scale·e_x + spread·ε `[B, ..., K]`."""
    one_hot = discrete.distribution("x", x, count, dtype)
    eps = discrete.normals(one_hot.shape, dtype, noise)
    return scale.unsqueeze(-1) * one_hot + spread.unsqueeze(-1) * eps


def logits(head: LinearHead, y: Tensor | None, mask: Tensor | None = None) -> Tensor:
    """hidden·Wᵀ + bias + flow_scale·y `[B, ..., K]` in the type of the arithmetic."""
    dtype = compute_dtype(*head)
    hidden, weight, bias, scale = (value if value is None else value.to(dtype) for value in head)
    scale, mask = (value if value is None else value.unsqueeze(-1) for value in (scale, mask))
    hidden, scale = hide(mask, hidden, scale)
    z = linear(hidden, weight, bias)
    return z if scale is None or y is None else z + scale * y.to(dtype)


def loss(x: Tensor, head: LinearHead, flow: FlowLogits, cost: Cost, to: LossTarget, shard: Shard) -> Tensor:
    """A loss of the logits of a head, in which y are the logits of a flow (185). L_n has the joint receiver."""
    y = None
    if head.flow_scale is not None:
        known, beta, spread = hide(to.mask, x, flow.beta, flow.spread)
        noise = Noise(flow.flow_seed, flow.flow_noise)
        y = discrete.sender_sample(known, beta, spread, len(head.weight), False, noise, compute_dtype(*head))
    z = ClassLogits(logits(head, y, to.mask))
    if cost.alpha is None:
        return discrete.loss(x, z, cost.rate, to, False)
    draws = Draws(n_samples=cost.n_samples, seed=cost.seed, noise=cost.noise)
    return discrete.discrete_time_loss(x, z, cost.alpha, cost.n_steps, JOINT, draws, to)


def mode(head: LinearHead, state: Tensor | None, shard: Shard) -> Tensor:
    """The likeliest class `[B, ...]` by the logits of a head, in which y is the state."""
    return logits(head, state).argmax(-1)


def sample(
    head: LinearHead,
    state: Tensor | None,
    top_p: float,
    seed: Tensor | None,
    draw_noise: Tensor | None,
    shard: Shard,
) -> Tensor:
    """A class `[B, ...]` of the nucleus, by the logits of a head, in which y is the state; −1 if the probabilities are
    not finite."""
    z = nucleus(logits(head, state), top_p)
    uniforms = random.class_uniform(z.shape[:-1], seed) if draw_noise is None else draw_noise
    p = z.softmax(-1)
    return torch.where(p.isfinite().all(-1), random.draw_class(p, uniforms.to(p.dtype)), -1)


def nucleus(z: Tensor, top_p: float) -> Tensor:
    """The logits z, −∞ for all but the likeliest classes, whose probabilities together reach top_p. Classes with equal
    logits are treated alike."""
    if top_p == 1:
        return z
    ordered = z.sort(-1, descending=True).values
    p = ordered.to(widest(z.device)).softmax(-1)
    least = ordered.masked_fill(p.cumsum(-1) - p >= top_p, torch.inf).amin(-1, keepdim=True)
    return z.masked_fill(z < least, -torch.inf)


def step(
    state: Tensor,
    head: LinearHead,
    solver: Solver,
    before: HeadBefore,
    embedding: Tensor | None,
    sent: Sent,
    top_p: float,
    noise: Noise,
    shard: Shard,
    out: Tensor | None = None,
    embedded_out: Tensor | None = None,
) -> Tensor:
    """`discrete.step` of the logits of a head, in which y is the state. p_prev are the probabilities that the head
    computes from `solver.previous`, the hidden states of the step before, and from `before`.

    embedding: `[K, d]`. embedded_out: receives softmax(z')·embedding, `[B, ..., d]`.
    """
    dtype, previous = compute_dtype(state, *head, solver.previous, *before, embedding), solver.previous
    if previous is not None:
        scale, y = before
        z = logits(head._replace(hidden=previous.to(dtype), flow_scale=scale), y)
        previous = discrete.chosen(z, sent._replace(choice=MEAN), None)
    z = nucleus(logits(head._replace(hidden=head.hidden.to(dtype)), state), top_p)
    solver = solver._replace(previous=previous)
    updated = discrete.step(ClassLogits(z), state, solver, Guidance(), NO_SCORE, sent, noise, out)
    if embedded_out is not None:
        embedded_out.copy_(linear(discrete.theta(updated.to(dtype)), embedding.t().to(dtype)))
    return updated
