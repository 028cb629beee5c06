"""Nobody is timed who is wrong: outputs and gradients, with explicit noise, against float64."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.cases import Case
from benchmarks.competitors import Competitor, leaves, step

MAX_NUMBERS = 2**22  # that the float64 truth visits; of larger cases a part of the variables of each row is compared


@dataclass(frozen=True)
class Verdict:
    errors: dict[str, float]  # of the output and of each gradient
    tolerance: float
    held_to: str

    @property
    def worst(self) -> float:
        return max(self.errors.values(), key=lambda e: math.inf if math.isnan(e) else e)

    @property
    def agrees(self) -> bool:
        return all(e <= self.tolerance for e in self.errors.values())


def compare(got: Tensor, want: Tensor, share: float = 1.0) -> float:
    """‖got − want‖ / ‖want‖ of each row of the batch, the worst: rows differ in their times, hence in their weights. A
    row below a thousandth of the largest is held to that: losses near 0 are differences of numbers of order n."""
    if got.shape != want.shape:
        return math.inf
    got, want = got.double().flatten(1), want.flatten(1)
    off = (got - want).abs()
    if share < 1:
        off = off.sort(dim=1).values[:, : math.ceil(share * off.shape[1])]  # NaN comes last
        off = torch.where(got.isnan().any(1, keepdim=True), math.nan, off)
    size = want.norm(dim=1)
    return (off.norm(dim=1) / size.clamp(min=1e-3 * size.max().item() + 1e-300)).max().item()


def part(case: Case, tensors: dict, columns: Tensor) -> dict:
    """Those variables of each row, wherever a tensor has one number or more per variable."""

    def chosen(value: Tensor) -> Tensor:
        for axis in (0, 1):  # explicit noise of several draws has those first
            if value.shape[axis : axis + len(case.shape)] == case.shape:
                return value.index_select(axis + 1, columns)
        return value

    return {name: chosen(value) for name, value in tensors.items()}


def check(case: Case, competitor: Competitor, tensors: dict, noise: dict) -> Verdict:
    """The competitor runs at full size, its result is compared where the truth is known."""
    shown = max(1, min(case.shape[1], MAX_NUMBERS * case.shape[1] // case.elements))
    columns = torch.arange(shown, device=next(iter(tensors.values())).device) * (case.shape[1] // shown)
    taken = leaves(competitor, case, tensors)
    given = competitor.noise(noise, tensors)
    call = competitor.function(case, "none")
    found = part(case, dict(enumerate(step(call, taken, given))), columns)

    def wide(values: dict) -> dict:
        return {k: v.double() if v.is_floating_point() else v for k, v in part(case, values, columns).items()}

    truth = {k: v.requires_grad_() if k in case.diff else v for k, v in wide(tensors).items()}
    wanted = step(lambda **values: competitor.truth(case, values, {}), truth | wide(noise), {})
    names = ("output", *(f"gradient of {name}" for name in case.diff))
    errors = {
        name: compare(found[i], want, competitor.share)
        for i, (name, want) in enumerate(zip(names, wanted, strict=True))
    }
    return Verdict(errors, competitor.tolerance, competitor.held_to)
