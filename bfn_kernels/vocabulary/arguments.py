"""Keyword arguments that the ops of large vocabularies share."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bfn_kernels import backends
from bfn_kernels.call import checks, rows
from bfn_kernels.call.keywords import Seed, drawn_seed
from bfn_kernels.call.rows import Rows
from bfn_kernels.operators import Library
from bfn_kernels.records import NO_FLOW, FlowLogits, LinearHead
from bfn_kernels.schedules import DiscreteSchedule
from bfn_kernels.vocabulary.tiles import Shard

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def shard_of(
    weight: Tensor, num_classes: int | None, process_group: "ProcessGroup | None", backend: str | None
) -> Shard:
    """The classes of the rows of this weight."""
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


def check_head(name: str, like: Tensor, shape: torch.Size, head: LinearHead) -> None:
    """Refuses a head that does not fit tokens of this shape, which is the shape of the argument `name`."""
    hidden, weight, bias, flow_scale = head
    checks.weight("weight", weight)
    checks.same_device("weight", weight, name, like)
    checks.like("hidden", hidden, name, like, (*shape, weight.shape[1]))
    if bias is not None:
        checks.like("bias", bias, "weight", weight, weight.shape[:1])
    if flow_scale is not None:
        checks.like("flow_scale", flow_scale, name, like, shape)


def flow_logits(
    library: Library,
    x: Tensor,
    head: LinearHead,
    t: Rows,
    schedule: DiscreteSchedule | None,
    flow_seed: Seed,
    flow_noise: Tensor | None,
    shard: Shard,
) -> FlowLogits:
    """Returns the numbers from which a loss recomputes the flow's logits; `NO_FLOW` for a head without `flow_scale`."""
    given = {"flow_seed": flow_seed, "flow_noise": flow_noise}
    if head.flow_scale is None:
        for name, value in given.items():
            if value is not None:
                raise ValueError(f"{name} must be None without flow_scale, got {value!r}")
        return NO_FLOW
    if (flow_seed is None) == (flow_noise is None):
        raise ValueError(f"exactly one of flow_seed and flow_noise must be given with flow_scale, got {given}")
    wanted = "beta", "beta_spread"
    beta, spread = rows.scalars(library, wanted, t, x, checks.compute_dtype(*head), schedule, scale=shard.num_classes)
    seed = drawn_seed(x, flow_seed, None, ("flow_noise", flow_noise, (*x.shape, shard.num_classes)))
    return FlowLogits(beta, spread, seed, flow_noise)
