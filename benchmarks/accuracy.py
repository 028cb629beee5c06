"""The errors of a backend's n-step loss L_n by eight quadrature nodes and by ten draws. A sum over 4001 points is the
truth."""

import math
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
    """The n-step loss of `closed_forms.discretised_discrete_time_loss`, as a sum over the points ε in float64."""
    x, mean, log_std, t = (tensors[k].double() for k in ("x", "pred_mean", "pred_log_std", "t"))
    log_p = closed_forms.log_bin_probs(mean, closed_forms.output_std(log_std), num_bins)
    step = 2 * math.log(SIGMA_1) / N_STEPS
    root = (-math.expm1(step) * (-step * (N_STEPS * t + 1)).exp()).sqrt().unsqueeze(-1)
    centres = (2 * torch.arange(num_bins, dtype=x.dtype) + 1) / num_bins - 1
    points = torch.linspace(-REACH, REACH, POINTS, dtype=x.dtype)
    weights = (-points.square() / 2).softmax(0)
    total = torch.zeros_like(x)
    for eps, weight in zip(points.tolist(), weights.tolist(), strict=True):
        z = (x * root + eps).unsqueeze(-1) - (centres * root.unsqueeze(-1))
        total += weight * (-eps * eps / 2 - (log_p - z * z / 2).logsumexp(-1))
    return N_STEPS * total


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
