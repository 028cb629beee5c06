"""The n-step loss of discretised data in Triton (113–119), the counterpart of csrc/{math,cpu}/nstep.h.

The sum over bins of p_k times the sender's normal is a sum over a window of bins, since its terms are a bump: a normal
in k of std s. A window of few bins is summed bin by bin, a window of many bins by 28 Gauss–Legendre points. C is the
`Constants` of a kernel, and S its `Sizes`.
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
    log_end_bin,
    log_inner_bin,
    log_total,
    origin_of,
    output_normal,
    position,
    to_centre,
    to_edge,
)
from bfn_kernels.records import Draws, LossTarget
from bfn_kernels.triton_ops.elementary import clamp, exp, log, reciprocal
from bfn_kernels.triton_ops.noise import MONTE_CARLO, normals
from bfn_kernels.triton_ops.reduction import Losses, write_losses
from bfn_kernels.triton_ops.views import block_of, launch, load, programs, static, store, table, view

_NODES = tl.constexpr(28)
_MOST_POINTS = tl.constexpr(128)  # the most bins that are summed bin by bin in a window at an end of the bins
_REACH = tl.constexpr(5.5)  # how many s a window reaches beyond the peaks; 4e-8 of a bump's mass is beyond that
_SPAN = tl.constexpr(8.5)  # the most s between peaks that share a window; the 28 nodes then have an error of 9e-8
_MOST_LANES = tl.constexpr(32)  # the most points that a program works on at a time
_ELEMENTS, _WARPS = 1024, 4  # variables times draws times points of a program, and its warps


class Sizes(NamedTuple):
    """The variables of a program, and the draws and the points of each that it works on at a time."""

    V: Any
    D: Any
    P: Any


def nstep_loss(
    x: Tensor, output: tuple, alpha, n_steps: int, draws: Draws, target: LossTarget, dtype: torch.dtype, C: Constants
) -> tuple[Tensor, Tensor]:
    """The loss and the factor by which its gradients are multiplied. x: `[B, ...]`; alpha broadcasts to it. output: the
    views of the network and of the gradients."""
    nodes, node_weights = draws.nodes or (), draws.node_weights or ()
    count = draws.n_samples or len(nodes)
    D = min(8, triton.next_power_of_2(count))
    P = min(_MOST_LANES.value, triton.next_power_of_2(C.K))
    S = Sizes(max(4, _ELEMENTS // (D * P)), D, P)
    losses = Losses(x, *target, dtype, S.V)
    rules = [*gauss.legendre(_NODES.value), nodes, node_weights]
    tables = table([value for rule in rules for value in rule], dtype, x.device).split([len(rule) for rule in rules])
    legendre, hermite = tables[:2], (None, None) if draws.n_samples else tables[2:]
    noise = None if draws.noise is None else draws.noise.contiguous()
    drawn = Draws(hermite[0], hermite[1], count, draws.seed, noise)
    inputs = view(x, x.shape), output[0], view(alpha, x.shape), drawn, legendre
    outputs = view(target.mask, x.shape), output[1], losses.memory
    options = {"C": static(C), "S": static(S), "warps": _WARPS, "registers": 255}
    launch(_nstep, programs(x.numel(), S.V), *inputs, n_steps, outputs, x.numel(), **options)
    return losses.finish()


@triton.jit
def _draws_of(draws, first, block, count, C, S):
    """The normals of D draws from number `first` on, [variables, draws]."""
    start, offsets, mask, _ = block
    d = first + tl.arange(0, S.D)
    if draws.nodes is not None:
        eps = tl.load(draws.nodes + d, mask=d < draws.n_samples, other=0)
        return tl.zeros((offsets.shape[0], S.D), C.T) + eps[None, :]
    elif draws.noise is not None:
        at = draws.noise + (d.to(tl.int64)[None, :] * count + (start + offsets)[:, None])
        return tl.load(at, mask=mask[:, None] & (d < draws.n_samples)[None, :], other=0).to(C.T)
    else:
        group = start // 4 + tl.arange(0, offsets.shape[0] // 4)[None, :] + tl.zeros((S.D, 1), tl.int64)
        return tl.trans(normals(tl.load(draws.seed), group, MONTE_CARLO, d[:, None], C.T))


@triton.jit
def _window(x, mean, tau, bump, least, most, C):
    """The window of the bumps of all draws with an eps from `least` to `most`. bump: the std of the normal, and s.

    Returns the window's first bin `base`; the offset from base to the beginning of the window, a difference, so that it
    is exact even for a large base; the window's length in bins; whether the first bin and whether the last bin cuts the
    window off; and how many bins are summed bin by bin, or −1 for Gauss–Legendre points.
    """
    first: tl.constexpr = 1.0 if C.CLIP else 0.0
    last: tl.constexpr = C.K - 1.0 - first
    zero, no = x * 0.0, tl.full(x.shape, False, tl.int1)
    if x.dtype == tl.float64 or last < first:  # in float64 the difference between two rules would show
        return zero + first, zero, zero, no, no, tl.full(x.shape, last - first + 1.0, x.dtype)
    else:
        std, s = bump
        variance = std * std + tau * tau
        # the peak is at centre + by_eps·eps
        centre, by_eps = x + tau * tau / variance * (mean - x), std * std / variance * tau
        low = position(clamp(centre + by_eps * least, -1.0, 1.0) - _REACH * s, C.K) - 1.5
        high = position(clamp(centre + by_eps * most, -1.0, 1.0) + _REACH * s, C.K) + 0.5
        cut_low, cut_high = low <= first - 0.5, high >= last + 0.5
        begin, end = tl.where(cut_low, first - 0.5, low), tl.where(cut_high, last + 0.5, high)
        base = clamp(tl.floor(begin + 0.5), first, last)
        count = clamp(tl.floor(end + 0.5), first, last) - base + 1.0
        by_bin = count <= tl.where(cut_low | cut_high, _MOST_POINTS, _NODES)
        return base, begin - base, end - begin, cut_low & ~by_bin, cut_high & ~by_bin, tl.where(by_bin, count, -1.0)


@triton.jit
def _cut_weight(by_mean, q, eps, side, tau, std, s):
    """The correction of the midpoint rule where a window is cut off, and its derivatives. With l = ln(p_k times the
    sender's normal) and its derivatives l' and l'' per bin, towards the inside of the window, the sum over bins is the
    integral plus exp(l) times l'/24 − 7/5760·(l'³ + 3l'l'')."""
    third: tl.constexpr = 7.0 / 5760
    width2, std2 = side * side, std * std
    first, second = side * ((eps - q) / tau - by_mean), -width2 / (s * s)
    by_first, by_second = 1.0 / 24 - third * 3 * (first * first + second), -third * 3 * first
    by_std = by_first * 2.0 * side * by_mean / std + by_second * 2.0 * width2 / (std2 * std)
    return first * (1.0 / 24 - third * (first * first + 3.0 * second)), by_first * side / std2, by_std


@triton.jit
def _merge(top, sums, term, value, by_mean, by_std):
    """Adds Σ exp(term)·value, Σ exp(term)·value·by_mean and Σ exp(term)·value·by_std over the last dimension to the
    three `sums`, which are divided by exp(top)."""
    new = tl.maximum(top, tl.max(term, 2))
    rescale = tl.where(top == new, 1.0, exp(top - new))
    e = value * exp(term - new[:, :, None])
    return new, (
        sums[0] * rescale + tl.sum(e, 2),
        sums[1] * rescale + tl.sum(e * by_mean, 2),
        sums[2] * rescale + tl.sum(e * by_std, 2),
    )


@triton.jit
def _point(distance, origins, std, uniform, K: tl.constexpr):
    """q, and ln p with its derivatives, at a distance in bins from the base of the window. Each edge of the bin is
    computed from a whole number of bins, since its rounding error is divided by a small std. origins: the two parts of
    `origin_of` the mean, the base, K times its distance from x, 1/(K·std) and 1/(Kτ)."""
    leading, trailing, base, x_to_base, unit, q_unit = origins
    whole, width = tl.floor(distance), 2.0 * unit
    fraction = 2.0 * (distance - whole) - trailing
    edge = 2.0 * (base + whole) - K
    left, right = (edge - leading + fraction) * unit, (edge + 2.0 - leading + fraction) * unit
    z = 0.5 * (left + right)
    log_p, by_mean, by_std = log_inner_bin(left, right, z, width, log(width), std)
    log_p = tl.where(uniform, -log(log_p * 0.0 + K), log_p)
    return (x_to_base + 2.0 * distance) * q_unit, log_p, tl.where(uniform, 0.0, by_mean), tl.where(uniform, 0.0, by_std)


@triton.jit
def _add_cut(top, sums, end, eps, origins, normal, bump, tau, K: tl.constexpr):
    """Adds the correction of the midpoint rule to the sums of the variables whose window is cut off. end: whether it is
    cut off, the distance of this end from the base, and the signed width of a bin, towards the inside."""
    cut, distance, side = end
    q, log_p, by_mean, by_std = _point(distance, origins, normal[1], normal[2], K)
    q, by_mean, by_std = q[:, None], by_mean[:, None], by_std[:, None]
    weight, weight_by_mean, weight_by_std = _cut_weight(
        by_mean, q, eps, side, tau[:, None], bump[0][:, None], bump[1][:, None]
    )
    term = exp(log_p[:, None] + q * (eps - 0.5 * q) - top)
    return (
        sums[0] + tl.where(cut[:, None], term * weight, 0.0),
        sums[1] + tl.where(cut[:, None], term * (weight * by_mean + weight_by_mean), 0.0),
        sums[2] + tl.where(cut[:, None], term * (weight * by_std + weight_by_std), 0.0),
    )


@triton.jit
def _end_term(edge, q, first, std, eps):
    """The terms of a clipped end bin in the sums of all draws, and the derivatives of ln p of this bin."""
    log_p, by_mean, by_std = log_end_bin(edge, first, std)
    q = q[:, None]
    return log_p[:, None] + q * (eps - 0.5 * q), by_mean[:, None], by_std[:, None]


@triton.jit
def _ends(from_mean, from_x, unit, q_unit, std, eps, K: tl.constexpr):
    """The sums over the two clipped end bins, divided by exp of their largest term."""
    zero = std * 0.0
    last = zero + (K - 1.0)
    term, by_mean, by_std = _end_term(
        to_edge(from_mean, zero + 1.0, K) * unit, to_centre(from_x, zero, K) * q_unit, zero == zero, std, eps
    )
    term_l, by_mean_l, by_std_l = _end_term(
        to_edge(from_mean, last, K) * unit, to_centre(from_x, last, K) * q_unit, zero != zero, std, eps
    )
    top = tl.maximum(term, term_l)
    e, e_l = exp(term - top), exp(term_l - top)
    return top, (e + e_l, e * by_mean + e_l * by_mean_l, e * by_std + e_l * by_std_l)


@triton.jit
def _add_points(top, sums, first, window, legendre, eps, origins, normal, K: tl.constexpr, P: tl.constexpr):
    """Adds the P points from number `first` on to the sums: bins of weight 1, or Gauss–Legendre points."""
    offset, length, bins = window
    i = first + tl.arange(0, P)[None, :]
    distance = bins[:, None] * 0.0 + i
    weight = (i < bins[:, None]).to(eps.dtype)
    if P == _MOST_LANES:
        inside = (i < _NODES) & (bins < 0.0)[:, None]
        node = tl.load(legendre[0] + i, mask=i < _NODES, other=0)
        node_weight = tl.load(legendre[1] + i, mask=i < _NODES, other=0)
        distance = tl.where(inside, offset[:, None] + length[:, None] * node, distance)
        weight = tl.where(inside, length[:, None] * node_weight, weight)
    leading, trailing, base, x_to_base, unit, q_unit = origins
    origins = leading[:, None], trailing[:, None], base[:, None], x_to_base[:, None], unit[:, None], q_unit[:, None]
    q, log_p, by_mean, by_std = _point(distance, origins, normal[1][:, None], normal[2][:, None], K)
    counts = weight > 0.0
    q, log_p = q[:, None, :], tl.where(counts, log_p, float("-inf"))[:, None, :]
    by_mean, by_std = tl.where(counts, by_mean, 0.0)[:, None, :], tl.where(counts, by_std, 0.0)[:, None, :]
    return _merge(top, sums, log_p + q * (eps[:, :, None] - 0.5 * q), weight[:, None, :], by_mean, by_std)


@triton.jit
def _sum_of_draws(x, normal, tau, bump, low, high, eps, legendre, C, S):
    """Σ_k p_k·exp(q_k(eps − q_k/2)), q_k = (c_k − x)/τ, of all draws with an eps from `low` to `high`: ln of the
    largest term, and the sum and its derivatives divided by this term. normal: the mean, the std, and whether the
    distribution counts as uniform."""
    mean, std, _ = normal
    from_mean, from_x = origin_of(mean, C.K), origin_of(x, C.K)
    unit, q_unit = reciprocal(C.K * std), reciprocal(C.K * tau)
    base, offset, length, cut_low, cut_high, bins = _window(x, mean, tau, bump, low, high, C)
    origins = from_mean[0], from_mean[1], base, to_centre(from_x, base, C.K), unit, q_unit
    if C.CLIP:
        top, sums = _ends(from_mean, from_x, unit, q_unit, std, eps, C.K)
    else:
        top = tl.full(eps.shape, float("-inf"), eps.dtype)
        sums = eps * 0.0, eps * 0.0, eps * 0.0
    most = tl.max(tl.where(bins < 0.0, S.P, bins), 0).to(tl.int32)
    for first in range(0, most, S.P):
        top, sums = _add_points(top, sums, first, (offset, length, bins), legendre, eps, origins, normal, C.K, S.P)
    if tl.max((cut_low | cut_high).to(tl.int32), 0) > 0:
        width: tl.constexpr = 2.0 / C.K
        low_cut, high_cut = (cut_low, offset, width), (cut_high, offset + length, -width)
        sums = _add_cut(top, sums, low_cut, eps, origins, normal, bump, tau, C.K)
        sums = _add_cut(top, sums, high_cut, eps, origins, normal, bump, tau, C.K)
    return top, sums


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
def _log_sums(x, normal, tau, eps, d, draws, legendre, C, S):
    """ln Σ_k p_k·exp(q_k(eps − q_k/2)) of the draws d, and its derivatives by mean and std. Draws with peaks near each
    other are a group and share a window."""
    mean, std = normal
    uniform, total, total_by_mean, total_by_std = _total(mean, std, C.CLIP)
    bump_std = tl.where(uniform, 1e9, std)
    spread = tl.sqrt(bump_std * bump_std + tau * tau)
    bump = bump_std, bump_std * tau / spread
    per_window = bump_std / spread / _SPAN  # in eps, with which the peaks move by bump_std/spread of s
    least = tl.min(tl.where(d < draws.n_samples, eps, float("inf")), 1)
    most = tl.max(tl.where(d < draws.n_samples, eps, float("-inf")), 1)
    group = tl.floor((eps - least[:, None]) * per_window[:, None])
    groups = (most - least) * per_window
    value, by_mean, by_std = eps * 0.0, eps * 0.0, eps * 0.0
    for g in range(tl.max(tl.where((groups > 0.0) & (groups < 64.0), groups, 0.0), 0).to(tl.int32) + 1):
        low, high = least + g / per_window, tl.minimum(least + (g + 1) / per_window, most)
        top, sums = _sum_of_draws(x, (mean, std, uniform), tau, bump, low, high, eps, legendre, C, S)
        in_group = group == g
        value = tl.where(in_group, top + log(sums[0]) - total[:, None], value)
        by_mean = tl.where(in_group, sums[1] / sums[0] - total_by_mean[:, None], by_mean)
        by_std = tl.where(in_group, sums[2] / sums[0] - total_by_std[:, None], by_std)
    poison = x + mean + std + tau
    return tl.where((poison == poison)[:, None], value, float("nan")), by_mean, by_std


@triton.jit
def _weights(draws, d, T: tl.constexpr):
    """The weights of the draws d, 0 for draws that do not exist."""
    if draws.node_weights is None:
        return tl.where(d < draws.n_samples, (tl.zeros(d.shape, T) + 1.0) / draws.n_samples, 0.0)
    else:
        return tl.load(draws.node_weights + d, mask=d < draws.n_samples, other=0)


@triton.jit
def _expected(weight, value):
    """The weighted sum over the draws that exist."""
    return tl.sum(tl.where(weight > 0.0, weight * value, 0.0), 1)


@triton.jit
def _without_masked(normal, active):
    """The mean and std, but 0 and 1 for variables that are not active, so that these do not lengthen the loops."""
    return tl.where(active, normal[0], 0.0), tl.where(active, normal[1], 1.0)


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
        d = (first + tl.arange(0, S.D))[None, :]
        eps = _draws_of(draws, first, block, count, C, S)
        weight = _weights(draws, d, C.T)
        if C.M == 0:
            value, by_mean, by_std = _log_sums(x, normal, tau, eps, d, draws, legendre, C, S)
            loss += _expected(weight, value)
            slope_mean += _expected(weight, by_mean)
            slope_std += _expected(weight, by_std)
        else:
            top, total = tl.full(eps.shape, float("-inf"), C.T), eps * 0.0
            # With licm the numbers that all components share would stay in registers, which are too few.
            for m in tl.range(C.M, disable_licm=True):
                mean, std, _, _ = mixtures.component(network, m, block, C)
                value, _, _ = _log_sums(x, _without_masked((mean, std), active), tau, eps, d, draws, legendre, C, S)
                log_share = tl.where(active, mixtures.log_share(network, log_total, m, block, C), 0.0)
                top, total = mixtures.log_add(top, total, log_share[:, None] + value)
            loss += _expected(weight, top + log(total))
            for m in tl.range(C.M, disable_licm=True):
                mean, std, mean_by, std_by = mixtures.component(network, m, block, C)
                one = _without_masked((mean, std), active)
                value, by_mean, by_std = _log_sums(x, one, tau, eps, d, draws, legendre, C, S)
                log_share = tl.where(active, mixtures.log_share(network, log_total, m, block, C), 0.0)
                posterior = exp(log_share[:, None] + value - top) / total
                by_mean = -n_steps * _expected(weight, posterior * by_mean) * mean_by
                by_std = -n_steps * _expected(weight, posterior * by_std) * std_by
                grad_logit = -n_steps * _expected(weight, posterior - exp(log_share)[:, None])
                mixtures.write(gradients, m, block, keep, first > 0, by_mean, by_std, grad_logit)
    if C.M == 0:
        store(gradients[0], block, tl.where(keep, -n_steps * slope_mean * mean_by, 0.0))
        store(gradients[1], block, tl.where(keep, -n_steps * slope_std * std_by, 0.0))
    write_losses(-n_steps * loss, keep, block, losses)
