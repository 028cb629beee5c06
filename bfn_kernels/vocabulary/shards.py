"""The classes of a vocabulary, which may be divided among several processes."""

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, distributed

from bfn_kernels import backends, checks

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
else:
    ProcessGroup = Any  # a torch that was built without torch.distributed has no such class

Processes = tuple[ProcessGroup | None, int | None]  # the arguments process_group and num_classes of an op


class Shard(NamedTuple):
    """The classes of this process.

    first: the index of its first class. num_classes: the number of classes of all processes. group: the name of the
    process group, or None for a single process.
    """

    first: int
    num_classes: int
    group: str | None

    @property
    def rank(self) -> int:
        """The rank of this process in the group; 0 for a single process."""
        return 0 if self.group is None else _group_of(self.group).rank()

    def gathered(self, values: Tensor) -> Tensor:
        """The values of every process, in a new first dimension."""
        if self.group is None:
            return values.unsqueeze(0)
        group = _group_of(self.group)
        gathered = [torch.empty_like(values) for _ in range(group.size())]
        distributed.all_gather(gathered, values, group)
        return torch.stack(gathered)

    def summed(self, values: Tensor) -> Tensor:
        """The sum of the values of every process. It overwrites the values."""
        if self.group is not None:
            distributed.all_reduce(values, group=_group_of(self.group))
        return values


def _group_of(name: str) -> Any:
    """The group of this name. An operator cannot take a group as an argument, but it can take its name. torch's own
    operators find groups by the same function."""
    return distributed.distributed_c10d._resolve_process_group(name)  # type: ignore[arg-type]


def shard_of(weight: Tensor, process_group: ProcessGroup | None, num_classes: int | None, backend: str | None) -> Shard:
    """Checks the weight, and returns the classes whose vectors are its rows."""
    if (process_group is None) != (num_classes is None):
        raise ValueError(f"process_group and num_classes must be given together, got {process_group=}, {num_classes=}")
    if process_group is None:
        if len(weight) < 2:
            raise ValueError(f"weight must have shape [K, d] with K of at least 2, got {tuple(weight.shape)}")
        return Shard(0, len(weight), None)
    if backends.choose(backend, weight.device).library is None:
        raise ValueError("process_group must be None for the reference backend, which needs all classes in one process")
    num_classes = checks.integer("num_classes", num_classes, 2)
    size = -(-num_classes // process_group.size())
    first = process_group.rank() * size
    count = max(0, min(size, num_classes - first))
    if len(weight) != count:
        raise ValueError(
            f"weight must have shape {(count, weight.shape[1])}, the share of rank {process_group.rank()} of "
            f"{process_group.size()} in {num_classes} classes, got {tuple(weight.shape)}"
        )
    return Shard(first, num_classes, process_group.group_name)
