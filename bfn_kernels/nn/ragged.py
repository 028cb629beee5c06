"""Examples of different sizes: rows of a batch, each of which belongs to an example."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bfn_kernels import checks


@dataclass(frozen=True, eq=False)
class Ragged:
    """The rows of a batch of examples of different sizes, such as the atoms of molecules. An example may have no row.

    Attributes:
        batch: The example of each row, int64 `[N]`, in any order.
        num_examples: B, the number of examples.

    Example:
        >>> Ragged.of_counts([2, 0, 1]).batch
        tensor([0, 0, 2])
    """

    batch: Tensor
    num_examples: int

    @classmethod
    def of_counts(cls, counts: Sequence[int] | Tensor, device: torch.device | str = "cpu") -> "Ragged":
        """Makes rows in the order of their examples.

        Args:
            counts: The number of rows of each example, each at least 0: a list of ints, or an int64 tensor `[B]`.
            device: The device of the result.

        Returns:
            The rows.
        """
        if not isinstance(counts, (Tensor, Sequence)):
            raise TypeError(f"counts must be a list of ints or an int64 tensor, got {type(counts).__name__}")
        if isinstance(counts, Tensor) and counts.dim() != 1:
            raise ValueError(f"counts must have shape [B], got {tuple(counts.shape)}")
        numbers = counts.tolist() if isinstance(counts, Tensor) else list(counts)
        for number in numbers:
            checks.integer("counts", number, 0)
        each = torch.as_tensor(numbers, dtype=torch.int64, device="cpu")
        return cls(torch.arange(len(each), device="cpu").repeat_interleave(each).to(device), len(each))

    @classmethod
    def of_each_row(cls, rows: Tensor) -> "Ragged":
        """Makes an example of each row.

        Args:
            rows: A tensor `[B, ...]`.

        Returns:
            B rows and B examples.
        """
        return cls(torch.arange(len(rows), device=rows.device), len(rows))

    def check(self) -> None:
        """Raises an error if `batch` is no tensor of examples from 0 to B - 1. Values are read only on the CPU."""
        checks.data("batch", self.batch, (torch.int64,))
        if self.batch.dim() != 1:
            raise ValueError(f"batch must have shape [N], got {tuple(self.batch.shape)}")
        if checks.shows(self.batch) and len(self.batch):
            least, most = (value.item() for value in self.batch.aminmax())
            if least < 0 or most >= self.num_examples:
                raise IndexError(
                    f"batch must hold examples in [0, {self.num_examples}), got {most if least >= 0 else least}"
                )

    @property
    def sizes(self) -> Tensor:
        """The number of rows of each example, int64 `[B]`."""
        return self.sums(torch.ones_like(self.batch))

    @property
    def places(self) -> Tensor:
        """The number of each row within its example, from 0 on, int64 `[N]`."""
        order, sizes = self.batch.argsort(stable=True), self.sizes
        starts = (sizes.cumsum(0) - sizes).index_select(0, self.batch[order])
        places = torch.arange(len(order), device=order.device) - starts
        return torch.empty_like(places).index_copy_(0, order, places)

    def sums(self, values: Tensor) -> Tensor:
        """Sums over the rows of each example.

        Args:
            values: Numbers of rows, `[N, ...]`; differentiable.

        Returns:
            Sums `[B, ...]`, 0 for an example without rows.
        """
        return values.new_zeros(self.num_examples, *values.shape[1:]).index_add(0, self.batch, values)

    def centred(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Subtracts from each row the mean over the rows of its example.

        Args:
            values: Numbers of rows, `[N, ...]`, floating-point; differentiable.
            mask: Bool, False for rows that do not count, such as padding: `[N]`, possibly with trailing dimensions of
                size 1. They become 0.

        Returns:
            Numbers of rows, `[N, ...]`, with the mean 0 in each example.
        """
        wide = values.to(torch.promote_types(values.dtype, torch.float32))  # float16 may overflow in a sum
        sizes = self.sizes
        if mask is not None:
            mask = mask.reshape(len(values), *(1,) * (values.dim() - 1))
            wide, sizes = torch.where(mask, wide, 0), self.sums(mask.flatten().long())
        means = self.sums(wide) / sizes.clamp(min=1).view(-1, *(1,) * (values.dim() - 1))
        result = (wide - means.index_select(0, self.batch)).to(values.dtype)
        return result if mask is None else torch.where(mask, result, 0)
