"""Seeds of examples: what an example draws does not depend on the other examples of its batch."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bfn_kernels import checks, noise
from bfn_kernels.common import of_rows
from bfn_kernels.nn.ragged import Ragged


@dataclass(frozen=True, eq=False)
class ExampleSeeds:
    """One seed for each example of a batch, instead of one seed for the batch.

    An example gets the noise that it would get alone in a batch, with its seed. Its variables are numbered from its own
    first row, in the order of its rows.

    Attributes:
        seeds: The seeds, int64 `[B]`, on the data's device. For a run, `[n, B]`: the seeds of its steps.
        ragged: The examples of the rows, a `Ragged`. None: each row is an example.
        places: `ragged.places`, the number of each row within its example, so that it is computed once. None: it is
            computed for each call.

    Example:
        >>> both, alone = (ExampleSeeds(torch.tensor(seeds)).normals((len(seeds), 3)) for seeds in ([4, 7], [7]))
        >>> torch.equal(both[1:], alone)
        True
    """

    seeds: Tensor
    ragged: Ragged | None = None
    places: Tensor | None = None

    def folded(self, step: int | Tensor) -> "ExampleSeeds":
        """Makes fresh seeds, as `noise.fold_in` does.

        Args:
            step: An int, or an int64 tensor `[n]` on the CPU.

        Returns:
            A seed for each example or, for steps `[n]`, for each step and example.
        """
        key, steps = self.seeds, step if isinstance(step, Tensor) and step.dim() else None
        if steps is None:
            group = torch.full_like(key, int(step))
        else:
            key, group = key.repeat(len(steps)), steps.to(key.device).repeat_interleave(len(key))
        low, high = _noise(key, 4 * group, 2, noise.FOLD_IN, torch.int64)[0].unbind(-1)
        seeds = low | high << 32
        return replace(self, seeds=seeds if steps is None else seeds.view(len(steps), len(self.seeds)))

    def normals(self, shape: Sequence[int], dtype: torch.dtype = torch.float32, stream: int = noise.SENDER) -> Tensor:
        """Standard normals of elementwise data: `noise.normal` of each example.

        Args:
            shape: The shape of the result, `[N, ...]`.
            dtype: Type of the arithmetic and of the result, float32 or float64.
            stream: The use of the numbers, for example `SENDER`.

        Returns:
            Normals of this shape.
        """
        return self._elements(shape, stream, dtype)

    def uniforms(self, shape: Sequence[int], stream: int = noise.CLASS) -> Tensor:
        """Uniforms in (0, 1]: `noise.class_uniform` of each example.

        Args:
            shape: The shape of the result, `[N, ...]`.
            stream: The use of the numbers, `CLASS` or `COMPONENT`.

        Returns:
            Uniforms of this shape, float32.
        """
        return noise.unit(self._elements(shape, stream, torch.int64))

    def class_normals(
        self,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        stream: int = noise.SENDER,
        draws: int | None = None,
    ) -> Tensor:
        """Standard normals for rows of K classes: `noise.class_normal` of each example.

        Args:
            shape: The shape of the result without draws, `[N, ..., K]`.
            dtype: Type of the arithmetic and of the result, float32 or float64.
            stream: The use of the numbers, for example `SENDER`.
            draws: The number of the Monte-Carlo draws. None: one draw, without a dimension of its own.

        Returns:
            Normals of this shape, or `[draws, N, ..., K]`.
        """
        *lead, num_classes = shape
        draws_of_each = 1 if draws is None else checks.integer("draws", draws, 1)
        (place, key), count = self._rows(shape), math.prod(lead[1:])
        each = place.unsqueeze(-1) * count + torch.arange(count, device=key.device)  # the number of each row of classes
        first, key = 4 * ((num_classes + 3) // 4) * each.flatten(), key.repeat_interleave(count)
        made = _noise(key, first, num_classes, stream, dtype, draws_of_each)
        return made.view(*shape) if draws is None else made.view(draws, *shape)

    def angle_uniforms(self, shape: Sequence[int], count: int = 17) -> Tensor:
        """The uniforms that draw angles: `noise.angle_uniforms` of each example.

        Args:
            shape: The shape of the angles, `[N, ...]`.
            count: n, the number of proposals of each angle, at least 1. A seed makes at most 17.

        Returns:
            Uniforms `[n, 2, N, ...]`, float32.
        """
        checks.integer("count", count, 1)
        (place, key), width = self._rows(shape), math.prod(shape[1:])
        return of_rows("row_angles", key, width * place, width, count).view(count, 2, *shape)

    def start_normals(self, shape: Sequence[int]) -> Tensor:
        """The normals that torch's generator of the CPU makes of the seed of each example.

        Args:
            shape: The shape of the result, `[N, ...]`.

        Returns:
            Normals of this shape, float32, on the CPU.
        """
        generator, (_, *rest) = torch.Generator(), shape
        none = torch.empty(0, *rest, dtype=torch.float32, device="cpu")
        rows = Ragged.of_each_row(self.seeds) if self.ragged is None else self.ragged
        each = [
            torch.randn(size, *rest, generator=generator.manual_seed(seed), dtype=torch.float32, device="cpu")
            for seed, size in zip(self.seeds.tolist(), rows.sizes.tolist(), strict=True)
        ]
        order = rows.batch.argsort(stable=True).cpu()
        return torch.empty(*shape, dtype=torch.float32, device="cpu").index_copy_(0, order, torch.cat([none, *each]))

    def start_uniforms(self) -> Tensor:
        """The first uniform that torch's generator of the CPU makes of the seed of each example.

        Returns:
            Uniforms in [0, 1), `[B]`, float64, on the CPU.
        """
        generator, wide = torch.Generator(), torch.float64
        uniforms = torch.empty(len(self.seeds), dtype=wide, device="cpu")
        for each, seed in zip(uniforms.unbind(), self.seeds.tolist(), strict=True):
            each.uniform_(generator=generator.manual_seed(seed))
        return uniforms

    def _rows(self, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The place of each row in its example, and its seed. shape: `[N, ...]`."""
        rows = len(self.seeds) if self.ragged is None else len(self.ragged.batch)
        if shape[0] != rows:
            raise ValueError(f"shape must begin with {rows}, the number of rows, got {(*shape,)}")
        if self.ragged is None:
            return torch.zeros_like(self.seeds), self.seeds
        places = self.ragged.places if self.places is None else self.places
        return places, self.seeds.index_select(0, self.ragged.batch)

    def _elements(self, shape: Sequence[int], stream: int, dtype: torch.dtype) -> Tensor:
        (place, key), width = self._rows(shape), math.prod(shape[1:])
        return _noise(key, width * place, width, stream, dtype).view(*shape)


def _noise(key: Tensor, first: Tensor, width: int, stream: int, dtype: torch.dtype, draws: int = 1) -> Tensor:
    return of_rows("row_noise", key, first, width, stream, draws, dtype)


def with_rows(seed: Any, ragged: Ragged | None) -> Any:
    """A seed for these rows, which may be rows of another part: an int itself, or `ExampleSeeds`."""
    if not isinstance(seed, ExampleSeeds) or ragged is seed.ragged:
        return seed
    return ExampleSeeds(seed.seeds, ragged)


def each_seed(of: Callable[[Tensor], Tensor], seed: Any) -> Any:
    """A function of a tensor of seeds, or of the tensor of `ExampleSeeds`."""
    return replace(seed, seeds=of(seed.seeds)) if isinstance(seed, ExampleSeeds) else of(seed)


def drawn(seed: Any, **explicit: Callable[[ExampleSeeds], Tensor]) -> dict[str, Any]:
    """The keywords that give an op its random numbers: the seed itself or, for `ExampleSeeds`, explicit noise. For each
    keyword, a function makes the noise from the seeds."""
    if not isinstance(seed, ExampleSeeds):
        return {"seed": seed}
    return {name: make(seed) for name, make in explicit.items()}
