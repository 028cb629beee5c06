"""Row scalars in Triton, the counterpart of csrc/math/schedules.h. A row scalar is a number that an op computes for
each row of its data from the row's time or accuracy, such as γ. One launch computes all row scalars of an op, in
float64."""

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from bfn_kernels import checks
from bfn_kernels.arguments import rows
from bfn_kernels.triton_ops.elementary import exp, expm1, log, log1p
from bfn_kernels.triton_ops.views import block_of, constants, launch, load, programs, store, views

T_MAX, ROOT_BETA_MIN = map(tl.constexpr, (rows.T_MAX, rows.ROOT_BETA_MIN))
STEP_TOLERANCE = tl.constexpr(checks.STEP_TOLERANCE)
# kinds of schedules in `rows.SCHEDULES`; the last kind, the logarithmic schedule, is the `else` of each function
NO_SCHEDULE, EXPONENTIAL, QUADRATIC = (tl.constexpr(kind) for kind in range(3))
_BLOCK, _WARPS = 128, 4


def row_scalars(
    value: Tensor, precision: Tensor | None, wanted: int, schedule: int, parameter: float, num_classes: int,
    n_steps: int, scale: float, t_min: float, shape: Sequence[int], wide: bool,
) -> list[Tensor]:  # fmt: skip
    """Returns the row scalars whose bits are set in `wanted`, in the order of `rows.FORMULAS`.

    value: the times or, without a schedule, the accuracies α. value and precision: `[]`, `[B]` or any leading part of
    the shape of the variables. A value out of range gives NaN instead of an error, since reading it on the host would
    cost a synchronisation. schedule: the kind, as in `rows.SCHEDULES`. parameter: σ₁ or β₁. scale: a factor of the
    accuracies in the row scalars. t_min: the time before which mean_scale and noise_scale are 0. wide: True for scalars
    in float64, False for float32.
    """
    names = "t" if schedule else "alpha", "precision"
    pairs = zip(names, (value, precision), strict=True)
    inputs = [None if t is None else t.reshape(checks.leading(name, t, shape)) for name, t in pairs]
    sizes = torch.broadcast_shapes(*(t.shape for t in inputs if t is not None))
    named = constants(*(name for name, bit in rows.BITS.items() if wanted & bit))  # Triton 3.6 reads no plain strings
    out = [torch.empty(sizes, dtype=rows.type_of(wide), device=value.device) for _ in named]
    numbers = n_steps, scale, *_constants(schedule, parameter, num_classes, n_steps), t_min
    count = sizes.numel()
    arguments = *views(sizes, *inputs), *map(float, numbers), views(sizes, *out), count
    launch(_row_scalars, programs(count, _BLOCK), *arguments, KIND=schedule, WANTED=named, BLOCK=_BLOCK, warps=_WARPS)
    return out


def _constants(schedule: int, parameter: float, num_classes: int, n_steps: int) -> tuple[float, ...]:
    """Four numbers of the schedule that are the same for all rows. The exponential schedule has 2·ln σ₁, 2·ln σ₁/n and
    1 − σ₁^{2/n}. The quadratic schedule has β₁. The logarithmic schedule has 1 − e^{−Kβ₁/4}, −4/K, e^{−Kβ₁/4} and β₁.
    Unused numbers are 0. The kernel's tuple `numbers` has n, the scale, these four numbers and t_min."""
    if schedule == EXPONENTIAL.value:
        log_variance = 2 * math.log(parameter)
        step = log_variance / max(n_steps, 1)
        return log_variance, step, -math.expm1(step), 0.0
    if schedule in (NO_SCHEDULE.value, QUADRATIC.value):
        return parameter, 0.0, 0.0, 0.0
    passed = -num_classes * parameter / 4
    return -math.expm1(passed), -4 / num_classes, math.exp(passed), parameter


