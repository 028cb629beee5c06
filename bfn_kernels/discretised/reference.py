"""Discretised data in plain PyTorch: the executable specification. Equation numbers are those of arXiv 2308.07037.

x lies in [−1, 1], which K bins of width h = 2/K divide; a bin is known by its centre, and here by its zero-based index
held as a float, so that NaN stays NaN. Numbers of a row come from `rows`, in the type of the arithmetic, and
broadcast to the data.
"""

import math

import torch
from torch import Tensor
from torch.special import ndtr

from bfn_kernels import continuous
from bfn_kernels import noise as random
from bfn_kernels.arguments import Expectation
from bfn_kernels.checks import compute_dtype
from bfn_kernels.continuous.reference import normals
from bfn_kernels.reduction import hide, reduce
from bfn_kernels.rows import Flow

LOG_STD_LIMIT = 10.0
STD_MIN, STD_MAX = 1e-3, 10.0
TINY_TOTAL = 1e-5  # an unclipped distribution with less mass in [−1, 1] is uniform


def bin_index(x: Tensor, num_bins: int) -> Tensor:
    return ((x * 0.5 + 0.5) * num_bins).floor().clamp(0, num_bins - 1)


def centre(index: Tensor, num_bins: int) -> Tensor:
    return (2 * index + 1) / num_bins - 1


def output_distribution(
    pred_mean: Tensor, pred_log_std: Tensor, mean: Tensor | None, flow: Flow | None
) -> tuple[Tensor, Tensor]:
    """Mean and std of the network's normal (105, 106), std clamped to [1e-3, 10]; 0 and 1, with no gradient, where
    t < t_min; without a flow the network puts out the mean itself. In the arithmetic's type."""
    dtype = compute_dtype(pred_mean, pred_log_std, mean)
    std = pred_log_std.to(dtype).clamp(-LOG_STD_LIMIT, LOG_STD_LIMIT).exp()
    if flow is None:
        return pred_mean.to(dtype), std.clamp(STD_MIN, STD_MAX)
    mean, noise_pred, std = hide(flow.started, mean.to(dtype), pred_mean.to(dtype), std)
    std = torch.where(flow.started, (flow.b * std).clamp(STD_MIN, STD_MAX), 1.0)
    return flow.a * mean - flow.b * noise_pred, std


def log_ndtr(z: Tensor) -> Tensor:
    """ln Φ(z). In float32 torch's own loses its gradient where z is far below 0 (factor 6 at −10 000); there an
    asymptotic series takes its place."""
    far = (z < -10) & (z.dtype == torch.float32)
    tail = torch.where(far, z, -10.0)
    w = tail**-2
    series = (
        -(tail**2) / 2 - (-tail).log() - math.log(2 * math.pi) / 2 + (w * (-1 + w * (3 + w * (-15 + w * 105)))).log1p()
    )
    return torch.where(far, series, torch.special.log_ndtr(torch.where(far, 0.0, z)))


def log_interval(left: Tensor, right: Tensor, middle: Tensor, width: Tensor) -> Tensor:
    """ln(Φ(right) − Φ(left)) from the smaller tail; `middle` and `width` say the same interval, for narrow ones."""
    narrow = (width < 0.1) & ((middle * width).abs() < 0.3)
    if left.dtype == torch.float64:
        narrow = torch.zeros_like(narrow)
    flip = left > 0
    low, high = torch.where(flip, -right, left), torch.where(flip, -left, right)
    low, high = torch.where(narrow, -1.0, low), torch.where(narrow, 1.0, high)
    wide_value = log_ndtr(high) + (-(log_ndtr(low) - log_ndtr(high)).exp()).log1p()
    z, d = torch.where(narrow, middle, 0.0), torch.where(narrow, width, 1.0)
    series = (z**2 - 1) * d**2 / 24 + (z**4 - 6 * z**2 + 3) * d**4 / 1920
    return torch.where(narrow, -(z**2) / 2 - math.log(2 * math.pi) / 2 + d.log() + series.log1p(), wide_value)


