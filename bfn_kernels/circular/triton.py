"""The operators of circular data in Triton, the counterpart of csrc/cpu/circular.cpp.

A function takes the arguments of the function of the same name in `reference.py`. A loss also takes a bool for each
gradient: whether it is needed. Its kernel takes views (see `triton_ops.views`) of the inputs and of the results, and
the number of variables. Kernels compute with angles in turns.
"""

import math

import triton
import triton.language as tl
from torch import Tensor

from bfn_kernels import concentrations, noise
from bfn_kernels.checks import compute_dtype
from bfn_kernels.circular import reference
from bfn_kernels.records import Circle, LossTarget, MeanAngle, Message, Noise
from bfn_kernels.triton_ops.elementary import clamp, exp2_term, inverse_sqrt, log, sincospi, square
from bfn_kernels.triton_ops.philox import SENDER, interleave, noise_of, philox, start_of_draw, unit
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
    static,
    store,
    view,
    views,
)

SQUARE, DENSITY = tl.constexpr(reference.SQUARE), tl.constexpr(reference.DENSITY)
_ANGLE, _MOST_CALLS = tl.constexpr(noise.ANGLE), tl.constexpr(reference.MOST_CALLS)
_QUANTILES, _TABLE_END = tl.constexpr(concentrations.QUANTILES), tl.constexpr(concentrations.TABLE_END)
_PI, _MOST_TURNS = tl.constexpr(math.pi), tl.constexpr(float(reference.MOST_TURNS))
_LN2 = tl.constexpr(math.log(2))
# Elements of a program of `_step`. Each takes many registers. A program waits until all of its angles are accepted.
_BLOCK = BLOCK // 2


@triton.jit
def _wrapped(turns):
    """The turns in [−1/2, 1/2) that differ by an integer, as in `reference.wrapped`."""
    return tl.where(tl.abs(turns) >= _MOST_TURNS, 0.0 * turns, turns - tl.floor(turns + 0.5))


@triton.jit
def _polar(y, x):
    """atan2(y, x)/(2π), and √(x² + y²). Squares of x and y are not computed, since they may overflow or underflow. In
    float64 two Newton steps follow the polynomial of float32, whose error is 1.6e-8."""
    across, along = tl.abs(x), tl.abs(y)
    steep = along > across
    larger, smaller = tl.where(steep, along, across), tl.where(steep, across, along)
    below = tl.where(larger == 0.0, 1.0, larger)
    # An approximate quotient would double the error of a mean.
    t = tl.div_rn(smaller, below) if y.dtype == tl.float32 else smaller / below
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
    return tl.where(y < 0.0, -acute, acute) + 0.0 * (x + y), larger * tl.sqrt(1.0 + s)


@triton.jit
def _law(k):
    """The numbers of a proposal for the concentration k, as in `reference.proposals`."""
    root = inverse_sqrt(1.0 + 1.118568 * k)
    floor = exp2_term(0.796368 - 5.87465 * k)
    y = root * root
    level = 0.2613091 + y * (y * (1.506369 - 1.252895 * y) - 0.04524343)
    slope = y * (0.09092092 + y * (1.024374 * y - 0.9508318)) - 0.04648427
    bend = 0.002590393 + y * (y * (0.2617459 - 0.3393529 * y) - 0.03776879)
    twist = y * (0.003837047 + y * (0.05602016 * y - 0.02412379)) - 0.0001992815
    most = 0.000849015 + y * (0.000278721 + y * (0.00235564 - 0.0014857 * y))
    return k, root, floor, level, slope, bend, twist, most


@triton.jit
def _propose_of_word(law, word, T: tl.constexpr):
    """The proposal of a word, as in csrc/math/circular.h."""
    q = ((word & 0x7FFFFFFF).to(tl.float32) * 4.656612873077393e-10 + 2.3283064365386963e-10).to(T)
    return _propose(law, q, word >> 31 == 1)


