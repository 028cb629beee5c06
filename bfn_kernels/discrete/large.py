"""Ops of large vocabularies, in which K numbers for each token are never stored: the embedding of a flow's sample, and
losses of a linear head.

K is the number of rows of `weight` `[K, d]`. Beside their results, the ops take memory for a few numbers of each token,
and 1 MiB for a tile of some tokens by some classes (64 MiB on a GPU); a loss that makes its gradients in the forward
pass, as a CPU does of d ≥ 128, takes as much as the weight for a while. The matrix products are torch's, in the type of
the arithmetic, but those that Triton has kernels for, of vectors of 16 bits (docs/gpu.md).

Classes may be shared among processes: `process_group=` are those that have the `num_classes=` K classes together, and
`weight` and `bias` are the part of this one, as `torch.chunk` and DTensor's `Shard(0)` make them. Everything else is
the same in all of them, noise and results too, and so are the gradients by `hidden`. What is sent are a few numbers for
each token, and `[B, ..., d]` where that is summed.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bfn_kernels import backends, checks, rows
from bfn_kernels.arguments import drawn_seed, step_time
from bfn_kernels.autograd import needs
from bfn_kernels.discrete.operators import WIDE
from bfn_kernels.discrete.tiles import Shard
from bfn_kernels.reduction import MEAN, SUM, hide
from bfn_kernels.rows import Rows
from bfn_kernels.schedules import DiscreteSchedule, discrete_schedule

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def flow_embedding(
    x: Tensor,
    t: Rows,
    weight: Tensor,
    *,
    beta_1: float | None = None,
    schedule: DiscreteSchedule | None = None,
    mask: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    process_group: "ProcessGroup | None" = None,
    num_classes: int | None = None,
    backend: str | None = None,
) -> Tensor:
    """The embedding θ·W of the input distribution θ after messages up to time t: `flow_sample(...) @ weight` for the
    same seed, without its `[B, ..., K]` (185).

    x `[B, ...]` classes; t in [0, 1]; weight `[K, d]`, differentiable. mask: bool, False where x is not read (as for
    padding) and the result is the prior's. noise `[B, ..., K]`. Returns `[B, ..., d]` in the weight's type.

    >>> flow_embedding(torch.tensor([1]), 0.0, torch.tensor([[0.0, 4.0], [2.0, 0.0]]), beta_1=3.0)
    tensor([[1., 2.]])
    """
    x = checks.classes("x", x)
    checks.weight("weight", weight)
    checks.same_device("weight", weight, "x", x)
    shard = shard_of(weight, num_classes, process_group, backend)
    schedule = discrete_schedule(beta_1, schedule)
    num_classes, dtype = shard.num_classes, checks.compute_dtype(weight)
    library = backends.library(backend, x.device)
    scalars = rows.scalars(library, ("beta", "beta_spread"), t, x, dtype, schedule, scale=num_classes)
    x, beta, spread = hide(checks.mask("mask", mask, "x", x, x.shape), x, *scalars)
    seed = drawn_seed(x, seed, generator, ("noise", noise, (*x.shape, num_classes)))
    return library.discrete.flow_embedding(x, weight, beta, spread, seed, noise, *shard)


def linear_continuous_time_loss(
    x: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    t: Rows,
    *,
    beta_1: float | None = None,
    schedule: DiscreteSchedule | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    process_group: "ProcessGroup | None" = None,
    num_classes: int | None = None,
    backend: str | None = None,
) -> Tensor:
    """L∞ in nats, Kβ₁t·‖e_x − p‖² per variable, with p = softmax(hidden·Wᵀ + bias): `continuous_time_loss` of these
    logits without storing them (205).

    x `[B, ...]` classes; hidden `[B, ..., d]`, weight `[K, d]` and bias `[K]` or None, differentiable, of any of the
    types each; t in [0, 1]. mask: as in `continuous_time_loss`; on a CPU, what it leaves out is not computed.
    reduction: "mean" over variables, "sum", "batch" (sums `[B]`) or "none". Returns float32 (float64 for float64).

    >>> linear_continuous_time_loss(torch.tensor([1]), torch.ones(1, 3), torch.zeros(2, 3), None, 0.5, beta_1=3.0)
    tensor(1.5000)
    """
    x, mask, how = _check_head(x, hidden, weight, bias, mask, reduction)
    shard = shard_of(weight, num_classes, process_group, backend)
    schedule = discrete_schedule(beta_1, schedule)
    library, dtype = backends.library(backend, x.device), checks.compute_dtype(hidden, weight, bias)
    (rate,) = rows.scalars(library, ("rate",), t, x, dtype, schedule, scale=shard.num_classes / 2)
    return _loss(library, shard, x, hidden, weight, bias, rate, mask, how)


def linear_discrete_time_loss(
    x: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    t: Rows | None = None,
    *,
    n_steps: int,
    step: int | Tensor | None = None,
    beta_1: float | None = None,
    schedule: DiscreteSchedule | None = None,
    n_samples: int = 10,
    mask: Tensor | None = None,
    reduction: str = "mean",
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    process_group: "ProcessGroup | None" = None,
    num_classes: int | None = None,
    backend: str | None = None,
) -> Tensor:
    """L_n in nats with the paper's joint receiver and p = softmax(hidden·Wᵀ + bias): `discrete_time_loss` of these
    logits for the same seed, without storing them (189, 190, 193).

    The expectation is the mean of `n_samples` draws, whose explicit noise is `[n_samples, B, ..., K]`. n_steps, t and
    step as in `discrete_time_loss`, everything else as in `linear_continuous_time_loss`.

    >>> head = torch.ones(1, 3), torch.zeros(2, 3), None
    >>> noise = torch.zeros(1, 1, 2)
    >>> linear_discrete_time_loss(torch.tensor([1]), *head, 0.0, n_steps=9, beta_1=3.0, n_samples=1, noise=noise)
    tensor(0.3272)
    """
    n_steps = checks.integer("n_steps", n_steps, 1)
    t = step_time(t, step, n_steps)
    n_samples = checks.integer("n_samples", n_samples, 1)
    x, mask, how = _check_head(x, hidden, weight, bias, mask, reduction)
    shard = shard_of(weight, num_classes, process_group, backend)
    schedule = discrete_schedule(beta_1, schedule)
    library, dtype = backends.library(backend, x.device), checks.compute_dtype(hidden, weight, bias)
    (alpha,) = rows.scalars(library, ("alpha",), t, x, dtype, schedule, n_steps=n_steps)
    seed = drawn_seed(x, seed, generator, ("noise", noise, (n_samples, *x.shape, shard.num_classes)))
    return library.discrete.linear_discrete_time_loss(
        x, hidden, weight, bias, alpha, seed, noise, n_steps, n_samples, mask, how, *shard
    )


def linear_reconstruction_loss(
    x: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    reduction: str = "mean",
    process_group: "ProcessGroup | None" = None,
    num_classes: int | None = None,
    backend: str | None = None,
) -> Tensor:
    """The cost in nats of x after the last message, −ln p_x with p = softmax(hidden·Wᵀ + bias): the cross-entropy of a
    linear head.

    Arguments and result as in `linear_continuous_time_loss`.

    >>> linear_reconstruction_loss(torch.tensor([1]), torch.ones(1, 3), torch.zeros(2, 3))
    tensor(0.6931)
    """
    x, mask, how = _check_head(x, hidden, weight, bias, mask, reduction)
    shard = shard_of(weight, num_classes, process_group, backend)
    library = backends.library(backend, x.device)
    return _loss(library, shard, x, hidden, weight, bias, None, mask, how)


def _loss(
    library: Any, shard: Shard, x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, rate: Tensor | None,
    mask: Tensor | None, how: int,
) -> Tensor:  # fmt: skip
    """L∞ or, without a rate, the reconstruction loss. Libraries that can make the gradients in the forward pass, where
    logits are made once, do so if the loss is a number, so that they are known up to a factor, and if vectors are wide
    enough for a tile of whole rows to have many tokens. Of a narrow weight the sums would take more memory than it."""
    with_gradients = getattr(library.discrete, "linear_loss_with_gradients", None)
    alone = weight.is_cpu and shard.group is None and weight.dtype == checks.compute_dtype(hidden, weight, bias)
    if with_gradients and alone and how in (SUM, MEAN) and weight.shape[1] >= WIDE and any(needs(hidden, weight, bias)):
        return with_gradients(x, hidden, weight, bias, rate, mask, how)
    return library.discrete.linear_loss(x, hidden, weight, bias, rate, mask, how, *shard)


def shard_of(
    weight: Tensor, num_classes: int | None, process_group: "ProcessGroup | None", backend: str | None
) -> Shard:
    """The classes that the weight has."""
    if (process_group is None) != (num_classes is None):
        raise ValueError(f"process_group and num_classes must be given together, got {process_group=}, {num_classes=}")
    if process_group is None:
        if len(weight) < 2:
            raise ValueError(f"weight must have shape [K, d] with K of at least 2, got {tuple(weight.shape)}")
        return Shard(0, len(weight), None)
    if backends.choose(backend, weight.device).library is None:
        raise ValueError("process_group must be None for the reference, which has all classes")
    num_classes = checks.integer("num_classes", num_classes, 2)
    size = -(-num_classes // process_group.size())
    first = process_group.rank() * size
    count = max(0, min(size, num_classes - first))
    if len(weight) != count:
        raise ValueError(
            f"weight must have shape {(count, weight.shape[1])}, as chunk {process_group.rank()} of "
            f"{process_group.size()} of {num_classes} classes, got {tuple(weight.shape)}"
        )
    return Shard(first, num_classes, process_group.group_name)


def _check_head(
    x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, reduction: str
) -> tuple[Tensor, Tensor | None, int]:
    """The checks that the losses share; returns classes and mask as operators take them, and the reduction's place."""
    x = checks.classes("x", x)
    checks.weight("weight", weight)
    checks.like("hidden", hidden, "x", x, (*x.shape, weight.shape[1]))
    checks.same_device("weight", weight, "x", x)
    if bias is not None:
        checks.like("bias", bias, "weight", weight, weight.shape[:1])
    how = checks.choice("reduction", reduction, checks.REDUCTIONS)
    return x, checks.mask("mask", mask, "x", x, x.shape), how
