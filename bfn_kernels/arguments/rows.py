"""Row scalars: the numbers that an op needs for each row. They are computed from the times or accuracies that a caller
passes.

Each row scalar is computed in float64 and rounded once, to the type of the arithmetic. `FORMULAS` computes row scalars
in plain PyTorch, for any schedule and device and for compiled code. For the built-in schedules the operator
`row_scalars` computes all row scalars of a call in one launch. csrc/math/schedules.h and triton_ops/row_scalars.py
implement this operator. Numbers in parentheses are equations of Graves et al. 2023.
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
from bfn_kernels.concentrations import WIDE
from bfn_kernels.extensions import as_refused
from bfn_kernels.libraries import Library
from bfn_kernels.schedules import ExponentialVariance, LogarithmicAccuracy, QuadraticAccuracy
from bfn_kernels.torch_private import forward_mode, outside_modes, transformed

PerRow = float | Tensor  # times, accuracies or precisions: one number for all rows, or a number for each row

T_MIN = 1e-6  # the default t_min: before this time no message counts as received, so that x̂ is 0
T_MAX = 1 - 1e-6  # the time of a discrete flow is clamped to this
ROOT_BETA_MIN = 1e-10  # a √β below this counts as 0, so that a discrete flow is the prior


@dataclass(frozen=True)
class Inputs:
    """The inputs of the formulas, in float64.

    value: times if there is a schedule, else accuracies α of messages. precision: ρ before the message. n_steps: n of
    L_n, which only "alpha" reads. scale: a factor in some formulas. t_min: before this time no message counts as
    received.
    """

    value: Tensor
    precision: Tensor | None
    schedule: Any
    n_steps: int
    scale: float
    t_min: float

    def gamma(self) -> tuple[Tensor, Tensor]:
        """γ and 1 − γ."""
        return self.schedule.gamma(self.value)

    def prediction_scales(self) -> tuple[Tensor, Tensor]:
        """1/γ and √((1−γ)/γ), the scales of μ and ε̂ in x̂ = μ/γ − √((1−γ)/γ)·ε̂ (84, 105); both are 0 if t < t_min."""
        gamma, variance = self.schedule.gamma(self.value.clamp(min=self.t_min))
        scales = 1 / gamma, (variance / gamma).sqrt()
        mean_scale, noise_scale = (torch.where(self.value < self.t_min, 0.0, scale) for scale in scales)
        return mean_scale, noise_scale

    def beta(self) -> Tensor:
        """β(t), the accuracy that a discrete flow has received up to time t."""
        beta = self.schedule.beta(self.value.clamp(max=T_MAX))
        return torch.where(beta.sqrt() < ROOT_BETA_MIN, 0.0, beta)


# The operator `row_scalars` takes a set of bits, one for each row scalar of this table, and returns the row scalars
# whose bits are set, in this order. csrc/math/schedules.h has the same order.
FORMULAS: dict[str, Callable[[Inputs], Tensor]] = {
    "gamma": lambda row: row.gamma()[0],
    "flow_std": lambda row: torch.mul(*row.gamma()).sqrt(),  # √(γ(1−γ)) (77)
    "mean_scale": lambda row: row.prediction_scales()[0],
    "noise_scale": lambda row: row.prediction_scales()[1],
    "rate": lambda row: row.scale * row.schedule.rate(row.value),
    "alpha": lambda row: row.scale * row.schedule.alpha(checks.step_of(row.value, row.n_steps), row.n_steps),
    "std": lambda row: row.gamma()[1].sqrt(),
    "half_precision": lambda row: 0.5 / row.gamma()[1],
    "log_normaliser": lambda row: (2 * math.pi * row.gamma()[1]).log() / 2,
    "beta": Inputs.beta,
    "beta_spread": lambda row: (row.scale * row.beta()).sqrt(),  # √(Kβ) (185)
    # The update μ' = (ρμ + αy)/ρ', ρ' = ρ + α (49, 50). The noise of the message y has the std 1/√α. The formulas are
    # ρ/ρ', α/ρ' and √α/ρ', written such that their limits are right if one of ρ and α is 0 or infinite. If both are,
    # the result is NaN.
    "keep": lambda row: 1 / (1 + row.value / row.precision),
    "take": lambda row: 1 / (1 + row.precision / row.value),
    "update_std": lambda row: 1 / (row.value.sqrt() + row.precision / row.value.sqrt()),
    "sender_std": lambda row: row.value.rsqrt(),
    "accuracy": lambda row: row.value,
    "spread": lambda row: (row.scale * row.value).sqrt(),  # √(Kα)
}
BITS = {name: 1 << index for index, name in enumerate(FORMULAS)}
FLOW = "mean_scale", "noise_scale"  # 1/γ and √((1−γ)/γ) in x̂ = μ/γ − √((1−γ)/γ)·ε̂
UPDATE = "keep", "take", "update_std"
MESSAGE = "accuracy", "spread"

# For each built-in schedule, its kind as the operator takes it, and the name of its parameter. The type must be exactly
# one of these, since a subclass may override methods.
SCHEDULES = {ExponentialVariance: (1, "sigma_1"), QuadraticAccuracy: (2, "beta_1"), LogarithmicAccuracy: (3, "beta_1")}
NO_SCHEDULE = 0, 0.0, 0


@functools.cache
def _bits(names: Sequence[str]) -> int:
    return sum(BITS[name] for name in names)


def is_plain(schedule: Any) -> bool:
    """Whether this is a built-in schedule whose parameter is a Python number."""
    kind, name = SCHEDULES.get(type(schedule), (0, ""))
    return kind > 0 and type(getattr(schedule, name)) is float


def _numbers_of(schedule: Any) -> tuple[int, float, int] | None:
    """The kind of a built-in schedule, σ₁ or β₁, and K. None for another schedule."""
    kind, name = SCHEDULES.get(type(schedule), (0, ""))
    if kind == 0:
        return None
    parameter = getattr(schedule, name)
    if type(parameter) is not float:
        checks.no_derivative(name, parameter)
    return kind, float(parameter), getattr(schedule, "num_classes", 0)


def scalars(
    library: Library,
    wanted: tuple[str, ...],
    value: PerRow,
    data: Tensor,
    dtype: torch.dtype,
    schedule: Any = None,
    *,
    dims: int | None = None,
    precision: PerRow | None = None,
    n_steps: int = 0,
    scale: float = 1,
    t_min: float = T_MIN,
) -> Sequence[Tensor]:
    """Returns the wanted row scalars, each in `dtype` and broadcastable to the variables. wanted: names in the order of
    FORMULAS.

    value: a number, `[B]` or any leading part of the variables' shape: times in [0, 1] with a schedule, else accuracies
    α of messages, at least 0. data: `[B, ...]`; the first `dims` dimensions (all if None) are the variables'.
    precision: ρ before the message, at least 0, in a shape that value may have. n_steps, scale and t_min: see `Inputs`.
    """
    shape = data.shape if dims is None else data.shape[:dims]
    name, high = ("alpha", math.inf) if schedule is None else ("t", 1)
    if isinstance(value, Tensor):
        value = checks.once(name, value, shape)
    if isinstance(precision, Tensor):
        precision = checks.once("precision", precision, shape)
    numbers = NO_SCHEDULE if schedule is None else _numbers_of(schedule)
    if wanted and library.common is not None and numbers is not None and not torch.compiler.is_compiling():
        operator, bits = library.common.row_scalars, _bits(wanted)
        # a bool and a tuple, since torch's conversion of a dtype and of a torch.Size takes as long as the kernel
        context = *numbers, n_steps, scale, t_min, dtype == torch.float64
        are_numbers = type(value) is float and (precision is None or type(precision) is float)
        # K is a SymInt in a symbolic trace, where a cache cannot find it
        if are_numbers and type(scale) in (int, float) and data.is_cpu and 0 <= value <= high and (precision or 0) >= 0:
            # -0.0 becomes 0.0: the cache would not distinguish them, but 1/√-0.0 is -∞
            each = _of_numbers(operator, bits, value + 0.0, None if precision is None else precision + 0.0, context)
            return [torch.scalar_tensor(number, dtype=dtype, device=data.device) for number in each]
        values = _operator_input(value, data, high)
        precisions = None if precision is None else _operator_input(precision, data)
        if values is not None and (precision is None or precisions is not None):
            return _operate(operator, bits, values, precisions, context, tuple(shape))
    wide = checks.rows(name, value, shape, data, 0, high)
    if "alpha" in wanted:
        checks.steps(name, wide, n_steps)
    wide_precision = None if precision is None else checks.rows("precision", precision, shape, data, 0)
    inputs = Inputs(wide, wide_precision, schedule, n_steps, scale, t_min)
    row_scalars = [FORMULAS[name](inputs).to(dtype).to(data.device) for name in wanted]
    if any(scalar.requires_grad for scalar in row_scalars):
        raise ValueError("schedule requires a gradient, but none is defined for it; detach its parameters")
    return row_scalars


def _operate(
    operator: Callable, bits: int, value: Tensor, precision: Tensor | None, context: tuple, shape: tuple[int, ...] = ()
) -> list[Tensor]:
    *numbers, wide = context
    try:
        return operator(value, precision, bits, *numbers, shape, wide)
    except RuntimeError as error:
        raise as_refused(error) from error.__cause__


@functools.lru_cache(maxsize=4096)
def _of_numbers(operator: Callable, bits: int, value: float, precision: float | None, context: tuple) -> list[float]:
    """The row scalars for a value and a precision that are Python numbers. The result is cached, since a sampler takes
    the same steps in each run."""
    with outside_modes():
        before = None if precision is None else torch.scalar_tensor(precision, **WIDE)
        scalars = _operate(operator, bits, torch.scalar_tensor(value, **WIDE), before, context)
        return [scalar.item() for scalar in scalars]


def _operator_input(value: float | Tensor, data: Tensor, high: float = math.inf) -> Tensor | None:
    """The value as a tensor that the operator takes. None if the operator cannot take it, so that the formulas must
    compute the row scalars: for subclasses of Tensor, and for wrong values, for which `checks` then raises an error."""
    if type(value) is float or (type(value) is int and value < 2**63):
        return torch.scalar_tensor(value, dtype=torch.float64, device=data.device) if 0 <= value <= high else None
    if type(value) is not Tensor and (not isinstance(value, Tensor) or has_torch_function((value,))):
        return None
    if value.dtype in (torch.bfloat16, torch.float16):
        value = value.float()
    if value.dtype not in checks.ROW_TYPES or value.device != data.device:
        return None
    needs_autograd = value.requires_grad and torch.is_grad_enabled()
    return None if needs_autograd or transformed() or forward_mode() else value


def type_of(wide: bool) -> torch.dtype:
    return torch.float64 if wide else torch.float32


def fake_scalars(value, precision, wanted, *others):
    *_, shape, wide = others
    sizes = (checks.leading("row scalars", t, shape) for t in (value, precision) if t is not None)
    each = torch.broadcast_shapes(*sizes)
    return [value.new_empty(each, dtype=type_of(wide)) for _ in range(wanted.bit_count())]
