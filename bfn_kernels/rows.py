"""Numbers that belong to rows: from a time or an accuracy, as a caller gives it, to what the ops take.

Each is made in float64 and rounded once, to the type of the arithmetic. `FORMULAS` has them in plain PyTorch, for any
schedule and device and for compiled code; csrc/math/schedules.h and triton_ops/rows.py have the same for the built-in
schedules: on the CPU the operator that needs them makes and checks them itself, on a GPU they are made in one launch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import has_torch_function

from bfn_kernels import checks
from bfn_kernels.backends import BACKENDS, NAMESPACES
from bfn_kernels.operators import Namespace, register_plain
from bfn_kernels.schedules import ExponentialVariance, LogarithmicAccuracy, QuadraticAccuracy

Rows = float | Tensor
NATIVE = BACKENDS["cpu"].namespace

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


# The bit of each, in the order of csrc/math/schedules.h; a set of them is made in that order.
(
    GAMMA, FLOW_STD, MEAN_SCALE, NOISE_SCALE, RATE, ALPHA, STD, HALF_PRECISION, LOG_NORMALISER, BETA, BETA_SPREAD,
    KEEP, TAKE, UPDATE_STD, SENDER_STD, ACCURACY, SPREAD,
) = (1 << place for place in range(17))  # fmt: skip
FLOW = MEAN_SCALE | NOISE_SCALE
UPDATE = KEEP | TAKE | UPDATE_STD
MESSAGE = ACCURACY | SPREAD
FORMULAS: dict[int, Callable[[Given], Tensor]] = {
    GAMMA: lambda of: of.gamma()[0],
    FLOW_STD: Given.flow_std,
    MEAN_SCALE: lambda of: of.coefficients()[0],
    NOISE_SCALE: lambda of: of.coefficients()[1],
    RATE: lambda of: of.scale * of.schedule.rate(of.value),
    ALPHA: lambda of: of.scale * of.schedule.alpha(checks.step_of(of.value, of.n_steps), of.n_steps),
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
SCHEDULES: dict[type, Callable[[Any], tuple[float, ...]]] = {
    type(None): lambda schedule: (0, 0.0, 0),
    ExponentialVariance: lambda schedule: (1, float(schedule.sigma_1), 0),
    QuadraticAccuracy: lambda schedule: (2, float(schedule.beta_1), 0),
    LogarithmicAccuracy: lambda schedule: (3, float(schedule.beta_1), schedule.num_classes),
}


PARAMETERS = ("sigma_1", "beta_1")  # of which the schedules make plain numbers


class Flow(NamedTuple):
    """What turns a noise prediction into data, x̂ = aμ − bε̂ (84, 105); both 0 where t < t_min."""

    a: Tensor
    b: Tensor

    @property
    def started(self) -> Tensor:
        """Where t ≥ t_min; a = 1/γ is at least 1 there."""
        return self.a != 0


class Numbers(NamedTuple):
    """The set `which`, in the order of the bits, as an op takes it; or, with `by`, what an operator makes it of. What
    reads `rows`, as `flow` does, needs them made."""

    rows: list[Tensor]
    which: int
    by: tuple[float, ...] = ()

    @property
    def flow(self) -> Flow | None:
        """None where the network puts out the data itself."""
        return Flow(*self.rows[:2]) if self.which & FLOW else None

    @property
    def others(self) -> list[Tensor]:
        """Those that are not the flow's."""
        return self.rows[2:] if self.which & FLOW else self.rows

    def only(self, which: int) -> "Numbers":
        """Those that are in this set too."""
        if self.by:
            return self._replace(which=self.which & which)
        bits = (bit for bit in FORMULAS if self.which & bit)
        return Numbers([row for row, bit in zip(self.rows, bits, strict=True) if which & bit], self.which & which)

    def made(self, ops: Namespace, shape: Sequence[int], dtype: torch.dtype) -> "Numbers":
        """The numbers themselves, where an operator was to make them."""
        if not self.which:
            return NONE
        if not self.by:
            return self
        value, rho = (*self.rows, None)[:2]
        return Numbers([*ops.row_numbers(value, rho, self.which, self.by, shape, dtype).unbind()], self.which)

    def hidden(self, mask: Tensor) -> "Numbers":
        """The numbers made, 0 where the mask is False: no message says anything of such a variable."""
        return self._replace(rows=[torch.where(mask, row, 0) for row in self.rows])


NONE = Numbers([], 0)


def numbers(
    ops: Namespace | None, which: int, value: Rows, shape: Sequence[int], data: Tensor, dtype: torch.dtype,
    schedule: Any = None, *, precision: Rows | None = None, n_steps: int = 0, scale: float = 1,
) -> Numbers:  # fmt: skip
    """The set `which`, in `dtype`, broadcastable to `shape`: of times in [0, 1] where there is a schedule, else of
    accuracies α and of the precisions that they are added to, both at least 0."""
    name, high = ("alpha", math.inf) if schedule is None else ("t", 1)
    checks.no_gradient("none is defined for it", **{name: getattr(schedule, name, None) for name in PARAMETERS})
    kind = SCHEDULES.get(type(schedule))
    if ops is not None and kind is not None and not torch.compiler.is_compiling():
        row = _row(value, data, high)
        rho = row if precision is None else _row(precision, data)
        if row is not None and rho is not None:
            given = [row] if precision is None else [row, rho]
            wanted = Numbers(given, which, (*kind(schedule), n_steps, scale))
            # those of single variables are made once, for the backward pass too
            few = not which or (row.dim() < 2 and rho.dim() < 2)
            return wanted if few and ops.name == NATIVE and data.is_cpu else wanted.made(ops, shape, dtype)
    wide = checks.rows(name, value, shape, data, 0, high)
    if which & ALPHA:
        checks.steps(name, wide, n_steps)
    rho = None if precision is None else checks.rows("precision", precision, shape, data, 0)
    of = Given(wide, rho, schedule, n_steps, scale)
    made = [formula(of).to(dtype) for bit, formula in FORMULAS.items() if which & bit]
    if any(row.requires_grad for row in made):
        raise ValueError("schedule requires a gradient, but none is defined for it; give it parameters that have none")
    return Numbers(made, which)


def _row(value: Rows, data: Tensor, high: float = math.inf) -> Tensor | None:
    """What an operator takes; None for what is wrong, and for subclasses, which would not be seen in a list."""
    if type(value) is float or type(value) is int:
        return torch.full((), float(value), dtype=torch.float64, device=data.device) if 0 <= value <= high else None
    if type(value) is not Tensor and (not isinstance(value, Tensor) or has_torch_function((value,))):
        return None
    if value.dtype in (torch.bfloat16, torch.float16):
        value = value.float()
    if value.dtype not in checks.ROWS or value.device != data.device:
        return None
    return None if value.requires_grad and torch.is_grad_enabled() else value


def _fake(value, rho, which, by, shape, dtype):
    sizes = (checks.leading("rows", given, shape) for given in (value, rho) if given is not None)
    return value.new_empty((which.bit_count(), *torch.broadcast_shapes(*sizes)), dtype=dtype)


for _ops in NAMESPACES.values():
    register_plain(_ops, "row_numbers", _fake)
