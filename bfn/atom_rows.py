"""Molecules in space as rows of atoms, and a model of their positions and elements.

Molecules `[B, A, 4]` have A places for atoms: a position in ångström and the number of an element. The number of an
empty place is −1. The places of a molecule's atoms come first.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from bfn.configs import ConfigError
from bfn_kernels import Limits, continuous, nn
from bfn_kernels.nn import Ragged, Sampling
from bfn_kernels.schedules import final_accuracy

SCALE = 2.0  # the positions of the model are in units of SCALE ångström
PARTS = POSITIONS, TYPES = "positions", "types"
# Before this time the predicted positions are 0. This adds nearly nothing to the loss, since the messages so far say
# nearly nothing. A prediction from the noise would add much: L∞ divides the squared error of the noise by t.
EARLIEST = 1e-3


def atoms_of(molecules: Tensor) -> tuple[dict[str, Tensor], Ragged]:
    """The positions in ångström and the elements of all atoms, and the molecule of each atom."""
    filled = molecules[..., 3] >= 0
    batch, _ = filled.nonzero(as_tuple=True)
    atoms = molecules[filled]
    return {POSITIONS: atoms[:, :3], TYPES: atoms[:, 3].long()}, Ragged(batch, len(molecules))


def molecules_of(atoms: dict[str, Tensor], ragged: Ragged, places: int) -> Tensor:
    """The inverse of `atoms_of`, for atoms in the order of their molecules."""
    filled = torch.arange(places, device=ragged.batch.device) < ragged.sizes[:, None]
    molecules = torch.zeros(*filled.shape, 4, device=filled.device)
    molecules[..., 3] = -1
    molecules[filled] = torch.cat([atoms[POSITIONS].float(), atoms[TYPES][:, None].float()], 1)
    return molecules


class Atoms(nn.Joint):
    """A Bayesian flow network for molecules `[B, A, 4]`. The number of atoms of a molecule is known, and costs nothing.

    The noise of positions has the mean 0 in each molecule. The loss of a molecule is the sum over its atoms. With the
    reduction "mean", it is averaged over molecules and divided by 4·A, the numbers of a row, as bits per dimension are.

    Args:
        network: A function of theta, of t and of `batch`, as `nn.Joint` describes it.
        sigma_1: The standard deviation of positions at t = 1, in units of SCALE ångström.
        beta_1: The accuracy of elements at t = 1. None: `final_accuracy`.
        elements: The number of elements.
        sizes: The numbers of atoms of training molecules, sorted. Samples have sizes of the same distribution.
        places: A, the places of a molecule.
    """

    sizes: Tensor

    def __init__(self, network: Any, sigma_1: float, beta_1: float | None, elements: int, sizes: Tensor, places: int):
        beta_1 = final_accuracy(elements) if beta_1 is None else beta_1
        parts: dict[str, Any] = {
            POSITIONS: nn.Continuous(None, sigma_1=sigma_1, clip=None, limits=Limits(t_min=EARLIEST)),
            TYPES: nn.Discrete(None, beta_1=beta_1, num_classes=elements),
        }
        super().__init__(network, centred=[POSITIONS], **parts)
        self.register_buffer("sizes", sizes)
        self.places = places
        self.counted: tuple[str, ...] = PARTS
        self.growing: Growing | None = None

    @contextmanager
    def counting(self, *parts: str) -> Iterator[None]:
        """Inside the `with`, a loss is the sum over these parts."""
        before, self.counted = self.counted, parts
        try:
            yield
        finally:
            self.counted = before

    def forward(self, x: Tensor, t: Tensor | None = None, *, reduction: str = "mean", **more: Any) -> Tensor:
        atoms, batch = self.scaled(x)
        return self.summed(self.loss_by_part(atoms, t, **batch, reduction="batch", **more), x, reduction)

    def reconstruction(self, x: Tensor, *, reduction: str = "mean", **more: Any) -> Tensor:
        atoms, batch = self.scaled(x)
        losses = self.reconstruction_by_part(atoms, **batch, reduction="batch", **more)
        sizes = Ragged(**batch).sizes
        # The density of positions in ångström: N atoms whose mean is 0 have 3(N − 1) dimensions.
        losses[POSITIONS] = losses[POSITIONS] + 3 * (sizes - 1).clamp(min=0) * math.log(SCALE)
        return self.summed(losses, x, reduction)

    def scaled(self, x: Tensor) -> tuple[dict[str, Tensor], dict[str, Any]]:
        atoms, ragged = atoms_of(x)
        atoms[POSITIONS] = ragged.centred(atoms[POSITIONS]) / SCALE
        return atoms, {"batch": ragged.batch, "num_examples": ragged.num_examples}

    def summed(self, losses: dict[str, Tensor], x: Tensor, reduction: str) -> Tensor:
        loss: Any = sum(losses[name] for name in self.counted)
        return loss.mean() / x[0].numel() if reduction == "mean" else loss

    def asked(self, count: int) -> dict[str, Any]:
        """The arguments of a sampler that ask for `count` molecules, whose sizes are evenly spread quantiles."""
        sizes = self.sizes if self.growing is None else self.growing.sizes(self.sizes)
        counts = sizes[(2 * torch.arange(count) + 1) * len(sizes) // (2 * count)].tolist()
        asked = {"shape": {POSITIONS: (sum(counts), 3), TYPES: (sum(counts),)}, "counts": counts}
        return asked if self.growing is None else asked | self.growing.known(Ragged.of_counts(counts, sizes.device))

    def examples(self, samples: Any, asked: dict[str, Any]) -> Tensor:
        """Molecules from what a sampler has drawn."""
        scaled = {POSITIONS: samples[POSITIONS] * SCALE, TYPES: samples[TYPES]}
        molecules = molecules_of(scaled, Ragged.of_counts(asked["counts"], samples[TYPES].device), self.places)
        return molecules if self.growing is None else self.growing.moved(molecules)

    def guided_output(self, theta: Any, t: Tensor, sampling: Sampling) -> Any:
        output = super().guided_output(theta, t, sampling)
        if self.growing is None or sampling.ragged is None:
            return output
        return self.growing.grown(output, theta, t, sampling.ragged)

    def inputs(self, state: Any, asked: dict[str, Any]) -> Tensor:
        """Molecules from a sampler's state: the means of the positions, and the likeliest elements."""
        theta = self.theta(state)
        return self.examples({POSITIONS: theta[POSITIONS], TYPES: theta[TYPES].argmax(-1)}, asked)

    def call(self, count: int, device: torch.device) -> Callable[[], Any]:
        """A call of the network for `count` molecules."""
        asked = self.asked(count)
        ragged = Ragged.of_counts(asked["counts"], device)
        theta, t = self.theta(self.prior(asked["shape"], device)), torch.zeros(count, device=device)
        return lambda: self.output(theta, t, None, ragged)


