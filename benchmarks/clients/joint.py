"""Helpers of the clients that train and sample several kinds of data at once."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

Drawn = tuple[Any, str, Sequence[dict[str, Tensor]]]


@contextlib.contextmanager
def drawing(*calls: Drawn) -> Iterator[None]:
    """Our ops draw these tensors in turn, in place of what their seeds make.

    calls: For each op its module, such as `bfn_kernels.discrete`, its name, and the keywords of its noise in each call.
    """
    with contextlib.ExitStack() as stack:
        for module, name, noise in calls:
            left = iter(noise)
            stack.enter_context(mock.patch.object(module, name, with_noise(getattr(module, name), left)))
            stack.callback(exhausted, name, left)
        yield


def with_noise(op: Any, noise: Iterator[dict[str, Tensor]]) -> Any:
    def called(*tensors: Any, seed: Any = None, **options: Any) -> Any:
        return op(*tensors, **options | next(noise))

    return called


def exhausted(name: str, left: Iterator[dict[str, Tensor]]) -> None:
    if next(left, None) is not None:
        raise AssertionError(f"{name} was called less often than the transcription draws noise")


def each(**noise: Sequence[Tensor] | Tensor) -> list[dict[str, Tensor]]:
    """The keywords of noise for each call, from tensors whose first dimension counts the calls."""
    return [dict(zip(noise, tensors, strict=True)) for tensors in zip(*noise.values(), strict=True)]


class Fixed(nn.Module):
    """Fixed predictions in place of a network. The input distributions are added to them."""

    positions: Tensor
    types: Tensor

    def __init__(self, **predictions: Tensor):
        super().__init__()
        for name, prediction in predictions.items():
            self.register_parameter(name, nn.Parameter(prediction))

    def forward(self, theta: dict[str, Tensor], t: Tensor, batch: Tensor) -> dict[str, Tensor]:
        return {name: prediction + theta[name] for name, prediction in self.named_parameters()}


class Small(nn.Module):
    """A small network of rows. `seen` has the inputs of all calls if it is a list."""

    def __init__(self, inputs: int, outputs: Sequence[int], dtype: torch.dtype, width: int = 64):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(inputs + 1, width), nn.Tanh(), nn.Linear(width, sum(outputs)))
        self.outputs = [*outputs]
        self.seen: list[Tensor] | None = None
        self.to(dtype)

    def forward(self, t: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        """t: the time of each row, [N]. inputs: [N, ...] each."""
        joined = torch.cat([*inputs, t.unsqueeze(-1)], -1)
        if self.seen is not None:
            self.seen.append(joined)
        return self.layers(joined).split(self.outputs, -1)

    @contextlib.contextmanager
    def watched(self) -> Iterator[list[Tensor]]:
        """Within a `with`, all inputs are kept."""
        seen: list[Tensor] = []
        self.seen = seen
        try:
            yield seen
        finally:
            self.seen = None
