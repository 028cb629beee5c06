"""Large vocabularies in plain PyTorch: the executable specification, which stores the logits of all classes.

Each op is the op of `discrete` of the logits that a linear head makes. Arguments have the shapes that
`discrete.reference` says.
"""

import torch
from torch import Tensor

from bfn_kernels.call.checks import compute_dtype
from bfn_kernels.call.reduction import hide
from bfn_kernels.discrete import reference as discrete
from bfn_kernels.records import (
    JOINT,
    MEAN,
    Draws,
    FlowLogits,
    Guidance,
    HeadBefore,
    LinearHead,
    LossTarget,
    Noise,
    Sent,
    Shard,
    Solver,
)


def flow_embedding(x: Tensor, weight: Tensor, beta: Tensor, spread: Tensor, noise: Noise, shard: Shard) -> Tensor:
    """softmax(y)·W, where y is the flow's (185), and all classes are here. weight: `[K, d]`. Returns `[B, ..., d]` in
    the weight's type."""
    dtype = compute_dtype(weight)
    theta = discrete.sender_sample(x, beta, spread, weight.shape[0], True, noise, dtype)
    return (theta @ weight.to(dtype)).to(weight.dtype)


def logits(head: LinearHead, y: Tensor | None, mask: Tensor | None = None) -> Tensor:
    """hidden·Wᵀ + bias + flow_scale·y `[B, ..., K]` in the type of the arithmetic."""
    dtype = compute_dtype(*head)
    hidden, weight, bias, scale = (value if value is None else value.to(dtype) for value in head)
    hidden, scale = hide(
        None if mask is None else mask.unsqueeze(-1), hidden, None if scale is None else scale.unsqueeze(-1)
    )
    z = torch.nn.functional.linear(hidden, weight, bias)
    return z if scale is None or y is None else z + scale * y.to(dtype)


def logits_of_flow(x: Tensor, head: LinearHead, flow: FlowLogits, mask: Tensor | None) -> Tensor:
    """`logits` where y is the flow's (185)."""
    y = None
    if head.flow_scale is not None:
        x, beta, spread = hide(mask, x, flow.beta, flow.spread)
        noise = Noise(flow.flow_seed, flow.flow_noise)
        y = discrete.sender_sample(x, beta, spread, len(head.weight), False, noise, compute_dtype(*head))
    return logits(head, y, mask)


def loss(x: Tensor, head: LinearHead, flow: FlowLogits, rate: Tensor | None, to: LossTarget, shard: Shard) -> Tensor:
    """`loss` of the logits of a head."""
    return discrete.loss(x, logits_of_flow(x, head, flow, to.mask), rate, to, False)


def discrete_time_loss(
    x: Tensor,
    head: LinearHead,
    flow: FlowLogits,
    alpha: Tensor,
    noise: Noise,
    n_steps: int,
    n_samples: int,
    to: LossTarget,
    shard: Shard,
) -> Tensor:
    """L_n of the logits of a head with the joint receiver."""
    draws = Draws(None, None, n_samples, *noise)
    z = logits_of_flow(x, head, flow, to.mask)
    return discrete.discrete_time_loss(x, z, alpha, n_steps, JOINT, draws, to)


def mode(head: LinearHead, state: Tensor | None, shard: Shard) -> Tensor:
    """The likeliest class `[B, ...]`, where y is the state."""
    return logits(head, state).argmax(-1)


def step(
    state: Tensor,
    head: LinearHead,
    solver: Solver,
    before: HeadBefore,
    embedding: Tensor | None,
    sent: Sent,
    noise: Noise,
    shard: Shard,
    out: Tensor | None = None,
    embedded_out: Tensor | None = None,
) -> Tensor:
    """`step` of the logits of a head, where y is the state. p_prev is of the hidden states `previous`.

    embedding: `[K, d]`. embedded_out: receives softmax(z')·embedding, `[B, ..., d]`.
    """
    dtype, previous = compute_dtype(state, *head, solver.previous, embedding), solver.previous
    if previous is not None:
        scale, y = before
        z = logits(head._replace(hidden=previous.to(dtype), flow_scale=scale), y)
        previous = discrete.chosen(z, sent._replace(choice=MEAN), None)
    z = logits(head._replace(hidden=head.hidden.to(dtype)), state)
    updated = discrete.step(z, state, solver._replace(previous=previous), Guidance(), sent, noise, out)
    if embedding is not None and embedded_out is not None:
        embedded_out.copy_(discrete.theta(updated.to(dtype)) @ embedding.to(dtype))
    return updated
