"""The record of a client of the benchmarks, and the comparison of results."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.clients.places import Place

Results = tuple[Tensor, ...]
Call = Callable[..., Results]  # may take explicit noise; called without arguments, it draws all its noise
TOLERANCE = 1e-9  # the largest relative difference between results for the same noise, in float64


@dataclass(frozen=True)
class Client:
    """A client's computation, and our calls that can replace it.

    own: Calls the client's own functions in a checkout, a folder, with the noise of the client. None if they cannot be
        called.
    literal: The form of `theirs` that is compared with `own`, if it is another: with 1e-8 under a root, as in the code,
        or with more results.
    """

    name: str
    place: Place
    theirs: Call
    ours: dict[str, Call]  # with the same noise, the first one returns the same numbers as `theirs`
    noise: Results  # the arguments of `theirs` and of our first call, when they are compared
    # Makes a network whose depth or widths are divided by the argument. Returns a function that runs the network's
    # passes of a step. None if the calls contain the network's passes.
    network: Callable[[int], Call] | None
    varies: bool = False  # whether the result is a loss that is estimated by draws
    own: Callable[[Path], Results] | None = None
    literal: Call | None = None


def with_gradient(loss: Tensor, *leaves: Tensor) -> Results:
    return (loss.detach(), *torch.autograd.grad(loss, leaves))


def random_classes(shape: tuple[int, ...], k: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Classes, and logits that lean towards them."""
    x = torch.randint(k, shape)
    return x, (torch.randn(*shape, k, dtype=dtype) + 3 * F.one_hot(x, k)).requires_grad_()


def apart(theirs: Results, others: Results) -> float:
    """The largest difference between results. The difference of two tensors is divided by the largest absolute number
    in the first one. It is NaN if any number is NaN."""
    pairs = zip(theirs, others, strict=True)
    return torch.stack([(a - b).abs().max() / a.abs().max() for a, b in pairs]).max().item()


def disagreement(client: Client) -> float:
    """How far their call and our first call are apart for the same noise."""
    return apart(client.theirs(*client.noise), next(iter(client.ours.values()))(*client.noise))


def own_disagreement(client: Client, folder: Path) -> float:
    """How far the client's own functions in a checkout and our transcription are apart for the same noise."""
    assert client.own is not None
    return apart(client.own(folder), (client.literal or client.theirs)(*client.noise))
