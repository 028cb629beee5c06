"""Numbers that belong to rows: from a time or an accuracy, as a caller gives it, to what the ops take.

Each is made in float64 and rounded once, to the type of the arithmetic. `FORMULAS` has them in plain PyTorch, for any
schedule and device and for compiled code; csrc/math/schedules.h has the same for the built-in schedules, where one
operator makes and checks all that a call on the CPU needs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bfn_kernels import checks
from bfn_kernels.backends import NAMESPACES
from bfn_kernels.operators import Namespace, register
from bfn_kernels.schedules import ExponentialVariance, LogarithmicAccuracy, QuadraticAccuracy

Rows = float | Tensor

T_MIN = 1e-6  # before this time nothing was received yet: the data prediction is 0
T_MAX = 1 - 1e-6  # the time of a discrete flow is clamped to it
ROOT_BETA_MIN = 1e-10  # below this √β a discrete flow is the uniform prior


@dataclass(frozen=True)
class Given:
    """What a formula may use, in float64: a time or α, the precision ρ before a message, and numbers of the call."""

    value: Tensor
    rho: Tensor | None
    schedule: Any
    n_steps: int
    scale: float

    def gamma(self) -> tuple[Tensor, Tensor]:
        """γ and 1 − γ."""
        return self.schedule.gamma(self.value)

    def flow_std(self) -> Tensor:
        """√(γ(1−γ)) (77)."""
        gamma, variance = self.gamma()
        return (gamma * variance).sqrt()

    def coefficients(self) -> tuple[Tensor, Tensor]:
        """a = 1/γ and b = √((1−γ)/γ) of x̂ = aμ − bε̂ (84, 105); both 0 where t < t_min."""
        gamma, variance = self.schedule.gamma(self.value.clamp(min=T_MIN))
        a, b = 1 / gamma, (variance / gamma).sqrt()
        return torch.where(self.value < T_MIN, 0.0, a), torch.where(self.value < T_MIN, 0.0, b)

    def beta(self) -> Tensor:
        """That of a discrete flow."""
        beta = self.schedule.beta(self.value.clamp(max=T_MAX))
        return torch.where(beta.sqrt() < ROOT_BETA_MIN, 0.0, beta)

    def updated(self) -> Tensor:
        """ρ' = ρ + α (49)."""
        return self.rho + self.value


# csrc/math/schedules.h has the same numbers.
(
    GAMMA, FLOW_STD, MEAN_SCALE, NOISE_SCALE, RATE, ALPHA, STD, HALF_PRECISION, LOG_NORMALISER, BETA, BETA_SPREAD,
    KEEP, TAKE, UPDATE_STD, SENDER_STD, ACCURACY, SPREAD,
) = range(17)  # fmt: skip
FORMULAS: dict[int, Callable[[Given], Tensor]] = {
    GAMMA: lambda of: of.gamma()[0],
    FLOW_STD: Given.flow_std,
    MEAN_SCALE: lambda of: of.coefficients()[0],
    NOISE_SCALE: lambda of: of.coefficients()[1],
    RATE: lambda of: of.scale * of.schedule.rate(of.value),
    ALPHA: lambda of: of.scale * of.schedule.alpha(of.n_steps * of.value + 1, of.n_steps),  # step i = nt + 1
    STD: lambda of: of.gamma()[1].sqrt(),
    HALF_PRECISION: lambda of: 0.5 / of.gamma()[1],
    LOG_NORMALISER: lambda of: (2 * math.pi * of.gamma()[1]).log() / 2,
    BETA: Given.beta,
    BETA_SPREAD: lambda of: (of.scale * of.beta()).sqrt(),  # √(Kβ) (185)
    KEEP: lambda of: of.rho / of.updated(),  # μ' = (ρμ + αy)/ρ' (50)
    TAKE: lambda of: of.value / of.updated(),
    UPDATE_STD: lambda of: of.value.sqrt() / of.updated(),  # what noise of variance 1/α becomes in it
    SENDER_STD: lambda of: of.value.rsqrt(),
    ACCURACY: lambda of: of.value,
    SPREAD: lambda of: (of.scale * of.value).sqrt(),  # √(Kα)
}

