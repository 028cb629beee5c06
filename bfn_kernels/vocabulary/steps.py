"""Sampling with a large vocabulary: the steps of samplers, straight from the hidden states of which a linear head makes
logits. Nothing but the state has K numbers for each token.

The head is `weight` `[K, d]`, `bias` `[K]` or None and `flow_scale` `[B, ...]` or None. The hidden states are
`[B, ..., d]`, the state is `[B, ..., K]`, each of any of the types. The logits are hidden·Wᵀ + bias + flow_scale·state.
Arithmetic is in float32 (float64 if one has it). Memory is that of the losses. Nothing is differentiable.

Processes may share the classes by `process_group=` and `num_classes=`, as for the losses. `weight`, `bias`,
`embedding`, `state` and `out` are the part of this process. All other arguments are the same in each process, explicit
noise `[B, ..., num_classes]` too, and so is what the network sees next.

Temperature and guidance act on hidden, bias and flow_scale, since logits are linear in them: pass hidden/T, bias/T and
flow_scale/T, or (1 + w)·hidden − w·unconditional and the same of flow_scale.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bfn_kernels import backends, solvers
from bfn_kernels.call import checks, rows
from bfn_kernels.call.keywords import choice_noises, drawn_seed, known_values, step_seed
from bfn_kernels.call.outputs import writes
from bfn_kernels.call.rows import Rows
from bfn_kernels.records import CHOICES, HeadBefore, LinearHead, Noise, Sent, Solver
from bfn_kernels.schedules import DiscreteSchedule
from bfn_kernels.solvers import Coefficients
from bfn_kernels.vocabulary.arguments import check_head, shard_of
from bfn_kernels.vocabulary.tiles import Shard

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

FIRST = HeadBefore(None, None)  # of a step that reads no step before


@writes("state")
def update_sample(
    state: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    alpha: Rows,
    *,
    flow_scale: Tensor | None = None,
    choose: str = "sample",
    known: Tensor | None = None,
    known_mask: Tensor | None = None,
    embedding: Tensor | None = None,
    out: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    draw_noise: Tensor | None = None,
    process_group: "ProcessGroup | None" = None,
    num_classes: int | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """One step of ancestral sampling: `discrete.update_sample` of the logits hidden·Wᵀ + bias + flow_scale·state for
    the same seed, without storing these logits (171).

    hidden `[B, ..., d]`, weight `[K, d]`, bias `[K]` or None, flow_scale `[B, ...]` or None; state `[B, ..., K]`; alpha
    at least 0. choose, known, known_mask, out and noise are as in `discrete.update_sample`. embedding: another weight
    `[K, d']`. With it the result is a pair: the new state z', and what the network sees next, softmax(z')·embedding
    `[B, ..., d']` in the weight's type. Returns logits in the state's type.

    >>> z, hidden, weight = torch.zeros(1, 2), torch.ones(1, 3), torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    >>> update_sample(z, hidden, weight, None, 0.5, choose="mode", noise=z)
    tensor([[-0.5000,  0.5000]])
    """
    choice = checks.choice("choose", choose, CHOICES)
    checks.weight("weight", weight)
    shard, head = shard_of(weight, num_classes, process_group, backend), LinearHead(hidden, weight, bias, flow_scale)
    sent = Sent(choice, known, known_mask, draw_noise)
    sent = _check(state, head, None, FIRST, embedding, sent, alpha=alpha, noise=noise)
    library, lead = backends.library(backend, state.device), state.shape[:-1]
    dtype = checks.compute_dtype(state, *head, embedding)
    message = rows.scalars(library, rows.MESSAGE, alpha, state, dtype, dims=len(lead), scale=shard.num_classes)
    draws = choice_noises(choose, draw_noise, lead)
    seed = drawn_seed(state, seed, generator, ("noise", noise, (*lead, shard.num_classes)), *draws)
    step = *Solver(None, *message), *FIRST, embedding, *sent, *Noise(seed, noise)
    return _stepped(library, shard, state, head, step, embedding, out)


@writes("state")
def solver_step(
    state: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    t: Rows | None = None,
    t_next: Rows | None = None,
    *,
    flow_scale: Tensor | None = None,
    rule: str = "ode1",
    t_previous: Rows | None = None,
    previous: Tensor | None = None,
    previous_scale: Tensor | None = None,
    previous_state: Tensor | None = None,
    coefficients: Coefficients | None = None,
    beta_1: float | None = None,
    schedule: DiscreteSchedule | None = None,
    choose: str = "mean",
    known: Tensor | None = None,
    known_mask: Tensor | None = None,
    embedding: Tensor | None = None,
    out: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    draw_noise: Tensor | None = None,
    process_group: "ProcessGroup | None" = None,
    num_classes: int | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """A sampler's step from time t to t_next: `discrete.solver_step` of the logits hidden·Wᵀ + bias + flow_scale·state
    for the same seed, without storing these logits [derived].

    A step of second order uses the predictions of two steps, of this one and of the one before. `previous` are the
    hidden states of the step before, of which its logits are computed again. If that step had a flow_scale, pass it as
    `previous_scale`, and the state of that step as `previous_state`. The predictions of both steps are probabilities,
    as with choose="mean"; no class is drawn. Where `known_mask` is True, the prediction is the class
    `known`. hidden, weight, bias, flow_scale, state, embedding and the result are as in `update_sample`, all other
    arguments as in `discrete.solver_step`.

    >>> z, hidden, weight = torch.tensor([[1.0, 1.0]]), torch.ones(1, 3), torch.zeros(2, 3)
    >>> solver_step(z, hidden, weight, None, 0.5, 1.0, beta_1=3.0, embedding=torch.tensor([[2.0], [4.0]]))
    (tensor([[2., 2.]]), tensor([[3.]]))
    """
    choice = checks.choice("choose", choose, CHOICES)
    if previous is not None and choose != "mean":
        raise ValueError(f'previous must be None with choose="{choose}", since hidden states do not say what was taken')
    schedule = solvers.step_schedule(coefficients, beta_1, schedule)
    checks.weight("weight", weight)
    shard, head = shard_of(weight, num_classes, process_group, backend), LinearHead(hidden, weight, bias, flow_scale)
    before, sent = HeadBefore(previous_scale, previous_state), Sent(choice, known, known_mask, draw_noise)
    times = t, t_next, t_previous
    sent = _check(
        state, head, previous, before, embedding, sent, t=t, t_next=t_next, t_previous=t_previous, noise=noise
    )
    library, lead = backends.library(backend, state.device), state.shape[:-1]
    dtype = checks.compute_dtype(state, *head, previous, *before, embedding)
    solver = solvers.step_scalars(
        coefficients, rule, schedule, times, previous, state, dtype, len(lead), shard.num_classes
    )
    draws = choice_noises(choose, draw_noise, lead)
    seed = step_seed(state, solver.std, seed, generator, noise, *draws, shape=(*lead, shard.num_classes))
    step = *solver, *before, embedding, *sent, *Noise(seed, noise)
    return _stepped(library, shard, state, head, step, embedding, out)


def mode(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    flow_scale: Tensor | None = None,
    state: Tensor | None = None,
    process_group: "ProcessGroup | None" = None,
    num_classes: int | None = None,
    backend: str | None = None,
) -> Tensor:
    """The likeliest class of the output distribution softmax(hidden·Wᵀ + bias + flow_scale·state), which ends a
    sampling run. Of several it is the first.

    hidden `[B, ..., d]`, weight `[K, d]`, bias `[K]` or None; flow_scale `[B, ...]` and state `[B, ..., K]`, or both
    None. Returns int64 `[B, ...]`.

    >>> mode(torch.ones(1, 3), torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]))
    tensor([1])
    """
    checks.data("hidden", hidden)
    checks.weight("weight", weight)
    shard, lead = shard_of(weight, num_classes, process_group, backend), hidden.shape[:-1]
    head = LinearHead(hidden, weight, bias, flow_scale)
    check_head("hidden", hidden, lead, head)
    _check_state_of("flow_scale", flow_scale, "state", state, hidden, (*lead, len(weight)))
    library = backends.library(backend, hidden.device)
    return library.vocabulary.mode(*(each if each is None else each.detach() for each in (*head, state)), *shard)


def _check_state_of(
    scale_name: str, scale: Tensor | None, name: str, state: Tensor | None, like: Tensor, shape: tuple[int, ...]
) -> None:
    """Refuses a factor of the state without the state, or the state without the factor, or one of another shape."""
    if (scale is None) != (state is None):
        raise ValueError(f"{scale_name} and {name} must be given together")
    if scale is not None and state is not None:
        checks.like(scale_name, scale, "hidden", like, shape[:-1])
        checks.like(name, state, "hidden", like, shape)


def _check(
    state: Tensor,
    head: LinearHead,
    previous: Tensor | None,
    before: HeadBefore,
    embedding: Tensor | None,
    sent: Sent,
    **others: Rows | Tensor | None,
) -> Sent:
    """The checks that the steps share. Returns the known classes and their mask as operators take them."""
    checks.data("state", state)
    lead, weight = state.shape[:-1], head.weight
    if state.dim() < 2 or state.shape[-1] != len(weight):
        raise ValueError(
            f"state must have shape [B, ..., K] with the weight's K = {len(weight)}, got {tuple(state.shape)}"
        )
    check_head("state", state, lead, head)
    if previous is not None:
        checks.like("previous", previous, "hidden", head.hidden)
    elif before.previous_scale is not None:
        raise ValueError("previous_scale must be None without previous")
    _check_state_of(
        "previous_scale", before.previous_scale, "previous_state", before.previous_state, state, state.shape
    )
    if embedding is not None:
        checks.weight("embedding", embedding)
        checks.same_device("embedding", embedding, "state", state)
        if len(embedding) != len(weight):
            raise ValueError(f"embedding must have shape [K, d] with K = {len(weight)}, got {tuple(embedding.shape)}")
    known = sent.known if sent.known is None else checks.classes("known", sent.known)
    sent = sent._replace(known=known, known_mask=known_values(known, sent.known_mask, state, lead))
    tensors = {"state": state, "previous": previous, "embedding": embedding, **head._asdict(), **before._asdict()}
    checks.no_gradient("a step by a linear head has none", **tensors, **sent._asdict(), **others)
    return sent


def _stepped(
    library: Any,
    shard: Shard,
    state: Tensor,
    head: LinearHead,
    step: tuple,
    embedding: Tensor | None,
    out: Tensor | None,
) -> Tensor | tuple[Tensor, Tensor]:
    """The new state, and its embedding if one is asked for."""
    seen = None if embedding is None else embedding.new_empty((*state.shape[:-1], embedding.shape[1]))
    updated = library.vocabulary.step(state, *head, *step, *shard, out, seen)
    return updated if seen is None else (updated, seen)
