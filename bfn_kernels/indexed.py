"""Times, accuracies and precisions of groups of rows, such as the graphs of a batch that is one long list of nodes."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bfn_kernels import checks


class Indexed(NamedTuple):
    """A number for each of M groups, and the group of each of N rows: it stands for `values[index]`.

    Every op takes it in the place of a time, an accuracy or a precision of a row; what an op needs of these is then
    made once for each group. N is the first dimension of the data.

    values `[M]`, float32, bfloat16, float16 or float64; index `[N]`, int64 or int32, in [0, M). An index out of range
    is an IndexError on the CPU; elsewhere its row becomes NaN.

    >>> from bfn_kernels import continuous
    >>> nodes, graph = torch.ones(3, 2), torch.tensor([0, 0, 1])
    >>> t = Indexed(torch.tensor([0.5, 1.0]), graph)
    >>> continuous.flow_sample(nodes, t, sigma_1=0.1, noise=torch.zeros(3, 2))
    tensor([[0.9000, 0.9000],
            [0.9000, 0.9000],
            [0.9900, 0.9900]])
    """

    values: Tensor
    index: Tensor  # type: ignore[assignment]  # a tuple has a method of this name

    def of_rows(self, values: Tensor, dims: int = 1) -> Tensor:
        """The values `[M]`, or `[1]` for all groups, of each row: `[N, 1, ...]` with so many dimensions."""
        values, index = values.expand(self.values.shape), self.index
        if checks.shows(index):
            chosen = values.index_select(0, index)
        else:
            within = (index >= 0) & (index < len(values))
            chosen = torch.where(within, values.index_select(0, torch.where(within, index, 0)), math.nan)
        return chosen.reshape(-1, *(1,) * (dims - 1))


Rows = float | Tensor | Indexed  # a time, accuracy or precision: a number for all rows, or one for each


def grouped(names: tuple[str, str], value: Rows, other: Rows | None, model: Tensor) -> tuple[Any, Any, Indexed | None]:
    """Two arguments of rows of `model`, and what tells the rows of their groups.

    If both have the same groups, or one has groups and the other is one number, they are returned as numbers per group
    and the last result has the index. Else they are returned as numbers per row, and the last result is None.
    """
    found = {name: v for name, v in zip(names, (value, other), strict=True) if isinstance(v, Indexed)}
    if not found:
        return value, other, None
    for name, each in found.items():
        checks.indexed(name, *each, model)
    groups, *more = found.values()
    rest = [v for v in (value, other) if isinstance(v, Tensor) and v.numel() != 1]
    if rest or (more and (more[0].index is not groups.index or len(more[0].values) != len(groups.values))):
        value, other = (v.of_rows(v.values) if isinstance(v, Indexed) else v for v in (value, other))
        return value, other, None
    value, other = (v.values if isinstance(v, Indexed) else v for v in (value, other))
    return value, other, groups