# By what the operator knows a schedule: its number there, σ₁ or β₁, and K. A subclass may mean something else.
SCHEDULES: dict[type, Callable[[Any], tuple[int, float, int]]] = {
    type(None): lambda schedule: (0, 0.0, 0),
    ExponentialVariance: lambda schedule: (1, float(schedule.sigma_1), 0),
    QuadraticAccuracy: lambda schedule: (2, float(schedule.beta_1), 0),
    LogarithmicAccuracy: lambda schedule: (3, float(schedule.beta_1), schedule.num_classes),
}


FLOW = MEAN_SCALE, NOISE_SCALE
UPDATE = KEEP, TAKE, UPDATE_STD


class Flow(NamedTuple):
    """What turns a noise prediction into data, x̂ = aμ − bε̂ (84, 105); both 0 where t < t_min."""

    a: Tensor
    b: Tensor

    @property
    def started(self) -> Tensor:
        """Where t ≥ t_min; a = 1/γ is at least 1 there."""
        return self.a != 0


def of_times(
    ops: Namespace | None, which: Sequence[int], t: Rows, shape: Sequence[int], data: Tensor, dtype: torch.dtype,
    schedule: Any, n_steps: int = 0, scale: float = 1.0,
) -> list[Tensor]:  # fmt: skip
    """The numbers `which` of times in [0, 1], in `dtype`; they broadcast to `shape`."""
    made = _by_operator(ops, which, t, None, shape, data, dtype, schedule, n_steps, scale)
    if made is None:
        time = checks.rows("t", t, shape, data, 0, 1)
        made = _by_formulas(which, dtype, Given(time, None, schedule, n_steps, scale))
    return made


def of_accuracies(
    ops: Namespace | None, which: Sequence[int], alpha: Rows, shape: Sequence[int], data: Tensor, dtype: torch.dtype,
    precision: Rows | None = None, scale: float = 1.0,
) -> list[Tensor]:  # fmt: skip
    """The numbers `which` of an accuracy and of the precision that it is added to, both at least 0."""
    made = _by_operator(ops, which, alpha, precision, shape, data, dtype, None, 0, scale)
    if made is None:
        rho = None if precision is None else checks.rows("precision", precision, shape, data, 0)
        made = _by_formulas(which, dtype, Given(checks.rows("alpha", alpha, shape, data, 0), rho, None, 0, scale))
    return made


def _by_formulas(which: Sequence[int], dtype: torch.dtype, given: Given) -> list[Tensor]:
    return [FORMULAS[number](given).to(dtype) for number in which]


def _by_operator(
    ops: Namespace | None, which, value: Rows, rho: Rows | None, shape, data, dtype, schedule, n_steps, scale
) -> list[Tensor] | None:
    """None where the operator does not serve; so too for bad values, since `checks.rows` says best what is wrong."""
    kind = SCHEDULES.get(type(schedule))
    if ops is None or kind is None or not data.is_cpu or torch.compiler.is_compiling():
        return None
    try:
        values = _row(value, data), None if rho is None else _row(rho, data)
        return ops.row_numbers(*values, shape, *kind(schedule), n_steps, scale, which, dtype)
    except ValueError:
        return None


def _row(value: Rows, data: Tensor) -> Tensor:
    if type(value) is float or type(value) is int:
        return torch.full((), value, dtype=torch.float64, device=data.device)
    if isinstance(value, Tensor) and value.is_cpu and not (value.requires_grad and torch.is_grad_enabled()):
        return value
    raise ValueError


def _fake(value, rho, shape, schedule, parameter, num_classes, n_steps, scale, which, dtype):
    sizes = [1] * len(shape)
    for given in (value, rho):
        for d, size in enumerate(() if given is None else given.shape):
            if size != 1:
                sizes[d] = size
    return [value.new_empty(sizes, dtype=dtype) for _ in which]


for _ops in NAMESPACES.values():
    if hasattr(getattr(torch.ops, _ops.name), "row_numbers"):
        register(_ops, "row_numbers", _fake)