@triton.jit
def _propose(law, q, negative):
    """An angle in turns, and its `height`, as in csrc/math/circular.h."""
    k, root, floor, level, slope, bend, twist, _ = law
    v = 1.0 - q
    edge = q * (1.0 + v)
    squares = edge * edge + floor
    inverse = inverse_sqrt(squares)
    w = tl.log2(edge + squares * inverse)
    upper = bend + twist * w
    middle = slope + upper * w
    value = level + middle * w
    turns = v * root * value
    s = turns * turns
    p = 37.6172964 - 9.62632377 * s
    p = p * s - 86.8461322
    p = p * s + 123.283863
    p = p * s - 93.6876424
    p = p * s + 28.4776583
    fall = 2.8853900817779268 * inverse
    by_w = middle + (upper + twist * w) * w
    height = (value + by_w * (edge * fall - fall)) * exp2_term(-(k * s) * p)
    return tl.where(negative, -turns, turns), tl.where(turns > 0.5, 0.0, height)


@triton.jit
def _refused(law, word, rest, height):
    """Whether a uniform number does not accept a proposal. Its first digits are the lowest byte of the word, and `rest`
    has the others."""
    return ((word & 255).to(tl.float32) + rest).to(height.dtype) * law[7] > height


@triton.jit
def _von_mises(concentration, seed, block, T: tl.constexpr):
    """An angle in turns of vM(0, c) for each element of a block."""
    start, offsets, mask, _ = block
    key = tl.load(seed)
    law = _law(concentration)
    group = start // 4 + tl.arange(0, offsets.shape[0] // 4)
    word = interleave(*philox(key, group, _ANGLE, 0))
    turns, height = _propose_of_word(law, word, T)
    open = mask & _refused(law, word, 1.0, height)
    call = 1
    while (call <= _MOST_CALLS) & (tl.max(open.to(tl.int32), 0) > 0):
        more = philox(key, start + offsets, _ANGLE, call)
        open = open & _refused(law, word, unit(more[0]), height)
        word = tl.where(open, more[1], word)
        turns, height = _propose_of_word(law, word, T)
        open = open & _refused(law, word, 1.0, height)
        call += 1
    return turns


@triton.jit
def _given_angle(concentration, noise, proposals, block, count, T: tl.constexpr):
    """An angle in turns of vM(0, c) for each element of a block, from explicit uniforms of some proposals. The last
    proposal is accepted in any case."""
    start, offsets, mask, size = block
    law, turns, open = _law(concentration), tl.zeros(offsets.shape, T), mask
    draw = 0
    while (draw < proposals) & (tl.max(open.to(tl.int32), 0) > 0):
        signed = load(noise, (start_of_draw(start, 2 * draw, count), offsets, mask, size), T)
        accepting = load(noise, (start_of_draw(start, 2 * draw + 1, count), offsets, mask, size), T)
        proposed, height = _propose(law, clamp(tl.abs(signed), 2.0**-32, 1.0), signed < 0.0)
        turns = tl.where(open, proposed, turns)
        open = open & (256.0 * accepting * law[7] > height)
        draw += 1
    return turns


def step(sent: Tensor, state: MeanAngle, message: Message, circle: Circle, *outputs: Tensor | None) -> None:
    results, shape, count = Results(*outputs), sent.shape, sent.numel()
    alpha, table, known, known_mask, seed, noise, normals = message
    inputs = views(shape, sent, *state, alpha, known, known_mask)
    drawn_from = table, 0 if table is None else len(table), noise_views(Noise(seed, normals), shape)
    proposed = (view(None, shape), 0) if noise is None else (view(noise.contiguous(), noise.shape), len(noise))
    options = {"circle": static(circle), "T": compute_type(sent, *state), "BLOCK": _BLOCK}
    launch(_step, programs(count, _BLOCK), *inputs, *drawn_from, *proposed, results.views, count, **options)
    results.finish()


