"""The errors of a backend's n-step loss L_n by eight quadrature nodes and by ten draws. A sum over 4001 points is the
truth."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks import closed_forms, timed_cases
from benchmarks.competitors import kernel
from benchmarks.timed_cases import CIFAR, MONTE_CARLO, N_STEPS, QUADRATURE, SIGMA_1, Case

POINTS, REACH = 4001, 8.0  # the number of points ε, which are equidistant in [−REACH, REACH]
PER_ROW = 8  # variables in each row


@dataclass(frozen=True)
class Errors:
    """Statistics of |got − want|/(1 + |want|) over the variables."""

    rms: float
    p95: float
    worst: float

    @classmethod
    def of(cls, got: Tensor, want: Tensor) -> "Errors":
        e = (got.double() - want).abs() / (1 + want.abs())
        return cls(e.square().mean().sqrt().item(), e.quantile(0.95).item(), e.max().item())


def fine_rule(tensors: dict, num_bins: int) -> Tensor:
    """The n-step loss as a sum over the points ε in float64."""
    wide = {name: value.double() for name, value in tensors.items()}
    points = torch.linspace(-REACH, REACH, POINTS, dtype=torch.float64)
    rule = list(zip(points.tolist(), (-points.square() / 2).softmax(0).tolist(), strict=True))
    settings = {"num_bins": num_bins, "sigma_1": SIGMA_1, "n_steps": N_STEPS}
    return closed_forms.discretised_discrete_time_loss(**wide, **settings, quadrature=rule)


def of_expectations(backend: str, device: str = "cpu", num_bins: int = 256) -> dict[str, Errors]:
    case = Case("discretised.discrete_time_loss", (CIFAR[0], PER_ROW), num_bins)
    tensors, _ = timed_cases.inputs(case)
    want = fine_rule(tensors, num_bins)
    moved = {name: value.to(device) for name, value in tensors.items()}
    found = {}
    for options in (QUADRATURE, MONTE_CARLO):
        this = replace(case, options=options)
        call = kernel(backend, this, "none")
        got = call(**moved, **({"seed": 0} if options is MONTE_CARLO else {}))
        found[this.series] = Errors.of(got.cpu(), want)
    return found
