"""The n-step loss of discretised data in Triton, the counterpart of csrc/{math,cpu}/nstep.h: equations 113 to 119 of
Graves et al. 2023.

As a function of k, p_k times the sender's normal is nearly a normal. So only the bins in a window around its peak
count. csrc/math/nstep.h explains which points of the window are summed. A program has one variable for each lane
of an NVIDIA warp. It makes each term once for D draws, and adds it to their D sums. The numbers of each draw are in
tuples of tensors. C is the `Constants` of a kernel, and S its `Sizes`.
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
    scaled_end_bin,
    scaled_inner_bin,
    to_edge,
)
from bfn_kernels.discretised.triton_nstep_window import NODES, Terms, edges_at, find_origin, find_window, log_origin
from bfn_kernels.records import Draws, LossTarget
from bfn_kernels.triton_ops.elementary import exp, exp2_term, log, reciprocal
from bfn_kernels.triton_ops.philox import MONTE_CARLO, noise_of
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
    views,
)

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
    drawn = draws_with_tables(draws, x.new_empty((), dtype=dtype))
    rounds = programs(drawn.n_samples, _MOST_DRAWS)
    S = Sizes(_VARIABLES, programs(drawn.n_samples, rounds), NODES.value)
    nodes, weights = gauss.legendre(NODES.value)
    legendre = table((*nodes, *weights), dtype, x.device).chunk(2)
    losses = Losses(x, *target, dtype, S.V)
    x_view, alpha_view, mask_view = views(x.shape, x, alpha, target.mask)
    outputs = mask_view, output[1], losses.memory
    options = {"C": static(C), "S": static(S), "warps": _WARPS, "registers": 255}
    inputs = x_view, output[0], alpha_view, drawn, legendre
    launch(_nstep, programs(x.numel(), S.V), *inputs, n_steps, outputs, x.numel(), **options)
    return losses.finish()


@triton.jit
def _cut_weight(by_mean, q, eps, side, tau, std):
    """The factor w of the correction where a window is cut off, and its derivatives by mean and std. The sum over bins
    is the integral plus exp(l)·w at each cut. l is ln(p_k times the sender's normal), and l' and l'' are its
    derivatives per bin, towards the inside of the window. w is
    l'/24 − 7/5760·(l'³ + 3l'l'') + 31/967680·(l'⁵ + 10l'³l'' + 15l'l''²).
    """
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
def _inner_bin(terms, origin, distance, C):
    """The bin at a distance from the origin, in bins, as `scaled_inner_bin` returns it."""
    left, right = edges_at(terms, origin.bin, distance, C)
    z, width = 0.5 * (left + right), 2.0 * terms.unit
    z, side, mass, by_mean, by_std = scaled_inner_bin(left, right, z, width, terms.inverse_std)
    if not C.CLIP:
        z, mass = tl.where(terms.uniform, 0.0, z), tl.where(terms.uniform, 1.0 / C.K, mass)
        by_mean, by_std = tl.where(terms.uniform, 0.0, by_mean), tl.where(terms.uniform, 0.0, by_std)
    return z, side, mass, by_mean, by_std


@triton.jit
def _slope(terms, origin, eps):
    """The derivative of log₂ of a term by its distance, at the origin."""
    return (1.0 / _LOG_OF_TWO) * (2.0 * terms.q_unit * (eps - origin.q) - origin.along * origin.z)


@triton.jit
def _term(terms, origin, bin, distance, weight, counts):
    """A term, of a bin as `scaled_inner_bin` returns it: a draw adds 2^(exponent + distance·slope) times the mass, and
    times the derivatives of the mass. The part of the exponent that is proportional to the distance is in the slope.
    The two summands of the slope nearly cancel if the origin is near the peak."""
    z, side, mass, by_mean, by_std = bin
    weight = tl.where(counts, weight, 0.0)
    # The distance between two places is known without the rounding of z, unless a place is 0, as in the mean's bin.
    dz = terms.unit * (2.0 * distance + (side - origin.side))
    dz, dq = tl.where((z == 0.0) | (origin.z == 0.0), z - origin.z, dz), 2.0 * terms.q_unit * distance
    exponent = 0.5 * (dz * dz + dq * dq) + origin.z * (dz - origin.along * distance)
    exponent = tl.where(counts, exponent * (-1.0 / _LOG_OF_TWO), _NO_TERM)
    return exponent, distance, weight * mass, weight * by_mean, weight * by_std


@triton.jit
def _end_term(terms, origin, first: tl.constexpr, C):
    """The term of a clipped end bin."""
    zero = terms.std * 0.0
    edge, bin = (zero + 1.0, zero) if first else (zero + (C.K - 1.0), zero + (C.K - 1.0))
    z = to_edge(origin_of(terms.mean, C.K), edge, C.K) * terms.unit
    end_bin = scaled_end_bin(z, first, terms.inverse_std)
    return _term(terms, origin, end_bin, bin - origin.bin, 1.0, tl.full(zero.shape, True, tl.int1))


@triton.jit
def _add(term, slopes, sums, D: tl.constexpr):
    """Adds a term to the sums of D draws. For each draw, `sums` has the largest exponent so far (log₂ of a term without
    its mass); and the sum and its derivatives by mean and std, divided by 2 to this exponent."""
    exponent, distance, mass, by_mean, by_std = term
    added = ()
    for d in tl.static_range(D):
        power = tl.fma(distance, slopes[d], exponent)
        top = tl.maximum(sums[4 * d], power)
        scale, e = exp2_term(sums[4 * d] - top), exp2_term(power - top)
        value = tl.fma(sums[4 * d + 1], scale, e * mass)
        sum_by_mean = tl.fma(sums[4 * d + 2], scale, e * by_mean)
        added += (top, value, sum_by_mean, tl.fma(sums[4 * d + 3], scale, e * by_std))
    return added


@triton.jit
def _add_cut(terms, origin, distance, side, cut, eps, slopes, sums, C, D: tl.constexpr):
    """Adds the correction of the midpoint rule to the sums of the variables whose window is cut off. side: the signed
    width of a bin, towards the inside."""
    bin = _inner_bin(terms, origin, distance, C)
    std = tl.where(terms.uniform, 1e9, terms.std)
    log_by_mean, q = bin[3] / bin[2], origin.q + 2.0 * terms.q_unit * distance
    exponent, _, mass, by_mean, by_std = _term(terms, origin, bin, distance, 1.0, cut)
    added = ()
    for d in tl.static_range(D):
        weight, w_by_mean, w_by_std = _cut_weight(log_by_mean, q, eps[d], side, terms.tau, std)
        e = tl.where(cut, exp2_term(tl.fma(distance, slopes[d], exponent) - sums[4 * d]), 0.0)
        value = sums[4 * d + 1] + e * (mass * weight)
        sum_by_mean = sums[4 * d + 2] + e * (mass * w_by_mean + by_mean * weight)
        sum_by_std = sums[4 * d + 3] + e * (mass * w_by_std + by_std * weight)
        added += (sums[4 * d], value, sum_by_mean, sum_by_std)
    return added


@triton.jit
def _sums(terms, eps, legendre, C, S):
    """The sums Σ_k p_k·exp(q_k(ε − q_k/2)) of D draws in the form of `_add`, with q_k = (c_k − x)/τ; and the origin.
    They are divided by the origin's term without its mass. p_k is not yet divided by the total mass."""
    least, most, sums, slopes = eps[0], eps[0], (), ()
    for d in tl.static_range(S.D):
        least, most = tl.minimum(least, eps[d]), tl.maximum(most, eps[d])
        zero = eps[d] * 0.0
        sums += (zero + _NO_TERM, zero, zero, zero)
    origin = find_origin(terms, 0.5 * (least + most), C)
    window = find_window(terms, origin.bin, least, most, C)
    for d in tl.static_range(S.D):
        slopes += (_slope(terms, origin, eps[d]),)
    for i in range(0, tl.max(window.points, 0).to(tl.int32)):
        node, weight = tl.load(legendre[0] + i % S.N), tl.load(legendre[1] + i % S.N)
        distance = window.offset + window.step * tl.where(window.panels > 0.0, i // S.N + node, i)
        bin = _inner_bin(terms, origin, distance, C)
        weight = window.step * tl.where(window.panels > 0.0, weight, 1.0)
        sums = _add(_term(terms, origin, bin, distance, weight, i < window.points), slopes, sums, S.D)
    if C.CLIP:
        sums = _add(_end_term(terms, origin, True, C), slopes, sums, S.D)
        sums = _add(_end_term(terms, origin, False, C), slopes, sums, S.D)
    if tl.max(window.panels, 0) > 0.0:
        width: tl.constexpr = 2.0 / C.K
        end = window.offset + window.step * window.panels
        sums = _add_cut(terms, origin, window.offset, width, window.cut_low, eps, slopes, sums, C, S.D)
        sums = _add_cut(terms, origin, end, -width, window.cut_high, eps, slopes, sums, C, S.D)
    return sums, origin


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
    terms = Terms(x, mean, std, tau, 1.0 / std, reciprocal(C.K * std), reciprocal(C.K * tau), uniform)
    sums, origin = _sums(terms, eps, legendre, C, S)
    poison = x + mean + std + tau
    logs = ()
    for d in tl.static_range(S.D):
        inverse = 1.0 / sums[4 * d + 1]
        value = sums[4 * d] * _LOG_OF_TWO + log(sums[4 * d + 1]) + log_origin(origin, eps[d]) - total
        by_mean = sums[4 * d + 2] * inverse - total_by_mean
        value = tl.where(poison == poison, value, float("nan"))
        logs += (value, by_mean, sums[4 * d + 3] * inverse - total_by_std)
    return logs


@triton.jit
def _draws_of(draws, first, block, count, C, D: tl.constexpr):
    """The normals of D draws from number `first` on, and their weights. If fewer than D draws are left, the last draw
    is repeated with a weight of 0."""
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