@triton.jit
def _step(
    sent, mean, concentration, alpha, known, known_mask, table, rows, normals, noise, proposals, results, count,
    circle: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    block = block_of(count, BLOCK)
    out, concentration_out, log_out = results
    c = load(alpha, block, T)
    if table is not None:
        place = (noise_of(normals, block, SENDER, T) + _TABLE_END) * ((_QUANTILES - 1) / (2.0 * _TABLE_END))
        place = clamp(place, 0.0, _QUANTILES - 1.0 - 2.0**-16)
        inside = (c >= 0.0) & (c < rows)
        below = (place if normals.noise[0] is None else tl.where(place == place, place, 0.0)).to(tl.int32)
        at = table + tl.where(inside, c, 0.0).to(tl.int64) * _QUANTILES + below
        low, high = tl.load(at).to(T), tl.load(at + 1).to(T)
        c = tl.where(inside, tl.fma(place - below.to(T), high - low, low), float("nan"))
    y = load(sent, block, T)
    if known[0] is not None:
        y = tl.where(load(known_mask, block, tl.int1), load(known, block, T), y)
    y *= 1.0 / circle.period
    if noise[0] is not None:
        y += _given_angle(c, noise, proposals, block, count, T)
    elif normals.seed is not None:
        y += _von_mises(c, normals.seed, block, T)
    if circle.certain > 0.0:
        is_known = load(known_mask, block, tl.int1)
        y = tl.where(is_known, load(known, block, T) * (1.0 / circle.period), y)
        c = tl.where(is_known, circle.certain, c)
    if mean[0] is not None:
        before = load(mean, block, T) * (1.0 / circle.period)
        sine, cosine = sincospi(2.0 * _wrapped(y - before))
        held = load(concentration, block, T)
        across, along = tl.where(held >= 0.0, held, float("nan")) + c * cosine, c * sine
        turns, c = _polar(along, across)
        y = before + turns
    store(out, block, circle.period * _wrapped(y))
    store(concentration_out, block, c)
    if log_out[0] is not None:
        store(log_out, block, clamp((log(c) - circle.log_least) * circle.log_factor - 1.0, -1.0, 1.0))


def loss(x: Tensor, prediction: Tensor, weight, cost: int, period: float, target: LossTarget, *need: bool):
    """Returns the loss, the factor by which its gradients are multiplied, and the gradients by the prediction and the
    weight, each empty if it is not needed."""
    dtype, count = compute_dtype(x, prediction, weight), x.numel()
    losses = Losses(x, *target, dtype)
    gradients = Gradients((prediction, need[0]), (weight, need[1]), dtype=dtype)
    arguments = *views(x.shape, x, prediction, weight, target.mask), gradients.views, losses.memory, count
    constants = {"COST": cost, "PERIOD": period, "LOG_PERIOD": math.log(period), "T": KERNEL_TYPES[dtype]}
    launch(_loss, programs(count), *arguments, **constants, BLOCK=BLOCK)
    return *losses.finish(), *gradients.finish()


@triton.jit
def _bessel(k, T: tl.constexpr):
    """I₀(k)·e^(−k), and 1 − I₁(k)/I₀(k), as in csrc/math/circular.h."""
    NODES: tl.constexpr = 20 if tl.float64 == T else 12
    LEAST: tl.constexpr = 36.0 if tl.float64 == T else 20.0
    far = 2.0 * k > LEAST
    power = tl.where(far, LEAST, 2.0 * k) * (-1.0 / _LN2)  # NaN stays NaN
    stretch = tl.where(far, LEAST / tl.where(far, 2.0 * k, LEAST), 1.0)  # squared; an approximate quotient is not 1
    total, weighted = tl.zeros(k.shape, T), tl.zeros(k.shape, T)
    for node in range(NODES):
        sine, cosine = sincospi((tl.zeros((1,), T) + node + 0.5) * (0.5 / NODES))
        q = sine * sine
        e = exp2_term(power * q) * (cosine * inverse_sqrt(1.0 - stretch * q))
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
    if COST == DENSITY:
        factor = tl.where(factor >= 0.0, factor, float("nan"))
    if COST == SQUARE:
        distance = square((2.0 * _PI) * turns)
        by_turns = (-8.0 * _PI * _PI) * factor * turns
    else:
        sine, cosine = sincospi(turns)
        distance = 2.0 * square(sine)
        by_turns = (-4.0 * _PI) * factor * sine * cosine
    value, by_weight = factor * distance, distance
    if COST == DENSITY:
        scaled, fall = _bessel(factor, T)
        value += log(scaled) + LOG_PERIOD
        by_weight -= fall
    write_losses(value, keep, block, losses)
    store(gradients[0], block, tl.where(keep, (1.0 / PERIOD) * by_turns, 0.0))
    store(gradients[1], block, tl.where(keep, by_weight, 0.0))
