"""Row scalars: numbers that belong to rows, from a time or an accuracy, as a caller gives it, to what the ops take.

Each is made in float64 and rounded once, to the type of the arithmetic. `FORMULAS` has them in plain PyTorch, for any
schedule and device and for compiled code; the operator `row_scalars`, of csrc/math/schedules.h and triton_ops/rows.py,
makes those of the built-in schedules, all that a call needs in one launch.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import has_torch_function

from bfn_kernels import checks
from bfn_kernels.operators import Library
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


# In the order of csrc/math/schedules.h, by which the operator knows them, and in which they are asked for.
FORMULAS: dict[str, Callable[[Given], Tensor]] = {
    "gamma": lambda of: of.gamma()[0],
    "flow_std": Given.flow_std,
    "mean_scale": lambda of: of.coefficients()[0],
    "noise_scale": lambda of: of.coefficients()[1],
    "rate": lambda of: of.scale * of.schedule.rate(of.value),
    "alpha": lambda of: of.scale * of.schedule.alpha(checks.step_of(of.value, of.n_steps), of.n_steps),
    "std": lambda of: of.gamma()[1].sqrt(),
    "half_precision": lambda of: 0.5 / of.gamma()[1],
    "log_normaliser": lambda of: (2 * math.pi * of.gamma()[1]).log() / 2,
    "beta": Given.beta,
    "beta_spread": lambda of: (of.scale * of.beta()).sqrt(),  # √(Kβ) (185)
    "keep": lambda of: of.rho / of.updated(),  # μ' = (ρμ + αy)/ρ' (50)
    "take": lambda of: of.value / of.updated(),
    "update_std": lambda of: of.value.sqrt() / of.updated(),  # what noise of variance 1/α becomes in it
    "sender_std": lambda of: of.value.rsqrt(),
    "accuracy": lambda of: of.value,
    "spread": lambda of: (of.scale * of.value).sqrt(),  # √(Kα)
}
BITS = {name: 1 << place for place, name in enumerate(FORMULAS)}
FLOW = "mean_scale", "noise_scale"  # x̂ = aμ − bε̂
UPDATE = "keep", "take", "update_std"
MESSAGE = "accuracy", "spread"


def _parameter(name: str, value: float | Tensor) -> float:
    """σ₁ or β₁ of a schedule as a plain number."""
    if type(value) is not float:
        checks.no_gradient("none is defined for it", **{name: value})
    return float(value)


# By what the operator knows a schedule: its number there, σ₁ or β₁, and K. A subclass may mean something else.
SCHEDULES: dict[type, Callable[[Any], tuple[int, float, int]]] = {
    type(None): lambda schedule: (0, 0.0, 0),
    ExponentialVariance: lambda schedule: (1, _parameter("sigma_1", schedule.sigma_1), 0),
    QuadraticAccuracy: lambda schedule: (2, _parameter("beta_1", schedule.beta_1), 0),
    LogarithmicAccuracy: lambda schedule: (3, _parameter("beta_1", schedule.beta_1), schedule.num_classes),
}


@functools.cache
def _bits(names: Sequence[str]) -> int:
    return sum(BITS[name] for name in names)


def scalars(
    library: Library, wanted: Sequence[str], value: Rows, data: Tensor, dtype: torch.dtype, schedule: Any = None, *,
    dims: int | None = None, precision: Rows | None = None, n_steps: int = 0, scale: float = 1,
) -> Sequence[Tensor]:  # fmt: skip
    """Those wanted, in `dtype`, broadcastable to the first `dims` dimensions of the data, all if None: of times in
    [0, 1] where there is a schedule, else of accuracies α and of the precisions that they are added to, both at least
    0."""
    shape = data.shape if dims is None else data.shape[:dims]
    name, high = ("alpha", math.inf) if schedule is None else ("t", 1)
    numbers_of = SCHEDULES.get(type(schedule))
    numbers = None if numbers_of is None else numbers_of(schedule)
    if wanted and library.common is not None and numbers is not None and not torch.compiler.is_compiling():
        row = _row(value, data, high)
        rho = row if precision is None else _row(precision, data)
        if row is not None and rho is not None:
            if precision is None:
                rho = None
            bits = _bits(tuple(wanted))
            return library.common.row_scalars(row, rho, bits, *numbers, n_steps, scale, shape, dtype)
    wide = checks.rows(name, value, shape, data, 0, high)
    if "alpha" in wanted:
        checks.steps(name, wide, n_steps)
    rho = None if precision is None else checks.rows("precision", precision, shape, data, 0)
    of = Given(wide, rho, schedule, n_steps, scale)
    made = [FORMULAS[name](of).to(dtype) for name in wanted]
    if any(row.requires_grad for row in made):
        raise ValueError("schedule requires a gradient, but none is defined for it; give it parameters that have none")
    return made


def _row(value: Rows, data: Tensor, high: float = math.inf) -> Tensor | None:
    """What the operator takes; None for what is wrong, of which `checks` knows more to say, and for subclasses."""
    if type(value) is float or type(value) is int:
        return torch.full((), float(value), dtype=torch.float64, device=data.device) if 0 <= value <= high else None
    if type(value) is not Tensor and (not isinstance(value, Tensor) or has_torch_function((value,))):
        return None
    if value.dtype in (torch.bfloat16, torch.float16):
        value = value.float()
    if value.dtype not in checks.ROWS or value.device != data.device:
        return None
    return None if value.requires_grad and torch.is_grad_enabled() else value


def fake_scalars(value, rho, wanted, schedule, parameter, num_classes, n_steps, scale, shape, dtype):
    sizes = (checks.leading("rows", given, shape) for given in (value, rho) if given is not None)
    each = torch.broadcast_shapes(*sizes)
    return [value.new_empty(each, dtype=dtype) for _ in range(wanted.bit_count())]
