"""The n-step loss of discretised data in Triton (113–119), the counterpart of csrc/{math,cpu}/nstep.h.

The sum over bins of p_k times the sender's normal is a sum over a window of bins, since its terms are a bump: a normal
in k of std s. csrc/math/nstep.h explains which points of the window are summed. A program has a variable for each
thread. It makes each term once, and adds it to the sums of D draws, which are tuples of tensors. C is the `Constants`
of a kernel, and S its `Sizes`.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from bfn_kernels import gauss
from bfn_kernels.discretised import triton_mixtures as mixtures
from bfn_kernels.discretised.triton_bins import (
    Constants,
    is_uniform,
    log_total,
    origin_of,
    output_normal,
    position,
    scaled_end_bin,
    scaled_inner_bin,
    to_centre,
    to_edge,
)
from bfn_kernels.records import Draws, LossTarget
from bfn_kernels.triton_ops.elementary import clamp, exp, exp2_term, log, reciprocal
from bfn_kernels.triton_ops.noise import MONTE_CARLO, noise_of
from bfn_kernels.triton_ops.reduction import Losses, write_losses
from bfn_kernels.triton_ops.views import (
    block_of,
    draws_with_tables,
    launch,
    load,
    programs,
    static,
    store,
    table,
    view,
    views,
)

_NODES = tl.constexpr(20)  # the Gauss–Legendre nodes of a panel, a part of a window
_PANEL = tl.constexpr(11.0)  # in units of s: the longest panel
_REACH = tl.constexpr(5.5)  # in units of s: 4e-8 of a bump's mass lies farther from its peak
_STEP = tl.constexpr(0.95)  # in units of s: the distance of points
_LEAST_WIDTH = tl.constexpr(3.2)  # in bins: the least s for which a cut has a correction
_LARGEST_SLOPE = tl.constexpr(0.8)  # the largest slope at a cut, per bin, for which it has a correction
_LOG_OF_TWO = tl.constexpr(0.69314718055994530942)
_NO_TERM = tl.constexpr(-1e30)  # the exponent of a term that does not count
_VARIABLES, _WARPS = 32, 1  # of a program
_MOST_DRAWS = 10  # the most draws of a variable that are summed at a time


class Sizes(NamedTuple):
    """The variables of a program, the draws that it sums at a time, and the Gauss–Legendre nodes of a panel."""

    V: Any
    D: Any
    N: Any


def nstep_loss(
    x: Tensor, output: tuple, alpha, n_steps: int, draws: Draws, target: LossTarget, dtype: torch.dtype, C: Constants
) -> tuple[Tensor, Tensor]:
    """The loss and the factor by which its gradients are multiplied. x: `[B, ...]`; alpha broadcasts to it. output: the
    views of the network and of the gradients."""
    noise = None if draws.noise is None else draws.noise.contiguous()
    drawn = draws_with_tables(draws, x.new_empty((), dtype=dtype), view(noise, () if noise is None else noise.shape))
    rounds = programs(drawn.n_samples, _MOST_DRAWS)
    S = Sizes(_VARIABLES, programs(drawn.n_samples, rounds), _NODES.value)
    nodes, weights = gauss.legendre(_NODES.value)
    legendre = table((*nodes, *weights), dtype, x.device).chunk(2)
    losses = Losses(x, *target, dtype, S.V)
    x_view, alpha_view, mask_view = views(x.shape, x, alpha, target.mask)
    outputs = mask_view, output[1], losses.memory
    options = {"C": static(C), "S": static(S), "warps": _WARPS, "registers": 255}
    inputs = x_view, output[0], alpha_view, drawn, legendre
    launch(_nstep, programs(x.numel(), S.V), *inputs, n_steps, outputs, x.numel(), **options)
    return losses.finish()


class _Terms(NamedTuple):
    """What the terms of a variable need: x, the normal of the output distribution, the std of the message, 1/std, 1/K
    in units of std and of τ, and whether the distribution counts as uniform."""

    x: Any
    mean: Any
    std: Any
    tau: Any
    inverse_std: Any
    unit: Any
    q_unit: Any
    uniform: Any


class _Window(NamedTuple):
    """The window of the bumps of some draws: its first bin `base`; the offset from base to its beginning; the distance
    of two points in bins, or the length of a panel; the number of points; the number of panels of Gauss–Legendre nodes,
    or 0; and whether a correction is needed at its low and at its high end."""

    base: Any
    offset: Any
    step: Any
    points: Any
    panels: Any
    cut_low: Any
    cut_high: Any


@triton.jit
def _reach(beyond, s):
    """How far from an end of [−1, 1] a window reaches if the peak lies beyond this end."""
    over = tl.where(beyond > 0.0, beyond, 0.0)
    rest = _REACH * s * _REACH * s
    return rest / (over + tl.sqrt(over * over + rest))


@triton.jit
def _window(terms, least, most, C):
    """The window for all draws with an eps from `least` to `most`."""
    x, mean, tau = terms.x, terms.mean, terms.tau
    first: tl.constexpr = 1.0 if C.CLIP else 0.0
    last: tl.constexpr = C.K - 1.0 - first
    zero, no = x * 0.0, tl.full(x.shape, False, tl.int1)
    if x.dtype == tl.float64 or last < first:  # in float64 the difference between two rules would show
        return _Window(zero + first, zero, zero + 1.0, zero + (last - first + 1.0), zero, no, no)
    else:
        std = _bump_std(terms)
        variance = std * std + tau * tau
        s = std * tau / tl.sqrt(variance)
        centre, by_eps = x + tau * tau / variance * (mean - x), std * std / variance * tau
        low_peak, high_peak = centre + by_eps * least, centre + by_eps * most
        # the window has one bin more on each side than the bumps need
        low = position(clamp(low_peak, -1.0, 1.0) - _reach(low_peak - 1.0, s), C.K) - 1.5
        high = position(clamp(high_peak, -1.0, 1.0) + _reach(-1.0 - high_peak, s), C.K) + 0.5
        cut_low, cut_high = low <= first - 0.5, high >= last + 0.5
        begin, end = tl.where(cut_low, first - 0.5, low), tl.where(cut_high, last + 0.5, high)
        base = clamp(tl.floor(begin + 0.5), first, last)
        whole = clamp(tl.floor(end + 0.5), first, last) - base + 1.0
        width = s * (0.5 * C.K)  # of the bump, in bins
        lengths = (end - begin) / (_PANEL * width)  # of panels
        slope_low, slope_high = tl.where(cut_low, -1.0 - low_peak, 0.0), tl.where(cut_high, high_peak - 1.0, 0.0)
        nodes = (cut_low | cut_high) & (width >= _LEAST_WIDTH) & (whole > _NODES * (lengths + 1.0))
        nodes = nodes & (tl.maximum(slope_low, slope_high) <= _LARGEST_SLOPE * width * s)
        step = tl.where((cut_low | cut_high) | ~(_STEP * width > 1.0), 1.0, _STEP * width)
        pieces = tl.ceil(tl.where(nodes, lengths, (whole - 1.0) / step))
        points = tl.where(nodes, _NODES * pieces, pieces + 1.0)
        step = tl.where(nodes, (end - begin) / pieces, step)
        points, panels = tl.where(points >= 0.0, points, 1.0), tl.where(nodes, pieces, 0.0)
        return _Window(base, begin - base, step, points, panels, cut_low & nodes, cut_high & nodes)


@triton.jit
def _bump_std(terms):
    return tl.where(terms.uniform, 1e9, terms.std)


@triton.jit
def _cut_weight(by_mean, q, eps, side, tau, std):
    """The correction of the midpoint rule where a window is cut off, and its derivatives by mean and std. With l =
    ln(p_k times the sender's normal) and its derivatives l' and l'' per bin, towards the inside of the window, the sum
    over bins is the integral plus exp(l)·(l'/24 − 7/5760·(l'³ + 3l'l'') + 31/967680·(l'⁵ + 10l'³l'' + 15l'l''²))."""
    third: tl.constexpr = 7.0 / 5760
    fifth: tl.constexpr = 31.0 / 967680
    variance = std * std
    ratio = side * side / variance
    flatter = 1.0 - ratio * (1.0 / 12.0)  # a bin's mass is a little wider than the density
    a, b = side * ((eps - q) / tau - by_mean), -ratio * flatter - side * side / (tau * tau)
    a2 = a * a
    a_by_mean, a_by_std = flatter * side / variance, flatter * 2.0 * side * by_mean / std
    b_by_std = ratio * (2.0 * flatter - 1.0) * 2.0 / std
    by_a = 1.0 / 24 - third * 3.0 * (a2 + b) + fifth * (5.0 * a2 * (a2 + 6.0 * b) + 15.0 * b * b)
    by_b = a * (fifth * (10.0 * a2 + 30.0 * b) - third * 3.0)
    value = a * (1.0 / 24 - third * (a2 + 3.0 * b) + fifth * (a2 * (a2 + 10.0 * b) + 15.0 * b * b))
    return value, by_a * a_by_mean, by_a * a_by_std + by_b * b_by_std


@triton.jit
def _inner_bin(terms, base, distance, C):
    """q of a place between bins, and its mass as `scaled_inner_bin` returns it. The distance is from the base, in bins.
    Each edge is computed from a whole number of bins, since its rounding error is divided by a small std."""
    leading, trailing = origin_of(terms.mean, C.K)
    whole = tl.floor(distance)
    fraction = 2.0 * (distance - whole) - trailing
    edge = 2.0 * (base + whole) - C.K
    left = (edge - leading + fraction) * terms.unit
    right = (edge + 2.0 - leading + fraction) * terms.unit
    z, mass, by_mean, by_std = scaled_inner_bin(left, right, 0.5 * (left + right), 2.0 * terms.unit, terms.inverse_std)
    q = (to_centre(origin_of(terms.x, C.K), base, C.K) + 2.0 * distance) * terms.q_unit
    if not C.CLIP:
        z, mass = tl.where(terms.uniform, 0.0, z), tl.where(terms.uniform, 1.0 / C.K, mass)
        by_mean, by_std = tl.where(terms.uniform, 0.0, by_mean), tl.where(terms.uniform, 0.0, by_std)
    return q, z, mass, by_mean, by_std


@triton.jit
def _term(z, q, mass, by_mean, by_std, weight, counts):
    """A term: a draw adds 2^(exponent + slope·eps) times the mass, and times the derivatives of the mass."""
    weight = tl.where(counts, weight, 0.0)
    exponent = tl.where(counts, (z * z + q * q) * (-0.5 / _LOG_OF_TWO), _NO_TERM)
    slope = tl.where(counts, q * (1.0 / _LOG_OF_TWO), 0.0)
    return exponent, slope, weight * mass, weight * by_mean, weight * by_std


@triton.jit
def _end_term(terms, first: tl.constexpr, C):
    """The term of a clipped end bin."""
    zero = terms.std * 0.0
    edge, bin = (zero + 1.0, zero) if first else (zero + (C.K - 1.0), zero + (C.K - 1.0))
    z = to_edge(origin_of(terms.mean, C.K), edge, C.K) * terms.unit
    z, mass, by_mean, by_std = scaled_end_bin(z, tl.full(zero.shape, first, tl.int1), terms.inverse_std)
    q = to_centre(origin_of(terms.x, C.K), bin, C.K) * terms.q_unit
    return _term(z, q, mass, by_mean, by_std, 1.0, tl.full(zero.shape, True, tl.int1))


@triton.jit
def _add(term, eps, sums, D: tl.constexpr):
    """Adds a term to the sums of D draws. `sums` has for each draw ln₂ of the largest term, and the sum and its
    derivatives by mean and std, which are divided by this term."""
    exponent, slope, mass, by_mean, by_std = term
    added = ()
    for d in tl.static_range(D):
        power = tl.fma(slope, eps[d], exponent)
        top = tl.maximum(sums[4 * d], power)
        scale, e = exp2_term(sums[4 * d] - top), exp2_term(power - top)
        value = tl.fma(sums[4 * d + 1], scale, e * mass)
        sum_by_mean = tl.fma(sums[4 * d + 2], scale, e * by_mean)
        added += (top, value, sum_by_mean, tl.fma(sums[4 * d + 3], scale, e * by_std))
    return added


@triton.jit
def _add_cut(terms, window, distance, side, cut, eps, sums, C, D: tl.constexpr):
    """Adds the correction of the midpoint rule to the sums of the variables whose window is cut off. side: the signed
    width of a bin, towards the inside."""
    q, z, mass, by_mean, by_std = _inner_bin(terms, window.base, distance, C)
    log_by_mean = by_mean / mass
    exponent, slope, mass, by_mean, by_std = _term(z, q, mass, by_mean, by_std, 1.0, cut)
    added = ()
    for d in tl.static_range(D):
        weight, w_by_mean, w_by_std = _cut_weight(log_by_mean, q, eps[d], side, terms.tau, _bump_std(terms))
        e = tl.where(cut, exp2_term(tl.fma(slope, eps[d], exponent) - sums[4 * d]), 0.0)
        value = sums[4 * d + 1] + e * (mass * weight)
        sum_by_mean = sums[4 * d + 2] + e * (mass * w_by_mean + by_mean * weight)
        sum_by_std = sums[4 * d + 3] + e * (mass * w_by_std + by_std * weight)
        added += (sums[4 * d], value, sum_by_mean, sum_by_std)
    return added


@triton.jit
def _sums(terms, eps, legendre, C, S):
    """Σ_k p_k·exp(q_k(ε − q_k/2)), q_k = (c_k − x)/τ, of D draws, as `_add` has it."""
    least, most, sums = eps[0], eps[0], ()
    for d in tl.static_range(S.D):
        least, most = tl.minimum(least, eps[d]), tl.maximum(most, eps[d])
        zero = eps[d] * 0.0
        sums += (zero + _NO_TERM, zero, zero, zero)
    window = _window(terms, least, most, C)
    for i in range(0, tl.max(window.points, 0).to(tl.int32)):
        node, weight = tl.load(legendre[0] + i % S.N), tl.load(legendre[1] + i % S.N)
        distance = tl.where(window.panels > 0.0, window.offset + window.step * (i // S.N + node), window.step * i)
        q, z, mass, by_mean, by_std = _inner_bin(terms, window.base, distance, C)
        weight = window.step * tl.where(window.panels > 0.0, weight, 1.0)
        sums = _add(_term(z, q, mass, by_mean, by_std, weight, i < window.points), eps, sums, S.D)
    if C.CLIP:
        sums = _add(_end_term(terms, True, C), eps, sums, S.D)
        sums = _add(_end_term(terms, False, C), eps, sums, S.D)
    if tl.max(window.panels, 0) > 0.0:
        width: tl.constexpr = 2.0 / C.K
        end = window.offset + window.step * window.panels
        sums = _add_cut(terms, window, window.offset, width, window.cut_low, eps, sums, C, S.D)
        sums = _add_cut(terms, window, end, -width, window.cut_high, eps, sums, C, S.D)
    return sums


@triton.jit
def _total(mean, std, CLIP: tl.constexpr):
    """Whether an unclipped distribution counts as uniform; and ln of its mass in [−1, 1] with its derivatives, 0 if it
    is uniform or clipped."""
    if CLIP:
        return mean != mean, mean * 0.0, mean * 0.0, mean * 0.0
    else:
        value, by_mean, by_std = log_total(mean, std)
        uniform = is_uniform(value)
        return uniform, tl.where(uniform, 0.0, value), tl.where(uniform, 0.0, by_mean), tl.where(uniform, 0.0, by_std)


@triton.jit
def _log_sums(x, normal, tau, eps, legendre, C, S):
    """ln Σ_k p_k·exp(q_k(ε − q_k/2)) of D draws, and its derivatives by mean and std, one after the other."""
    mean, std = normal
    uniform, total, total_by_mean, total_by_std = _total(mean, std, C.CLIP)
    terms = _Terms(x, mean, std, tau, 1.0 / std, reciprocal(C.K * std), reciprocal(C.K * tau), uniform)
    sums = _sums(terms, eps, legendre, C, S)
    poison = x + mean + std + tau
    logs = ()
    for d in tl.static_range(S.D):
        inverse = 1.0 / sums[4 * d + 1]
        value = sums[4 * d] * _LOG_OF_TWO + log(sums[4 * d + 1]) - total
        by_mean = sums[4 * d + 2] * inverse - total_by_mean
        value = tl.where(poison == poison, value, float("nan"))
        logs += (value, by_mean, sums[4 * d + 3] * inverse - total_by_std)
    return logs


@triton.jit
def _draws_of(draws, first, block, count, C, D: tl.constexpr):
    """The normals of D draws from number `first` on, and their weights. The last draw is repeated with a weight
    of 0."""
    eps, weights = (), ()
    for d in tl.static_range(D):
        draw = tl.minimum(first + d, draws.n_samples - 1)
        if draws.nodes is not None:
            normal = tl.zeros(block[1].shape, C.T) + tl.load(draws.nodes + draw)
            weight = tl.load(draws.node_weights + draw)
        else:
            normal = noise_of(draws, block, MONTE_CARLO, C.T, draw, count)
            weight = (tl.zeros((), C.T) + 1.0) / draws.n_samples
        eps += (normal,)
        weights += (tl.where(first + d < draws.n_samples, weight, 0.0),)
    return eps, weights


@triton.jit
def _without_masked(normal, active):
    """The mean and std, but 0 and 1 for variables that are not active, so that these do not lengthen the loops."""
    return tl.where(active, normal[0], 0.0), tl.where(active, normal[1], 1.0)


@triton.jit
def _mixture_draws(x, tau, network, log_total, eps, legendre, active, block, C, S):
    """For D draws of a mixture, ln of the sum over its components and bins, in the two numbers of `log_add`."""
    totals = ()
    for d in tl.static_range(S.D):
        totals += (eps[d] * 0.0 + float("-inf"), eps[d] * 0.0)
    # With licm the numbers that all components share would stay in registers, which are too few.
    for m in tl.range(C.M, disable_licm=True):
        mean, std, _, _ = mixtures.component(network, m, block, C)
        logs = _log_sums(x, _without_masked((mean, std), active), tau, eps, legendre, C, S)
        log_share = tl.where(active, mixtures.log_share(network, log_total, m, block, C), 0.0)
        added = ()
        for d in tl.static_range(S.D):
            top, total = mixtures.log_add(totals[2 * d], totals[2 * d + 1], log_share + logs[3 * d])
            added += (top, total)
        totals = added
    return totals


@triton.jit
def _nstep(x, network, alpha, draws, legendre, n_steps, outputs, count, C: tl.constexpr, S: tl.constexpr):
    block = block_of(count, S.V)
    mask, gradients, losses = outputs
    keep = load(mask, block, tl.int1, True)
    active = block[2] & keep
    x, alpha = tl.where(active, load(x, block, C.T), 0.0), tl.where(active, load(alpha, block, C.T), 1.0)
    tau = 1.0 / tl.sqrt(alpha)
    loss, slope_mean, slope_std = x * 0.0, x * 0.0, x * 0.0
    if C.M == 0:
        mean, std, mean_by, std_by = output_normal(network, block, C)
        normal = _without_masked((mean, std), active)
    else:
        log_total = mixtures.normaliser(network, block, C)
    for first in range(0, draws.n_samples, S.D):
        eps, weights = _draws_of(draws, first, block, count, C, S.D)
        if C.M == 0:
            logs = _log_sums(x, normal, tau, eps, legendre, C, S)
            for d in tl.static_range(S.D):
                loss += weights[d] * logs[3 * d]
                slope_mean += weights[d] * logs[3 * d + 1]
                slope_std += weights[d] * logs[3 * d + 2]
        else:
            totals = _mixture_draws(x, tau, network, log_total, eps, legendre, active, block, C, S)
            for d in tl.static_range(S.D):
                loss += weights[d] * (totals[2 * d] + log(totals[2 * d + 1]))
            for m in tl.range(C.M, disable_licm=True):
                mean, std, mean_by, std_by = mixtures.component(network, m, block, C)
                logs = _log_sums(x, _without_masked((mean, std), active), tau, eps, legendre, C, S)
                log_share = tl.where(active, mixtures.log_share(network, log_total, m, block, C), 0.0)
                share, by_mean, by_std, by_logit = exp(log_share), x * 0.0, x * 0.0, x * 0.0
                for d in tl.static_range(S.D):
                    posterior = exp(log_share + logs[3 * d] - totals[2 * d]) / totals[2 * d + 1]
                    by_mean += weights[d] * posterior * logs[3 * d + 1]
                    by_std += weights[d] * posterior * logs[3 * d + 2]
                    by_logit += weights[d] * (posterior - share)
                by_mean, by_std = -n_steps * by_mean * mean_by, -n_steps * by_std * std_by
                mixtures.write(gradients, m, block, keep, first > 0, by_mean, by_std, -n_steps * by_logit)
    if C.M == 0:
        store(gradients[0], block, tl.where(keep, -n_steps * slope_mean * mean_by, 0.0))
        store(gradients[1], block, tl.where(keep, -n_steps * slope_std * std_by, 0.0))
    write_losses(-n_steps * loss, keep, block, losses)
