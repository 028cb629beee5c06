"""Circular data in plain PyTorch: the executable specification. docs/mathematics/circular.md derives the formulas.

An angle is counted in turns, 1 for the whole circle, after it is divided by the period. All tensors have the shape
`[B, ...]` of the angles. Row scalars broadcast to it.
"""

import itertools
import math

import torch
from torch import Tensor

from bfn_kernels import noise as random
from bfn_kernels.checks import compute_dtype, shows
from bfn_kernels.concentrations import QUANTILES, TABLE_END
from bfn_kernels.formulas import hide, reduce
from bfn_kernels.ranges import nonnegative
from bfn_kernels.records import Circle, LossTarget, MeanAngle, Message

COSINE, SQUARE, DENSITY = range(3)  # the costs of a loss; csrc/math/circular.h has the same numbers
MOST_TURNS, MOST_CALLS = 2**22, 16  # the most turns that are wrapped, and calls of Philox, as in csrc/math/circular.h


def wrapped(turns: Tensor) -> Tensor:
    """The turns in [−1/2, 1/2) that differ by an integer; 0 beyond MOST_TURNS, where float32 has few digits left."""
    return torch.where(turns.abs() >= MOST_TURNS, 0 * turns, turns - (turns + 0.5).floor())


def proposals(concentration: Tensor, signed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Makes a proposal from each uniform in [−1, 1]: an angle in turns, whose distribution is nearly vM(0, c). Returns
    the angle, `height` and `most`. The caller must accept the angle with the probability height/(256·most).

    The angle has the sign of the uniform, whose magnitude is 1 − v. As a function of v, the angle is nearly the inverse
    of the distribution function.
    """
    y = 1 / (1 + 1.118568 * concentration)
    floor = torch.exp2(0.796368 - 5.87465 * concentration)
    level = 0.2613091 - 0.04524343 * y + 1.506369 * y**2 - 1.252895 * y**3
    slope = -0.04648427 + 0.09092092 * y - 0.9508318 * y**2 + 1.024374 * y**3
    bend = 0.002590393 - 0.03776879 * y + 0.2617459 * y**2 - 0.3393529 * y**3
    twist = -0.0001992815 + 0.003837047 * y - 0.02412379 * y**2 + 0.05602016 * y**3
    most = 0.000849015 + 0.000278721 * y + 0.00235564 * y**2 - 0.0014857 * y**3
    q = signed.to(y.dtype).abs().clamp(2**-32, 1)
    v, edge = 1 - q, q * (2 - q)  # edge is 1 − v²
    root = (edge * edge + floor).sqrt()
    w = (edge + root).log2()
    value = level + slope * w + bend * w**2 + twist * w**3
    by_w = slope + 2 * bend * w + 3 * twist * w**2
    turns = v * y.sqrt() * value
    by_v = value - by_w * (2 / math.log(2)) * (1 - edge) / root  # the derivative of turns, divided by √y
    height = by_v * (-2 * concentration * (math.pi * turns).sin().square()).exp()
    return torch.where(signed < 0, -turns, turns), torch.where(turns > 0.5, 0, height), most


def von_mises(concentration: Tensor, seed: Tensor | None, noise: Tensor | None = None) -> Tensor:
    """Draws an angle in turns of vM(0, c) for each variable, by rejection of `proposals`.

    noise: explicit uniforms `[n, 2, B, ...]` instead of a seed. The last proposal is accepted in any case.
    """
    each = random.each_angle_uniform(concentration.shape, seed) if noise is None else noise
    turns, open = torch.zeros_like(concentration), torch.ones_like(concentration, dtype=torch.bool)
    for signed, accepting in itertools.islice(each, MOST_CALLS + 1 if noise is None else None):
        proposed, height, most = proposals(concentration, signed)
        turns = torch.where(open, proposed, turns)
        open = open & (256 * accepting.to(most.dtype) * most > height)
        if shows(turns) and not open.any():
            break
    return turns


def concentrations(step: Tensor, table: Tensor, normals: Tensor) -> Tensor:
    """The concentrations that normals draw of the rows `step` of a table of quantiles. NaN for a step outside of it."""
    inside = (step >= 0) & (step < len(table))
    place = ((normals + TABLE_END) * ((QUANTILES - 1) / (2 * TABLE_END))).clamp(0, QUANTILES - 1 - 2**-16)
    below = place.nan_to_num(0).long()
    index = torch.where(inside, step, 0).long() * QUANTILES + below
    low, high = (table.flatten()[index + k].to(normals.dtype) for k in (0, 1))
    return torch.where(inside, low + (place - below) * (high - low), torch.nan)


def scaled_log(concentration: Tensor, least: float, factor: float) -> Tensor:
    return ((concentration.log() - least) * factor - 1).clamp(-1, 1)


def step(
    sent: Tensor,
    state: MeanAngle,
    message: Message,
    circle: Circle,
    out: Tensor | None = None,
    concentration_out: Tensor | None = None,
    log_out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """c'·e^(iμ') = c·e^(iμ) + α·e^(iy), where y ~ vM(x, α) is a message about `sent` or the known value x. Without a
    state, μ' = y and c' = α.

    known_mask: bool, broadcasts to known. log_out: receives the scaled logarithm of c'.
    """
    alpha, table, known, known_mask, seed, noise, normals = message
    mean, concentration = state
    dtype = compute_dtype(sent, mean, concentration)
    x = sent.to(dtype) if known is None else torch.where(known_mask, known.to(dtype), sent.to(dtype))
    y, c = x / circle.period, alpha.expand(x.shape)
    if table is not None:
        c = concentrations(c, table, random.normals(x, dtype, seed, normals))
    if seed is not None or noise is not None:
        y = y + von_mises(c, seed, noise)
    if circle.certain > 0 and known is not None:
        y, c = torch.where(known_mask, known.to(dtype) / circle.period, y), torch.where(known_mask, circle.certain, c)
    if mean is not None and concentration is not None:
        concentration = nonnegative("concentration", concentration)
        before = mean.to(dtype) / circle.period
        angle = 2 * math.pi * wrapped(y - before)
        across, along = concentration.to(dtype) + c * angle.cos(), c * angle.sin()
        y = before + torch.atan2(along, across) / (2 * math.pi)
        c = torch.hypot(across, along)
    if log_out is not None:
        log_out.copy_(scaled_log(c, circle.log_least, circle.log_factor))
    new = (circle.period * wrapped(y)).to(sent.dtype if mean is None else mean.dtype)
    if out is None:
        return new, c.to(dtype if concentration is None else concentration.dtype)
    if concentration_out is not None:
        concentration_out.copy_(c)
    return out.copy_(new), concentration_out


def loss(x: Tensor, prediction: Tensor, weight: Tensor, cost: int, period: float, target: LossTarget) -> Tensor:
    """weight·(1 − cos d), weight·d² or, for the weight κ, ln(period·I₀(κ)) − κ·cos d, for the angle d = x − x̂."""
    dtype = compute_dtype(x, prediction, weight)
    x, prediction, weight = hide(target.mask, x.to(dtype), prediction.to(dtype), weight.to(dtype))
    angle = 2 * math.pi * wrapped((x - prediction) / period)
    if cost == SQUARE:
        return reduce(weight * angle.square(), *target)
    distance = 2 * (angle / 2).sin().square()
    if cost == COSINE:
        return reduce(weight * distance, *target)
    c = nonnegative("concentration", weight)
    small = torch.special.i0(c.clamp(max=1)).log() - c  # torch has no slope of i0e at 0
    log_bessel = torch.where(c < 1, small, torch.special.i0e(c.clamp(min=1)).log())
    return reduce(log_bessel + math.log(period) + c * distance, *target)
