"""The operators of circular data in Triton, the counterpart of csrc/cpu/circular.cpp.

A function takes the arguments of the function of the same name in `reference.py`, whose docstring has their shapes. A
loss also takes a bool for each gradient: whether it is needed. Its kernel takes views (see `triton_ops.views`) of the
inputs and of the results, and the number of variables. Kernels compute with angles in turns: an angle divided by the
period.
"""

import math

import triton
import triton.language as tl
from torch import Tensor

from bfn_kernels import concentrations, noise
from bfn_kernels.call.checks import compute_dtype
from bfn_kernels.circular import reference
from bfn_kernels.records import LossTarget, Noise
from bfn_kernels.triton_ops.elementary import clamp, exp, log, sincospi, square
from bfn_kernels.triton_ops.noise import SENDER, noise_of, philox, unit
from bfn_kernels.triton_ops.reduction import Losses, write_losses
from bfn_kernels.triton_ops.views import (
    BLOCK,
    KERNEL_TYPES,
    Gradients,
    Results,
    block_of,
    compute_type,
    launch,
    load,
    noise_views,
    programs,
    store,
    views,
)

COSINE, SQUARE = tl.constexpr(reference.COSINE), tl.constexpr(reference.SQUARE)
_ANGLE, _MOST_CALLS = tl.constexpr(noise.ANGLE), tl.constexpr(reference.MOST_CALLS)
_QUANTILES, _TABLE_END = tl.constexpr(concentrations.QUANTILES), tl.constexpr(concentrations.TABLE_END)
_PI, _MOST_TURNS = tl.constexpr(math.pi), tl.constexpr(float(reference.MOST_TURNS))


@triton.jit
def _wrapped(turns):
    """The turns in [−1/2, 1/2) that differ by an integer, as in `reference.wrapped`."""
    return tl.where(tl.abs(turns) >= _MOST_TURNS, 0.0 * turns, turns - tl.floor(turns + 0.5))


@triton.jit
def _turns_of(y, x):
    """atan2(y, x)/(2π). In float64 two Newton steps follow the polynomial of float32, whose error is 1.6e-8."""
    across, along = tl.abs(x), tl.abs(y)
    steep = along > across
    larger, smaller = tl.where(steep, along, across), tl.where(steep, across, along)
    below = tl.where(larger == 0.0, 1.0, larger)
    # An approximate quotient would double the error of a mean.
    quotient = tl.div_rn(smaller, below) if y.dtype == tl.float32 else smaller / below
    t = tl.where(smaller + larger == 0.0, 0.0, quotient)
    s = t * t
    p = 0.00045357359 * s - 0.0025573994
    p = p * s + 0.0067945621
    p = p * s - 0.011943451
    p = p * s + 0.016935570
    p = p * s - 0.022605801
    p = p * s + 0.031819243
    p = p * s - 0.053051233
    acute = t * (p * s + 0.15915494)
    if t.dtype == tl.float64:
        for _ in tl.static_range(2):
            sine, cosine = sincospi(2.0 * acute)
            acute += (t * cosine - sine) / ((t * sine + cosine) * (2.0 * _PI))
    acute = tl.where(steep, 0.25 - acute, acute)
    acute = tl.where(x < 0.0, 0.5 - acute, acute)
    return tl.where(y < 0.0, -acute, acute) + 0.0 * (x + y)


@triton.jit
def _attempt(root, least, twice, angle, height, T: tl.constexpr):
    """A proposal of `reference.von_mises` in turns, and whether it is accepted."""
    sine, cosine = sincospi((angle.to(tl.int32, bitcast=True).to(tl.float32) * 2.3283064365386963e-10).to(T))
    y = root * sine
    c = least + twice * (y * y / (cosine * cosine + y * y))
    accepted = (unit(height).to(T) > c * exp(clamp(1.0 - c, -87.0, 1.0))) == 0
    return 2.0 * _turns_of(y, cosine), accepted


