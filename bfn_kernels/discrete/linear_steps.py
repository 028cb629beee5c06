"""Sampling with a large vocabulary, of which nothing but the state has K numbers for each token: the steps of samplers,
straight from the hidden states behind which a linear head makes logits.

The head is `weight` `[K, d]` and `bias` `[K]` or None, the hidden states are `[B, ..., d]`, and the state is
`[B, ..., K]`, each of any of the types; arithmetic in float32 (float64 if one has it). Memory is that of
`bfn_kernels.discrete.large`. Nothing is differentiable.

Classes may be shared among processes by `process_group=` and `num_classes=`, as there: `weight`, `bias`, `embedding`,
`state` and `out` are the part of this process, everything else is the same in all, noise `[B, ..., num_classes]` and
what the network sees next too.

Temperature and guidance are the hidden states', since logits are linear in them: hidden/T with bias/T, and
(1 + w)·hidden − w·unconditional.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bfn_kernels import backends, checks, rows, solvers
from bfn_kernels.arguments import choice_noises, drawn_seed, known_values, step_seed
from bfn_kernels.discrete.large import shard_of
from bfn_kernels.discrete.tiles import Shard
from bfn_kernels.outputs import writes
from bfn_kernels.records import CHOICES, Sent, Solver
from bfn_kernels.rows import Rows
from bfn_kernels.schedules import DiscreteSchedule
from bfn_kernels.solvers import Coefficients

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@writes("state")
def linear_update_sample(
    state: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    alpha: Rows,
    *,
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
    """One step of ancestral sampling: `update_sample(hidden·Wᵀ + bias, state, alpha)` for the same seed, without
    storing these logits (171).

    hidden `[B, ..., d]`, weight `[K, d]`, bias `[K]` or None; state `[B, ..., K]`; alpha at least 0. choose, known,
    known_mask, out and noise as in `update_sample`. embedding: another weight `[K, d']`, with which the result is a
    pair, the new state z' and softmax(z')·embedding `[B, ..., d']` in the weight's type, what the network sees next.
    Returns logits in the state's type.

    >>> z, hidden, weight = torch.zeros(1, 2), torch.ones(1, 3), torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    >>> linear_update_sample(z, hidden, weight, None, 0.5, choose="mode", noise=z)
    tensor([[-0.5000,  0.5000]])
    """
    choice = checks.choice("choose", choose, CHOICES)
    checks.weight("weight", weight)
    shard = shard_of(weight, num_classes, process_group, backend)
    known, known_mask = _check(
        state, hidden, weight, bias, None, embedding, known, known_mask, alpha=alpha, noise=noise,
        draw_noise=draw_noise,
    )  # fmt: skip
    library, lead = backends.library(backend, state.device), state.shape[:-1]
    dtype = checks.compute_dtype(state, hidden, weight, bias, embedding)
    message = rows.scalars(library, rows.MESSAGE, alpha, state, dtype, dims=len(lead), scale=shard.num_classes)
    draws = choice_noises(choose, draw_noise, lead)
    seed = drawn_seed(state, seed, generator, ("noise", noise, (*lead, shard.num_classes)), *draws)
    sent = Sent(choice, known, known_mask, draw_noise)
    step = *Solver(None, *message), embedding, *sent, seed, noise
    return _stepped(library, shard, state, (hidden, weight, bias), step, embedding, out)


@writes("state")
def linear_solver_step(
    state: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
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
    """A sampler's step from time t to t_next: `solver_step(hidden·Wᵀ + bias, state, t, t_next)` for the same seed,
    without storing these logits [derived].

    A step of second order takes `previous`, the hidden states of the step before, of whose logits p_prev is made again;
    it takes the "mean" of both and, where `known_mask` is True, the class `known`. hidden, weight, bias, state,
    embedding and the result as in `linear_update_sample`, everything else as in `solver_step`.

    >>> z, hidden, weight = torch.tensor([[1.0, 1.0]]), torch.ones(1, 3), torch.zeros(2, 3)
    >>> linear_solver_step(z, hidden, weight, None, 0.5, 1.0, beta_1=3.0, embedding=torch.tensor([[2.0], [4.0]]))
    (tensor([[2., 2.]]), tensor([[3.]]))
    """
    choice = checks.choice("choose", choose, CHOICES)
    if previous is not None and choose != "mean":
        raise ValueError(f'previous must be None with choose="{choose}", since hidden states do not say what was taken')
    schedule = solvers.step_schedule(coefficients, beta_1, schedule)
    checks.weight("weight", weight)
    shard = shard_of(weight, num_classes, process_group, backend)
    known, known_mask = _check(
        state, hidden, weight, bias, previous, embedding, known, known_mask, t=t, t_next=t_next,
        t_previous=t_previous, noise=noise, draw_noise=draw_noise,
    )  # fmt: skip
    library, lead = backends.library(backend, state.device), state.shape[:-1]
    dtype = checks.compute_dtype(state, hidden, weight, bias, previous, embedding)
    times = t, t_next, t_previous
    solver = solvers.step_scalars(
        coefficients, rule, schedule, times, previous, state, dtype, len(lead), shard.num_classes
    )
    draws = choice_noises(choose, draw_noise, lead)
    seed = step_seed(state, solver.std, seed, generator, noise, *draws, shape=(*lead, shard.num_classes))
    step = *solver, embedding, *Sent(choice, known, known_mask, draw_noise), seed, noise
    return _stepped(library, shard, state, (hidden, weight, bias), step, embedding, out)


def linear_mode(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    process_group: "ProcessGroup | None" = None,
    num_classes: int | None = None,
    backend: str | None = None,
) -> Tensor:
    """The likeliest class of the output distribution softmax(hidden·Wᵀ + bias), which ends a sampling run; of several
    the first.

    hidden `[B, ..., d]`, weight `[K, d]`, bias `[K]` or None. Returns int64 `[B, ...]`.

    >>> linear_mode(torch.ones(1, 3), torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]))
    tensor([1])
    """
    checks.data("hidden", hidden)
    checks.weight("weight", weight)
    shard = shard_of(weight, num_classes, process_group, backend)
    _check_head(hidden, hidden.shape[:-1], "hidden", hidden, weight, bias)
    library = backends.library(backend, hidden.device)
    return library.discrete.linear_mode(
        hidden.detach(), weight.detach(), bias if bias is None else bias.detach(), *shard
    )


def _check_head(like: Tensor, lead: torch.Size, name: str, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Refuses a head that does not fit hidden states of the leading shape `lead`, that of the argument `like`."""
    checks.same_device("weight", weight, name, like)
    checks.like("hidden", hidden, name, like, (*lead, weight.shape[1]))
    if bias is not None:
        checks.like("bias", bias, "weight", weight, weight.shape[:1])