@triton.jit
def _beta(numbers, t, KIND: tl.constexpr):
    if KIND == QUADRATIC:
        return numbers[2] * t * t
    else:
        passed = numbers[2] * t
        logarithm = tl.where(passed < 0.5, log1p(-passed), log(1.0 - t + t * numbers[4]))
        return tl.minimum(numbers[3] * logarithm, numbers[5], propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _step_of(t, n_steps):
    """The step i = nt + 1 that starts at a time t, which may be rounded to float32; NaN if no step starts at t."""
    before = n_steps * t
    whole = tl.floor(before + 0.5)
    is_step = (tl.abs(before - whole) <= STEP_TOLERANCE * tl.maximum(before, 1.0)) & (whole < n_steps)
    return tl.where(is_step, whole + 1.0, float("nan"))


@triton.jit
def _alpha(numbers, i, KIND: tl.constexpr):
    """The accuracy of the i-th of n messages."""
    if KIND == EXPONENTIAL:
        return numbers[4] * exp(-numbers[3] * i)
    elif KIND == QUADRATIC:
        return numbers[2] * (2.0 * i - 1.0) / (numbers[0] * numbers[0])
    else:
        return _beta(numbers, i / numbers[0], KIND) - _beta(numbers, (i - 1.0) / numbers[0], KIND)


@triton.jit
def _rate(numbers, t, KIND: tl.constexpr):
    """The accuracy per unit of time."""
    if KIND == EXPONENTIAL:
        return -numbers[2] * exp(-numbers[2] * t)
    elif KIND == QUADRATIC:
        return 2.0 * numbers[2] * t
    else:
        return -numbers[3] * numbers[2] / (1.0 - t + t * numbers[4])


@triton.jit
def _from_variance(numbers, t, NAME: tl.constexpr):
    """The row scalars that are functions of γ and 1 − γ."""
    gamma, variance = -expm1(numbers[2] * t), exp(numbers[2] * t)
    if NAME == "gamma":
        return gamma
    elif NAME == "flow_std":
        return tl.sqrt(gamma * variance)
    elif NAME == "mean_scale":
        return tl.where(t < numbers[6], 0.0, 1.0 / tl.where(t < numbers[6], 1.0, gamma))
    elif NAME == "noise_scale":
        return tl.where(t < numbers[6], 0.0, tl.sqrt(variance / tl.where(t < numbers[6], 1.0, gamma)))
    elif NAME == "std":
        return tl.sqrt(variance)
    elif NAME == "half_precision":
        return 0.5 / variance
    else:
        return log(6.283185307179586 * variance) / 2.0


@triton.jit
def _from_message(numbers, alpha, precision, NAME: tl.constexpr):
    """The row scalars that are functions of an accuracy α and a precision ρ, as csrc/math/schedules.h writes them."""
    if NAME == "keep":
        return 1.0 / (1.0 + alpha / precision)
    elif NAME == "take":
        return 1.0 / (1.0 + precision / alpha)
    elif NAME == "update_std":
        return 1.0 / (tl.sqrt(alpha) + precision / tl.sqrt(alpha))
    elif NAME == "sender_std":
        return 1.0 / tl.sqrt(alpha)
    elif NAME == "accuracy":
        return alpha
    else:
        return tl.sqrt(numbers[1] * alpha)


@triton.jit
def _row_scalar(numbers, value, precision, KIND: tl.constexpr, NAME: tl.constexpr):
    if KIND == NO_SCHEDULE:
        return _from_message(numbers, value, precision, NAME)
    elif NAME == "rate":
        return numbers[1] * _rate(numbers, value, KIND)
    elif NAME == "alpha":
        return numbers[1] * _alpha(numbers, _step_of(value, numbers[0]), KIND)
    elif KIND == EXPONENTIAL:
        return _from_variance(numbers, value, NAME)
    else:
        beta = _beta(numbers, tl.where(value > T_MAX, T_MAX, value), KIND)
        beta = tl.where(tl.sqrt(beta) < ROOT_BETA_MIN, 0.0, beta)
        return beta if NAME == "beta" else tl.sqrt(numbers[1] * beta)


@triton.jit
def _row_scalars(
    value, precision, n_steps: tl.float64, scale: tl.float64, first: tl.float64, second: tl.float64, third: tl.float64,
    fourth: tl.float64, t_min: tl.float64, out, count, KIND: tl.constexpr, WANTED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    block = block_of(count, BLOCK)
    value, precision = load(value, block, tl.float64), load(precision, block, tl.float64)
    most: tl.constexpr = float("inf") if KIND == NO_SCHEDULE else 1.0
    value = tl.where((value >= 0.0) & (value <= most), value, float("nan"))
    precision = tl.where(precision >= 0.0, precision, float("nan"))
    numbers = n_steps, scale, first, second, third, fourth, t_min
    for k in tl.static_range(len(WANTED)):
        store(out[k], block, _row_scalar(numbers, value, precision, KIND, WANTED[k]))