@triton.jit
def _von_mises(concentration, seed, block, T: tl.constexpr):
    """An angle in turns of vM(0, c) for each element of a block."""
    start, offsets, mask, _ = block
    twice = 2.0 * clamp(concentration, 0.0, 1e18)
    grown = tl.sqrt(1.0 + twice * twice) + twice
    least = 0.5 + 0.5 / grown
    root = tl.sqrt(2.0 * least / (1.0 + grown))
    key = tl.load(seed)
    turns, open = tl.zeros(offsets.shape, T), mask
    call = 0
    while (call < _MOST_CALLS) & (tl.max(open.to(tl.int32), 0) > 0):
        w0, w1, w2, w3 = philox(key, start + offsets, _ANGLE, call)
        first, at_first = _attempt(root, least, twice, w0, w1, T)
        second, at_second = _attempt(root, least, twice, w2, w3, T)
        turns = tl.where(open, tl.where(at_first, first, second), turns)
        open = open & ((at_first | at_second) == 0)
        call += 1
    return turns


@triton.jit
def _scaled_log(concentration, least, factor):
    return clamp((log(concentration) - least) * factor - 1.0, -1.0, 1.0)


def draw(x, concentration, step, table, seed, period, log_least, log_factor, out, concentration_out) -> None:
    results = Results(out, None if concentration is not None else concentration_out)
    inputs = *views(x.shape, x, concentration, step), table, noise_views(Noise(seed, None), x.shape)
    arguments = *inputs, 0 if table is None else len(table), *results.views, x.numel()
    numbers = {"PERIOD": period, "LEAST": log_least, "FACTOR": log_factor}
    launch(_draw, programs(x.numel()), *arguments, **numbers, T=compute_type(x), BLOCK=BLOCK)
    results.finish()


