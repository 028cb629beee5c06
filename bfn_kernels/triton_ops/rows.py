"""Scalars of rows in Triton, csrc/math/schedules.h again: all that a call needs in one launch, in float64."""

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from bfn_kernels import checks, rows
from bfn_kernels.triton_ops.elementary import exp, expm1, log, log1p
from bfn_kernels.triton_ops.views import block_of, launch, load, programs, store, view

# The bits of the scalars in `rows`, and its numbers of the schedules.
GAMMA, FLOW_STD, MEAN_SCALE, NOISE_SCALE, RATE, ALPHA, STD, HALF_PRECISION, _, BETA, _, KEEP, TAKE, UPDATE_STD, \
    SENDER_STD, ACCURACY, _ = map(tl.constexpr, rows.BITS.values())  # fmt: skip
T_MIN, T_MAX, ROOT_BETA_MIN = map(tl.constexpr, (rows.T_MIN, rows.T_MAX, rows.ROOT_BETA_MIN))
STEP_TOLERANCE = tl.constexpr(checks.STEP_TOLERANCE)
NO_SCHEDULE, EXPONENTIAL, QUADRATIC = (tl.constexpr(kind) for kind in range(3))
_BLOCK, _WARPS = 128, 4


def row_scalars(
    value: Tensor, rho: Tensor | None, wanted: int, schedule: int, parameter: float, num_classes: int,
    n_steps: int, scale: float, shape: Sequence[int], dtype: torch.dtype,
) -> list[Tensor]:  # fmt: skip
    """A value out of range gives NaN: to look at it would cost a synchronisation."""
    names = "t" if schedule else "alpha", "precision"
    given = [None if t is None else _leading(name, t, shape) for name, t in zip(names, (value, rho), strict=True)]
    sizes = torch.broadcast_shapes(*(t.shape for t in given if t is not None))
    bits = tuple(bit for bit in rows.BITS.values() if wanted & bit)
    out = [torch.empty(sizes, dtype=dtype, device=value.device) for _ in bits]
    numbers = n_steps, scale, *_derived(schedule, parameter, num_classes, n_steps)
    launch(
        _row_scalars, programs(sizes.numel(), _BLOCK), *(view(t, sizes) for t in given), *map(float, numbers),
        tuple(view(t, sizes) for t in out), sizes.numel(),
        KIND=schedule, WANTED=bits, BLOCK=_BLOCK, warps=_WARPS,
    )  # fmt: skip
    return out


def _leading(name: str, value: Tensor, shape: Sequence[int]) -> Tensor:
    return value.reshape(checks.leading(name, value, shape))


def _derived(schedule: int, parameter: float, num_classes: int, n_steps: int) -> tuple[float, ...]:
    """Four numbers of the schedule, which do not depend on the row."""
    if schedule == EXPONENTIAL.value:
        log_variance = 2 * math.log(parameter)
        step = log_variance / max(n_steps, 1)
        return log_variance, step, -math.expm1(step), 0.0
    if schedule in (NO_SCHEDULE.value, QUADRATIC.value):
        return parameter, 0.0, 0.0, 0.0
    passed = -num_classes * parameter / 4
    return -math.expm1(passed), -4 / num_classes, math.exp(passed), parameter


