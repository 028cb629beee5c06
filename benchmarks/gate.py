"""The gate: a competitor is timed only if its outputs and gradients agree with float64, given the same noise."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.competitors import Competitor, leaves, step
from benchmarks.timed_cases import Case

# The most numbers that the float64 truth computes. In larger cases only some variables of each row are compared.
MAX_NUMBERS = 2**22


@dataclass(frozen=True)
class Verdict:
    errors: dict[str, float]  # of the output and of each gradient
    tolerance: float
    held_to: str  # the name of the truth

    @property
    def worst(self) -> float:
        return max(self.errors.values(), key=lambda e: math.inf if math.isnan(e) else e)

    @property
    def agrees(self) -> bool:
        return all(e <= self.tolerance for e in self.errors.values())


def compare(got: Tensor, want: Tensor, share: float = 1.0) -> float:
    """The largest ‖got − want‖ / ‖want‖ over the rows of the batch. Each row has a norm, since the sizes of losses
    depend on the row's time.

    The norm of a row counts as at least a thousandth of the largest norm, since n-step losses near 0 are differences of
    numbers of order n. A vector, which has no batch, is one row. With `share` below 1, only this share of a row's
    variables is compared: the variables with the smallest errors.
    """
    if got.shape != want.shape:
        return math.inf
    got, want = (torch.atleast_2d(each).double().flatten(1) for each in (got, want))
    off = (got - want).abs()
    if share < 1:
        off = off.sort(dim=1).values[:, : math.ceil(share * off.shape[1])]  # NaN is sorted to the end
        off = torch.where(got.isnan().any(1, keepdim=True), math.nan, off)
    size = want.norm(dim=1)
    return (off.norm(dim=1) / size.clamp(min=1e-3 * size.max().item() + 1e-300)).max().item()


def some_columns(case: Case, tensors: dict, columns: Tensor) -> dict:
    """The tensors with only these variables of each row. A tensor without a number per variable does not change."""

    def chosen(value: Tensor) -> Tensor:
        for axis in (0, 1):  # explicit noise may have a first dimension for the draws
            if value.shape[axis : axis + len(case.shape)] == case.shape:
                return value.index_select(axis + 1, columns)
        return value

    return {name: chosen(value) for name, value in tensors.items()}


def check(case: Case, competitor: Competitor, tensors: dict, noise: dict) -> Verdict:
    """Runs the competitor at full size, and compares its result for the variables whose truth is computed. For a large
    vocabulary, it runs only for these variables, since gradients of weights are sums over variables."""
    shown = max(1, min(case.shape[1], MAX_NUMBERS * case.shape[1] // case.elements))
    columns = torch.arange(shown, device=next(iter(tensors.values())).device) * (case.shape[1] // shown)
    if case.weights:
        tensors, noise = some_columns(case, tensors, columns), some_columns(case, noise, columns)
    arguments = leaves(competitor, case, tensors)
    explicit = competitor.noise(noise, tensors)
    call = competitor.function(case, "none")
    found = some_columns(case, dict(enumerate(step(call, arguments, explicit))), columns)

    def wide(values: dict) -> dict:
        return {k: v.double() if v.is_floating_point() else v for k, v in some_columns(case, values, columns).items()}

    truth = {k: v.requires_grad_() if k in case.diff else v for k, v in wide(tensors).items()}
    wanted = step(lambda **values: competitor.truth(case, values, {}), truth | wide(noise), {})
    names = ("output", *(f"gradient of {name}" for name in case.diff))
    errors = {
        name: compare(found[i], want, competitor.share)
        for i, (name, want) in enumerate(zip(names, wanted, strict=True))
    }
    return Verdict(errors, competitor.tolerance, competitor.held_to)