@triton.jit
def _draw(
    x, concentration, step, table, noise, rows, out, drawn, count, PERIOD: tl.constexpr, LEAST: tl.constexpr,
    FACTOR: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    block = block_of(count, BLOCK)
    if table is not None:
        place = (noise_of(noise, block, SENDER, T) + _TABLE_END) * ((_QUANTILES - 1) / (2.0 * _TABLE_END))
        place = clamp(place, 0.0, _QUANTILES - 1.0)
        row = load(step, block, T)
        inside = (row >= 0.0) & (row < rows)
        below = tl.minimum(place.to(tl.int32), _QUANTILES - 2)
        at = table + tl.where(inside, row, 0.0).to(tl.int64) * _QUANTILES + below
        low, high = tl.load(at).to(T), tl.load(at + 1).to(T)
        c = tl.where(inside, tl.fma(place - below.to(T), high - low, low), float("nan"))
    else:
        c = load(concentration, block, T)
    turns = load(x, block, T) * (1.0 / PERIOD) + _von_mises(c, noise.seed, block, T)
    store(out, block, PERIOD * _wrapped(turns))
    if FACTOR != 0.0:
        c = _scaled_log(c, LEAST, FACTOR)
    store(drawn, block, c)


def step(
    prediction, mean, concentration, alpha, known, known_mask, seed, period, log_least, log_factor, *outputs
) -> None:
    results = Results(*outputs)
    inputs = views(mean.shape, prediction, mean, concentration, alpha, known, known_mask)
    arguments = *inputs, seed, results.views, mean.numel()
    numbers = {"PERIOD": period, "LEAST": log_least, "FACTOR": log_factor}
    T = compute_type(prediction, mean, concentration)
    launch(_step, programs(mean.numel()), *arguments, **numbers, T=T, BLOCK=BLOCK)
    results.finish()


@triton.jit
def _step(
    prediction, mean, concentration, alpha, known, known_mask, seed, results, count, PERIOD: tl.constexpr,
    LEAST: tl.constexpr, FACTOR: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """c'·e^(iμ') = c·e^(iμ) + α·e^(iy)."""
    block = block_of(count, BLOCK)
    out, concentration_out, log_out = results
    sent = load(prediction, block, T) * (1.0 / PERIOD)
    if known[0] is not None:
        sent = tl.where(load(known_mask, block, tl.int1), load(known, block, T) * (1.0 / PERIOD), sent)
    accuracy = load(alpha, block, T)
    if seed is not None:
        sent += _von_mises(accuracy, seed, block, T)
    before = load(mean, block, T) * (1.0 / PERIOD)
    sine, cosine = sincospi(2.0 * _wrapped(sent - before))
    across, along = load(concentration, block, T) + accuracy * cosine, accuracy * sine
    after = _wrapped(before + _turns_of(along, across))
    c = tl.sqrt(across * across + along * along)
    store(out, block, PERIOD * after)
    store(concentration_out, block, c)
    if log_out[0] is not None:
        store(log_out, block, _scaled_log(c, LEAST, FACTOR))


def loss(
    x: Tensor, prediction: Tensor, concentration, weight, cost: int, period: float, target: LossTarget, *need: bool
) -> tuple[Tensor, ...]:
    """Returns the loss, the factor by which its gradients are multiplied, and the gradients by the prediction and the
    concentration, each empty if it is not needed."""
    dtype, count = compute_dtype(x, prediction, concentration), x.numel()
    losses = Losses(x, *target, dtype)
    inputs = prediction, prediction if concentration is None else concentration
    gradients = Gradients(*zip(inputs, need, strict=True), dtype=dtype)
    factor = weight if concentration is None else concentration
    arguments = *views(x.shape, x, prediction, factor, target.mask), gradients.views, losses.memory, count
    constants = {"COST": cost, "PERIOD": period, "LOG_PERIOD": math.log(period), "T": KERNEL_TYPES[dtype]}
    launch(_loss, programs(count), *arguments, **constants, BLOCK=BLOCK)
    return *losses.finish(), *gradients.finish()


@triton.jit
def _bessel(k, T: tl.constexpr):
    """I₀(k)·e^(−k), and 1 − I₁(k)/I₀(k), as in csrc/math/circular.h."""
    NODES: tl.constexpr = 20 if tl.float64 == T else 12
    LEAST: tl.constexpr = 36.0 if tl.float64 == T else 20.0
    exponent = tl.where(2.0 * k < LEAST, 2.0 * k, LEAST)
    far = 2.0 * k > LEAST
    stretch = tl.where(far, LEAST / tl.where(far, 2.0 * k, 1.0), 1.0)  # squared
    total, weighted = tl.zeros(k.shape, T), tl.zeros(k.shape, T)
    for node in range(NODES):
        sine, cosine = sincospi((tl.zeros((1,), T) + node + 0.5) * (0.5 / NODES))
        q = sine * sine
        e = exp(-exponent * q) * (cosine / tl.sqrt(1.0 - stretch * q))
        total += e
        weighted += q * e
    return tl.sqrt(stretch) * total * (1.0 / NODES), 2.0 * stretch * (weighted / total)


@triton.jit
def _loss(
    x, prediction, weight, mask, gradients, losses, count, COST: tl.constexpr, PERIOD: tl.constexpr,
    LOG_PERIOD: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    block = block_of(count, BLOCK)
    keep = load(mask, block, tl.int1, True)
    turns = _wrapped((load(x, block, T) - load(prediction, block, T)) * (1.0 / PERIOD))
    factor = load(weight, block, T)
    if COST == SQUARE:
        distance = square((2.0 * _PI) * turns)
        by_turns = (-8.0 * _PI * _PI) * factor * turns
        value, by_weight = factor * distance, distance
    else:
        if COST != COSINE:
            factor = tl.where(factor >= 0.0, factor, float("nan"))
        sine, cosine = sincospi(turns)
        distance = 2.0 * square(sine)
        by_turns = (-4.0 * _PI) * factor * sine * cosine
        value, by_weight = factor * distance, distance
        if COST != COSINE:
            scaled, fall = _bessel(factor, T)
            value += log(scaled) + LOG_PERIOD
            by_weight = distance - fall
    write_losses(value, keep, block, losses)
    store(gradients[0], block, tl.where(keep, (1.0 / PERIOD) * by_turns, 0.0))
    store(gradients[1], block, tl.where(keep, by_weight, 0.0))