@triton.jit
def _beta(of, t, KIND: tl.constexpr):
    if KIND == QUADRATIC:
        return of[2] * t * t
    else:
        passed = of[2] * t
        logarithm = tl.where(passed < 0.5, log1p(-passed), log(1.0 - t + t * of[4]))
        return tl.minimum(of[3] * logarithm, of[5], propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _step_of(t, n_steps):
    """The step i = nt + 1 of n that a time stands for, up to its rounding to float32; NaN for other times."""
    before = n_steps * t
    whole = tl.floor(before + 0.5)
    is_step = (tl.abs(before - whole) <= STEP_TOLERANCE * tl.maximum(before, 1.0)) & (whole < n_steps)
    return tl.where(is_step, whole + 1.0, float("nan"))


@triton.jit
def _alpha(of, i, KIND: tl.constexpr):
    """Accuracy of the i-th of n messages."""
    if KIND == EXPONENTIAL:
        return of[4] * exp(-of[3] * i)
    elif KIND == QUADRATIC:
        return of[2] * (2.0 * i - 1.0) / (of[0] * of[0])
    else:
        return _beta(of, i / of[0], KIND) - _beta(of, (i - 1.0) / of[0], KIND)


@triton.jit
def _rate(of, t, KIND: tl.constexpr):
    """Accuracy per unit of time."""
    if KIND == EXPONENTIAL:
        return -of[2] * exp(-of[2] * t)
    elif KIND == QUADRATIC:
        return 2.0 * of[2] * t
    else:
        return -of[3] * of[2] / (1.0 - t + t * of[4])


@triton.jit
def _of_variance(of, t, WHICH: tl.constexpr):
    """Those of γ and 1 − γ."""
    gamma, variance = -expm1(of[2] * t), exp(of[2] * t)
    if WHICH == GAMMA:
        return gamma
    elif WHICH == FLOW_STD:
        return tl.sqrt(gamma * variance)
    elif WHICH == MEAN_SCALE:
        return tl.where(t < T_MIN, 0.0, 1.0 / tl.where(t < T_MIN, 1.0, gamma))
    elif WHICH == NOISE_SCALE:
        return tl.where(t < T_MIN, 0.0, tl.sqrt(variance / tl.where(t < T_MIN, 1.0, gamma)))
    elif WHICH == STD:
        return tl.sqrt(variance)
    elif WHICH == HALF_PRECISION:
        return 0.5 / variance
    else:
        return log(6.283185307179586 * variance) / 2.0


@triton.jit
def _of_message(of, alpha, rho, WHICH: tl.constexpr):
    if WHICH == KEEP:
        return rho / (rho + alpha)
    elif WHICH == TAKE:
        return alpha / (rho + alpha)
    elif WHICH == UPDATE_STD:
        return tl.sqrt(alpha) / (rho + alpha)
    elif WHICH == SENDER_STD:
        return 1.0 / tl.sqrt(alpha)
    elif WHICH == ACCURACY:
        return alpha
    else:
        return tl.sqrt(of[1] * alpha)


@triton.jit
def _row_scalar(of, value, rho, KIND: tl.constexpr, WHICH: tl.constexpr):
    if KIND == NO_SCHEDULE:
        return _of_message(of, value, rho, WHICH)
    elif WHICH == RATE:
        return of[1] * _rate(of, value, KIND)
    elif WHICH == ALPHA:
        return of[1] * _alpha(of, _step_of(value, of[0]), KIND)
    elif KIND == EXPONENTIAL:
        return _of_variance(of, value, WHICH)
    else:
        beta = _beta(of, tl.where(value > T_MAX, T_MAX, value), KIND)
        beta = tl.where(tl.sqrt(beta) < ROOT_BETA_MIN, 0.0, beta)
        return beta if WHICH == BETA else tl.sqrt(of[1] * beta)


@triton.jit
def _row_scalars(
    value, rho, n_steps: tl.float64, scale: tl.float64, first: tl.float64, second: tl.float64, third: tl.float64,
    fourth: tl.float64, out, count, KIND: tl.constexpr, WANTED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    block = block_of(count, BLOCK)
    value, rho = load(value, block, tl.float64), load(rho, block, tl.float64)
    most: tl.constexpr = float("inf") if KIND == NO_SCHEDULE else 1.0
    value = tl.where((value >= 0.0) & (value <= most), value, float("nan"))
    rho = tl.where(rho >= 0.0, rho, float("nan"))
    of = n_steps, scale, first, second, third, fourth
    for k in tl.static_range(len(WANTED)):
        store(out[k], block, _row_scalar(of, value, rho, KIND, WANTED[k]))