def log_bin_prob(index: Tensor, mean: Tensor, std: Tensor, num_bins: int, clip: bool) -> Tensor:
    """ln p_k of the bins `index`. Clipped (107–109): the end bins hold the mass beyond. Unclipped: renormalised."""
    h = 2 / num_bins
    left, right = (-1 + h * index - mean) / std, (-1 + h * (index + 1) - mean) / std
    inside = log_interval(left, right, (centre(index, num_bins) - mean) / std, h / std)
    if clip:
        inside = torch.where(index == num_bins - 1, log_ndtr(-left), inside)
        return torch.where(index == 0, log_ndtr(right), inside)
    total, uniform = unclipped_total(mean, std)
    return torch.where(uniform, -math.log(num_bins), inside - total.log())


def unclipped_total(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Φ((1−mean)/std) − Φ((−1−mean)/std), by the smaller tail, and where it is too small to divide by (there 1)."""
    away = mean.abs()
    total = ndtr((1 - away) / std) - ndtr((-1 - away) / std)
    uniform = total < TINY_TOTAL
    return torch.where(uniform, 1.0, total), uniform


def expected_value(mean: Tensor, std: Tensor, num_bins: int, clip: bool) -> Tensor:
    """k̂ = Σ p_k c_k by its closed form over the inner edges b_j: (1 − 1/K) − h·Σ Φ((b_j − mean)/std) [derived]."""
    dtype = compute_dtype(mean, std)
    return _expected_value(mean.to(dtype), std.to(dtype), num_bins, clip).to(mean.dtype)


def _expected_value(mean: Tensor, std: Tensor, num_bins: int, clip: bool) -> Tensor:
    edges = -1 + 2 / num_bins * torch.arange(1, num_bins, dtype=mean.dtype, device=mean.device)
    last = 1 - 1 / num_bins
    if clip:
        return last - 2 / num_bins * ndtr((edges - mean.unsqueeze(-1)) / std.unsqueeze(-1)).sum(-1)
    # odd in the mean; on this side no tail is 1 minus little
    sign, mean = torch.where(mean < 0, -1, 1), mean.abs()
    total, uniform = unclipped_total(mean, std)
    ends = last * (ndtr((1 - mean) / std) + ndtr((-1 - mean) / std))
    cdf_sum = ndtr((edges - mean.unsqueeze(-1)) / std.unsqueeze(-1)).sum(-1)
    return sign * torch.where(uniform, 0.0, (ends - 2 / num_bins * cdf_sum) / total)


def sample(mean: Tensor, std: Tensor, num_bins: int, seed: Tensor | None, noise: Tensor | None) -> Tensor:
    """The centre of the bin of clamp(mean + std·ε)."""
    dtype = compute_dtype(mean, std)
    value = mean.to(dtype) + std.to(dtype) * normals(mean, dtype, seed, noise, random.OUTPUT)
    return centre(bin_index(value.clamp(-1, 1), num_bins), num_bins).to(mean.dtype)


def mode(mean: Tensor, std: Tensor, num_bins: int) -> Tensor:
    """The centre of the likeliest bin: that of the mean, the first or the last, a later one only if strictly better."""
    dtype = compute_dtype(mean, std)
    wide_mean, wide_std = mean.to(dtype), std.to(dtype)
    best = bin_index(wide_mean, num_bins)
    best_log_p = log_bin_prob(best, wide_mean, wide_std, num_bins, True)
    for end in (0, num_bins - 1):
        index = torch.full_like(best, end)
        log_p = log_bin_prob(index, wide_mean, wide_std, num_bins, True)
        better = log_p > best_log_p
        best, best_log_p = torch.where(better, index, best), torch.where(better, log_p, best_log_p)
    return centre(best, num_bins).to(mean.dtype)


def bin_loss(
    x: Tensor, mean: Tensor, std: Tensor, num_bins: int, clip: bool, mask: Tensor | None, reduction: str
) -> Tensor:
    """−ln p of the bin that x lies in."""
    dtype = compute_dtype(x, mean, std)
    x, mean, std = hide(mask, x.to(dtype), mean.to(dtype), std.to(dtype) - 1)
    std = std + 1
    return reduce(-log_bin_prob(bin_index(x, num_bins), mean, std, num_bins, clip), mask, reduction)


def reconstruction_loss(
    x: Tensor,
    pred_mean: Tensor,
    pred_log_std: Tensor,
    mean: Tensor | None,
    flow: Flow | None,
    num_bins: int,
    mask: Tensor | None,
    reduction: str,
) -> Tensor:
    """−ln p_O(x), the output distribution at t = 1."""
    pred_mean, pred_log_std, mean = hide(mask, pred_mean, pred_log_std, mean)
    mu, std = output_distribution(pred_mean, pred_log_std, mean, flow)
    return bin_loss(x, mu, std, num_bins, True, mask, reduction)


def continuous_time_loss(
    x: Tensor,
    pred_mean: Tensor,
    pred_log_std: Tensor,
    mean: Tensor | None,
    flow: Flow | None,
    weight: Tensor,
    num_bins: int,
    clip: bool,
    mask: Tensor | None,
    reduction: str,
) -> Tensor:
    """L∞ = weight·(x − k̂)², weight −ln σ₁/σ₁^{2t} (101)."""
    x, pred_mean, pred_log_std, mean = hide(mask, x, pred_mean, pred_log_std, mean)
    mu, std = output_distribution(pred_mean, pred_log_std, mean, flow)
    error = x.to(mu.dtype) - _expected_value(mu, std, num_bins, clip)
    return reduce(weight * error * error, mask, reduction)


def discrete_time_loss(
    x: Tensor,
    pred_mean: Tensor,
    pred_log_std: Tensor,
    mean: Tensor | None,
    flow: Flow | None,
    alpha: Tensor,
    n_steps: int,
    expectation: Expectation,
    num_bins: int,
    clip: bool,
    mask: Tensor | None,
    reduction: str,
) -> Tensor:
    """L_n = n·E[−ε²/2 − ln Σ_k p_k·exp(−(y − c_k)²/2τ²)], y = x + τε, τ² = 1/α_i (113–119)."""
    x, pred_mean, pred_log_std, mean = hide(mask, x, pred_mean, pred_log_std, mean)
    mu, std = output_distribution(pred_mean, pred_log_std, mean, flow)
    dtype = mu.dtype
    x, tau = x.to(dtype), alpha.rsqrt()
    index = torch.arange(num_bins, dtype=dtype, device=x.device)
    log_p = log_bin_prob(index, mu.unsqueeze(-1), std.unsqueeze(-1), num_bins, clip)
    loss = torch.zeros_like(x)
    for eps, weight in expectation.draws(x, random.normal):
        z = ((x + tau * eps).unsqueeze(-1) - centre(index, num_bins)) / tau.unsqueeze(-1)
        loss = loss + weight * (-(eps**2) / 2 - (log_p - z**2 / 2).logsumexp(-1))
    return reduce(n_steps * loss, mask, reduction)


def update_sample(
    pred_mean: Tensor,
    pred_log_std: Tensor,
    mean: Tensor,
    flow: Flow | None,
    keep: Tensor,
    take: Tensor,
    step_std: Tensor,
    num_bins: int,
    choose: str,
    known: Tensor | None,
    known_mask: Tensor | None,
    seed: Tensor | None,
    noise: Tensor | None,
    draw_noise: Tensor | None,
    out: Tensor | None,
) -> Tensor:
    """A value of the output distribution is chosen, sent with accuracy α, and the mean updated."""
    mu, std = output_distribution(pred_mean, pred_log_std, mean, flow)
    if choose == "mean":
        value = _expected_value(mu, std, num_bins, True)
    else:
        value = mode(mu, std, num_bins) if choose == "mode" else sample(mu, std, num_bins, seed, draw_noise)
    if known is not None:
        value = torch.where(known_mask, known.to(value.dtype), value)
    return continuous.reference.update_sample(value, mean, keep, take, step_std, seed, noise, out)
