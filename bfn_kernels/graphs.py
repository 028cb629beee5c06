"""CUDA graphs of the steps of a sampling run, which read their numbers from a table on the device."""

from collections.abc import Callable

import torch
from torch import Tensor

from bfn_kernels import checks

WORD = torch.int64


class StepTable:
    """The numbers of all steps in one tensor, so that one operation reads the numbers of a step. Each word of a row has
    64 bits, and a narrower number fills the first half of its word.

    Example:
        >>> table = StepTable(torch.device("cpu"))
        >>> t, seed = table.add(torch.tensor([0.0, 0.5])), table.add(torch.tensor([7, 8]))
        >>> row = table.row(torch.tensor([1]))
        >>> row[t], row[seed]
        (tensor(0.5000), tensor(8))
    """

    def __init__(self, device: torch.device):
        self.words = torch.empty(0, 0, dtype=WORD, device=device)
        self.columns: list[tuple[int, int, torch.dtype, torch.Size]] = []

    def add(self, column: Tensor) -> int:
        """Adds the numbers of all steps, `[n]` or `[n, m]`, of a type of 32 or 64 bits. Returns the column's place in a
        row."""
        device = self.words.device
        wide = column.to(checks.widest(device)) if column.dtype == torch.float64 else column
        flat = wide.to(device).view(len(column), -1)
        words = flat.view(WORD) if flat.dtype.itemsize == 8 else torch.stack([flat, flat], -1).view(WORD).flatten(1)
        start = self.words.shape[1]
        self.words = torch.cat([self.words.view(len(words), start), words], 1)
        self.columns.append((start, self.words.shape[1], flat.dtype, column.shape[1:]))
        return len(self.columns) - 1

    def row(self, step: Tensor) -> list[Tensor]:
        """The numbers of a step, a view of one tensor for each column. step: its number, `[1]`, int64, on the device of
        the table."""
        row = self.words.index_select(0, step).squeeze(0)
        return [
            row[start:end].view(dtype)[:: 8 // dtype.itemsize].view(shape) for start, end, dtype, shape in self.columns
        ]


def can_capture(device: torch.device) -> bool:
    """Whether a device has CUDA graphs."""
    return device.type == "cuda"


def captured(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Records a step, which must have run once before, as a CUDA graph. Returns a function that replays the step by one
    launch instead of many."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.Stream(device)):
        step()
    return graph.replay
