"""Circular data in plain PyTorch: the executable specification. docs/mathematics/circular.md derives the formulas.

An angle is counted in turns, 1 for the whole circle, after it is divided by the period. All tensors have the shape
`[B, ...]` of the angles. Row scalars broadcast to it.
"""

import math

import torch
from torch import Tensor

from bfn_kernels import noise as random
from bfn_kernels.call.checks import compute_dtype, shows
from bfn_kernels.call.reduction import hide, reduce
from bfn_kernels.concentrations import QUANTILES, TABLE_END
from bfn_kernels.records import Circle, LossTarget, Message

COSINE, SQUARE, DENSITY = range(3)  # the costs of a loss; csrc/math/circular.h has the same numbers
MOST_TURNS, MOST_CALLS = 2**22, 16  # the most turns that are wrapped, and calls of Philox, as in csrc/math/circular.h


def wrapped(turns: Tensor) -> Tensor:
    """The turns in [−1/2, 1/2) that differ by an integer; 0 beyond MOST_TURNS, where float32 has few digits left."""
    return torch.where(turns.abs() >= MOST_TURNS, 0 * turns, turns - (turns + 0.5).floor())


def von_mises(concentration: Tensor, seed: Tensor) -> Tensor:
    """Draws an angle in turns of vM(0, c) for each variable, by the rejection of Best and Fisher (1979).

    A proposal is the angle 2·atan(root·tan πv). With s the squared sine of its half, and c' = least + 2c·s, it is
    accepted with the probability c'·e^(1−c').
    """
    twice = 2 * concentration.clamp(0, 1e18)
    grown = (1 + twice * twice).sqrt() + twice
    least = 0.5 + 0.5 / grown
    root = (2 * least / (1 + grown)).sqrt()
    index = torch.arange(concentration.numel(), device=concentration.device).reshape(concentration.shape)
    turns, done = torch.zeros_like(concentration), torch.zeros_like(concentration, dtype=torch.bool)
    for call in range(MOST_CALLS):
        words = random.philox(seed, index, random.ANGLE, call)
        for angle, height in (words[..., :2].unbind(-1), words[..., 2:].unbind(-1)):
            half = math.pi * (((angle ^ 0x80000000) - 0x80000000).float() * 2**-32).to(turns.dtype)
            y, x = root * half.sin(), half.cos()
            c = least + twice * (y * y / (x * x + y * y))
            turns = torch.where(done, turns, torch.atan2(y, x) / math.pi)
            done = done | ~(random.unit(height).to(c.dtype) > c * (1 - c).exp())
        if shows(turns) and done.all():
            break
    return turns


def concentrations(step: Tensor, table: Tensor, normals: Tensor) -> Tensor:
    """The concentrations that normals draw of the rows `step` of a table of quantiles. NaN for a step outside of it."""
    inside = (step >= 0) & (step < len(table))
    place = ((normals + TABLE_END) * ((QUANTILES - 1) / (2 * TABLE_END))).clamp(0, QUANTILES - 1)
    below = place.long().clamp(max=QUANTILES - 2)
    index = torch.where(inside, step, 0).long() * QUANTILES + below
    low, high = (table.flatten()[index + k].to(normals.dtype) for k in (0, 1))
    return torch.where(inside, low + (place - below) * (high - low), torch.nan)


def scaled_log(concentration: Tensor, least: float, factor: float) -> Tensor:
    return ((concentration.log() - least) * factor - 1).clamp(-1, 1)


def step(
    sent: Tensor,
    mean: Tensor | None,
    concentration: Tensor | None,
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
    alpha, table, known, known_mask, seed = message
    dtype = compute_dtype(sent, mean, concentration)
    x = sent.to(dtype) if known is None else torch.where(known_mask, known.to(dtype), sent.to(dtype))
    y, c = x / circle.period, alpha.expand(x.shape)
    if table is not None:
        c = concentrations(c, table, random.normal(x.shape, seed, dtype=dtype))
    if seed is not None:
        y = y + von_mises(c, seed)
    if mean is not None:
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
    c = weight * torch.where(weight >= 0, 1.0, torch.nan).to(dtype)  # so that the gradient is NaN, too
    small = torch.special.i0(c.clamp(max=1)).log() - c  # torch has no slope of i0e at 0
    log_bessel = torch.where(c < 1, small, torch.special.i0e(c.clamp(min=1)).log())
    return reduce(log_bessel + math.log(period) + c * distance, *target)