class Growing:
    """Inside the `with`, samples of a model of molecules contain a fragment, whose atoms come first.

    Each message speaks about the fragment's atoms as if the network had predicted them: in the frame of the sample, in
    which the mean of all positions is 0. The fragment is moved to where the network predicts it, but is not turned.

    Args:
        model: The model.
        fragment: The atoms of the fragment, `[N, 4]`.
    """

    def __init__(self, model: Atoms, fragment: Tensor):
        self.model, self.fragment = model, fragment
        self.positions: Any = model.parts[POSITIONS]

    def __enter__(self) -> None:
        count, largest = len(self.fragment), int(self.model.sizes[-1])
        if not 0 < count < largest:
            raise ConfigError(f"the known fragment must have from 1 to {largest - 1} atoms, got {count}")
        self.positions.parametrisation = "data"  # of what `grown` returns
        self.model.growing = self

    def __exit__(self, *error: Any) -> None:
        self.positions.parametrisation = "noise"
        self.model.growing = None

    def sizes(self, sizes: Tensor) -> Tensor:
        """The sizes of samples that have room for the fragment and for one more atom."""
        return sizes[sizes > len(self.fragment)]

    def places(self, ragged: Ragged) -> Tensor:
        """Whether each atom belongs to the fragment, `[N]`."""
        return ragged.places < len(self.fragment)

    def known(self, ragged: Ragged) -> dict[str, Any]:
        """The arguments of a sampler by which the elements of the fragment are known."""
        places = self.places(ragged)
        types = torch.zeros_like(ragged.batch)
        types[places] = self.fragment[:, 3].long().to(types.device).repeat(ragged.num_examples)
        return {"known": {TYPES: types}, "known_mask": {TYPES: places}}

    def grown(
        self, output: dict[str, Tensor], theta: dict[str, Tensor], t: Tensor, ragged: Ragged
    ) -> dict[str, Tensor]:
        """The network's output with predicted positions instead of noise, in which the fragment has its own shape."""
        places = self.places(ragged)
        options = {"schedule": self.positions.schedule, "limits": self.positions.limits, "clip": None}
        times = t.expand(ragged.num_examples).index_select(0, ragged.batch)
        noise, mean = output[POSITIONS], theta[POSITIONS]
        predicted = continuous.predict_data(noise, mean, times, **options).to(noise.dtype)
        at = Ragged(ragged.batch[places], ragged.num_examples)
        fragment = self.fragment[:, :3].to(noise) / SCALE
        fragment = (fragment - fragment.mean(0)).repeat(ragged.num_examples, 1)
        middle = at.sums(predicted[places]) / len(self.fragment)
        predicted[places] = fragment + middle[at.batch]
        return {**output, POSITIONS: predicted}

    def moved(self, molecules: Tensor) -> Tensor:
        """Molecules in the frame of the fragment."""
        count = len(self.fragment)
        fragment = self.fragment[:, :3].to(molecules)
        filled = molecules[..., 3:] >= 0
        shift = (fragment - molecules[:, :count, :3]).mean(1, keepdim=True)
        molecules[..., :3] += shift * filled
        molecules[:, :count, :3] = fragment  # without rounding errors
        return molecules