def _check(
    state: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, previous: Tensor | None,
    embedding: Tensor | None, known: Tensor | None, known_mask: Tensor | None,
    **others: Rows | Tensor | None,
) -> tuple[Tensor | None, Tensor | None]:  # fmt: skip
    """The checks that the steps share; returns the known classes and their mask as operators take them."""
    checks.data("state", state)
    lead = state.shape[:-1]
    if state.dim() < 2 or state.shape[-1] != len(weight):
        raise ValueError(
            f"state must have shape [B, ..., K] with the weight's K = {len(weight)}, got {tuple(state.shape)}"
        )
    _check_head(state, lead, "state", hidden, weight, bias)
    if previous is not None:
        checks.like("previous", previous, "hidden", hidden)
    if embedding is not None:
        checks.weight("embedding", embedding)
        checks.same_device("embedding", embedding, "state", state)
        if len(embedding) != len(weight):
            raise ValueError(f"embedding must have shape [K, d] with K = {len(weight)}, got {tuple(embedding.shape)}")
    known = known if known is None else checks.classes("known", known)
    known_mask = known_values(known, known_mask, state, lead)
    tensors = {
        "state": state, "hidden": hidden, "weight": weight, "bias": bias, "previous": previous,
        "embedding": embedding, "known": known, "known_mask": known_mask, **others,
    }  # fmt: skip
    checks.no_gradient("a step by a linear head has none", **tensors)
    return known, known_mask


def _stepped(
    library: Any, shard: Shard, state: Tensor, head: tuple, step: tuple, embedding: Tensor | None, out: Tensor | None
) -> Tensor | tuple[Tensor, Tensor]:
    """The new state, and its embedding if one is asked for."""
    seen = None if embedding is None else embedding.new_empty((*state.shape[:-1], embedding.shape[1]))
    updated = library.discrete.linear_step(state, *head, *step, *shard, out, seen)
    return updated if seen is None else (updated, seen)
